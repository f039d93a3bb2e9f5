"""``POST /features/<view>``: visible in the next answer of any worker, nothing lost after the acknowledgement, bad input named."""

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace
from serving_stand import PlainModel, a_manifest, deployed
from test_server import CLOCK, QUICK, Store, eventually

from towpath import features
from towpath.clock import FixedClock, SystemClock
from towpath.errors import InputError, UnavailableError
from towpath.features.encoding import RowSchema
from towpath.journal.record import LandedRow
from towpath.models.manifest import Field
from towpath.project.declarations import FeatureDeclaration, FeatureHeader
from towpath.project.folder import ViewFile
from towpath.serving.push import Pusher, pushed_views, view_called
from towpath.serving.served import Served
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.stores.online import OnlineStore, open_online
from towpath.traffic import ConsumerBook, make_pepper
from towpath.types import micros
from towpath.warehouse import open_warehouse

SQL = """/* ---
entity = "item_id"
event_time = "event"
created_time = "landed_at"
{more}--- */
select item_id, event, landed_at, price, units from sales
"""


def view_of(folder: Path, *, more: str = "", columns: tuple[str, ...] = ("price", "units")) -> features.View:
    """A view of items whose warehouse is gone once it is described."""
    (folder / "warehouse").mkdir(parents=True)
    now = SystemClock().now()
    table = pa.table({"item_id": ["old"], "event": [now], "landed_at": [now], "price": [1.0], "units": [3]})
    pq.write_table(table, folder / "warehouse" / "sales.parquet")
    warehouse = open_warehouse(WarehouseSettings(threads=1, memory_mib=256), folder, {})
    text = SQL.format(more=more).replace("price, units", ", ".join(columns))
    query = Query.parse(text, "sales.sql")
    header = FeatureHeader(
        entity="item_id", event_time="event", created_time="landed_at", online="online = false" not in more
    )
    view = features.describe(ViewFile(name="sales", query=query, header=header), warehouse, project="shop")
    warehouse.close()
    shutil.rmtree(folder)
    return view


