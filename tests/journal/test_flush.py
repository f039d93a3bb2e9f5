"""Flushing: every record exactly once, wherever the flusher dies and however many flush at once."""

import io
import threading
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from towpath.clock import FixedClock
from towpath.errors import InputError, UnavailableError
from towpath.journal import Journal, day_files, flush, write_rows
from towpath.journal.append import SUFFIX
from towpath.journal.days import add, newest
from towpath.journal.frames import HEADER_BYTES, MARK, close_frame, frames
from towpath.journal.record import PREDICTION_COLUMNS, OutcomeRow, Record, Rows
from towpath.journal.unfold import prediction_table
from towpath.stores.objects import Objects
from towpath.types import micros, utc

CLOCK = FixedClock("2026-01-05T12:00")
NOON = micros(utc("2026-01-05T12:00"))
DAY_US = 86_400_000_000


def record(name: str, rows: Rows | None = None, at_us: int = NOON) -> Record:
    rows = rows or Rows(source=["champion"], reason=["ok"], version=[1], prediction=[1.0])
    return Record(
        prediction_id=name,
        request_id=f"request of {name}",
        project="shop",
        team="food",
        model="demand",
        environment="local",
        server="one",
        consumer="local",
        predicted_at=at_us,
        recorded_at=at_us + 5,
        latency_ms=1.5,
        rows=rows,
    )


def outcome(name: str) -> OutcomeRow:
    return OutcomeRow(
        outcome_id=name, project="shop", model="demand", prediction_id="p", happened_at=NOON, arrived_at=NOON
    )


def stored(objects: Objects, table: str = "predictions", column: str = "prediction_id") -> list[str]:
    return sorted(
        value
        for file in day_files(objects, table)
        for value in pq.read_table(io.BytesIO(objects.get(file)))[column].to_pylist()
    )


def filled(folder: Path, files: int = 3) -> list[str]:
    """Some files of dead workers, over two days, with outcomes between; gives the prediction ids."""
    names = [f"p{n}" for n in range(files * 4)]
    for at in range(files):
        journal = Journal(folder, server=f"w{at}", clock=CLOCK)
        for name in names[at * 4 : at * 4 + 4]:
            journal.append(record(name, at_us=NOON + (int(name[1:]) % 2) * DAY_US))
        journal.outcomes([outcome(f"o{at}")])
        journal.close()
    return names


class FailingObjects(Objects):
    """A real store whose process dies at the k-th write: before it, or after it and before anybody knows."""

    def __init__(self, url: str, *, dies_at: int, after: bool) -> None:
        super().__init__(url)
        self.left = dies_at
        self.after = after

    def put_new(self, path: str, data: bytes) -> None:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise UnavailableError("died before the write")
        super().put_new(path, data)
        if self.left == 0:
            raise UnavailableError("died after the write")


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_write_and_a_second_run_give_every_record_once(tmp_path: Path, after: bool) -> None:
    writes = 0
    while True:
        writes += 1
        url, folder = str(tmp_path / f"objects{writes}"), tmp_path / f"journal{writes}"
        names = filled(folder)
        failing = FailingObjects(url, dies_at=writes, after=after)
        try:
            flush(folder, failing, clock=CLOCK)
        except UnavailableError:
            # a reader in between sees only whole files, and none twice
            seen = stored(Objects(url))
            assert len(seen) == len(set(seen))
            flush(folder, Objects(url), clock=CLOCK)
        finished = failing.left > 0
        assert stored(Objects(url)) == sorted(names)
        assert stored(Objects(url), "outcomes", "outcome_id") == ["o0", "o1", "o2"]
        assert list(folder.glob("*" + SUFFIX)) == []
        if finished:
            break
    assert writes > 3 * 3 + 3


