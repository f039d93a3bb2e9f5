"""Models in processes of their own: what may happen to them, and that it costs one call."""

import os
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from apart_stand import a_version, asked, eventually, opened
from msgspec.structs import replace

from towpath.apart import DiedError, LateError, due, open_version
from towpath.apart.wire import Channel, Message, Part, arrays_of, columns_of, parts_of
from towpath.errors import FormatError, ModelError, TowpathError, UnavailableError
from towpath.models import Matrix

FATES: list[tuple[float, type[TowpathError], str]] = [
    (-1, DiedError, "SIGSEGV"),
    (-2, DiedError, "exit code 3"),
    (-3, DiedError, "SIGKILL"),
    (-4, LateError, "no answer after"),
    (-5, ModelError, "no such luck"),
    (-6, ModelError, "damaged"),
    (-7, ModelError, "MemoryError"),
    (-8, LateError, "no answer after"),
    (-11, ModelError, "SystemExit"),
]


@pytest.mark.parametrize("fates", [FATES[:3], FATES[3:6], FATES[6:]], ids=["dies", "spoils", "fails"])
def test_whatever_a_model_does_costs_that_call_and_the_next_is_answered(
    tmp_path: Path, fates: list[tuple[float, type[TowpathError], str]]
) -> None:
    model = opened(tmp_path)
    assert asked(model, 3) == [6.0]
    for told, error, why in fates:
        eventually(lambda: model.says["spare"] == "waiting")
        before, pid = model.says["restarts"], model.says["pid"]
        due.until = time.perf_counter() + 0.5
        started = time.perf_counter()
        with pytest.raises(error) as raised:
            asked(model, told)
        assert time.perf_counter() - started < 1.5, told
        due.until = None
        assert why in f"{raised.value.what} {model.says['last_end']}", told
        # the functions of a fallback chain are there at once, and the model right after
        assert model.fallback("half", Matrix(("a", "b"), np.array([[3.0, 0.0]]))).tolist() == [1.5]
        assert asked(model, 3) == [6.0], told
        died = error is not ModelError or why == "damaged"
        assert (model.says["restarts"] - before, model.says["pid"] != pid) == (int(died), died), told
    pid = model.says["pid"]
    model.close()
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    with pytest.raises(UnavailableError):
        asked(model, 3)


def test_an_impatient_caller_ends_no_model(tmp_path: Path) -> None:
    model = opened(tmp_path, own_s=5.0)
    pid = model.says["pid"]
    assert asked(model, 3) == [6.0]
    due.until = time.perf_counter() + 0.05
    with pytest.raises(LateError):
        asked(model, -9, 0.4)
    due.until = time.perf_counter() + 5
    # who asks next waits for it, and gets his own answer
    assert asked(model, 4) == [8.0]
    assert (model.says["pid"], model.says["restarts"]) == (pid, 0)
    # and one that never comes back is ended when its own time is over, whoever left
    model.close()
    hanging = opened(tmp_path / "other", own_s=0.5)
    asked(hanging, 3)
    due.until = time.perf_counter() + 0.05
    with pytest.raises(LateError):
        asked(hanging, -4)
    due.until = None
    eventually(lambda: hanging.says["restarts"] == 1, 20)
    assert "no answer after" in hanging.says["last_end"]
    assert asked(hanging, 3) == [6.0]
    hanging.close()


def test_a_model_that_dies_at_every_call_is_started_again_with_growing_patience(tmp_path: Path) -> None:
    model = opened(tmp_path)
    asked(model, 3)
    ends: list[float] = []
    none = 0
    until = time.monotonic() + 60
    while len(ends) < 6 and time.monotonic() < until:
        due.until = time.perf_counter() + 0.3
        try:
            asked(model, -1)
        except DiedError:
            ends.append(time.monotonic())
        except UnavailableError:  # at once, and not after a wait
            none += 1
            time.sleep(0.01)
    due.until = None
    model.close()
    assert len(ends) == 6
    # after the fourth and the fifth nobody was started for half a second and for a second
    assert ends[5] - ends[2] > 1
    assert none > 20


