"""The append path: nothing acknowledged is lost, and nothing here ever stops an answer."""

import fcntl
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.clock import FixedClock
from towpath.errors import FormatError, UnavailableError
from towpath.journal.append import SUFFIX, Journal
from towpath.journal.frames import HEADER_BYTES, MARK, OUTCOMES, RECORD, close_frame, frames
from towpath.journal.record import OutcomeRow, Record, Rows

CLOCK = FixedClock("2026-01-05")


def record(number: int = 0, text: str = "") -> Record:
    rows = Rows(source=["champion"], reason=["ok"], version=[1], prediction=[float(number)], unit_id=[text])
    return Record(
        prediction_id=f"p{number}",
        request_id="r",
        project="shop",
        team="food",
        model="demand",
        environment="local",
        server="one",
        consumer="local",
        predicted_at=1_000_000,
        recorded_at=1_000_000,
        latency_ms=1.5,
        rows=rows,
    )


def outcome(number: int = 0) -> OutcomeRow:
    return OutcomeRow(
        outcome_id=f"o{number}", project="shop", model="demand", prediction_id="p0", happened_at=1, arrived_at=2
    )


def written(folder: Path) -> list[str]:
    """Prediction ids of all files, in the order of writing."""
    return [
        msgspec.msgpack.decode(payload, type=Record).prediction_id
        for path in sorted(folder.glob("*" + SUFFIX))
        for kind, payload in frames(path.read_bytes())
        if kind == RECORD
    ]


def wait_until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


