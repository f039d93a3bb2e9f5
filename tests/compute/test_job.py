"""A job is held to its limits, says what it used, and leaves nothing behind."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.compute import Finished, Machine, limits, run, this_machine
from towpath.compute.machine import mebibytes
from towpath.errors import ResourceError
from towpath.project.declarations import Resources

FORK_AND_REPORT = """
import os, sys, time
def lasting(name):
    # a child in a session of its own, whose parent ends at once: what a careless library starts
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open(name + ".new", "w").write(str(os.getpid()))
            os.rename(name + ".new", name)
            time.sleep(600)
        os._exit(0)
    while not os.path.exists(name):
        time.sleep(0.01)
lasting("orphan")
"""
HOST = """
import sys
from pathlib import Path
from towpath.compute import run
run([sys.executable, "-c", Path("job.py").read_text()], folder=Path.cwd(), on_line=lambda line: print(line, flush=True))
"""


def _python(code: str, folder: Path, resources: Resources | None = None, **others: object) -> Finished:
    return run([sys.executable, "-c", code], resources=resources, folder=folder, **others)  # type: ignore[arg-type]


def _until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up, "it did not happen within 20 s"
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    """A zombie counts as alive: somebody forgot it."""
    return Path(f"/proc/{pid}").exists()


def test_lines_arrive_while_the_job_runs(tmp_path: Path) -> None:
    # given a job that goes on only after its first line was seen
    code = "import os, time\nprint('ready')\nwhile not os.path.exists('seen'): time.sleep(0.01)\nprint('done')"
    # when the one who reads that line says so
    finished = _python(code, tmp_path, on_line=lambda _: (tmp_path / "seen").touch())
    # then the job came to its end
    assert (finished.ended, finished.exit_code, finished.problem) == ("exit", 0, "")
    assert finished.stdout_tail == ("ready", "done")


def test_output_is_kept_in_bounds_and_any_bytes_are_text(tmp_path: Path) -> None:
    code = """
import os, sys
os.write(2, b"progress 1\\rprogress 2\\r\\xff\\n")
os.write(1, b"x" * 40_000 + b"\\n")
for n in range(500): print(n)
"""
    lines: list[str] = []
    finished = _python(code, tmp_path, on_line=lines.append)
    assert lines[:3] == ["progress 1", "progress 2", "\ufffd"]
    assert max(map(len, lines)) == 16_384
    assert "".join(lines[3:6]) == "x" * 40_000
    assert finished.stdout_tail == tuple(map(str, range(300, 500)))


def test_what_a_job_used_is_told(tmp_path: Path) -> None:
    code = "import time\nheld = bytearray(120_000_000)\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    finished = _python(code, tmp_path)
    assert 115 < finished.peak_memory_mib < 180
    assert 0.3 <= finished.cpu_s < 3
    assert finished.duration_s >= 0.3


def test_a_job_that_grows_over_its_memory_is_killed_close_to_it(tmp_path: Path) -> None:
    code = "held = []\nimport time\nwhile True: held.append(b'x' * 1_000_000); time.sleep(0.001)"
    finished = _python(code, tmp_path, Resources(memory="150MiB"))
    assert finished.ended == "memory"
    assert finished.exit_code == -signal.SIGKILL
    assert 150 < finished.peak_memory_mib < 150 + 512
    assert "more than its 150 MiB" in finished.problem


def test_one_huge_allocation_fails_in_the_line_that_asked_for_it(tmp_path: Path) -> None:
    finished = _python("import numpy\nnumpy.zeros(10 * 2**30, 'u1')[:] = 1", tmp_path, Resources(memory="300MiB"))
    assert (finished.ended, finished.exit_code) == ("exit", 1)
    assert "Unable to allocate 10.0 GiB" in finished.stdout_tail[-1]


def test_memory_is_the_sum_over_the_processes_of_a_job(tmp_path: Path) -> None:
    code = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        held = bytearray(90_000_000)
        time.sleep(600)
time.sleep(600)
"""
    finished = _python(code, tmp_path, Resources(memory="250MiB"))
    assert finished.ended == "memory"


def test_pages_that_processes_share_or_that_a_file_backs_do_not_count_again(tmp_path: Path) -> None:
    # given 120 MB that five processes look at, and a file of 300 MB that is mapped and read
    code = """
import mmap, os, time
with open("big", "wb") as file:
    file.truncate(300_000_000)
shared = bytearray(b"1") * 120_000_000
mapped = mmap.mmap(os.open("big", os.O_RDONLY), 0, prot=mmap.PROT_READ)
sum(mapped[at] for at in range(0, len(mapped), 4096))
for _ in range(4):
    if os.fork() == 0:
        time.sleep(0.4)
        os._exit(0)
for _ in range(4):
    os.wait()
"""
    finished = _python(code, tmp_path, Resources(memory="250MiB"))
    assert (finished.ended, finished.exit_code) == ("exit", 0)


