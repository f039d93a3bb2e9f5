"""The whole circle through the real command line: from `tow init` to what the fleet page says, on one project."""

import json
import shutil
import time
from datetime import timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from circle_stand import (
    NOT_A_NUMBER,
    RAISES,
    SLEEPS,
    Load,
    Server,
    begin,
    copied,
    eventually,
    inside,
    rows_of,
    tow,
)

from towpath.clock import SystemClock

GOOD = {"item_sales.units_7d": 70.0, "item_sales.units_a_week_28d": 70.0, "item_sales.price_eur": 2.5}


def priced(price: float) -> dict[str, float]:
    return GOOD | {"item_sales.price_eur": price}


@pytest.mark.slow
def test_the_circle_closes_through_the_command_line(tmp_path: Path) -> None:
    # given a project that `tow init` wrote, each step a process of its own
    folder = begin(tmp_path / "shop")
    assert tow("check", folder).code == 0
    now = SystemClock().now()
    for step in (
        ("features", "build", "--as-of", now.isoformat()),
        ("train", "demand", "--as-of", now.isoformat()),
        ("gate", "demand", "--as-of", now.isoformat()),
        ("promote", "demand", "--json"),
    ):
        done = tow(*step, "--project", folder)
        assert (done.code, done.err) == (0, ""), done
    assert done.json["state"]["champion"] == 1
    # when it is served and asked by key, by row and by tensor, over HTTP and gRPC
    with Server("--project", folder, log=tmp_path / "log") as server:
        (by_key,) = server.ask({"item_id": "item_01"})
        assert (by_key["source"], by_key["reason"], by_key["version"], by_key["missing"]) == ("champion", "ok", 1, [])
        (by_row,) = server.ask(GOOD)
        assert by_row["prediction"] == pytest.approx(70, abs=15)
        tensor = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": list(GOOD.values())}
        infer = httpx.post(f"{server.url}/v2/models/demand/infer", json={"inputs": [tensor]}, timeout=20).json()
        assert infer["outputs"][0]["data"] == [by_row["prediction"]]
        with triton_grpc.InferenceServerClient(server.grpc) as client:
            asked = triton_grpc.InferInput("item_id", [1], "BYTES")
            asked.set_data_from_numpy(np.array(["item_01"], dtype=object))
            found = client.infer("demand", [asked])
            assert found.as_numpy("prediction").tolist() == [by_key["prediction"]]
        # and what happened is handed in
        outcome = {"prediction_id": by_key["prediction_id"], "value": by_key["prediction"] + 2}
        assert httpx.post(f"{server.url}/outcomes/demand", json=outcome, timeout=20).status_code == 202
    # then the journal says all of it, once the week has passed
    later = (SystemClock().now() + timedelta(days=8)).isoformat()
    (matured,) = rows_of(folder, "select prediction, actual, source from matured", "--as-of", later)
    assert matured == {"prediction": by_key["prediction"], "actual": by_key["prediction"] + 2, "source": "champion"}
    asked_by = "select source, reason, version, count(*) as n from predictions group by all"
    assert rows_of(folder, asked_by) == [{"source": "champion", "reason": "ok", "version": 1, "n": 4}]
    # and so does the fleet
    (row,) = tow("fleet", "--json", "--project", folder, "--as-of", later).json
    expected = {"model": "demand", "project": "shop", "team": "area", "owner": "ana", "champion": 1}
    assert {name: row[name] for name in expected} == expected
    assert row["matured_rows"] == 1
    (fresh,) = inside("fleet", "--json", "--project", folder).json
    assert (fresh["state"], fresh["calls"], fresh["fallback_share"]) == ("live", 4, 0.0)


def test_a_row_falls_alone_and_says_why(project: Path, tmp_path: Path) -> None:
    with Server("--project", project, log=tmp_path / "log") as server:
        # one row of three is no number: the others are the model's
        wrong = server.ask(GOOD, priced(NOT_A_NUMBER), GOOD)
        assert [row["reason"] for row in wrong] == ["ok", "wrong", "ok"]
        assert wrong[1]["source"] == "fallback:same_as_last_week"
        assert wrong[1]["prediction"] == 70.0
        assert wrong[1]["version"] is None
        # one row of three is refused by the model's own code, which answers none of a call that it raises in
        raised = server.ask(GOOD, priced(RAISES), GOOD)
        assert [row["reason"] for row in raised] == ["ok", "wrong", "ok"]
        started = time.monotonic()
        (slow,) = server.ask(priced(SLEEPS))
        assert (slow["source"], slow["reason"]) == ("fallback:same_as_last_week", "slow")
        assert time.monotonic() - started < 1.4
        # where even the first link has no answer the next one does
        (last,) = server.ask({"item_sales.price_eur": NOT_A_NUMBER, "item_id": "nobody"})
        assert (last["source"], last["prediction"]) == ("fallback:nothing", 0)
        assert server.ask(GOOD)[0]["source"] == "champion"
    found = rows_of(project, "select source, reason, count(*) as n from predictions group by all order by all")
    assert {(row["source"], row["reason"]): row["n"] for row in found} == {
        ("champion", "ok"): 5,
        ("fallback:nothing", "wrong"): 1,
        ("fallback:same_as_last_week", "slow"): 1,
        ("fallback:same_as_last_week", "wrong"): 2,
    }
    (fleet,) = inside("fleet", "--json", "--project", project).json
    assert fleet["fallback_share"] == pytest.approx(4 / 9)