def test_a_model_that_outgrows_its_memory_is_ended_and_says_so(tmp_path: Path) -> None:
    from towpath.project.declarations import Resources

    model = opened(tmp_path, own_s=30, resources=Resources(memory="200MiB"))
    asked(model, 3)
    with pytest.raises(DiedError, match=r"more than its 200 MiB \(resources.memory\)"):
        asked(model, -10)
    assert asked(model, 3) == [6.0]
    model.close()


def test_an_idle_process_that_is_killed_is_replaced_before_anybody_asks(tmp_path: Path) -> None:
    model = opened(tmp_path)
    asked(model, 3)
    eventually(lambda: model.says["spare"] == "waiting")
    os.kill(model.says["pid"], signal.SIGKILL)
    eventually(lambda: model.says["restarts"] == 1 and model.says["state"] == "answering")
    assert asked(model, 3) == [6.0]
    model.close()


def test_what_is_closed_leaves_no_process_no_thread_no_file_and_no_folder(tmp_path: Path) -> None:
    def held() -> tuple[int, int, int]:
        names = [thread.name for thread in threading.enumerate()]
        return (
            len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - numbers alone
            sum(name.startswith("towpath-") for name in names),
            len(list(Path(tempfile.gettempdir()).glob(f"towpath-apart-{os.getpid()}-*"))),
        )

    manifest, folder = a_version(tmp_path)
    before = held()
    for _ in range(3):
        model = open_version(manifest, folder, environments=tmp_path, own_s=0.5, spare=True)
        model.close()
    with pytest.raises(TowpathError):
        open_version(
            replace(manifest, artefact=replace(manifest.artefact, allow=("os:system",), format="skops")),
            folder,
            environments=tmp_path,
        )
    eventually(lambda: held()[:2] <= before[:2] and held()[2] <= before[2])