def test_a_crash_before_the_local_file_is_removed_does_not_double_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = Objects(str(tmp_path / "objects"))
    names = filled(tmp_path / "journal", files=1)

    def dies(self: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", dies)
        with pytest.raises(KeyboardInterrupt):
            flush(tmp_path / "journal", objects, clock=CLOCK)
    again = flush(tmp_path / "journal", objects, clock=CLOCK)
    assert again.files == 1
    assert stored(objects) == sorted(names)


def test_flushers_of_two_hosts_and_two_threads_each_lose_and_double_nothing(tmp_path: Path) -> None:
    url = str(tmp_path / "objects")
    names = [f"{host}{n}" for host in "ab" for n in range(60)]
    failures: list[BaseException] = []

    def write(host: str) -> None:
        journal = Journal(tmp_path / host, server=host, clock=CLOCK)
        for n in range(60):
            journal.append(record(f"{host}{n}"))
            if n % 10 == 9:
                journal.roll()
        journal.close()

    def flush_often(host: str) -> None:
        try:
            for _ in range(12):
                flush(tmp_path / host, Objects(url), clock=CLOCK)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=write, args=(host,)) for host in "ab"]
    threads += [threading.Thread(target=flush_often, args=(host,)) for host in "abab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for host in "ab":
        flush(tmp_path / host, Objects(url), clock=CLOCK)
    assert failures == []
    assert stored(Objects(url)) == sorted(names)


def test_the_file_of_a_living_worker_is_left_alone(tmp_path: Path) -> None:
    objects = Objects("memory://")
    journal = Journal(tmp_path, server="one", clock=CLOCK, roll_s=60)
    journal.append(record("p0"))
    assert flush(tmp_path, objects, clock=CLOCK).files == 0
    journal.roll()
    journal.append(record("p1"))
    assert flush(tmp_path, objects, clock=CLOCK).rows == 1
    journal.close()
    assert flush(tmp_path, objects, clock=CLOCK).rows == 1
    assert stored(objects) == ["p0", "p1"]
    assert flush(tmp_path / "nowhere", objects, clock=CLOCK) == flush(tmp_path, objects, clock=CLOCK)


def test_a_torn_tail_is_ignored_and_a_foreign_file_is_set_aside(tmp_path: Path) -> None:
    objects = Objects("memory://")
    filled(tmp_path, files=1)
    [path] = tmp_path.glob("*" + SUFFIX)
    path.write_bytes(path.read_bytes()[:-3])
    (tmp_path / f"foreign{SUFFIX}").write_bytes(b"PAR1 something else")
    frame = bytearray(HEADER_BYTES) + b"\x93"
    close_frame(frame, 99)
    (tmp_path / f"newer{SUFFIX}").write_bytes(MARK + frame)
    (tmp_path / f"empty{SUFFIX}").write_bytes(b"")
    flushed = flush(tmp_path, objects, clock=CLOCK)
    # the torn frame held the outcome, which therefore was never acknowledged
    assert stored(objects) == ["p0", "p1", "p2", "p3"]
    assert stored(objects, "outcomes", "outcome_id") == []
    assert flushed.rows == 4
    assert sorted(p.name for p in tmp_path.glob("*.unreadable")) == ["foreign.unreadable", "newer.unreadable"]


def test_one_record_that_does_not_fit_stops_no_other(tmp_path: Path) -> None:
    objects = Objects("memory://")
    journal = Journal(tmp_path, server="one", clock=CLOCK)
    fine = Rows(
        source=["champion"], reason=["ok"], version=[1], prediction=[np.float64(2.5)], output=[{"at": CLOCK.now()}]
    )
    ragged = Rows(source=["champion"], reason=["ok"], version=[1], prediction=[1.0, 2.0])
    short = Rows(source=["champion"] * 2, reason=["ok"] * 2, version=[1] * 2, prediction=[1.0])  # makes up for ragged
    huge = Rows(source=["champion"], reason=["ok"], version=[1 << 40])
    strange = Rows(source=["champion"], reason=["no such reason"], version=[1])  # type: ignore[list-item]
    chance = Rows(source=["champion"], reason=["ok"], version=[1], propensity=["likely"])
    for name, rows in {"a": fine, "b": ragged, "c": huge, "d": strange, "e": chance, "f": fine, "g": short}.items():
        assert journal.append(record(name, rows))
    journal.close()
    assert flush(tmp_path, objects, clock=CLOCK).rows == 2
    assert stored(objects) == ["a", "f"]
    assert stored(objects, column="prediction") == [2.5, 2.5]
    [aside] = tmp_path.glob("*.unreadable")
    names = [msgspec.msgpack.decode(payload)[1] for _, payload in frames(aside.read_bytes())]
    assert sorted(names) == ["b", "c", "d", "e", "g"]


def test_rows_lie_under_the_day_they_were_predicted_on(tmp_path: Path) -> None:
    objects = Objects("memory://")
    filled(tmp_path, files=2)
    flush(tmp_path, objects, clock=CLOCK)
    day = newest(objects, "predictions", "2026-01-05")
    assert day is not None
    assert (day.rows, len(day.files), day.written_at) == (4, 2, CLOCK.now())
    assert len(day_files(objects, "predictions", since=utc("2026-01-06"))) == 2
    assert len(day_files(objects, "predictions", until=utc("2026-01-06"))) == 2
    assert len(day_files(objects, "predictions")) == 4


def test_many_writers_of_one_day_all_stand_in_its_manifest(tmp_path: Path) -> None:
    url = str(tmp_path)

    def work(writer: int) -> None:
        for n in range(5):
            add(Objects(url), "predictions", "2026-01-05", {f"{writer}-{n}.parquet": 1}, clock=CLOCK)

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    day = newest(Objects(url), "predictions", "2026-01-05")
    assert day is not None
    assert (len(set(day.files)), len(day.files), day.rows) == (30, 30, 30)


def test_a_batch_written_twice_under_one_name_is_there_once() -> None:
    objects = Objects("memory://")
    table = pa.table({"prediction_id": ["a", "b"], "predicted_at": [utc("2026-01-05"), utc("2026-01-06")]})
    for _ in range(2):
        assert write_rows(objects, "predictions", table, name="run-1", clock=CLOCK) == 2
    assert stored(objects) == ["a", "b"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"predicted_at": [None]}, "null in 1 rows"),
        ({"predictd_at": [1]}, "did you mean 'predicted_at'"),
        ({"prediction": ["much"]}, "does not fit double"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_by_column(columns: dict[str, list[object]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        write_rows(Objects("memory://"), "predictions", pa.table(columns), name="n", clock=CLOCK)


def test_a_request_unfolds_to_a_row_per_prediction() -> None:
    rows = Rows(
        source=["champion", "fallback:mean"],
        reason=["ok", "slow"],
        version=[3, None],
        prediction=[1.5, 2.0],
        entity_key=['["1"]', None],
        target_at=[NOON + DAY_US, None],
        segment=[{"band": "low"}, None],
        output=[{"p": [0.1, 0.9]}, None],
        features=[{"v.a": 1}, {"v.a": None}],
        propensity=[0.5, None],
    )
    table = prediction_table([record("p", rows)])
    assert dict(zip(table.column_names, map(str, table.schema.types), strict=True)) == PREDICTION_COLUMNS
    first, second = table.to_pylist()
    assert (first["prediction_id"], second["prediction_id"]) == ("p-0", "p-1")
    assert first["target_at"] == utc("2026-01-06T12:00")
    assert second["target_at"] == second["predicted_at"] == utc("2026-01-05T12:00")
    assert (first["segment"], first["output"], second["features"]) == (
        '{"band":"low"}',
        '{"p":[0.1,0.9]}',
        '{"v.a":null}',
    )
    assert (first["propensity"], first["position"], first["item"]) == (0.5, None, None)
    assert (first["reason"], second["source"], second["version"]) == ("ok", "fallback:mean", None)


def test_a_ranking_unfolds_to_a_row_per_item_and_counts_nothing_twice() -> None:
    rows = Rows(
        source=["champion"] * 3,
        reason=["ok"] * 3,
        version=[1] * 3,
        unit_id=["ann", "bob", "eve"],
        item=[["x", "y", "z"], [], ["x"]],
        propensity=[[0.5, 0.3], None, 0.9],
        features=[{"a": 1}, {"a": 2}, {"a": 3}],
    )
    table = prediction_table([record("p", rows), record("q")])
    taken = table.select(["prediction_id", "unit_id", "item", "position", "propensity", "features"]).to_pydict()
    assert taken["prediction_id"] == ["p-0", "p-0", "p-0", "p-1", "p-2", "q"]
    assert taken["unit_id"] == ["ann", "ann", "ann", "bob", "eve", None]
    assert taken["item"] == ["x", "y", "z", None, "x", None]
    assert taken["position"] == [1, 2, 3, None, 1, None]
    assert taken["propensity"] == [0.5, 0.3, None, None, 0.9, None]
    assert taken["features"] == ['{"a":1}', None, None, '{"a":2}', '{"a":3}', None]


def test_a_manifest_of_a_newer_towpath_is_refused_by_its_number() -> None:
    objects = Objects("memory://")
    path = "journal/predictions/2026-01-05/manifests/000001.json"
    manifest = add(objects, "predictions", "2026-01-06", {"f": 1}, clock=CLOCK)
    objects.put_new(path, msgspec.json.encode(msgspec.structs.replace(manifest, schema=99)))
    with pytest.raises(Exception, match="schema 99"):
        newest(objects, "predictions", "2026-01-05")


def test_a_day_of_many_flushes_becomes_few_files_and_stays_whole(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path / "objects"))
    folder = tmp_path / "journal"
    journal = Journal(folder, server="one", clock=CLOCK, roll_s=60)
    names = [f"p{n}" for n in range(130)]
    for at, name in enumerate(names):
        journal.append(record(name))
        journal.roll()
        if at % 10 == 9:
            flush(folder, objects, clock=CLOCK)
            # a reader at any moment sees each row once
            assert stored(objects) == sorted(names[: at + 1])
    journal.close()
    day = newest(objects, "predictions", "2026-01-05")
    assert day is not None
    assert (len(day.files), day.rows, len(day.replaced)) == (12, 130, 120)
    # what was replaced is removed after its grace, and no manifest that counts is
    later = FixedClock("2026-01-05T14:00")
    for number in range(60):
        again = Journal(folder, server="two", clock=later)
        again.append(record(f"q{number}"))
        again.close()
    flush(folder, objects, clock=later)
    day = newest(objects, "predictions", "2026-01-05")
    assert day is not None
    assert (day.rows, len(day.files), len(day.replaced)) == (190, 3, 70)
    assert sum(path.endswith(".parquet") for path in objects.paths("journal/predictions/")) == 3 + 70
    assert len(stored(objects)) == len(set(stored(objects))) == 190


def test_a_file_that_is_still_here_is_not_merged_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects("memory://")
    for number in range(70):
        journal = Journal(tmp_path, server="one", clock=CLOCK)
        journal.append(record(f"p{number}"))
        journal.close()

    def dies(self: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    # given all files in the store, and the flusher dead before it removed the first of its own
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", dies)
        with pytest.raises(KeyboardInterrupt):
            flush(tmp_path, objects, clock=CLOCK)
    assert len(stored(objects)) == 70
    # when it runs again, then they are removed before any is merged, and none comes back
    flush(tmp_path, objects, clock=CLOCK)
    flush(tmp_path, objects, clock=CLOCK)
    assert sorted(stored(objects)) == sorted(f"p{n}" for n in range(70))


def test_a_writer_that_slept_past_removed_manifests_is_not_lost(tmp_path: Path) -> None:
    objects, old = Objects(str(tmp_path)), Objects(str(tmp_path))
    for number in range(30):
        add(objects, "predictions", "2026-01-05", {f"f{number}": 1}, clock=CLOCK)
    kept = objects.paths("journal/predictions/2026-01-05/manifests/")
    assert len(kept) == 20
    real, stale = objects.get, [True]

    def slept(prefix: str = "") -> list[str]:
        """The listing as it was when the writer fell asleep: one old manifest, put back for it to read."""
        if stale.pop() if stale else False:
            first = prefix + "000005.json"
            manifest = msgspec.json.decode(real(kept[-1]))
            objects.put_new(first, msgspec.json.encode(manifest | {"revision": 5, "files": ["f0"], "rows": 1}))
            return [first]
        return objects.paths(prefix)

    old.paths = slept  # type: ignore[method-assign]
    add(old, "predictions", "2026-01-05", {"late": 1}, clock=CLOCK)
    day = newest(objects, "predictions", "2026-01-05")
    assert day is not None
    assert set(day.files) == {f"f{n}" for n in range(30)} | {"late"}
    assert day.rows == 31