def test_kill_and_revive_reach_a_running_server_within_two_seconds(project: Path, tmp_path: Path) -> None:
    with Server("--project", project, log=tmp_path / "log") as server:
        inside("kill", "demand", "--because", "wrong prices", "--project", project)
        eventually(lambda: server.ask(GOOD)[0]["reason"] == "killed", 2)
        (killed,) = server.ask(GOOD)
        assert (killed["source"], killed["prediction"]) == ("fallback:same_as_last_week", 70.0)
        inside("revive", "demand", "--because", "mended", "--project", project)
        eventually(lambda: server.ask(GOOD)[0]["reason"] == "ok", 2)
    # what is not killed cannot be revived, and nothing is written down
    for name in ("demand", "demand@7"):
        assert "is not killed" in inside("revive", name, "--project", project, expect=2).err
    told = inside("history", "demand", "--json", "--project", project).json
    assert [(row["kind"], row["because"]) for row in told[1:]] == [("killed", "wrong prices"), ("revived", "mended")]


@pytest.mark.slow
def test_a_promotion_and_a_rollback_cost_no_request(project: Path, tmp_path: Path) -> None:
    inside("train", "demand", "--project", project)
    with (
        Server("--project", project, log=tmp_path / "log") as server,
        Load(f"{server.url}/predict/demand", [{"item_id": "item_01"}], callers=4) as load,
    ):
        # a version that never stood before the gate does not pass; one that is no better is refused; a person may insist
        refused = inside("promote", "demand@2", "--project", project, expect=1)
        assert "it has no verdict" in refused.err
        verdict = inside("gate", "demand@2", "--json", "--project", project, expect=1).json
        assert not verdict["passed"]
        assert "its verdict" in inside("promote", "demand@2", "--project", project, expect=1).err
        because = ("--override", "--because", "the same on purpose")
        assert inside("promote", "demand@2", *because, "--json", "--project", project).json["event"]["override"]
        eventually(lambda: server.ask(GOOD)[0]["version"] == 2, 5)
        inside("rollback", "demand", "--because", "enough", "--project", project)
        eventually(lambda: server.ask(GOOD)[0]["version"] == 1, 5)
    assert (load.failed, load.broken) == ([], [])
    assert {row["version"] for row in load.acknowledged} == {1, 2}
    assert {row["source"] for row in load.acknowledged} == {"champion"}
    (kept,) = rows_of(
        project, "select count(distinct prediction_id) as n from predictions where entity_key = '[\"item_01\"]'"
    )
    assert kept["n"] == len(load.acknowledged)


def test_it_is_served_from_the_object_store_alone(project: Path, tmp_path: Path) -> None:
    import shutil

    # given a machine that has the two stores and the public keys, and neither project nor warehouse nor catalog
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    elsewhere.mkdir()
    here.mkdir()
    for name in ("objects", "online"):
        (project / ".towpath" / name).rename(elsewhere / name)
    (elsewhere / "keys").mkdir()
    public = [path for path in (project / ".towpath" / "keys").iterdir() if path.suffix == ".pub"]
    assert public
    for path in public:
        path.rename(elsewhere / "keys" / path.name)
    shutil.rmtree(project)
    # when a server is started there
    arguments = (
        *("--store", elsewhere / "objects"),
        *("--online", f"lmdb://{elsewhere / 'online'}"),
        *("--keys", elsewhere / "keys"),
    )
    with Server(*arguments, log=tmp_path / "log", folder=here) as server:
        found = server.ask({"item_id": "item_01"}, {"item_id": "nobody"})
        assert [row["source"] for row in found] == ["champion", "champion"]
        assert found[1]["missing"] == list(GOOD)
        assert httpx.get(f"{server.url}/v2/health/ready", timeout=20).status_code == 200
    # then its answers are in the store
    assert list((elsewhere / "objects" / "journal" / "predictions").rglob("*.parquet"))