def test_what_cannot_be_loaded_is_refused_with_what_it_said(tmp_path: Path) -> None:
    cases = {
        "import os\nos.abort()": (FormatError, "SIGABRT"),
        "import nowhere": (ModelError, "nowhere"),
        "def predict(model, rows): return rows": (FormatError, "would import"),
    }
    for number, (code, (error, why)) in enumerate(cases.items()):
        manifest, folder = a_version(tmp_path / str(number), code=code)
        if why == "would import":
            (folder / "model.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        with pytest.raises(error, match=why):
            open_version(manifest, folder, environments=tmp_path)


READS_ENVIRONMENT = """import os
import numpy as np

def predict(model, rows):
    seen = repr(sorted(os.environ.items())) + repr(os.getcwd())
    return np.full(len(rows), seen, dtype=object)
"""


def test_a_pickled_model_sees_no_variable_but_those_that_its_model_toml_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from towpath.models.manifest import Field, Signature
    from towpath.project.declarations import ServingDeclaration

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-the-secret")
    monkeypatch.setenv("MODEL_REGION", "north")
    outputs = (Field(name="prediction", type="string"),)
    signature = Signature(container="numpy", inputs=(Field(name="a", type="double"),), outputs=outputs)
    # given one that did not ask for a process of its own
    manifest, folder = a_version(
        tmp_path,
        code=READS_ENVIRONMENT,
        signature=signature,
        serving=ServingDeclaration(),
        variables=("MODEL_REGION",),
    )
    model = open_version(manifest, folder, environments=tmp_path)
    said = model.predict({"a": np.array([1.0])})["prediction"][0]
    assert "MODEL_REGION" in said
    assert "north" in said
    assert "hunter2" not in said
    assert "TOWPATH" not in said
    assert str(Path.cwd()) not in said.rpartition("]")[2]
    model.close()


def test_every_kind_of_column_crosses_as_it_was() -> None:
    here, there = map(Channel, socket.socketpair())
    columns = {
        "number": np.array([1.5, np.nan]),
        "whole": np.array([2**63 - 1, -1]),
        "unsigned": np.array([2**64 - 1, 0], dtype=np.uint64),
        "half": np.array([0.5, 2.0], dtype=np.float16),
        "truth": np.array([True, False]),
        "text": np.array(["grün", None], dtype=object),
        "fixed": np.array(["a", "bc"]),
        "bytes": np.array([b"\x00\xff", b""], dtype=object),
        "when": np.array(["2026-01-01", "NaT"], dtype="datetime64[us]"),
        "days": np.array(["2026-01-01", "NaT"], dtype="datetime64[D]"),
        "image": np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4),
        "turned": np.arange(6.0).reshape(3, 2).T,
        "none": np.empty((0, 3), dtype=np.float32),
        "lists": np.fromiter([["a", "b"], ["c", "d"]], dtype=object, count=2),
        "odd": np.fromiter([np.float64(2.0), np.array([1, 2])], dtype=object, count=2),
    }
    parts, raw = parts_of(columns)
    here.send(Message("predict", 1, parts=parts), raw)
    message, body = there.receive(time.perf_counter() + 5)
    found = columns_of(message, body, ())
    for name, before in columns.items():
        after = found[name]
        assert after.shape == before.shape, name
        assert after.dtype == (before.dtype if before.dtype.kind != "U" else object), name
        if before.dtype != object:
            np.testing.assert_array_equal(after, before)
        assert after.dtype == object or after.flags.writeable or not after.size
    assert found["text"].tolist() == ["grün", None]
    assert found["lists"].tolist() == [["a", "b"], ["c", "d"]]
    assert found["bytes"].tolist() == [b"\x00\xff", b""]
    assert found["odd"].tolist() == [2.0, [1, 2]]
    # a frame of many columns and more bytes than any buffer of the system holds, while the other end reads
    many = {f"c{n}": np.full(5_000, float(n)) for n in range(1_500)}
    parts, raw = parts_of(many)
    writing = threading.Thread(target=here.send, args=(Message("predict", 2, parts=parts), raw))
    writing.start()
    with pytest.raises(TimeoutError):
        there.receive(time.perf_counter() + 1e-9)
    message, body = there.receive(time.perf_counter() + 60)
    writing.join()
    assert {name: float(array[-1]) for name, array in arrays_of(message.parts, body).items()} == {
        f"c{n}": float(n) for n in range(1_500)
    }
    for channel in (here, there):
        channel.close()


@pytest.mark.parametrize(
    "part",
    [
        Part("x", "|O", (1,)),
        Part("x", "O", (1,)),
        Part("x", "<f8", (2,)),
        Part("x", "<f8", (-1, -1)),
        Part("x", "<f8", (1 << 40, 1 << 40)),
        Part("x", "V8", (1,)),
        Part("x", "<f8,<f8", (1,)),
        Part("x", "O", (3,), ["a"]),
        Part("x", "<f8", (0,)),
        Part("x", "<f3", (1,)),
    ],
)
def test_a_header_that_lies_about_its_bytes_is_refused(part: Part) -> None:
    with pytest.raises(FormatError):
        arrays_of([part], bytearray(8))


def test_bytes_that_are_no_frame_are_refused_and_allocate_nothing() -> None:
    whole = bytes.fromhex("54575031 01000000 ffffffffffffff7f".replace(" ", ""))
    for sent in (b"HTTP/1.1 200 OK\r\n\r\n", whole, b"TWP1" + b"\xff" * 12, b"TWP1\x01\0\0\0" + b"\0" * 8 + b"\xc1"):
        here, there = socket.socketpair()
        here.sendall(sent)
        with pytest.raises(FormatError):
            Channel(there).receive(time.perf_counter() + 1)
        here.close()
        there.close()
