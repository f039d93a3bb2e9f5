"""A function over columns: what it is handed, what may come back, and that training and serving compute the same."""

import asyncio
import itertools
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from towpath import features
from towpath.clock import FixedClock
from towpath.errors import InputError, ModelError, ProjectError, UnknownError
from towpath.features import with_computed
from towpath.features.on_demand import MOMENT, Fault, OnDemand, column_of, compute, lock_on_demand, split
from towpath.models.columns import array_of
from towpath.models.manifest import Field
from towpath.project.declarations import FeatureHeader
from towpath.project.folder import ViewFile
from towpath.project.on_demand import OnDemandFile, OnDemandHeader, OnDemandInput, OnDemandOutput
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.stores.online import OnlineStore, open_online
from towpath.types import micros
from towpath.warehouse import FileWarehouse, open_warehouse

AT = datetime(2026, 3, 1, 8, tzinfo=UTC)
DOUBLES = {"a": "double", "b": "double"}


def file(name: str, inputs: dict[str, str], outputs: dict[str, Any], folder: Path | None = None) -> OnDemandFile:
    path = (folder or Path("/nowhere")) / f"{name}.py"
    header = OnDemandHeader(
        inputs={each: OnDemandInput(type=kind) for each, kind in inputs.items()},
        outputs={
            each: kind if isinstance(kind, OnDemandOutput) else OnDemandOutput(type=kind)
            for each, kind in outputs.items()
        },
    )
    return OnDemandFile(
        name=name, path=f"features/{name}.py", file=path, header=header, arguments=tuple(inputs), line=1
    )


def lock(one: OnDemandFile, types: dict[str, str] | None = None) -> features.OnDemandLock:
    inputs = tuple(
        features.OnDemandInputLock(
            name=name,
            reads="time" if said.type == "time" else said.type if "." in said.type else "request",
            type=(types or {}).get(name, "timestamp[us, tz=UTC]" if said.type in {"time", "timestamp"} else said.type),
        )
        for name, said in one.header.inputs.items()
    )
    columns = tuple(
        features.FeatureColumn(
            name=name,
            type="timestamp[us, tz=UTC]" if o.type == "timestamp" else o.type,
            default=o.default,
            missing=o.missing,
        )
        for name, o in one.header.outputs.items()
    )
    return features.OnDemandLock(
        project="shop", view=one.name, path=one.path, digest="", inputs=inputs, columns=columns
    )


def made(function: Callable[..., Any], inputs: dict[str, str], outputs: dict[str, Any]) -> OnDemand:
    return OnDemand(lock(file(function.__name__, inputs, outputs)), function)


def test_numbers_and_truth_values_are_floats_times_are_microseconds_and_text_is_text() -> None:
    seen: list[np.ndarray[Any, Any]] = []

    def kinds(*given: Any) -> dict[str, Any]:
        seen.extend(given)
        return {"x": np.zeros(2)}

    one = made(kinds, {"a": "int64", "b": "bool", "c": "string", "d": "timestamp", "now": "time"}, {"x": "double"})
    one.call(
        {
            "a": np.array([1, 2]),
            "b": np.array([True, None], dtype=object),
            "c": np.array(["x", None], dtype=object),
            "d": np.array(["2026-01-01", "NaT"], dtype="M8[D]"),
            MOMENT: np.array([0, 1], dtype="M8[us]"),
        },
        2,
    )
    assert [str(values.dtype) for values in seen] == [
        "float64",
        "float64",
        "object",
        "datetime64[us]",
        "datetime64[us]",
    ]
    assert seen[1][0] == 1
    assert np.isnan(seen[1][1])


def test_a_function_may_write_into_what_it_is_handed_and_changes_it_for_nobody() -> None:
    def greedy(a: Any, b: Any) -> dict[str, Any]:
        a /= b
        return {"x": a}

    column = np.array([4.0])
    (x,), fault = made(greedy, DOUBLES, {"x": "double"}).compute({"a": column, "b": np.array([2.0])}, 1)
    assert fault is None
    assert x.tolist() == [2.0]
    assert column.tolist() == [4.0]