def owned(path: Path) -> bool:
    """Whether a living worker still writes to it."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path, server="one", clock=CLOCK, roll_s=60)
    yield opened
    opened.close()


@given(payloads=st.lists(st.binary(max_size=40), max_size=5), data=st.data())
def test_a_file_cut_anywhere_gives_the_frames_before_the_cut(payloads: list[bytes], data: st.DataObject) -> None:
    # given a file of whole frames
    whole, ends = MARK, [len(MARK)]
    for payload in payloads:
        frame = bytearray(HEADER_BYTES) + payload
        close_frame(frame, RECORD)
        whole += bytes(frame)
        ends.append(len(whole))
    # when it is cut at any byte
    cut = data.draw(st.integers(0, len(whole)))
    # then every whole frame is there, and no half one
    complete = max(sum(end <= cut for end in ends) - 1, 0)
    assert [payload for _, payload in frames(whole[:cut])] == payloads[:complete]


@given(at=st.integers(len(MARK), 60), flip=st.integers(1, 255))
def test_a_damaged_byte_never_becomes_a_record(at: int, flip: int) -> None:
    frame = bytearray(HEADER_BYTES) + b"x" * 60
    close_frame(frame, RECORD)
    damaged = bytearray(MARK + frame)
    damaged[at] ^= flip
    assert list(frames(bytes(damaged))) == []


def test_a_foreign_file_is_told_by_its_first_bytes() -> None:
    with pytest.raises(FormatError, match="PAR1"):
        list(frames(b"PAR1 and more"))


def test_what_was_appended_is_in_the_file_before_append_returns(journal: Journal, tmp_path: Path) -> None:
    for number in range(3):
        assert journal.append(record(number))
        assert written(tmp_path) == [f"p{n}" for n in range(number + 1)]


def test_what_is_held_is_written_in_one_piece_before_whatever_comes_next(journal: Journal, tmp_path: Path) -> None:
    for number in range(3):
        assert journal.append(record(number), held=True)
    assert (journal.holds, written(tmp_path)) == (True, [])
    journal.write_held()
    assert (journal.holds, written(tmp_path)) == (False, ["p0", "p1", "p2"])
    journal.append(record(3), held=True)
    journal.append(record(4))
    assert written(tmp_path) == ["p0", "p1", "p2", "p3", "p4"]
    for number, comes in ((5, journal.roll), (6, lambda: journal.outcomes([outcome()])), (7, journal.close)):
        journal.append(record(number), held=True)
        comes()
        assert f"p{number}" in written(tmp_path)
    assert (journal.appended, journal.dropped) == (8, 0)


def test_what_is_held_does_not_grow_without_end(journal: Journal, tmp_path: Path) -> None:
    for number in range(30):
        assert journal.append(record(number, "x" * 100_000), held=True)
    assert 0 < len(written(tmp_path)) < 30


def test_a_record_reads_back_as_it_was_written(journal: Journal, tmp_path: Path) -> None:
    original = record(7, "Zürich")
    journal.append(original)
    [path] = tmp_path.glob("*" + SUFFIX)
    [(_, payload)] = frames(path.read_bytes())
    assert msgspec.msgpack.decode(payload, type=Record) == original


def test_many_threads_share_one_journal(journal: Journal, tmp_path: Path) -> None:
    def work(start: int) -> None:
        for number in range(start, start + 200):
            journal.append(record(number))

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 1_600, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written(tmp_path)) == sorted(f"p{n}" for n in range(1_600))


def test_values_of_numpy_are_written_and_what_nobody_can_write_is_dropped(journal: Journal, tmp_path: Path) -> None:
    rows = Rows(source=["champion"], reason=["ok"], version=[1], output=[{"p": np.float32(0.5), "v": np.arange(2)}])
    assert journal.append(msgspec.structs.replace(record(), rows=rows))
    assert not journal.append(msgspec.structs.replace(record(), model="\ud800"))
    assert journal.append(record(1))
    assert (len(written(tmp_path)), journal.appended, journal.dropped) == (2, 2, 1)


def test_outcomes_of_one_call_stand_in_one_frame(journal: Journal, tmp_path: Path) -> None:
    journal.outcomes([])
    journal.outcomes([outcome(1), outcome(2)])
    [path] = tmp_path.glob("*" + SUFFIX)
    [(kind, payload)] = frames(path.read_bytes())
    assert kind == OUTCOMES
    assert msgspec.msgpack.decode(payload, type=list[OutcomeRow]) == [outcome(1), outcome(2)]


def test_a_file_is_rolled_by_size_and_by_age_and_on_close(tmp_path: Path) -> None:
    by_size = Journal(tmp_path / "size", server="one", clock=CLOCK, roll_bytes=1_000, roll_s=60)
    for number in range(30):
        by_size.append(record(number))
    assert len(list((tmp_path / "size").glob("*" + SUFFIX))) > 1
    by_size.close()
    assert sorted(written(tmp_path / "size")) == sorted(f"p{n}" for n in range(30))

    by_age = Journal(tmp_path / "age", server="one", clock=CLOCK, roll_s=0.05)
    by_age.append(record(1))
    [first] = (tmp_path / "age").glob("*" + SUFFIX)
    wait_until(lambda: not owned(first))
    by_age.append(record(2))
    assert len(list((tmp_path / "age").glob("*" + SUFFIX))) == 2
    assert first.exists()
    by_age.close()
    assert not by_age.append(record(3))
    assert by_age.dropped == 1


def test_a_full_budget_drops_the_least_important_first(tmp_path: Path) -> None:
    journal = Journal(tmp_path, server="one", clock=CLOCK, budget_bytes=20_000, roll_s=60)
    kept = {"experimental": 0, "standard": 0, "critical": 0}
    for tier in kept:
        while journal.append(record(), tier=tier):  # type: ignore[arg-type]
            kept[tier] += 1
    assert all(count > 5 for count in kept.values())
    assert sum(f.stat().st_size for f in tmp_path.glob("*" + SUFFIX)) <= 20_000
    with pytest.raises(UnavailableError, match="of 20,000 bytes"):
        journal.outcomes([outcome()] * 10)
    # when a flusher has taken the file, then records are written again
    journal.roll()
    for path in tmp_path.glob("*" + SUFFIX):
        path.unlink()
    wait_until(lambda: journal.append(record(), tier="experimental"))
    journal.close()


WRITER = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_append import CLOCK, Journal, record
journal = Journal(Path(sys.argv[1]), server="killed", clock=CLOCK, roll_bytes=20_000)
number = 0
while True:
    assert journal.append(record(number, "x" * (number % 300)))
    number += 1
    os.write(1, number.to_bytes(4, "little"))
"""


