"""A model that answers an ordered list: a top-20 is served, and clicks by position are read from the journal."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from circle_stand import Server, begin, eventually, inside, rows_of

from towpath import monitors

CODE = '''"""The items that sell best lately, dearest first for those who can pay."""

import numpy as np


def train(data):
    labels = [str(item) for item in data.label.to_pylist()]
    names = sorted(set(labels), key=lambda name: (-labels.count(name), name))
    data.numpy.features
    return {"items": names}


def predict(model, rows):
    answers = np.empty(len(rows), dtype=object)
    for place in range(len(rows)):
        start = 0 if np.isnan(rows[place, 0]) else int(rows[place, 0]) % 2
        answers[place] = model["items"][start : start + 20]
    return answers


def best(rows):
    answers = np.empty(len(rows), dtype=object)
    for place in range(len(rows)):
        answers[place] = [f"item_{number:02}" for number in range(1, 21)]
    return answers
'''
SPINE = """/* ---
entity = "customer"
time = "morning"
label = "bought"
--- */
-- The first item that each of eight made-up customers bought on each day.
select
    'c' || (row_number() over (partition by day order by units desc, item_id) % 8) as customer,
    cast(day as timestamp) + interval 30 hours as morning,
    item_id as bought
from shop.sales
where cast(day as timestamp) + interval 30 hours <= :as_of
qualify row_number() over (partition by day order by units desc, item_id) <= 8
"""
VIEW = """/* ---
entity = "customer"
event_time = "day_end"
--- */
-- How much of everything was sold on a day; the same for everybody.
select
    'c' || (row_number() over (partition by day order by item_id) % 8) as customer,
    cast(day as timestamp) + interval 1 day as day_end,
    cast(units as double) as mood
from shop.sales
qualify row_number() over (partition by day order by item_id) <= 8
"""
TOML = """owner = "ana"
description = "What a customer might like"
features = ["customers.mood"]

[charter]
decision = "which twenty items stand on the first page"

[output]
kind = "ranking"
top = 20

[gate]
metric = "accuracy"

[serving]
timeout_ms = 1000

[[fallback]]
name = "best"
function = "best"
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = begin(tmp_path / "shop")
    model = folder / "models" / "page"
    model.mkdir()
    for name, text in {"model.py": CODE, "training.sql": SPINE, "model.toml": TOML}.items():
        (model / name).write_text(text)
    (folder / "features" / "customers.sql").write_text(VIEW)
    return folder


def test_a_top_20_is_served_and_clicks_are_read_by_position(shop: Path, tmp_path: Path) -> None:
    assert inside("check", shop).code == 0
    at = ("--project", shop)
    inside("features", "build", *at)
    trained = inside("train", "page", "--json", *at).json
    assert 0 < trained["metrics"]["accuracy"] < 1
    verdict = inside("gate", "page", "--json", *at, expect=None).json
    told = {rule["name"]: (rule["passed"], rule["reason"]) for rule in verdict["rules"]}
    assert told["output"][0], told
    assert told["fallback"][0], told
    inside("promote", "page", "--override", "--because", "the first page is empty", *at)
    with Server(*at, log=tmp_path / "log") as server:
        # when two customers are shown a page
        first, second = server.ask({"customer": "c1"}, {"customer": "c2"}, model="page")
        assert (first["source"], second["source"]) == ("champion", "champion")
        assert len(first["prediction"]) == len(set(first["prediction"])) == 20
        # and one clicks on the third item, the other on the first and the third
        for row, position in ((first, 3), (second, 1), (second, 3)):
            click = {
                "prediction_id": row["prediction_id"],
                "item": row["prediction"][position - 1],
                "metric": "click",
                "value": 1,
            }
            assert httpx.post(f"{server.url}/outcomes/page", json=click, timeout=20).status_code == 202
        inside("kill", "page", "--because", "look", *at)
        (tried,) = [inside("try", "page", '{"customer": "c1"}', "--json", *at).json]
        assert (tried["source"], tried["reason"], len(tried["prediction"])) == ("fallback:best", "killed", 20)
    # then the journal has one row per item, and clicks by position
    shown = rows_of(
        shop,
        "select entity_key, count(*) as n, min(position) as first, max(position) as last from predictions group by all order by all",
    )
    assert shown == [{"entity_key": f'["{name}"]', "n": 20, "first": 1, "last": 20} for name in ("c1", "c2")]
    clicks = rows_of(
        shop,
        "select p.position, count(*) as shown, count(m.item) as clicks from predictions as p"
        " left join matured as m on p.prediction_id = m.prediction_id and p.item = m.item and m.metric = 'click'"
        " group by p.position having count(m.item) > 0 order by p.position",
    )
    assert clicks == [{"position": 1, "shown": 2, "clicks": 1}, {"position": 3, "shown": 2, "clicks": 2}]
    # and the fleet counts a ranking once
    rows = {row["model"]: row for row in inside("fleet", "--json", *at).json}
    assert rows["page"]["rows"] == 2


