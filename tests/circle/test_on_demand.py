"""An on-demand feature from the command line to a server that has never seen the project."""

import shutil
from pathlib import Path

import pytest
from circle_stand import Server, begin, inside

PROMOTION = '''"""What an offered price means.

---
[inputs]
offered_eur = "double"
price_eur = "item_sales.price_eur"

[outputs]
share = "double"
---
"""


def promotion(offered_eur, price_eur):
    return {"share": offered_eur / price_eur}
'''


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.slow
def test_its_code_goes_with_the_version_to_a_server_without_the_project(tmp_path: Path) -> None:
    project = begin(tmp_path / "shop", predict="")
    (project / "features" / "promotion.py").write_text(PROMOTION)
    spine = project / "models/demand/training.sql"
    change(
        spine,
        "    item_id,\n    morning,\n    case",
        "    item_id,\n    morning,\n    price_eur * 0.9 as offered_eur,\n    case",
    )
    change(project / "models/demand/model.toml", '["item_sales.*"]', '["promotion.share", "item_sales.units_7d"]')
    (project / "models/demand/golden.jsonl").write_text('{"request": {"item_id": "item_01", "offered_eur": 1.5}}\n')
    inside("check", project)
    inside("features", "build", "--project", project)
    got = inside(
        "features", "get", "promotion", "--key", "item_01", "--input", "offered_eur=1.5", "--json", "--project", project
    ).json
    assert got["promotion.share"] > 0
    listed = inside("features", "--json", "--project", project).json
    assert [row["view"] for row in listed] == ["item_sales", "promotion"]
    inside("train", "demand", "--project", project)
    inside("gate", "demand", "--project", project, expect=None)
    inside("promote", "demand", "--override", "--because", "a test", "--project", project)
    tried = inside("try", "demand", '{"item_id": "item_01", "offered_eur": 1.5}', "--json", "--project", project).json
    assert tried["features"]["promotion.share"] == got["promotion.share"]
    # when only the two stores and the public keys are left
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    (elsewhere / "keys").mkdir(parents=True)
    here.mkdir()
    for name in ("objects", "online"):
        (project / ".towpath" / name).rename(elsewhere / name)
    for path in (project / ".towpath" / "keys").glob("*.pub"):
        path.rename(elsewhere / "keys" / path.name)
    shutil.rmtree(project)
    arguments = (
        "--store",
        elsewhere / "objects",
        "--online",
        f"lmdb://{elsewhere / 'online'}",
        "--keys",
        elsewhere / "keys",
    )
    with Server(*arguments, log=tmp_path / "log", folder=here) as server:
        whole, lacking = server.ask({"item_id": "item_01", "offered_eur": 1.5}, {"item_id": "item_01"})
    assert whole["reason"] == "ok", (whole, (tmp_path / "log").read_text())
    # then the same number is answered, and what a row does not bring is said
    assert (whole["source"], whole["missing"]) == ("champion", [])
    assert whole["prediction"] == pytest.approx(tried["prediction"])
    assert lacking["missing"] == ["offered_eur", "promotion.share"]
