"""A model that answers an ordered list: a top-20 is served, and clicks by position are read from the journal."""

from pathlib import Path

import httpx
import pytest
from circle_stand import Server, begin, inside, rows_of

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
