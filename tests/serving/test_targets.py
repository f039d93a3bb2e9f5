"""The end of what a row is predicted about: as the caller says it, or the caller is told that it is no time."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pytest
from serving_stand import AT, NUMBERS, PlainModel, Running, a_manifest, deployed, responding

from towpath.models.manifest import Field, Signature
from towpath.project.declarations import OutputDeclaration
from towpath.serving.answered import Ask
from towpath.serving.schemas import row_schema
from towpath.serving.served import Served
from towpath.types import micros

ROW = {"a": 1.0, "b": 2.0}
NOON = datetime(2026, 3, 9, 12, tzinfo=UTC)
WEEK = timedelta(days=7)


def served(*, time: str | None = None, inputs: tuple[Field, ...] = NUMBERS, **changes: Any) -> Served:
    signature = Signature(container="numpy", inputs=inputs, outputs=(Field(name="prediction", type="double"),))
    manifest = a_manifest(
        time=time, output=OutputDeclaration(kind="number", horizon="7d"), signature=signature, **changes
    )
    return Served(manifest, PlainModel(inputs=inputs))


def written(one: Served, ask: Ask) -> list[int | None]:
    responder, journal = responding(deployed(one))
    responder.run("demand", ask)
    found = journal.records[0].rows.target_at
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("said", "end"),
    [
        (..., AT + WEEK),
        (None, AT + WEEK),
        ("2026-03-09T13:00:00+01:00", NOON),
        ("2026-03-09T12:00", NOON),
        (micros(NOON), NOON),
        (float(micros(NOON)), NOON),
    ],
)
@pytest.mark.parametrize("time", [None, "day"])
def test_a_row_matures_when_it_says_else_after_the_horizon(said: Any, end: datetime, time: str | None) -> None:
    row = ROW if said is ... else ROW | {"target_at": said}
    assert written(served(time=time), Ask(rows=[ROW, row])) == [micros(AT + WEEK), micros(end)]
    if time is not None:  # then the horizon begins at the row's own moment
        begun = written(served(time=time), Ask(rows=[row | {"day": "2026-03-02T12:00Z"}]))
        assert begun == [micros(NOON if end == AT + WEEK else end)]


@pytest.mark.parametrize(
    "given",
    [
        np.array([NOON.replace(tzinfo=None)] * 2, "datetime64[us]"),
        np.array([NOON.replace(tzinfo=None)] * 2, "datetime64[ns]"),
        np.array([micros(NOON)] * 2),
        np.array([[NOON.isoformat()]] * 2, object),
        np.array([NOON, np.datetime64("2026-03-09T12:00", "s")], object),
    ],
)
def test_a_column_says_it_as_rows_do(given: Any) -> None:
    columns = {"a": np.ones(2), "b": np.ones(2), "target_at": given}
    assert written(served(), Ask(columns=columns, rows_count=2)) == [micros(NOON)] * 2


def test_a_column_may_hold_gaps_and_days() -> None:
    gaps = [
        np.array([np.nan, micros(NOON)]),
        np.array(["NaT", "2026-03-09T12:00"], "datetime64[us]"),
        np.array([None, date(2026, 3, 9)], object),
    ]
    for given, end in zip(gaps, (NOON, NOON, NOON - timedelta(hours=12)), strict=True):
        columns = {"a": np.ones(2), "b": np.ones(2), "target_at": given}
        assert written(served(), Ask(columns=columns, rows_count=2)) == [micros(AT + WEEK), micros(end)]


def test_a_number_of_that_name_that_the_model_reads_is_no_time() -> None:
    inputs = (Field(name="a", type="double"), Field(name="target_at", type="double"))
    assert written(served(inputs=inputs), Ask(rows=[{"a": 1.0, "target_at": 0.5}])) == [micros(AT + WEEK)]


def test_a_row_that_names_its_own_horizon_is_kept_with_it_and_matures_by_it() -> None:
    one = served()
    responder, journal = responding(deployed(one))
    rows = [ROW, ROW | {"horizon": "36h"}, ROW | {"horizon": None}, ROW | {"horizon": "1w", "target_at": NOON}]
    responder.run("demand", Ask(rows=rows))
    columns = {"a": np.ones(2), "b": np.ones(2), "horizon": np.array(["0d", np.nan], object)}
    responder.run("demand", Ask(columns=columns, rows_count=2))
    by_row, by_column = (record.rows for record in journal.records)
    assert by_row.horizon == ["7d", "36h", "7d", "1w"]
    assert by_row.target_at == [micros(end) for end in (AT + WEEK, AT + timedelta(hours=36), AT + WEEK, NOON)]
    assert by_column.horizon == ["0d", "7d"]
    assert by_column.target_at == [micros(AT), micros(AT + WEEK)]


def test_a_column_of_that_name_that_the_model_reads_is_its_own_affair() -> None:
    one = served(inputs=(Field(name="a", type="double"), Field(name="horizon", type="double")))
    assert written(one, Ask(rows=[{"a": 1.0, "horizon": -0.5}])) == [micros(AT + WEEK)]


NO_TIMES = ["soon", "", [NOON.isoformat()], {"at": NOON.isoformat()}, True, 1.5, 10**30, -(2**63), "0001-01-01T00:00+23:00"]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    timed = deployed(served(time="day")).replaced(model="timed")
    running = Running(tmp_path_factory.mktemp("targets"), deployed(served()), timed)
    yield running
    running.close()


def test_what_is_no_time_is_the_callers_fault_and_names_row_and_field(server: Running) -> None:
    def refused(path: str, body: Any, name: str) -> None:
        answer = httpx.post(f"{server.url}{path}", json=body, timeout=20)
        told = answer.json()
        assert (answer.status_code, told.get("code")) == (400, "input"), (body, told)
        assert told["error"].startswith(f"row 1, '{name}': "), told
        assert told["error"].endswith(" is no time.")
        assert "ISO 8601" in told["mend"]

    for model, name in (("demand", "target_at"), ("timed", "target_at"), ("timed", "day")):
        for value in NO_TIMES:
            refused(f"/predict/{model}", [ROW, ROW | {name: value}], name)
        tensors = [{"name": column, "shape": [2], "datatype": "FP64", "data": [1, 2]} for column in ROW]
        for datatype, data in (("BYTES", [NOON.isoformat(), "soon"]), ("FP64", [1.0, 1.5]), ("INT64", [1, -(2**63)])):
            said = {"name": name, "shape": [2], "datatype": datatype, "data": data}
            refused(f"/v2/models/{model}/infer", {"inputs": [*tensors, said]}, name)
            answer = httpx.post(
                f"{server.url}/v2/models/{model}/infer", json={"inputs": [*tensors, said | {"shape": [1, 2]}]}
            )
            assert answer.status_code == 400
            assert f"'{name}' has the shape [1, 2]" in answer.json()["error"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("-1d", "'-1d' is no duration"),
        ("soon", "'soon' is no duration"),
        ("7", "'7' is no duration"),
        ("1.5d", "'1.5d' is no duration"),
        (7, "7 is no duration"),
        (True, "True is no duration"),
        (["1d"], "['1d'] is no duration"),
        ("8d", "'8d' is longer than the horizon of 'demand', 7d"),
        ("169h", "'169h' is longer than the horizon of 'demand', 7d"),
    ],
)
def test_a_horizon_that_is_none_or_too_far_is_the_callers_fault_and_names_its_row(
    server: Running, value: Any, said: str
) -> None:
    answer = httpx.post(f"{server.url}/predict/demand", json=[ROW, ROW | {"horizon": value}], timeout=20)
    assert (answer.status_code, answer.json()["code"]) == (400, "input"), answer.text
    assert answer.json()["error"] == f"row 1, 'horizon': {said}."
    assert answer.json()["mend"].endswith("such as 36h, at most 7d")


def test_the_schema_says_what_is_taken() -> None:
    properties = row_schema(served(time="day"))["properties"]
    for name in ("target_at", "day"):
        assert [kind["type"] for kind in properties[name]["anyOf"]] == ["string", "integer", "null"]
    horizon = row_schema(served())["properties"]["horizon"]
    for text, fits in {
        "7d": True,
        "168h": True,
        "6d": True,
        "169h": False,
        "8d": False,
        "-1d": False,
        "7d\n": False,
    }.items():
        assert bool(re.search(horizon["pattern"], text)) is fits, text
