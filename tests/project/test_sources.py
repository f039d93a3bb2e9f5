"""``sources.toml``: what is expected of tables is read whole, and each fault is named with its line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from towpath.project import SourceDeclaration, VolumeDeclaration, problems, read
from towpath.project.sources import kind_of

Faults = Callable[[Path], list[str]]
WHOLE = """\
["shop.sales"]
owner = "till team"
description = "A line a day and item"
landed_at = "landed_at"
freshness = "30h"
lands = "10 6 * * *"
volume = { at_least = 20, at_most = 30 }

["shop.sales".columns]
item_id = "text"
landed_at = "time"
units = "int64"
"""


def _write(shop: Path, text: str) -> Path:
    (shop / "sources.toml").write_text(text, "utf-8")
    return shop


def test_a_whole_declaration_is_read_into_a_frozen_struct(shop: Path) -> None:
    assert read(_write(shop, WHOLE), {}).sources == {
        "shop.sales": SourceDeclaration(
            owner="till team",
            description="A line a day and item",
            landed_at="landed_at",
            freshness="30h",
            lands="10 6 * * *",
            volume=VolumeDeclaration(at_least=20, at_most=30),
            columns={"item_id": "text", "landed_at": "time", "units": "int64"},
        )
    }


def test_a_project_without_the_file_has_no_sources(shop: Path) -> None:
    assert read(shop, {}).sources == {}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("owner =", "ownr =", "sources.toml:2: unknown key 'ownr' in [shop.sales]; did you mean 'owner'?"),
        ('"30h"', '"30 hours"', "sources.toml:5: shop.sales.freshness: '30 hours' is no duration; one number"),
        ('"10 6 * * *"', '"10 26 * * *"', "sources.toml:6: '10 26 * * *' is no cron line: hour 26"),
        ("at_least = 20", "at_least = 40", "sources.toml:7: 'shop.sales' is to have at least 40 and at most 30 rows a day"),
        ("at_least = 20", "at_lest = 20", "sources.toml:7: unknown key 'at_lest' in [shop.sales.volume]; did you mean 'at_least'?"),
        ("at_least = 20", "at_least = -1", "sources.toml:7: shop.sales.volume.at_least = -1; expected a whole number >= 0"),
        ('landed_at = "landed_at"\n', "", "sources.toml:6: the volume of 'shop.sales' cannot be counted by day; landed_at = "),
        ('item_id = "text"', 'item_id = "txt"', "sources.toml:10: 'txt' is no kind of column; did you mean 'text'?"),
        ('item_id = "text"', "item_id = 7", "sources.toml:"),
        ('landed_at = "landed_at"', 'landed_at = "landedat"', "sources.toml:4: landed_at 'landedat' is none of the columns; did you mean 'landed_at'?"),
        ('"shop.sales"', "shop.sales", "sources.toml:1: 'shop' holds no key of a source; write [\"shop.sales\"] with quotes"),
        ("[", "owner = 'x'\n[", "sources.toml:1: 'owner' is no table"),
        ("[", "[[", "sources.toml:1: the file is no TOML"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_line_and_the_nearest_name(
    shop: Path, faults: Faults, old: str, new: str, said: str
) -> None:
    whole = WHOLE if old != '"shop.sales"' else WHOLE.split('["shop.sales".columns]', maxsplit=1)[0]
    found = faults(_write(shop, whole.replace(old, new, 1)))
    assert any(one.startswith(said) for one in found), found


def test_a_source_that_nobody_reads_is_a_warning_and_the_project_is_still_read(shop: Path) -> None:
    _write(shop, '["shop.sale"]\nowner = "x"\n')
    assert [str(one) for one in problems(shop, {})] == [
        "sources.toml:1: warning: no view, training.sql or monitor reads 'shop.sale'; did you mean 'shop.sales'?"
    ]
    assert list(read(shop, {}).sources) == ["shop.sale"]


@pytest.mark.parametrize(
    ("arrow", "kind"),
    [("large_string", "text"), ("uint8", "integer"), ("double", "number"), ("bool", "boolean"), ("date32[day]", "date"),
     ("timestamp[us, tz=UTC]", "time"), ("struct<a: int64>", "other"), ("binary", "other"), ("interval", "other")],
)  # fmt: skip
def test_kinds_hold_for_every_engine(arrow: str, kind: str) -> None:
    assert kind_of(arrow) == kind
