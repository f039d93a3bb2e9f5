"""Look-ups in a store over the network: whoever waits for it, the worker does not."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from msgspec.structs import replace
from serving_stand import LOCK, LOOKED_UP, NUMBERS, PlainModel, Running, a_manifest, deployed, responding

from towpath.errors import UnavailableError
from towpath.features import OnlineReader
from towpath.features.build import SCHEMAS, schema_key
from towpath.features.encoding import RowSchema, encode
from towpath.features.views import online_table
from towpath.models.manifest import Signature
from towpath.project.declarations import FallbackDeclaration, ServingDeclaration
from towpath.serving.answered import Ask
from towpath.serving.served import Served
from towpath.stores.online import OnlineStore, open_online
from towpath.stores.online.guarded import GuardedOnlineStore

ROWS = [{"item_id": "x"}]


def filled(store: OnlineStore) -> OnlineStore:
    """One row of the view that the model reads: a is 1, b is 2."""
    table = online_table(LOCK.project, LOCK.view, LOCK.fingerprint)
    schema = RowSchema(keys=("string",), columns=(("a", "double"), ("b", "double")))
    columns = {"event": pa.array([0]), "landed": pa.array([0]), "a": pa.array([1.0]), "b": pa.array([2.0])}
    store.write(SCHEMAS, [(schema_key(table, 1), schema.to_bytes())])
    store.write(table, [(b'["x"]', encode(pa.RecordBatch.from_pydict(columns), schema)[0])])
    return store


def looking_up(store: OnlineStore, inputs: Any = LOOKED_UP, **changes: Any) -> tuple[Served, list[UnavailableError]]:
    told: list[UnavailableError] = []
    manifest = a_manifest(
        entity=("item_id",),
        features=(LOCK,),
        fallback=(FallbackDeclaration(name="zero", constant=0.0),),
        signature=Signature(container="numpy", inputs=inputs, outputs=()),
        **changes,
    )
    reader = OnlineReader(store, (LOCK,), "shop", away=told.append)
    return Served(manifest, PlainModel(inputs=inputs), reader=reader), told


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[OnlineStore]:
    store = filled(open_online("lmdb://online", tmp_path))
    yield store
    store.close()


def test_a_paused_redis_holds_up_who_asks_it_and_nobody_else(own_redis: Any, tmp_path: Path) -> None:
    # given a model whose features are in Redis, and one beside it that reads none, in one worker
    store = GuardedOnlineStore(filled(open_online(own_redis.url(), tmp_path, timeout_ms=1_000)))
    served, told = looking_up(store)
    plain = deployed(Served(a_manifest(), PlainModel())).replaced(model="plain")
    answers: list[Any] = []
    with closing(Running(tmp_path, deployed(served), plain)) as running, httpx.Client(timeout=10) as client:

        def by_key() -> None:
            answers.append(httpx.post(f"{running.url}/predict/demand", json=ROWS, timeout=10).json()["predictions"][0])

        def plain_ms() -> float:
            started = time.perf_counter()
            answer = client.post(f"{running.url}/predict/plain", json=[{"a": 1.0, "b": 2.0}]).json()
            assert answer["predictions"][0]["prediction"] == 3.0
            return (time.perf_counter() - started) * 1e3

        by_key()
        plain_ms()
        assert (answers[0]["prediction"], answers[0]["missing"]) == (3.0, [])
        # when the first read of an outage waits for its deadline of a second
        own_redis.pause()
        caller = threading.Thread(target=by_key)
        started = time.perf_counter()
        caller.start()
        time.sleep(0.05)
        waited = [plain_ms() for _ in range(50)]
        held = caller.is_alive()
        caller.join()
        # then it alone does: the other model answers as ever
        assert held
        assert time.perf_counter() - started > 0.9
        assert sorted(waited)[40] < 50  # milliseconds; the machine may be busy, and a read in the loop would be 950
        assert max(waited) < 500
        assert answers[1]["missing"] == ["sales.a", "sales.b"]
        # and whoever asks now is told at once, without a thread
        assert not store.waits
        by_key()
        assert answers[2]["missing"] == ["sales.a", "sales.b"]
        assert len(told) == 2
        own_redis.go_on()
    store.close()


def test_a_look_up_that_takes_longer_than_the_model_may_leaves_features_missing_and_is_counted(
    own_redis: Any, tmp_path: Path
) -> None:
    store = filled(open_online(own_redis.url(), tmp_path, timeout_ms=5_000))
    served, told = looking_up(store, serving=ServingDeclaration(timeout_ms=100))
    responder, _ = responding(deployed(served))
    assert responder.run("demand", Ask(rows=ROWS)).predictions == [3.0]
    own_redis.pause()
    started = time.perf_counter()
    answered = responder.run("demand", Ask(rows=ROWS))
    assert time.perf_counter() - started < 2
    assert answered.missing == [("sales.a", "sales.b")]
    assert [error.what for error in told] == ["The look-up of features was slow."]
    assert not served.stuck
    own_redis.go_on()
    store.close()


def test_whoever_brings_all_features_or_reads_an_embedded_store_needs_no_thread(
    own_redis: Any, embedded: OnlineStore, tmp_path: Path
) -> None:
    remote = filled(open_online(own_redis.url(), tmp_path))
    for store, rows, threads in (
        (embedded, ROWS, False),
        (remote, ROWS, True),
        (remote, [{"sales.a": 1.0, "sales.b": 2.0}], False),
    ):
        served, _ = looking_up(store)
        responder, _ = responding(deployed(served))
        steps = responder.steps(responder.deployment("demand"), Ask(rows=rows))
        call = next(steps, None)
        assert (call is not None and call.lane is served.look_up_lane) == threads
        steps.close()
    remote.close()


def test_a_wrong_row_is_the_callers_fault_also_where_it_is_looked_up_in_a_thread(
    own_redis: Any, tmp_path: Path
) -> None:
    store = filled(open_online(own_redis.url(), tmp_path))
    served, _ = looking_up(store)
    with closing(Running(tmp_path, deployed(served))) as running:
        answer = httpx.post(f"{running.url}/predict/demand", json=[{"item_id": "x", "colour": 1}])
    assert (answer.status_code, answer.json()["code"]) == (400, "input")
    assert "colour" in answer.json()["error"]
    store.close()


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (1,)])
def test_what_is_looked_up_alone_is_the_models_matrix_in_the_models_order(
    embedded: OnlineStore, order: tuple[int, ...]
) -> None:
    inputs = tuple(LOOKED_UP[place] for place in order)
    served, _ = looking_up(embedded, inputs)
    asked = [{"item_id": "x"}, {"item_id": "x"}]
    quick = served.from_rows(asked, 1)
    usual = served.from_rows([*asked, {"item_id": "x", inputs[0].name: 1.0 + order[0]}], 1)
    want = [[1.0, 2.0][place] for place in order]
    assert quick.columns.array.tolist() == [want] * 2  # pyright: ignore[reportAttributeAccessIssue]
    assert usual.columns.array.tolist() == [want] * 3  # pyright: ignore[reportAttributeAccessIssue]
    with_more, _ = looking_up(embedded, (*LOOKED_UP, replace(NUMBERS[0], nullable=True)))
    laid = with_more.from_rows([{"item_id": "x", "a": 9.0}], 1)
    assert [laid.columns[name].tolist() for name in laid.columns] == [[1.0], [2.0], [9.0]]
