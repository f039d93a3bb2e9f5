"""Two teams on one store: views are shared on purpose, names are nobody else's, and one server answers for both."""

import shutil
from pathlib import Path

import pytest
from circle_stand import Server, begin, inside, rows_of

GOOD = {"shop/item_sales.units_7d": 70.0, "shop/item_sales.price_eur": 2.5}
CODE = '''"""Loaves, from what the shop knows."""

import numpy as np


def train(data):
    return {"mean": float(np.mean(data.numpy.label[data.numpy.features[:, 0] >= 0]))}


def predict(model, rows):
    return np.nan_to_num(rows[:, 0], nan=model["mean"])
'''


@pytest.fixture
def shop(prepared: Path, tmp_path: Path) -> Path:
    """A team that publishes its view."""
    folder = tmp_path / "shop"
    shutil.copytree(prepared, folder)
    view = folder / "features" / "item_sales.sql"
    view.write_text(view.read_text().replace('ttl = "3d"', 'publish = true\nttl = "3d"'))
    return folder


@pytest.fixture
def bakery(shop: Path, tmp_path: Path) -> Path:
    """Another team with a folder, a key and a model of its own, on the same stores and tables."""
    folder = begin(tmp_path / "bakery", name="bakery", team="ovens", predict="")
    shutil.rmtree(folder / "warehouse")
    shutil.rmtree(folder / "features")
    shutil.rmtree(folder / "monitors")
    settings = folder / "towpath.toml"
    settings.write_text(
        settings.read_text()
        + f'\n[stores]\nobjects = "{shop}/.towpath/objects"\nonline = "lmdb://{shop}/.towpath/online"\n'
        + f'\n[warehouse.tables]\n"shop.sales" = "{shop}/warehouse/shop/sales.parquet"\n'
    )
    model = folder / "models" / "demand"
    (model / "model.py").write_text(CODE)
    (model / "golden.jsonl").unlink()
    toml = (model / "model.toml").read_text()
    toml = toml.replace('["item_sales.*"]', '["shop/item_sales.units_7d", "shop/item_sales.price_eur"]')
    toml = toml.replace('[[fallback]]\nname = "same_as_last_week"\nfunction = "same_as_last_week"\n', "")
    (model / "model.toml").write_text(toml)
    return folder


def test_a_view_that_is_not_published_cannot_be_read(shop: Path, bakery: Path) -> None:
    (bakery / "models" / "demand").rename(bakery / "models" / "bread")
    done = inside("train", "bread", "--project", bakery, expect=2)
    assert "item_sales" in done.err
    assert "publish" in done.err
    # and the training that failed took no name in the fleet
    assert [row["model"] for row in inside("fleet", "--json", "--project", bakery).json] == ["demand"]
    assert not (shop / ".towpath" / "objects" / "models" / "bread").exists()


@pytest.mark.slow
def test_a_published_view_is_read_and_a_name_is_claimed_once(shop: Path, bakery: Path, tmp_path: Path) -> None:
    # given a view that the shop published by building it
    inside("features", "build", "--project", shop)
    assert inside("check", bakery).code == 0
    # when the bakery trains under the shop's name, it is refused and told whose it is
    refused = inside("train", "demand", "--project", bakery, expect=1)
    assert all(name in refused.err for name in ("demand", "shop", "area"))
    # but under a name of its own it reads the other's features
    (bakery / "models" / "demand").rename(bakery / "models" / "bread")
    assert inside("train", "bread", "--json", "--project", bakery).json["version"] == 1
    inside("promote", "bread", "--override", "--because", "a first try", "--project", bakery)
    # then the shop cannot take the name either
    shutil.copytree(shop / "models" / "demand", shop / "models" / "bread")
    monitored = inside("train", "bread", "--project", shop, expect=1)
    assert "bakery" in monitored.err
    assert "ovens" in monitored.err
    shutil.rmtree(shop / "models" / "bread")
    # and one server that trusts both keys answers for both, from the shop's online rows
    for key in (bakery / ".towpath" / "keys").glob("*.pub"):
        shutil.copy(key, shop / ".towpath" / "keys")
    with Server("--project", shop, log=tmp_path / "log") as server:
        (bread,) = server.ask({"item_id": "item_01"}, model="bread")
        (demand,) = server.ask({"item_id": "item_01"}, model="demand")
        assert (bread["source"], bread["missing"]) == ("champion", [])
        assert demand["source"] == "champion"
        (raw,) = server.ask(GOOD, model="bread")
        assert raw["prediction"] == 70.0
    found = rows_of(shop, "select project, team, model, count(*) as n from predictions group by all order by model")
    assert [(row["project"], row["team"], row["model"], row["n"]) for row in found] == [
        ("bakery", "ovens", "bread", 2),
        ("shop", "area", "demand", 1),
    ]
    fleet = inside("fleet", "--json", "--project", bakery).json
    assert {row["model"]: row["team"] for row in fleet} == {"bread": "ovens", "demand": "area"}