def test_a_column_of_nothing_at_all_is_missing_numbers() -> None:
    def total(a: Any, b: Any) -> dict[str, Any]:
        return {"x": np.nan_to_num(a) + b}

    given = {"a": np.array([None, None], dtype=object), "b": np.array([True, None], dtype=object)}
    (x,) = made(total, DOUBLES, {"x": "double"}).call(given, 2)
    assert x[0] == 1.0
    assert np.isnan(x[1])


def test_what_is_not_finite_is_missing() -> None:
    def ratio(a: Any, b: Any) -> dict[str, Any]:
        return {"x": a / b, "y": np.where(a > 2, b, np.inf)}

    one = made(ratio, DOUBLES, {"x": "double", "y": "double"})
    x, y = one.call({"a": np.array([1.0, 0.0, 3.0]), "b": np.array([0.0, 0.0, 2.0])}, 3)
    assert np.isnan(x[:2]).all()
    assert x[2] == 1.5
    assert np.isnan(y[:2]).all()
    assert y[2] == 2.0


@pytest.mark.parametrize(
    ("gives", "kind", "said"),
    [
        (lambda a, b: a + b, "double", "it returned ndarray"),
        (lambda a, b: {"y": a}, "double", "it gave no 'x'; there are: 'y'"),
        (lambda a, b: {"x": a, "y": b}, "double", "it gave 'y', which is not declared"),
        (lambda a, b: {"x": a[:1]}, "double", r"'x' has the shape [1] for 2 rows"),
        (lambda a, b: {"x": 3.0}, "double", "'x' has the shape no array but float for 2 rows"),
        (lambda a, b: {"x": np.array(["u", "v"])}, "double", "'x' is <U1 and no double"),
        (lambda a, b: {"x": a / 2}, "int64", "'x' is float64 and no int64"),
        (lambda a, b: {"x": a * 1e300}, "int64", "'x' is float64 and no int64"),
        (lambda a, b: {"x": a}, "string", "'x' is float64 and no string"),
        (lambda a, b: {"x": a * 7}, "bool", "'x' is float64 and no bool"),
        (lambda a, b: {"x": a}, "timestamp", "'x' is float64 and no timestamp"),
    ],
)  # fmt: skip
def test_what_was_not_declared_is_refused_and_said(gives: Callable[..., Any], kind: str, said: str) -> None:
    def odd(a: Any, b: Any) -> Any:
        return gives(a, b)

    one = made(odd, DOUBLES, {"x": kind})
    with pytest.raises(ModelError) as told:
        one.call({"a": np.array([1.0, 3.0]), "b": np.array([1.0, 1.0])}, 2)
    assert said in told.value.what


def test_every_declared_kind_may_come_back_with_gaps() -> None:
    def all_kinds(a: Any) -> dict[str, Any]:
        gone = np.isnan(a)
        nothing: Any = None
        return {
            "d": a,
            "i": np.where(gone, np.nan, 2.0**53),
            "b": np.where(gone, nothing, True),
            "s": np.where(gone, nothing, "é"),
            "t": np.where(gone, np.datetime64("NaT", "us"), np.datetime64("2026-01-01T00:00", "us")),
        }

    one = made(all_kinds, {"a": "double"}, {"d": "double", "i": "int64", "b": "bool", "s": "string", "t": "timestamp"})
    table = with_computed(pa.table({"k": [1, 2]}), [one], {"a": np.array([1.5, np.nan])}, np.zeros(2, "M8[us]"))
    assert [str(table.schema.field(name).type) for name in one.outputs] == [
        "double",
        "int64",
        "bool",
        "string",
        "timestamp[us, tz=UTC]",
    ]
    assert table.select(list(one.outputs)).to_pylist() == [
        {
            "all_kinds.d": 1.5,
            "all_kinds.i": 2**53,
            "all_kinds.b": True,
            "all_kinds.s": "é",
            "all_kinds.t": datetime(2026, 1, 1, tzinfo=UTC),
        },
        dict.fromkeys(one.outputs),
    ]