def test_a_batch_is_one_run_and_the_latest_of_two_wins(project: Path, tmp_path: Path) -> None:
    first = inside("predict", "demand", "--json", "--project", project).json
    second = inside("predict", "demand", "--json", "--to", tmp_path / "answers.jsonl", "--project", project).json
    assert first["rows"] == second["rows"] == 24
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [line["source"] for line in lines] == ["champion"] * 24
    text = "select run_id, count(*) as n, count(distinct entity_key) as keys from predictions group by run_id"
    assert rows_of(project, text) == [{"run_id": second["run_id"], "n": 24, "keys": 24}]
    # and online the answer is the same, at the moment that the batch was about
    (same,) = [line for line in lines if line["item_id"] == "item_07"]
    then = ("--as-of", second["moment"], "--project", copied(project, tmp_path / "then"))
    shutil.rmtree(tmp_path / "then" / ".towpath" / "online")
    inside("features", "build", *then)
    tried = inside("try", "demand", '{"item_id": "item_07"}', "--json", *then).json
    assert tried["prediction"] == pytest.approx(same["prediction"])


def test_a_copy_of_a_project_answers_the_same(prepared: Path, project: Path, tmp_path: Path) -> None:
    other = copied(prepared, tmp_path / "other")
    asked = ("try", "demand", '{"item_id": "item_03"}', "--json", "--project")
    assert inside(*asked, other).json["prediction"] == inside(*asked, project).json["prediction"]


def test_one_online_row_is_shown_with_its_age_and_why_a_value_is_missing(project: Path) -> None:
    get = ("features", "get", "item_sales", "--json", "--project", project, "--key")
    there, nobody = inside(*get, "item_01").json, inside(*get, "nobody").json
    assert there["missing"] == {}
    assert there["age"].endswith(("h", "d"))
    assert there["item_sales.price_eur"] > 0
    assert nobody["age"] == "never"
    assert nobody["missing"]["item_sales.price_eur"] == "no row for this key"
    expired = inside(*get, "item_01", "--as-of", (SystemClock().now() + timedelta(days=9)).isoformat()).json
    assert expired["missing"].keys() == set(GOOD)


@pytest.mark.slow
def test_history_is_replayed_day_by_day_and_nothing_counts_twice(tmp_path: Path) -> None:
    # given a model that was promoted three weeks ago, as far as every command can tell
    folder = begin(tmp_path / "shop")
    then = SystemClock().now() - timedelta(days=21)

    def at(days: float) -> tuple[object, ...]:
        return ("--as-of", (then + timedelta(days=days)).isoformat(), "--project", folder)

    inside("features", "build", *at(0))
    inside("train", "demand", *at(0))
    inside("promote", "demand", "--override", "--because", "a replay", *at(0))
    # when it predicts on three days, on one of them twice, and the labels come in, twice too
    for day in (0, 1, 1.001, 2):
        assert inside("predict", "demand", "--json", *at(day)).json["by_source"] == {"champion": 24}
    inside("outcomes", "demand", *at(5))  # of mornings before the first prediction
    assert rows_of(folder, "select * from matured", *at(5)[:2]) == []
    first = inside("outcomes", "demand", "--json", *at(12)).json
    again = inside("outcomes", "demand", "--json", *at(12)).json
    assert first["rows"] > 0
    assert again["rows"] == 0
    # then each prediction has matured once
    counted = (
        "select count(*) as n, count(distinct prediction_id) as ids, count(distinct predicted_at) as days from matured"
    )
    assert rows_of(folder, counted, *at(12)[:2]) == [{"n": 72, "ids": 72, "days": 3}]
    (row,) = inside("fleet", "--json", *at(12)).json
    assert row["matured_rows"] == 72
    assert 0 < row["metric_value"] < 1
    assert 0 < row["fallback_value"] < 1
    # and what the model did not know then is not known to a later look at then
    assert rows_of(folder, "select count(*) as n from predictions", *at(1.0005)[:2]) == [{"n": 48}]
    # and a day on which it did not run is found, and closed when it ran
    found = {check["monitor"]: check for check in inside("monitor", "run", "--json", *at(4), expect=1).json}
    assert found["did_it_run"]["status"] == "failing"
    inside("predict", "demand", *at(4))
    found = {check["monitor"]: check for check in inside("monitor", "run", "--json", *at(4.01), expect=None).json}
    assert found["did_it_run"]["status"] == "ok"
    incidents = inside("monitor", "incidents", "--json", "--project", folder).json
    assert [(one["monitor"], one["status"]) for one in incidents if one["monitor"] == "did_it_run"] == [
        ("did_it_run", "closed")
    ]
