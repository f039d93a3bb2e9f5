"""Sources: what is ill is said before it breaks, with the features and models that hang on it."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from towpath.cli.features import command
from towpath.clock import FixedClock
from towpath.errors import ProjectError, UnknownError
from towpath.platform import Platform
from towpath.project import Answers, init
from towpath.types import utc

NOW = "2026-03-02T07:00"
DECLARED = """\
["shop.sales"]
owner = "till team"
landed_at = "landed_at"
freshness = "30h"
volume = { at_least = 20, at_most = 30 }
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    init(folder, Answers(name="shop", team="fresh"), clock=FixedClock("2026-03-02"))
    return folder


@pytest.fixture
def platform(shop: Path) -> Iterator[Platform]:
    with Platform.open(shop, clock=FixedClock(NOW), variables={}) as opened:
        yield opened


def _again(platform: Platform, now: str = NOW) -> Platform:
    return Platform.open(platform.folder, clock=FixedClock(now), variables={})


def _sales(platform: Platform) -> pa.Table:
    return pq.read_table(platform.folder / "warehouse/shop/sales.parquet")


def _put(platform: Platform, table: pa.Table) -> None:
    pq.write_table(table, platform.folder / "warehouse/shop/sales.parquet")


def _declare(platform: Platform, text: str) -> Platform:
    (platform.folder / "sources.toml").write_text(text, "utf-8")
    return _again(platform)


def test_tables_that_nobody_declared_are_listed_with_what_reads_them(platform: Platform) -> None:
    (row,) = platform.sources.list()
    assert (row.source, row.state, row.views, row.models) == (
        "shop.sales",
        "not declared",
        ("item_sales",),
        ("demand",),
    )
    assert "shop.sales" in repr(platform.sources)


def test_a_table_as_declared_is_well(platform: Platform) -> None:
    with _declare(platform, DECLARED) as declared:
        (row,) = declared.sources.list()
    assert (row.state, row.rows_a_day, row.owner) == ("ok", 24, "till team")
    assert row.landed == utc("2026-03-02T02:00")


@pytest.mark.parametrize(
    ("old", "new", "kind", "said"),
    [
        ("30h", "4h", "late", "its newest row landed 5h ago, at 2026-03-02 02:00 (limit 4h)"),
        ("20,", "25,", "few", "24 rows landed on 2026-03-01 (at least 25)"),
        ("30 }", "22 }", "many", "24 rows landed on 2026-03-01 (at most 22)"),
    ],
)
def test_late_and_too_few_and_too_many_rows_are_an_illness(
    platform: Platform, old: str, new: str, kind: str, said: str
) -> None:
    with _declare(platform, DECLARED.replace(old, new)) as declared:
        (one,) = declared.sources.ill()
    assert (one.kind, one.what, one.owner) == (kind, said, "till team")
    assert (one.features, one.models) == (("item_sales.*",), ("demand",))


def test_an_empty_table_is_late_and_has_too_few_rows(platform: Platform) -> None:
    _put(platform, _sales(platform).slice(0, 0))
    with _declare(platform, DECLARED) as declared:
        assert [one.kind for one in declared.sources.ill()] == ["late", "few"]


def test_a_column_that_is_gone_is_said_with_what_breaks_before_it_breaks(platform: Platform) -> None:
    # given a build that saw the columns
    platform.features.build()
    # when one is gone, one is new, and one that nobody reads is gone too
    table = _sales(platform)
    _put(platform, table.drop_columns(["price_eur"]).append_column("extra", table["units"]))
    # then it is named with the feature that is made of it, its model, and nothing else
    with _again(platform) as later:
        (one,) = later.sources.ill(count=False)
        assert one.what == "column 'price_eur' (double) is gone since the build of 2026-03-02"
        assert (one.features, one.models) == (("item_sales.price_eur",), ("demand",))
        # and the build that fails says so
        with pytest.raises(ProjectError) as raised:
            later.features.build()
        assert "ill:   source 'shop.sales': column 'price_eur' (double) is gone" in str(raised.value)