def test_nothing_acknowledged_is_lost_on_kill_9(tmp_path: Path) -> None:
    chance = random.Random(7)
    for turn in range(3):
        folder = tmp_path / str(turn)
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(Path(__file__).parent)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        heard = writer.stdout.read(4 * chance.randint(1, 2_000))
        time.sleep(chance.random() / 50)
        writer.send_signal(signal.SIGKILL)
        heard += writer.stdout.read()
        writer.wait()
        writer.stdout.close()
        (acknowledged,) = struct.unpack("<I", heard[len(heard) // 4 * 4 - 4 : len(heard) // 4 * 4])
        assert acknowledged > 0
        assert set(written(folder)) >= {f"p{n}" for n in range(acknowledged)}


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_append import CLOCK, Journal, outcome, record, written
from towpath.errors import UnavailableError
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
folder = Path(sys.argv[1])
journal = Journal(folder, server="full", clock=CLOCK, roll_s=60)
kept = [n for n in range(200) if journal.append(record(n))]
assert 10 < len(kept) < 200, kept
assert journal.dropped == 200 - len(kept)
assert written(folder) == [f"p{n}" for n in kept]
try:
    journal.outcomes([outcome()] * 50)
except UnavailableError as error:
    assert "disk" in str(error)
else:
    raise AssertionError("outcomes were acknowledged and not kept")
journal.roll()
assert journal.append(record(1000))
assert "p1000" in written(folder)
dropped = journal.dropped
for n in range(2000, 2100):
    assert journal.append(record(n), held=True)
journal.write_held()
assert journal.dropped == dropped + 100, "nothing of a piece that was not taken whole counts as written"
assert not any(name.startswith("p20") and len(name) == 5 for name in written(folder))
journal.roll()
journal.close()
"""


def test_a_file_that_may_not_grow_drops_records_and_never_raises(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FULL, str(tmp_path), str(Path(__file__).parent)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a disk of 64 KiB cannot be mounted (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_drops_and_counts_and_recovers(small_disk: Path) -> None:
    journal = Journal(small_disk, server="one", clock=CLOCK, roll_s=60)
    filler = small_disk / "filler"
    # given a disk that fills up
    kept = [number for number in range(1_000) if journal.append(record(number))]
    assert 0 < len(kept) < 1_000
    assert journal.dropped == 1_000 - len(kept)
    with pytest.raises(UnavailableError, match="not kept"):
        journal.outcomes([outcome(n) for n in range(100)])
    # when it is full from the start, then not even a file can be made, and still nothing raises
    journal.roll()
    assert not journal.append(record(5_000, "x" * 5_000))
    # when somebody makes room, then records are written again, and none of the earlier is lost
    filler.unlink(missing_ok=True)
    taken = [
        msgspec.msgpack.decode(p, type=Record).prediction_id
        for path in sorted(small_disk.glob("*" + SUFFIX))
        for _, p in frames(path.read_bytes())
    ]
    assert taken == [f"p{number}" for number in kept]
    for path in small_disk.glob("*" + SUFFIX):
        os.truncate(path, 0)
    wait_until(lambda: journal.append(record(6_000)))
    journal.close()
    assert written(small_disk) == ["p6000"]


def test_a_folder_that_cannot_be_made_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match="journal folder"):
        Journal(tmp_path / "file" / "journal", server="one", clock=CLOCK)


def test_a_process_without_free_files_syncs_later_and_keeps_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, synced = threading.Event(), threading.Event()
    monkeypatch.setattr("towpath.journal.append.os.fdatasync", lambda _: synced.set())

    def none_free(_: int) -> int:
        asked.set()
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as full:
        full.setattr("towpath.journal.append.os.dup", none_free)
        journal = Journal(tmp_path, server="one", clock=CLOCK, roll_s=60)
        assert journal.append(record(1))
        assert asked.wait(10)
        assert not synced.is_set()
    assert synced.wait(10)
    assert journal.append(record(2))
    journal.close()
    assert written(tmp_path) == ["p1", "p2"]
