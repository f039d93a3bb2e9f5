"""Damaged files of the journal: named with their day and a way on, left out, and taken back once they are whole."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from towpath.clock import FixedClock
from towpath.errors import FormatError, ProjectError, RefusedError, UnknownError
from towpath.journal import Journal, day_files, examine, flush, leave_out, take_back, views, write_rows
from towpath.journal.days import add, compact, newest, put_file
from towpath.journal.record import OutcomeRow
from towpath.journal.unfold import outcome_table
from towpath.stores.objects import Objects
from towpath.types import micros, utc
from towpath.warehouse.engine import Engine

CLOCK = FixedClock("2026-01-05T12:00")
NOON = micros(utc("2026-01-05T12:00"))
DAY = "2026-01-05"
WHO = {"because": "the disk of that night", "by": "mira"}

DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda data: data[: len(data) // 2], "it was cut short"),
    "garbage": (lambda data: os.urandom(200) + b"x" * (len(data) - 200), "a Parquet file with b'PAR1'"),
    "empty": (lambda _: b"", "it is empty"),
    "a damaged foot": (
        lambda data: data[: len(data) // 2] + b"\xff" * (len(data) - len(data) // 2 - 8) + data[-8:],
        "are damaged",
    ),
}


def rows(*names: str) -> pa.Table:
    return outcome_table(
        OutcomeRow(
            outcome_id=name, project="shop", model="demand", prediction_id=name, happened_at=NOON, arrived_at=NOON
        )
        for name in names
    )


@pytest.fixture(params=["a folder", "elsewhere"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """Two files of one day: three rows and two."""
    store = Objects("memory://") if request.param == "elsewhere" else Objects(str(tmp_path / "store"))
    write_rows(store, "outcomes", rows("a", "b", "c"), name="one", clock=CLOCK)
    write_rows(store, "outcomes", rows("d", "e"), name="two", clock=CLOCK)
    return store


def damage(objects: Objects, path: str, how: Callable[[bytes], bytes]) -> bytes:
    """Damage an object; gives what it was."""
    whole = objects.get(path)
    objects.delete(path)
    objects.put_new(path, how(whole))
    return whole


def asked(objects: Objects, text: str = "select outcome_id from outcomes order by all") -> list[str]:
    engine = Engine(memory_mib=128, threads=1)
    try:
        views(engine, objects, as_of=CLOCK.now())
        return engine.read(text)["outcome_id"].to_pylist()
    finally:
        engine.close()


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_named_and_may_be_left_out_and_taken_back(objects: Objects, kind: str) -> None:
    how, found = DAMAGE[kind]
    first, second = day_files(objects, "outcomes")
    whole = damage(objects, second, how)
    # given a reader of that day: it is told which file, what was found, which day, and how to go on
    with pytest.raises(FormatError) as told:
        asked(objects)
    for part in (second, found, f"outcomes of {DAY}", f"tow journal leave-out '{second}'", "backup"):
        assert part in str(told.value)
    [suspect] = examine(objects)
    assert (suspect.path, suspect.state, suspect.rows) == (second, "damaged", 2)
    # when it is left out, then the rest is read, and the day says who did so and what is lost
    left = leave_out(objects, second, **WHO, clock=CLOCK)
    assert leave_out(objects, second, **WHO, clock=CLOCK) == left
    assert asked(objects) == ["a", "b", "c"]
    manifest = newest(objects, "outcomes", DAY)
    assert manifest is not None
    assert (manifest.files, manifest.rows, manifest.left_out) == ((first,), 3, {second: left})
    assert (left.by, left.because, left.rows) == (*reversed(WHO.values()), 2)
    [suspect] = examine(objects)
    assert (suspect.state, suspect.rows) == ("left out", 2)
    assert "by mira on 2026-01-05 12:00: the disk of that night" in suspect.detail
    # nor does a flusher that begins again bring it back, and neither does a person before it is whole
    add(objects, "outcomes", DAY, {second: 2}, clock=CLOCK)
    assert asked(objects) == ["a", "b", "c"]
    with pytest.raises(FormatError, match="cannot be read"):
        take_back(objects, second, clock=CLOCK)
    damage(objects, second, lambda _: whole)
    assert take_back(objects, second, clock=CLOCK) == 2
    assert asked(objects) == ["a", "b", "c", "d", "e"]
    assert examine(objects) == []


def test_a_file_that_is_gone_is_named(objects: Objects) -> None:
    first, second = day_files(objects, "outcomes")
    objects.delete(first)
    with pytest.raises(FormatError, match="it is gone"):
        asked(objects)
    assert leave_out(objects, first, **WHO, clock=CLOCK).rows == 3
    assert asked(objects) == ["d", "e"]
    # of two that are gone nobody can tell which held what
    objects.delete(second)
    write_rows(objects, "outcomes", rows("f"), name="three", clock=CLOCK)
    third = day_files(objects, "outcomes")[-1]
    objects.delete(third)
    assert [suspect.rows for suspect in examine(objects)] == [None, None, 3]


def test_a_page_with_flipped_bytes_is_found_by_its_checksum(objects: Objects) -> None:
    # DuckDB reads such a page as if nothing were wrong
    first, _ = day_files(objects, "outcomes")
    at = objects.get(first).index(b"shop")
    damage(objects, first, lambda data: data[:at] + b"ship" + data[at + 4 :])
    [suspect] = examine(objects)
    assert (suspect.path, suspect.state) == (first, "damaged")
    assert "CRC" in suspect.detail


def test_a_fault_of_the_sql_is_still_one_of_the_sql(objects: Objects) -> None:
    with pytest.raises(ProjectError, match="outcome_it"):
        asked(objects, "select outcome_it from outcomes")
    with pytest.raises(ProjectError, match="Could not parse"):
        asked(objects, "select strptime(outcome_id, '%Y') as outcome_id from outcomes")


def test_only_what_cannot_be_read_is_left_out(objects: Objects) -> None:
    first, _ = day_files(objects, "outcomes")
    with pytest.raises(RefusedError, match="it can be read"):
        leave_out(objects, first, **WHO, clock=CLOCK)
    with pytest.raises(RefusedError, match="named by its day already"):
        take_back(objects, first, clock=CLOCK)
    with pytest.raises(UnknownError, match=r"did you mean .*one\.parquet"):
        leave_out(objects, first.replace("one", "onne"), **WHO, clock=CLOCK)
    for path in ("one.parquet", "journal/outcomes/one.parquet", f"journal/outcomes/{DAY}/manifests/000001.json", ""):
        with pytest.raises(UnknownError, match="is no file of the journal"):
            leave_out(objects, path, **WHO, clock=CLOCK)


def test_a_file_that_no_day_names_is_found_and_can_be_named(objects: Objects) -> None:
    path = put_file(objects, "outcomes", DAY, "three", rows("f"))
    [suspect] = examine(objects)
    assert (suspect.path, suspect.state) == (path, "unnamed")
    assert take_back(objects, path, clock=CLOCK) == 1
    assert asked(objects) == ["a", "b", "c", "d", "e", "f"]


def test_small_files_are_merged_once_the_damaged_one_is_left_out(tmp_path: Path) -> None:
    objects = Objects("memory://")
    folder = tmp_path / "journal"
    Journal(folder, server="one", clock=CLOCK).close()
    for number in range(60):
        put_file(objects, "outcomes", DAY, f"host-{number:02}", rows(str(number)))
    named = {f"journal/outcomes/{DAY}/host-{number:02}.parquet": 1 for number in range(60)}
    add(objects, "outcomes", DAY, named, clock=CLOCK)
    bad = next(iter(named))
    damage(objects, bad, lambda data: data[:50])
    # a flusher goes on with its work meanwhile
    flush(folder, objects, clock=CLOCK)
    assert compact(objects, "outcomes", DAY, owner="host", keep=(), clock=CLOCK) == 0
    leave_out(objects, bad, **WHO, clock=CLOCK)
    put_file(objects, "outcomes", DAY, "host-60", rows("60"))
    add(objects, "outcomes", DAY, {f"journal/outcomes/{DAY}/host-60.parquet": 1}, clock=CLOCK)
    assert compact(objects, "outcomes", DAY, owner="host", keep=(), clock=CLOCK) == 60
    assert len(asked(objects)) == 60
    # what was merged cannot be taken back beside its merged file
    with pytest.raises(RefusedError, match="in another file too"):
        take_back(objects, f"journal/outcomes/{DAY}/host-05.parquet", clock=CLOCK)
    manifest = newest(objects, "outcomes", DAY)
    assert manifest is not None
    assert set(manifest.left_out) == {bad}


def test_a_damaged_manifest_says_how_to_go_on(objects: Objects) -> None:
    path = objects.paths(f"journal/outcomes/{DAY}/manifests/")[-1]
    damage(objects, path, lambda data: data[:30])
    with pytest.raises(FormatError, match="the manifest before it names"):
        asked(objects)
    objects.delete(path)
    assert asked(objects) == ["a", "b", "c"]
    assert [(suspect.state, suspect.path[-11:]) for suspect in examine(objects)] == [("unnamed", "two.parquet")]