def test_a_view_that_does_not_read_a_lost_column_is_built_and_does_not_make_it_forgotten(platform: Platform) -> None:
    # given a view that is built first and does not read the price
    first = '/* ---\nentity = "item_id"\nevent_time = "day"\n--- */\nselect item_id, day, units as n from shop.sales\n'
    (platform.folder / "features/a_count.sql").write_text(first)
    with _again(platform) as before:
        before.features.build()
    table = _sales(platform)
    _put(platform, table.drop_columns(["price_eur"]))
    # then each build names the source, until the view that reads it is mended
    for _ in range(2):
        with _again(platform) as later, pytest.raises(ProjectError) as raised:
            later.features.build()
        assert "built: a_count" in str(raised.value)
        assert "ill:   source 'shop.sales': column 'price_eur' (double) is gone since the build of" in str(raised.value)
    view = platform.folder / "features/item_sales.sql"
    view.write_text(view.read_text("utf-8").replace("    price_eur\n", "    units as price_eur\n"), "utf-8")
    with _again(platform) as mended:
        mended.features.build()
        assert mended.sources.ill(count=False) == ()


def test_a_column_of_another_type_is_said_and_a_key_hits_the_whole_view(platform: Platform) -> None:
    platform.features.build()
    table = _sales(platform)
    units = table.set_column(table.schema.get_field_index("units"), "units", pc.cast(table["units"], pa.string()))
    _put(platform, units)
    with _again(platform) as later:
        (one,) = later.sources.ill()
        assert one.what == "column 'units' was int64 and is string since the build of 2026-03-02"
        assert one.features == ("item_sales.units_7d", "item_sales.units_a_week_28d")
    _put(platform, table.rename_columns(["item", *table.column_names[1:]]))
    with _again(platform) as later:
        assert [one.features for one in later.sources.ill()] == [("item_sales.*",)]


def test_a_column_that_nobody_reads_may_come_and_go(platform: Platform) -> None:
    table = _sales(platform)
    _put(platform, table.append_column("extra", table["units"]))
    platform.features.build()
    _put(platform, table)
    with _again(platform) as later:
        assert later.sources.ill() == ()


def test_a_build_that_works_makes_the_new_columns_the_known_ones(platform: Platform) -> None:
    platform.features.build()
    table = _sales(platform)
    wider = table.set_column(table.schema.get_field_index("units"), "units", pc.cast(table["units"], pa.float64()))
    _put(platform, wider)
    with _again(platform) as later:
        assert [one.kind for one in later.sources.ill()] == ["columns"]
        later.features.build()
        assert later.sources.ill() == ()


def test_declared_columns_are_held_against_the_table(platform: Platform) -> None:
    text = '["shop.sales"]\n["shop.sales".columns]\nitem_id = "text"\nunits = "text"\nprice_eur = "number"\nvat = "number"\n'
    with _declare(platform, text) as declared:
        assert [one.what for one in declared.sources.ill()] == [
            "column 'units' is int64, and text is expected",
            "column 'vat' is expected (number) and is not there",
        ]


def test_a_table_that_is_gone_is_an_illness_and_no_error(platform: Platform) -> None:
    (platform.folder / "warehouse/shop/sales.parquet").unlink()
    (row,) = platform.sources.list()
    assert [one.what for one in row.ill] == ["the warehouse does not have it"]


def test_a_view_is_listed_and_shown_with_its_state(platform: Platform) -> None:
    (row,) = platform.features.list()
    assert (row.state, row.built_at, row.newest_event_time) == ("not built", None, None)
    platform.features.build()
    (row,) = platform.features.list()
    assert (row.state, row.built_at, row.newest_event_time) == ("built", utc(NOW), utc("2026-03-02"))
    with _again(platform, "2026-04-02") as later:
        assert [row.state for row in later.features.list()] == ["expired"]
    found = platform.features["item_sales"].show()
    assert found["used_by"] == ("demand (not trained)",)
    assert [(one.feature, one.type, one.made_of) for one in found["features"]][-1] == (
        "price_eur",
        "double",
        ("shop.sales.price_eur",),
    )
    with pytest.raises(UnknownError, match="did you mean 'item_sales'"):
        platform.features["item_sale"]


