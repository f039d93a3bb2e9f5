"""The last good answer to a key."""

import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from test_server import AT, QUICK, ROW, ZERO, Store, eventually, store

from towpath.project.declarations import FallbackDeclaration
from towpath.registry import history
from towpath.registry.log import Event, Kill, TrafficState
from towpath.serving.last import LEFT, LastAnswers, SharedAnswers

__all__ = ["store"]
CHAIN = (FallbackDeclaration(name="before", last="1h"), ZERO)


@given(puts=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 100)), max_size=60))
def test_it_keeps_the_newest_of_the_keys_that_were_answered_last(puts: list[tuple[str, int]]) -> None:
    kept = LastAnswers(keys=4)
    for at, (key, value) in enumerate(puts):
        kept.put(key, value, at)
    last = dict(puts)
    recent = list(dict.fromkeys(key for key, _ in reversed(puts)))[:4]
    assert len(kept) == len(recent)
    for key in "abcdefgh":
        assert kept.get(key, now_us=1_000, age_us=10_000) == (last[key] if key in recent else LEFT)


def test_an_answer_older_than_declared_and_a_row_without_key_are_left() -> None:
    kept = LastAnswers()
    kept.put("x", 1.0, 10)
    assert kept.get("x", now_us=15, age_us=5) == 1.0
    assert kept.get("x", now_us=16, age_us=5) is LEFT
    assert kept.get(None, now_us=10, age_us=5) is LEFT


SMALL = st.one_of(st.floats(allow_nan=False), st.integers(-(2**63), 2**63), st.booleans(), st.text(max_size=12))


@given(puts=st.lists(st.tuples(st.integers(0, 2), st.text(max_size=8), SMALL, st.integers(0, 100)), max_size=40))
def test_what_one_worker_answered_last_is_what_each_of_them_gives(puts: list[tuple[int, str, Any, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        workers = [LastAnswers(shared=SharedAnswers(Path(folder) / "last.bin")) for _ in range(3)]
        for worker, key, value, at in puts:
            workers[worker].put(key, value, at)
        last = {key: value for _, key, value, _ in puts}
        for worker in workers:
            assert {key: worker.get(key, now_us=100, age_us=100) for key in last} == last
            assert len(worker) == 0


def test_of_more_keys_than_there_is_room_for_the_oldest_go_and_no_key_gets_the_answer_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("towpath.serving.last._PLACES", 64)
    kept = LastAnswers(shared=SharedAnswers(tmp_path / "last.bin"))
    for number in range(1_000):
        kept.put(f"k{number}", number, number)
    found = {number: kept.get(f"k{number}", now_us=1_000, age_us=1_000) for number in range(1_000)}
    there = [number for number, value in found.items() if value is not LEFT]
    assert all(found[number] == number for number in there)
    assert 48 <= len(there) <= 64
    assert min(there) > 800


def test_a_place_that_was_half_written_is_empty_and_what_is_too_large_stays_with_its_worker(tmp_path: Path) -> None:
    file = tmp_path / "last.bin"
    one, other = (LastAnswers(shared=SharedAnswers(file)) for _ in range(2))
    one.put("x", 7.0, 1)
    data = file.read_bytes()
    seven = b"\xcb" + bytes.fromhex("401c000000000000")
    assert data.count(seven) == 1
    place = data.index(seven)
    with file.open("r+b") as opened:
        opened.seek(place + 3)
        opened.write(b"!")
    assert other.get("x", now_us=1, age_us=1) is LEFT
    # a list is kept by the worker that gave it, and the newer of both is given
    one.put("x", [1.0, 2.0], 2)
    assert (one.get("x", now_us=2, age_us=1), other.get("x", now_us=2, age_us=1)) == ([1.0, 2.0], LEFT)
    other.put("x", "label", 3)
    assert one.get("x", now_us=3, age_us=1) == "label"


def test_each_worker_knows_the_last_answers_of_the_others(store: Store) -> None:
    # given two workers, one of which answered a key once
    store.promote(store.publish(5.0, chain=CHAIN, entity=("item_id",)))
    with store.server(replace(QUICK, workers=2)) as server:
        url, row = f"http://127.0.0.1:{server.ports.http}/", ROW | {"item_id": "x"}
        assert httpx.post(f"{url}predict/demand", json=[row]).json()["predictions"][0]["source"] == "champion"
        # when somebody kills the model
        entry = history.current(store.objects, "demand")
        assert entry is not None

        def killed(state: TrafficState) -> TrafficState:
            return replace(state, kills=(Kill(because="odd", by="ana", at=AT),))

        history.append(store.objects, "demand", Event(kind="killed", at=AT, by="ana"), killed, on=entry.revision)
        told: dict[int, tuple[str, float]] = {}

        def both_tell() -> bool:
            with httpx.Client(base_url=url) as client:  # of one connection, which stays with its worker
                worker = client.get("health").json()["pid"]
                answer = client.post("predict/demand", json=[row]).json()["predictions"][0]
                told[worker] = answer["source"], answer["prediction"]
            return len(told) == 2 and set(told.values()) == {("fallback:before", 5.0)}

        # then both know what it said
        eventually(both_tell)


def test_of_a_model_without_a_journal_no_answer_reaches_a_file(store: Store, tmp_path: Path) -> None:
    deployments = store.deployments(shared=tmp_path / "shared")
    for journal, files in (("none", []), ("full", ["last-demand.bin"])):
        store.promote(store.publish(5.0, chain=CHAIN, entity=("item_id",), journal=journal))
        deployments.poll()
        assert [file.name for file in (tmp_path / "shared").glob("*")] == files
    deployments.close()


def test_the_shared_table_has_its_room_on_disk_and_where_there_is_none_each_worker_keeps_its_own(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    SharedAnswers(tmp_path / "last.bin")
    stat = (tmp_path / "last.bin").stat()
    assert (
        stat.st_blocks * 512 >= stat.st_size > 16_000_000
    )  # so that no later write finds the disk full, which would be a SIGBUS
    # where no file can be made
    (tmp_path / "shared").write_text("no folder")
    deployments = store.deployments(shared=tmp_path / "shared")
    store.promote(store.publish(5.0, chain=CHAIN, entity=("item_id",)))
    deployments.poll()
    memory = deployments.live["demand"].memory
    assert memory is not None
    assert memory.shared is None
    assert "each worker keeps its own last answers" in caplog.text
    deployments.close()