def test_the_metric_of_the_gate_is_measured_on_clicks(shop: Path, tmp_path: Path) -> None:
    # given a ranking that is judged by the position of what was bought, and a monitor that looks at a few rows already
    model = shop / "models" / "page" / "model.toml"
    model.write_text(model.read_text().replace('metric = "accuracy"', 'metric = "mrr"\nbeside = ["hit_rate"]'))
    built_in = Path(monitors.__file__).parent / "builtin" / "worse_than_promised.sql"
    own = shop / "monitors" / "page" / "worse_than_promised.sql"
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(
        built_in.read_text()
        .replace("min_rows = 200", "min_rows = 3")
        .replace('window = "14d"', 'window = "14d"\nmodel = "page"')
    )
    at = ("--project", shop)
    assert inside("check", shop).code == 0
    inside("features", "build", *at)
    promised = inside("train", "page", "--json", *at).json["metrics"]
    assert 0.1 < promised["mrr"] < promised["hit_rate"] <= 1
    verdict = inside("gate", "page", "--json", *at, expect=None).json
    assert verdict["candidate"] == pytest.approx(promised["mrr"])
    inside("promote", "page", "--override", "--because", "the first page is empty", *at)
    with Server(*at, log=tmp_path / "log") as server:
        # when it is shown to four: one clicks on the tenth and the twentieth item, one on the twentieth, one on nothing, and
        # one buys what was not on the page
        pages = server.ask(*({"customer": f"c{number}"} for number in range(4)), model="page")
        (waiting,) = [row for row in inside("fleet", "--json", *at).json if row["model"] == "page"]
        assert waiting["metric_value"] is None
        assert "No outcome is known yet" in waiting["unmeasured"]
        clicks = [
            (0, {"item": 10, "value": 1}),
            (0, {"item": 20, "value": 1}),
            (0, {"item": 1, "value": 0}),
            (1, {"item": 20, "value": 1}),
        ]
        clicks += [(2, {"value": 0}), (3, {"label": "something else"})]
        for page, told in clicks:
            item = {"item": pages[page]["prediction"][told["item"] - 1]} if "item" in told else {}
            outcome = {"prediction_id": pages[page]["prediction_id"], **told, **item}
            assert httpx.post(f"{server.url}/outcomes/page", json=outcome, timeout=20).status_code == 202

        # then the fleet has the metric of the gate, a row for each thing that was taken and for each page that was not
        def measured() -> dict[str, Any] | None:
            (row,) = [row for row in inside("fleet", "--json", *at).json if row["model"] == "page"]
            return row if row["matured_rows"] == 5 else None

        row = eventually(measured)
    assert (row["metric"], row["unmeasured"]) == ("mrr", "")
    assert row["metric_value"] == pytest.approx((0.1 + 0.05 + 0.05 + 0 + 0) / 5)
    # and the monitor says that it is worse than the gate promised
    checks = {
        one["monitor"]: one for one in inside("monitor", "run", "--json", *at, expect=1).json if one["model"] == "page"
    }
    assert checks["page/worse_than_promised"]["status"] == "failing", checks
    (incident,) = [one for one in inside("monitor", "incidents", "--json", *at).json if one["model"] == "page"]
    (told,) = incident["detail"]["rows"]
    assert (told["value"], told["promised"]) == (pytest.approx(row["metric_value"]), pytest.approx(promised["mrr"]))