def test_who_reads_a_feature_is_said_with_versions_and_the_champion(played: Path) -> None:
    with Platform.open(played, variables={}) as platform:
        name = next(iter(platform.project.views))
        view = platform.features[name]
        assert {reader for one in view.features for reader in one.used_by} == {"demand@1 (champion)"}
        assert "demand@1 (champion)" in repr(view)
        assert "<table>" in view._repr_html_()


def test_an_ill_source_is_an_incident_of_its_owner_until_it_is_well(platform: Platform) -> None:
    with _declare(platform, DECLARED) as declared:
        assert [row.status for row in declared.watch.check() if row.monitor == "sources/shop.sales"] == ["ok"]
        later = declared.at("2026-03-04")
        (row,) = [row for row in later.watch.check() if row.monitor == "sources/shop.sales"]
        assert (row.status, row.segments) == ("failing", ("late",))
        (one,) = later.watch.incidents(only_open=True)
        assert (one.monitor, one.segment, one.owner, one.model) == ("sources/shop.sales", "late", "till team", "")
        assert "sources/shop.sales" not in {row.monitor for row in later.watch.check("demand")}
        declared.watch.check()
        assert declared.watch.incidents(only_open=True) == ()


def test_a_table_without_a_landing_time_is_as_fresh_as_its_newest_file(platform: Platform) -> None:
    path = platform.folder / "warehouse/shop/sales.parquet"
    written = utc("2026-03-02T01:30")
    os.utime(path, (written.timestamp(), written.timestamp()))
    with _declare(platform, '["shop.sales"]\nfreshness = "5h"\n') as declared:
        (row,) = declared.sources.list()
        assert (row.state, row.landed, row.rows_a_day) == ("ill", written, None)
        assert [one.what for one in row.ill] == ["its newest row landed 330m ago, at 2026-03-02 01:30 (limit 5h)"]
        an_hour_later = (written + timedelta(hours=1)).timestamp()
        os.utime(path, (an_hour_later, an_hour_later))
        (row,) = declared.sources.list()
        assert (row.state, row.landed) == ("ok", utc("2026-03-02T02:30"))


def test_a_build_that_fails_while_it_runs_names_the_ill_source_and_plan_names_it_before(platform: Platform) -> None:
    # given a view that casts, built while the column was a number
    view = platform.folder / "features/item_sales.sql"
    text = view.read_text("utf-8")
    view.write_text(text.replace("price_eur", "cast(price_eur as double) as price_eur", 1), "utf-8")
    with _again(platform) as before:
        before.features.build()
    # when it becomes text that is no number: the engine still describes the view, and cannot run it
    table = _sales(platform)
    words = pa.array(["dear"] * table.num_rows)
    _put(platform, table.set_column(table.schema.get_field_index("price_eur"), "price_eur", words))
    said = (
        "source 'shop.sales': column 'price_eur' was double and is string since the build of 2026-03-02; "
        "on it hang feature item_sales.price_eur and model demand"
    )
    with _again(platform) as later:
        # then plan names the source, its feature and its model
        (row,) = later.features.plan()
        assert row.ill_sources == (said,)
        # and so does the build that fails
        with pytest.raises(ProjectError) as raised:
            later.features.build()
        assert f"ill:   {said}" in str(raised.value)


def test_a_broken_view_is_listed_as_broken_with_its_error_and_the_rows_that_are_read_on(platform: Platform) -> None:
    platform.features.build()
    (before,) = platform.features.list()
    assert platform.features["item_sales"].show()["rows_online"] == before.online_rows != 0
    table = _sales(platform)
    _put(platform, table.drop_columns(["price_eur"]))
    with _again(platform) as later:
        (row,) = later.features.list()
    assert (row.state, row.online_rows, row.features) == ("broken", before.online_rows, ())
    assert "price_eur" in row.error
    ran = CliRunner().invoke(command, ["--project", str(platform.folder)])
    assert ran.exit_code == 0, ran.output
    assert "item_sales is broken: " in ran.stdout