@pytest.mark.parametrize("after", ["", "time.sleep(600)", "while True: pass"], ids=["ends", "sleeps", "works"])
def test_nothing_that_a_job_started_outlives_it(tmp_path: Path, after: str) -> None:
    # given a job with a child that left its session and lost its parent
    finished = _python(FORK_AND_REPORT + after, tmp_path, Resources(time="2.5s"))
    # then it ended, by itself or by its limit, and that child is gone
    assert finished.ended == ("time" if after else "exit")
    assert not _alive(int((tmp_path / "orphan").read_text()))
    if after:
        assert "longer than 2.5 s" in finished.problem
        assert finished.duration_s < 15


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_the_job_ends_with_the_one_who_started_it(tmp_path: Path, number: signal.Signals) -> None:
    # given a process that runs a job that would last
    job = (
        "import os\nprint(os.getpid(), os.getppid(), flush=True)\n"
        + FORK_AND_REPORT
        + "print('forked', flush=True)\ntime.sleep(600)"
    )
    (tmp_path / "job.py").write_text(job)
    host = subprocess.Popen(
        [sys.executable, "-c", HOST], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert host.stdout is not None
    pids = [int(word) for word in host.stdout.readline().split()]
    assert host.stdout.readline() == "forked\n"
    pids.append(int((tmp_path / "orphan").read_text()))
    # when it is interrupted, terminated or killed
    host.send_signal(number)
    host.wait(20)
    host.stdout.close()
    # then job, warden and the job's orphan are gone
    _until(lambda: not any(map(_alive, pids)))


def test_a_reader_that_fails_ends_the_job(tmp_path: Path) -> None:
    pids: list[int] = []

    def fail(line: str) -> None:
        pids.append(int(line))
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        _python("import os, time\nprint(os.getpid())\ntime.sleep(600)", tmp_path, on_line=fail)
    assert not _alive(pids[0])


def test_cores_are_fixed_and_thread_pools_are_told(tmp_path: Path) -> None:
    code = (
        "import os\nprint(len(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'])"
    )
    assert _python(code, tmp_path, Resources(cpu=0.5)).stdout_tail == ("1 1 1",)
    all_of_them = len(this_machine().cpus)
    assert _python(code, tmp_path, Resources(cpu=all_of_them)).stdout_tail == ((f"{all_of_them} " * 3).strip(),)


def test_a_job_sees_the_variables_that_are_named_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "hunter2")
    finished = _python("import os\nprint(*os.environ)", tmp_path, variables={"GIVEN": "1"})
    names = set(finished.stdout_tail[0].split())
    assert "A_SECRET" not in names
    assert {"GIVEN", "PATH"} <= names
    assert names <= {
        "GIVEN",
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TZ",
        "PYTHONUNBUFFERED",
        "CUDA_VISIBLE_DEVICES",
    }


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        (Resources(gpu=64), r"asks for 64 GPUs and this machine has (none|\d+)"),
        (Resources(cpu=1_024), r"asks for 1024 cores and this machine has \d+"),
        (Resources(memory="900000GiB"), r"MiB of memory and this machine has \d+"),
    ],
)
def test_the_impossible_is_refused_within_a_second_with_what_there_is(
    resources: Resources, said: str, tmp_path: Path
) -> None:
    started = time.perf_counter()
    with pytest.raises(ResourceError, match=said) as caught:
        _python("print('never')", tmp_path, resources)
    assert time.perf_counter() - started < 1
    assert "cores" in caught.value.mend
    assert "GiB of memory" in caught.value.mend


def test_a_program_that_is_not_there_or_is_killed_is_told_apart(tmp_path: Path) -> None:
    absent = run(["/no/such/program"], folder=tmp_path)
    assert (absent.ended, absent.exit_code) == ("start", 127)
    assert "/no/such/program" in absent.problem
    killed = _python("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", tmp_path)
    assert (killed.ended, killed.exit_code) == ("exit", -signal.SIGSEGV)
    assert "SIGSEGV" in killed.problem
    failed = _python("raise SystemExit(3)", tmp_path)
    assert failed.problem == "It ended with exit code 3."


@given(st.integers(1, 10_000), st.sampled_from(["", " "]))
def test_a_gibibyte_is_1024_mebibytes_however_it_is_spaced(size: int, space: str) -> None:
    assert mebibytes(f"{size}{space}GiB") == 1_024 * mebibytes(f"{size}{space}MiB") == 1_024 * size


@given(cpu=st.floats(0.01, 64), cores=st.integers(1, 64))
def test_what_is_granted_is_never_less_than_asked_nor_more_than_there_is(cpu: float, cores: int) -> None:
    machine = Machine(cpus=tuple(range(cores)), memory_mib=1_024, gpus=0)
    if cpu > cores:
        with pytest.raises(ResourceError, match=r"model\.toml, resources\.cpu"):
            limits(Resources(cpu=cpu), machine)
    else:
        granted = limits(Resources(cpu=cpu), machine).cpus
        assert granted is not None
        assert cpu <= granted <= cores
