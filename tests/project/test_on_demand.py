"""``features/<name>.py`` is read without running it, and every fault of it is named on its line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from towpath.project import read

Faults = Callable[[Path], list[str]]
FILE = "features/promotion.py"
CODE = '''"""What an offered price means.

---
[inputs]
price_band = "string"
price_eur = "item_sales.price_eur"
at = "time"

[outputs]
share = "double"
bold = { type = "bool", missing = "default", default = false }
---
"""

import no_such_module_anywhere

raise SystemExit("it ran")


def promotion(price_band, price_eur, at):
    return {}
'''


@pytest.fixture
def promoted(shop: Path) -> Path:
    """With an on-demand feature that the model reads."""
    (shop / FILE).write_text(CODE)
    toml = shop / "models/demand/model.toml"
    toml.write_text(toml.read_text().replace('["item_sales.*"]', '["item_sales.*", "promotion.*"]'))
    return shop


def test_it_is_read_without_being_run(promoted: Path, faults: Faults) -> None:
    assert faults(promoted) == []
    found = read(promoted, {}).on_demand["promotion"]
    assert found.arguments == ("price_band", "price_eur", "at")
    assert list(found.header.outputs) == ["share", "bold"]
    assert found.line == 1 + CODE[: CODE.index("def promotion")].count("\n")


def test_a_published_one_whose_view_is_not_is_warned_of_before_a_build_refuses_it(
    promoted: Path, faults: Faults
) -> None:
    text = CODE.replace("[inputs]\n", "publish = true\n\n[inputs]\n")
    view = promoted / "features/item_sales.sql"
    for called in ("item_sales", "shop/item_sales"):
        (promoted / FILE).write_text(text.replace("item_sales.", f"{called}."))
        (said,) = faults(promoted)
        assert f"{FILE}:8: warning: 'promotion' is published and reads '{called}.price_eur', which is not" in said
        assert "publish = true in features/item_sales.sql, or another 'price_eur'" in said
    view.write_text(view.read_text().replace('ttl = "3d"', 'publish = true\nttl = "3d"'))
    assert faults(promoted) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('price_eur = "item', 'price_eur = "itam', "unknown view 'itam_sales' in 'itam_sales.price_eur'; did you mean 'item_sales'?"),
        ("sales.price_eur", "sales.price_euro", "view 'item_sales' has no feature 'price_euro'; did you mean 'price_eur'?"),
        ('price_band = "string"', 'price_band = "strng"', "input 'price_band' is 'strng'; did you mean 'string'?"),
        ('share = "double"', 'share = "doubel"', "'doubel' is none of double, int64, bool, string, timestamp; did you mean 'double'?"),
        ("default = false", "default = 3", "the default 3 of 'bold' is no bool; write a default of the feature's type"),
        ("missing =", "mising =", "unknown key 'mising' in [outputs.bold]; did you mean 'missing'?"),
        ("price_eur, at):", "price_euro, at):", "promotion takes 'price_euro', which is no input; did you mean 'price_eur'?"),
        ("def promotion(price_band, price_eur, at)", "def promotion(price_band, price_eur)", "promotion does not take the input 'at'; def promotion(price_band, price_eur, at): …"),
        ("def promotion(", "def promotoin(", "there is no function promotion; did you mean 'promotoin'?"),
        ("def promotion(", "async def promotion(", "promotion is async"),
        ("def promotion(", "@cache\ndef promotion(", "promotion has a decorator; a plain function"),
        ("price_eur, at):", "price_eur, at, *more):", "promotion takes more than plain arguments"),
        ("[outputs]", "[outputs", "the header is no TOML"),
        ("def promotion(price_band, price_eur, at):", "def promotion(price_band, price_eur, at)", "the file does not compile"),
        ('at = "time"', 'at = "promotion.share"', "'promotion' reads itself; break the circle"),
        ('at = "time"', 'at = { type = "time", required = true }', "'at' is required and is no column of the request"),
    ],
)  # fmt: skip
def test_a_fault_is_named_on_its_line(promoted: Path, faults: Faults, old: str, new: str, said: str) -> None:
    assert old in CODE
    (promoted / FILE).write_text(CODE.replace(old, new, 1))
    line = CODE[: CODE.index(old)].count("\n") + 1
    found = [fault for fault in faults(promoted) if said in fault]
    assert found, faults(promoted)
    places = {int(fault.split(":")[1]) for fault in found}
    near = {line, line + 1} if "circle" not in said and "takes the" not in said else {line, 4}
    assert places & {*near, 1, *([7] if "'at'" in said else []), *([4] if "circle" in said else [])}, found


def test_a_docstring_without_a_header_says_what_is_wanted(promoted: Path, faults: Faults) -> None:
    (promoted / FILE).write_text('"""Nothing."""\n\n\ndef promotion():\n    return {}\n')
    assert (
        f"{FILE}:1: the docstring has no header; a docstring with TOML between two lines ---: [inputs] and [outputs]"
        in faults(promoted)
    )
    (promoted / FILE).write_text("x = 1\n")
    assert any("the file has no header" in fault for fault in faults(promoted))
    (promoted / FILE).write_text(CODE.replace('---\n"""', '"""'))
    assert any(f"{FILE}:3: the header is opened with --- and never closed" in fault for fault in faults(promoted))


def test_a_column_of_the_request_is_one_that_the_spine_selects_and_not_the_label(
    promoted: Path, faults: Faults
) -> None:
    (promoted / FILE).write_text(CODE.replace("price_band", "offer"))
    assert any(
        "models/demand/model.toml" in f
        and "'promotion' reads the request's 'offer', which training.sql does not select" in f
        for f in faults(promoted)
    )
    (promoted / FILE).write_text(
        CODE.replace('price_band = "string"', 'units_next_7d = "double"').replace("price_band", "units_next_7d")
    )
    assert any("which is the label: nobody knows it when a prediction is asked for" in f for f in faults(promoted))


def test_one_column_of_the_request_has_one_type(promoted: Path, faults: Faults) -> None:
    (promoted / "features/other.py").write_text(
        CODE.replace("promotion", "other").replace('price_band = "string"', 'price_band = "double"')
    )
    assert any("input 'price_band' is 'string' here and 'double' in features/other.py" in f for f in faults(promoted))


def test_a_view_and_a_function_cannot_share_a_name(promoted: Path, faults: Faults) -> None:
    (promoted / "features/item_sales.py").write_text(CODE.replace("promotion", "item_sales"))
    assert any(
        "two views have one name: 'features/item_sales.sql' and 'features/item_sales.py'" in f for f in faults(promoted)
    )


def test_a_module_that_others_import_begins_with_an_underscore(promoted: Path, faults: Faults) -> None:
    (promoted / "features/_shared.py").write_text("x = 1\n")
    assert faults(promoted) == []
    (promoted / "features/shared.py").write_text("x = 1\n")
    assert len(faults(promoted)) == 1