def locks_of(view: features.View, *names: str) -> Any:
    refuse = {f"sales.{name}": FeatureDeclaration(missing="refuse") for name in names}
    return features.lock({"sales": view}, list(refuse), refuse)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store whose one model reads the price of an item, and refuses to answer without; nothing was ever built."""
    found = Store(tmp_path_factory.mktemp("push"))
    view = view_of(found.folder / "project")
    inputs = (Field(name="sales.price", type="double"), Field(name="Column_1", type="double"))
    found.promote(found.publish(5.0, inputs=inputs, features=locks_of(view, "price"), entity=("item_id",)))
    return found


@pytest.fixture(scope="module")
def server(store: Store) -> Iterator[Any]:
    with store.server(replace(QUICK, workers=2, max_body_bytes=2_000_000, max_rows=1_000)) as running:
        yield running


def row(key: str = "x", price: Any = 2.5, *, ago_s: float = 1.0, **more: Any) -> dict[str, Any]:
    event = SystemClock().now() - timedelta(seconds=ago_s)
    return {"item_id": key, "event": event.isoformat(), "price": price, "units": 3, **more}


@pytest.fixture
def workers(server: Any) -> Iterator[dict[int, httpx.Client]]:
    """A connection to each of the two workers, by its process number."""
    found: dict[int, httpx.Client] = {}
    until = time.monotonic() + 30
    with ExitStack() as opened:
        while len(found) < 2:
            assert time.monotonic() < until
            url = f"http://127.0.0.1:{server.ports.http}"
            client = opened.enter_context(httpx.Client(base_url=url, timeout=20))
            found.setdefault(client.get("/health").json()["pid"], client)
        yield found


def source(client: httpx.Client, key: str) -> str:
    return client.post("/predict/demand", json=[{"item_id": key, "Column_1": 0.0}]).json()["predictions"][0]["source"]


def landed(store: Store) -> list[dict[str, Any]]:
    files = (Path(store.url) / "journal" / "landing" / "shop" / "sales").rglob("*.parquet")
    return [one for file in files for one in pq.read_table(file).to_pylist()]


def test_a_pushed_row_is_in_the_next_answer_of_every_worker(store: Store, workers: dict[int, httpx.Client]) -> None:
    # given two workers that know nothing of an item
    one, other = workers.values()
    assert [source(client, "x") for client in (one, other)] == ["fallback:zero"] * 2
    # when its row is pushed to one of them
    answer = one.post("/features/sales", json=row("x"), headers={"X-Request-Id": "abc"})
    # then both answer with it, and it lands
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, "abc")
    assert answer.json() == {
        "view": "shop/sales",
        "accepted": 1,
        "unchanged": 0,
        "refused": 0,
        "problems": [],
        "without": [],
    }
    assert [source(client, "x") for client in (one, other)] == ["champion"] * 2
    eventually(lambda: [1 for found in landed(store) if found["entity_key"] == '["x"]'])
    [found] = [one for one in landed(store) if one["entity_key"] == '["x"]']
    assert (found["consumer"], found["row"]) == ("local", '{"item_id":"x","price":2.5,"units":3}')


def test_a_row_outlives_the_worker_that_acknowledged_it(store: Store, workers: dict[int, httpx.Client]) -> None:
    # given rows that one worker has acknowledged, and its death at that moment
    pid, client = next(iter(workers.items()))
    keys = [f"killed-{number}" for number in range(50)]
    answer = client.post("/features/shop/sales", json={"rows": [row(key) for key in keys]})
    os.kill(pid, signal.SIGKILL)
    assert answer.json()["accepted"] == 50
    # then the others have them online, and the flusher finds what the dead one wrote
    other = next(one for number, one in workers.items() if number != pid)
    assert {source(other, key) for key in keys} == {"champion"}
    wanted = {f'["{key}"]' for key in keys}
    eventually(lambda: wanted <= {one["entity_key"] for one in landed(store)})


def test_a_call_that_is_sent_again_is_one_row(workers: dict[int, httpx.Client]) -> None:
    client = next(iter(workers.values()))
    body = {"rows": [row("again"), row("again", ago_s=5), row("other")]}
    first = client.post("/features/sales", json=body).json()
    again = client.post("/features/sales", json=body).json()
    assert (first["accepted"], again["accepted"], again["unchanged"]) == (
        3,
        1,
        2,
    )  # the older row stands nowhere online


def test_rows_that_fit_are_kept_and_the_others_named(workers: dict[int, httpx.Client]) -> None:
    client = next(iter(workers.values()))
    rows = [row("fits"), row("text", "2.5"), 7, row("fits too")]
    answer = client.post("/features/sales", json=rows)
    assert answer.status_code == 200
    assert answer.json() | {"problems": 0} == {
        "view": "shop/sales",
        "accepted": 2,
        "unchanged": 0,
        "refused": 2,
        "problems": 0,
        "without": [],
    }
    assert answer.json()["problems"] == [
        {"row": 1, "error": "'price' is '2.5', which is no double."},
        {"row": 2, "error": "It is no JSON object."},
    ]
    assert source(client, "fits too") == "champion"


def test_pushed_and_refused_rows_are_counted(workers: dict[int, httpx.Client]) -> None:
    client = next(iter(workers.values()))
    client.post("/features/sales", json=[row("counted"), row("counted", "2.5"), row("other")])
    assert client.post("/features/sales", json=[row(price="a"), row(price="b")]).status_code == 400
    said = client.get("/metrics").text
    found = dict(
        re.findall(r'towpath_pushed_rows_total\{consumer="local",outcome="(\w+)",view="shop/sales"\} (\S+)', said)
    )
    assert float(found["accepted"]) >= 2
    assert float(found["refused"]) >= 3
    assert set(found) == {"accepted", "unchanged", "refused"}


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("sales", row() | {"item_id": 7}, 400, "Row 0: The key 'item_id' is 7, which is no string."),
        ("sales", {"event": "2026-03-01", "price": 1.0}, 400, "Row 0: The key 'item_id' is missing."),
        ("sales", row(ago_s=-86_400), 400, "more than a minute after it arrived."),
        ("sales", row(prise=3.0), 400, "Row 0: The view has no column 'prise'; did you mean 'price'?"),
        ("sales", row(landed_at="2026-03-01"), 400, "'landed_at' is set here"),
        ("sales", [row(price="a"), row(price="b")], 400, "Row 0: 'price' is 'a', which is no double, and 1 more"),
        ("sales", b'{"item_id": "x", "event": "2026-03-01", "price": NaN}', 400, "no JSON"),
        ("sales", b"\xff", 400, "no JSON"),
        ("sales", [], 400, "Field 'rows' is empty."),
        ("sales", "text", 400, "neither rows nor one row"),
        ("sales", [{}] * 1_001, 413, "1001 rows (limit 1000)"),
        ("sales", b"[" + b" " * 2_000_001 + b"]", 413, "2,000,003 bytes or more"),
        ("sale", row(), 404, "did you mean 'sales'?"),
        ("shop/sale", row(), 404, "did you mean 'shop/sales'?"),
        ("", row(), 404, "reads a view ''"),
    ],
)
def test_what_is_wrong_is_the_callers_fault_and_says_so(
    server: Any, path: str, body: Any, status: int, error: str
) -> None:
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = httpx.post(f"http://127.0.0.1:{server.ports.http}/features/{path}", timeout=20, **content)
    assert (answer.status_code, set(answer.json())) == (status, {"error", "code", "mend"})
    assert error in answer.json()["error"]


def test_a_body_of_a_hundred_megabytes_is_refused_from_its_length(server: Any) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1_000_000

    with httpx.Client(base_url=f"http://127.0.0.1:{server.ports.http}", timeout=20) as client:
        declared = {"Content-Length": str(100_000_000)}
        try:
            answer = client.post("/features/sales", content=body(), headers=declared)
        except httpx.WriteError:  # the server stopped listening to it
            return
        assert answer.status_code == 413


def test_rows_are_pushed_and_not_read_here(server: Any) -> None:
    answer = httpx.get(f"http://127.0.0.1:{server.ports.http}/features/sales")
    assert (answer.status_code, answer.json()["mend"]) == (405, "use POST")


def test_only_those_with_a_key_may_push_where_there_are_keys(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "keyed"
    shutil.copytree(store.folder, folder)
    own = Store.__new__(Store)
    own.__dict__.update(store.__dict__ | {"folder": folder, "keys": folder / "keys", "url": str(folder / "objects")})
    from towpath.stores.objects import Objects

    own.objects = Objects(own.url)
    book = ConsumerBook(own.objects, make_pepper(own.keys))
    key = book.add("till", team="shop", scopes=("features",), at=datetime(2026, 1, 1, tzinfo=UTC))
    with own.server() as server:
        url = f"http://127.0.0.1:{server.ports.http}/features/sales"
        assert httpx.post(url, json=row("keyed")).status_code == 401
        assert httpx.post(url, json=row("keyed"), headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert [one["consumer"] for one in landed(own) if one["entity_key"] == '["keyed"]'] == ["till"]


class Kept:
    """A journal that keeps rows in memory, or fails."""

    def __init__(self, *, full: bool = False) -> None:
        self.rows: list[LandedRow] = []
        self._full = full

    def landed(self, rows: list[LandedRow]) -> None:
        if self._full:
            raise UnavailableError("the disk is full")
        self.rows += rows


@pytest.fixture
def online(tmp_path: Path) -> Iterator[OnlineStore]:
    opened = open_online("lmdb://online", tmp_path)
    yield opened
    opened.close()


def test_what_is_not_on_disk_is_not_online(online: OnlineStore, tmp_path: Path) -> None:
    view = view_of(tmp_path / "project")
    with pytest.raises(UnavailableError):
        Pusher(lambda: online, Kept(full=True), SystemClock()).push([view], [row()], consumer="local")
    assert online.count(view.table) == 0


def test_a_view_that_is_not_kept_online_takes_no_rows(online: OnlineStore, tmp_path: Path) -> None:
    view = view_of(tmp_path / "project", more="online = false\n")
    with pytest.raises(InputError, match="not kept online"):
        Pusher(lambda: online, Kept(), SystemClock()).push([view], [row()], consumer="local")


def test_each_form_of_a_view_that_a_model_reads_gets_what_it_can_take(online: OnlineStore, tmp_path: Path) -> None:
    # given two versions that were trained on different forms of one view
    older = view_of(tmp_path / "one", columns=("price",))
    newer = view_of(tmp_path / "two")
    manifests = [
        a_manifest(1, features=locks_of(older, "price")),
        a_manifest(2, features=locks_of(newer, "units"), created_at=CLOCK.now() + timedelta(days=1)),
    ]
    views = pushed_views({"demand": deployed(*(Served(one, PlainModel()) for one in manifests))})
    assert [view.features for view in view_called(views, "sales")] == [("price", "units"), ("price",)]
    # when a row comes
    kept = Kept()
    now = FixedClock(SystemClock().now())
    Pusher(lambda: online, kept, now).push(view_called(views, "shop/sales"), [row("x", 2.5)], consumer="local")
    # then it is online in both, and landed once
    assert (online.count(older.table), online.count(newer.table), len(kept.rows)) == (1, 1, 1)
    reader = features.OnlineReader(online, locks_of(older, "price"), "shop")
    assert reader.read({"item_id": ["x"]}, 1, micros(now.now())).columns["sales.price"].tolist() == [2.5]


def test_what_a_build_wrote_says_what_a_row_looks_like(online: OnlineStore, tmp_path: Path) -> None:
    # given a version from before rows could be pushed, whose view was built
    view = view_of(tmp_path / "project")
    [lock] = locks_of(view, "price")
    old = replace(lock, key_types=(), row=())
    views = pushed_views({"demand": deployed(Served(a_manifest(features=(old,)), PlainModel()))})
    pusher = Pusher(lambda: online, Kept(), SystemClock())
    with pytest.raises(UnavailableError, match="never built"):
        pusher.push(views["sales"], [row()], consumer="local")
    schema = RowSchema(keys=view.key_types, columns=view.columns)
    online.write("schemas", [(f"{view.table}#1".encode(), schema.to_bytes())])
    assert pusher.push(views["sales"], [row()], consumer="local").accepted == 1