@pytest.mark.parametrize("fault", [ValueError, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_a_row_that_it_cannot_take_costs_only_itself(
    caplog: pytest.LogCaptureFixture, fault: type[BaseException]
) -> None:
    calls: list[int] = []
    raises = fault("no threes")

    def picky(a: Any, b: Any) -> dict[str, Any]:
        calls.append(len(a))
        if (a == 3).any():
            raise raises
        return {"x": a * b}

    one = made(picky, DOUBLES, {"x": "double"})
    a = np.arange(5.0)
    for _ in range(3):
        (x,), found = one.compute({"a": a, "b": np.ones(5)}, 5)
        assert np.array_equal(x, [0, 1, 2, np.nan, 4], equal_nan=True)
        assert isinstance(found, Fault)
        assert (found.view, found.why, found.rows) == ("picky", "raised", 1)
    assert calls[:6] == [5, 1, 1, 1, 1, 1]
    assert caplog.text.count("no threes") == 1  # said once, counted always
    assert fault.__name__ in caplog.text
    assert "test_on_demand.py:" in caplog.text


def test_training_shows_the_users_own_lines() -> None:
    def broken(a: Any) -> dict[str, Any]:
        return {"x": a["no such field"]}

    with pytest.raises(ModelError) as told:
        with_computed(
            pa.table({"k": [1]}),
            [made(broken, {"a": "double"}, {"x": "double"})],
            {"a": np.ones(1)},
            np.zeros(1, "M8[us]"),
        )
    assert 'return {"x": a["no such field"]}' in told.value.what
    assert "towpath/features" not in told.value.what
    assert told.value.where.endswith(f"test_on_demand.py:{broken.__code__.co_firstlineno + 1}")


def test_training_names_the_function_that_ends_the_process_and_a_person_may_still_interrupt_it() -> None:
    def leaving(a: Any) -> dict[str, Any]:
        sys.exit(7)

    def interrupted(a: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    rows, given = pa.table({"k": [1]}), ({"a": np.ones(1)}, np.zeros(1, "M8[us]"))
    with pytest.raises(ModelError, match=r"leaving\(\) failed: .*SystemExit\(7\)") as told:
        with_computed(rows, [made(leaving, {"a": "double"}, {"x": "double"})], *given)
    assert told.value.where.endswith(f"test_on_demand.py:{leaving.__code__.co_firstlineno + 1}")
    with pytest.raises(KeyboardInterrupt):
        with_computed(rows, [made(interrupted, {"a": "double"}, {"x": "double"})], *given)


def test_a_function_that_mixes_rows_is_refused_in_training() -> None:
    def standing(a: Any) -> dict[str, Any]:
        return {"x": a - a.mean()}

    with pytest.raises(ModelError, match=r"'standing.x' is .* among 3 rows and 0.0 for the same row alone") as told:
        with_computed(
            pa.table({"k": [1, 2, 3]}),
            [made(standing, {"a": "double"}, {"x": "double"})],
            {"a": np.array([1.0, 2.0, 4.0])},
            np.zeros(3, "M8[us]"),
        )
    assert "each row by itself" in told.value.mend


def test_one_function_may_read_another_with_its_default_in_place() -> None:
    def half(a: Any) -> dict[str, Any]:
        return {"x": a / 2}

    def more(h: Any) -> dict[str, Any]:
        return {"y": h + 1}

    first = made(half, {"a": "double"}, {"x": OnDemandOutput(type="double", default=9.0, missing="default")})
    second = OnDemand(lock(file("more", {"h": "half.x"}, {"y": "double"}), {"h": "double"}), more)
    found = compute([first, second], {"a": np.array([4.0, np.nan])}, 2)
    assert found.columns["more.y"].tolist() == [3.0, 10.0]
    assert np.isnan(found.columns["half.x"][1])
    table = with_computed(
        pa.table({"k": [1, 2]}), [first, second], {"a": np.array([4.0, np.nan])}, np.zeros(2, "M8[us]")
    )
    assert table.column("more.y").to_pylist() == [3.0, 10.0]


FILES = {
    "one": file("one", {"a": "double", "p": "prices.price"}, {"x": "double"}),
    "two": file("two", {"x": "one.x", "q": "prices.cost"}, {"y": "double", "z": "double"}),
}


def test_what_functions_read_is_read_and_not_handed_on() -> None:
    asked = split(["two.*", "prices.cost"], FILES)
    assert asked.features == ["prices.cost", "prices.price"]
    assert [one.name for one in asked.files] == ["one", "two"]
    assert asked.computed == ["two.y", "two.z"]
    assert asked.hidden == ["prices.price"]
    assert split(["prices.*", "one.x"], FILES).hidden == []


def test_a_feature_that_a_function_does_not_give_is_unknown_by_name() -> None:
    with pytest.raises(UnknownError, match=r"'two' gives no feature 'yy'; did you mean 'y'\?"):
        split(["two.yy"], FILES)


def test_functions_in_a_circle_are_refused() -> None:
    circle = {"one": file("one", {"y": "two.y"}, {"x": "double"}), "two": FILES["two"]}
    with pytest.raises(ProjectError, match="'one' reads 'two' reads 'one'"):
        split(["one.x"], circle)


def test_a_list_cannot_be_read(tmp_path: Path) -> None:
    kept = features.FeatureLock(
        project="shop",
        view="v",
        fingerprint="f",
        entity=("id",),
        columns=(features.FeatureColumn(name="l", type="list<element: double>"),),
    )
    with pytest.raises(ProjectError, match=r"'f' reads 'v.l', which is list"):
        lock_on_demand([file("f", {"l": "v.l"}, {"x": "double"}, tmp_path)], [kept], "shop")


@pytest.mark.parametrize(
    ("column", "kind"),
    [(pa.array(["1"]), "double"), (pa.array([1.0]), "string"), (pa.array([1]), "timestamp[us, tz=UTC]"), (pa.array([1.0]), "bool")],
)  # fmt: skip
def test_a_spine_column_of_another_family_is_refused(column: pa.Array, kind: str) -> None:
    with pytest.raises(InputError, match="in the spine and not"):
        column_of(pa.chunked_array([column]), kind, "'a'")


def everything(
    number: Any, whole: Any, truth: Any, text: Any, moment: Any, n7: Any, w7: Any, b7: Any, s7: Any, t7: Any, now: Any
) -> dict[str, Any]:
    """Reads each kind from the request and from a view, and gives each kind."""
    same = np.array([one is not None and one == other for one, other in zip(text, s7, strict=True)], dtype=bool)
    age = (now - t7) / np.timedelta64(1, "s")
    return {
        "d": number - n7 + whole / w7,
        "i": np.where(np.abs(whole) < 2.0**62, np.floor(whole), np.nan),
        "b": np.where(np.isnan(truth) | np.isnan(b7), None, truth == b7),
        "s": np.where(same, text, None),
        "t": np.where(age > 10, t7, moment),
        "age": age,
        "hour": (now - now.astype("M8[D]")) // np.timedelta64(1, "h"),
    }


INPUTS = {
    "number": "double", "whole": "int64", "truth": "bool", "text": "string", "moment": "timestamp",
    "n7": "v.n", "w7": "v.w", "b7": "v.b", "s7": "v.s", "t7": "v.t", "now": "time",
}  # fmt: skip
OUTPUTS = {"d": "double", "i": "int64", "b": "bool", "s": "string", "t": "timestamp", "age": "double", "hour": "int64"}
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
wholes = st.none() | st.integers(-(2**63), 2**63 - 1)
truths = st.none() | st.booleans()
texts = (
    st.none()
    | st.sampled_from(["", "é", "a", "a" * 300])
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
)
times = st.none() | st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)).map(lambda t: t.replace(tzinfo=UTC))
row = st.tuples(numbers, wholes, truths, texts, times)
SCHEMA = {"n": pa.float64(), "w": pa.int64(), "b": pa.bool_(), "s": pa.string(), "t": pa.timestamp("us", "UTC")}


class Stand:
    """A warehouse and an online store; each case has a view of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "warehouse"
        self.folder.mkdir(parents=True)
        self.warehouse: FileWarehouse = open_warehouse(WarehouseSettings(memory_mib=512, threads=1), folder, {})
        self.online: OnlineStore = open_online("lmdb://online", folder)
        self.numbers = itertools.count()


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    opened = Stand(tmp_path_factory.mktemp("stand"))
    yield opened
    opened.warehouse.close()
    opened.online.close()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(kept=st.lists(row, min_size=1, max_size=5), asked=st.lists(row, min_size=1, max_size=5), gone=st.booleans())
def test_training_and_serving_compute_the_same_of_anything(
    stand: Stand, kept: list[Any], asked: list[Any], gone: bool
) -> None:
    # given a view with a row a key, built at the moment that training asks about
    name = f"v{next(stand.numbers)}"
    moment = AT + timedelta(hours=3 if gone else 0)
    facts = {"id": [str(i) for i in range(len(kept))], "event": pa.array([AT] * len(kept), pa.timestamp("us", "UTC"))}
    facts |= {c: pa.array([one[i] for one in kept], kind) for i, (c, kind) in enumerate(SCHEMA.items())}
    pq.write_table(pa.table(facts), stand.folder / f"{name}.parquet")
    header = FeatureHeader(entity="id", event_time="event", ttl="2h")
    view = features.describe(
        ViewFile(name="v", query=Query.parse(f"select * from {name}", f"{name}.sql"), header=header),
        stand.warehouse,
        project="shop",
    )
    features.build(view, stand.warehouse, stand.online, as_of=AT, clock=FixedClock(AT))
    locks = features.lock({"v": view}, ["v.*"])
    one = OnDemand(
        lock(
            file("everything", INPUTS, OUTPUTS),
            dict(zip(["n7", "w7", "b7", "s7", "t7"], [t for _, t in view.columns], strict=True)),
        ),
        everything,
    )
    keys = [str(i) for i in range(len(asked))]
    # when it is computed for a training set
    spine = {"id": keys, "at": pa.array([moment] * len(asked), pa.timestamp("us", "UTC"))}
    request = {
        c: pa.array([each[i] for each in asked], kind)
        for i, (c, kind) in enumerate(zip(["number", "whole", "truth", "text", "moment"], SCHEMA.values(), strict=True))
    }
    table = features.training_set(
        stand.warehouse, pa.table(spine | request), keys=["id"], time="at", features=["v.*"], views={"v": view}
    )
    inputs = {
        place: column_of(table.column(place), said.type, place)
        for said, place in zip(one.lock.inputs, one.reads, strict=True)
        if place != MOMENT
    }
    trained = with_computed(table, [one], inputs, column_of(table.column("at"), "timestamp", "at"))
    # and from what a request says and the online store holds
    found = features.OnlineReader(stand.online, locks, "shop").read({"id": keys}, len(keys), micros(moment))
    asked_columns = {
        said.name: array_of(Field(name=said.name, type=said.type), [each[i] for each in asked])
        for i, said in enumerate(one.lock.inputs[:5])
    }
    served = compute(
        [one],
        {**found.columns, **asked_columns, MOMENT: np.full(len(keys), np.datetime64(micros(moment), "us"))},
        len(keys),
    )
    # then both say the same
    assert served.faults == []
    for name in one.outputs:
        values = [None if value != value else value for value in served.columns[name].tolist()]  # noqa: PLR0124 - NaN
        if name.endswith(".t"):
            values = [None if value is None else value.replace(tzinfo=UTC) for value in values]
        assert values == trained.column(name).to_pylist(), name


def test_what_a_function_writes_into_its_arguments_changes_nothing_that_others_read() -> None:
    def scribble(word: Any, a: Any, at: Any) -> dict[str, Any]:
        word[:], a[:], at[:] = "x", 0.0, np.datetime64("2000-01-01", "us")
        return {"n": a}

    kinds = {"word": "string", "a": "double", "at": "time"}
    columns = {
        "word": np.array(["b", "c"], dtype=object),
        "a": np.array([1.0, 2.0]),
        MOMENT: np.array(["2026-03-01", "2026-03-02"], dtype="M8[us]"),
    }
    before = {name: values.copy() for name, values in columns.items()}
    made(scribble, kinds, {"n": "double"}).call(columns, 2)
    assert all((columns[name] == before[name]).all() for name in columns)
