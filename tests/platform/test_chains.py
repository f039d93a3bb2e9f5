"""A chain of every kind, from model.toml through gate and store to an answer."""

from pathlib import Path

import numpy as np
import pytest

from towpath.demo.files import write_project
from towpath.demo.shop import append, open_shop
from towpath.demo.story import STORY
from towpath.platform import Platform

CHAIN = """
[[fallback]]
name = "before"
version = "previous"

[[fallback]]
name = "yesterday"
last = "2d"

[[fallback]]
name = "last_week"
sql = "sales_windows.units_7d"

[[fallback]]
name = "recent_mean"
"""


@pytest.mark.slow
def test_each_link_is_tried_at_the_gate_and_a_views_column_answers_when_the_model_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    write_project(folder)
    append(folder / "warehouse" / "shop", open_shop(np.random.default_rng(7)), STORY.history_since, STORY.day(3))
    path = folder / "models" / "demand" / "model.toml"
    path.write_text(path.read_text().replace('\n[[fallback]]\nname = "recent_mean"\n', CHAIN))
    view = folder / "features" / "sales_windows.sql"
    text = view.read_text()
    assert "\nfrom shop.sales\n" in text
    view.write_text(text.replace("\nfrom shop.sales\n", "\nfrom shop.sales\nwhere landed_at <= :as_of\n"))
    with Platform.open(folder, variables={}) as platform:
        now = platform.at(STORY.morning(0))
        demand = now.models["demand"]
        now.features.build()
        demand.train()
        verdict = demand.gate()
        (rule,) = [rule for rule in verdict.rules if rule.name == "fallback"]
        assert rule.passed, rule.reason
        for said in (
            "'before' there is no version before yet",
            "'yesterday' answered",
            "'last_week' answered",
            "'recent_mean' answered",
            "'a_case' answered",
        ):
            assert said in rule.reason
        manifest = demand.manifest(1)
        assert [lock.view for lock in manifest.fallback_features] == ["sales_windows"]
        demand.promote(because="the first champion")
        # when nobody may ask the model
        demand.kill(because="a merchant saw odd numbers")
        # then the batch path answers with what the view had at that moment
        assert demand.predict().by_source.keys() == {"fallback:last_week (killed)"}
        # and so does a single row, from the online store
        item = now.warehouse.read(demand.folder.training.query, _moments(now)).column("item_id")[0].as_py()
        tried = demand.try_row({"item_id": item})
        assert (tried.source, tried.reason) == ("fallback:last_week", "killed")


def _moments(now: Platform) -> dict[str, object]:
    from datetime import timedelta

    return {"as_of": now.now(), "since": now.now() - timedelta(days=3), "until": now.now()}
