"""A view changes under a model that is live: nobody goes without features, and plan says what would happen first."""

import json
import shutil
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from towpath.cli.features import command
from towpath.demo.story import STORY
from towpath.errors import InputError, ProjectError, UnknownError
from towpath.features import OnlineReader
from towpath.features.builds import build_state
from towpath.platform import Platform
from towpath.platform.judging import others_answers
from towpath.registry import versions
from towpath.sql import Query
from towpath.types import micros

NOW = STORY.morning(9)
VIEW = "features/prices.sql"


@pytest.fixture
def shop(played: Path, tmp_path: Path) -> Path:
    """The played shop, to be changed."""
    return Path(shutil.copytree(played, tmp_path / "shop"))


def opened(shop: Path) -> Platform:
    return Platform.open(shop, variables={}).at(NOW)


def change(shop: Path, old: str, new: str) -> None:
    path = shop / VIEW
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


def item(platform: Platform) -> str:
    query = Query.parse("select min(item_id) as item from shop.prices")
    return str(platform.warehouse.read(query).column("item")[0].as_py())


def served(platform: Platform) -> dict[str, list[object]]:
    """What the champion's reader finds of prices for the first item."""
    manifest = platform.models["demand"].manifest(1)
    locks = [lock for lock in manifest.features if lock.view == "prices"]
    found = OnlineReader(platform.online, locks, manifest.project).read({"item_id": [item(platform)]}, 1, micros(NOW))
    assert found.missing == [()]
    return {name: column.tolist() for name, column in found.columns.items()}


def test_the_champion_is_compared_as_it_was_trained_when_the_view_means_something_else_now(shop: Path) -> None:
    cache = shop / ".towpath" / "cache" / "versions"
    with opened(shop) as platform:
        demand = platform.models["demand"]
        manifest = demand.manifest(1)
        holdout = pq.read_table(versions.fetch(platform.objects, manifest, cache) / "holdout.parquet")
        before = others_answers(demand, 1, cache, holdout, manifest)
    names = ["prices.price_eur", "prices.price_to_mean_28d", "prices.discount_share_28d"]
    share = names[-1]
    # given a view that says a share in percent now, by the same name; and then one that has no price any more
    for old, new in (
        ("avg(1 - price_eur / nullif(list_price_eur, 0))", "avg(100 - 100 * price_eur / nullif(list_price_eur, 0))"),
        ("    price_eur,\n", ""),
        # or that names the moment at which it is asked
        ("\nfrom shop.prices\n", "\nfrom shop.prices\nwhere landed_at <= :as_of\n"),
    ):
        change(shop, old, new)
        names = names if new else names[1:]
        with opened(shop) as platform:
            locks = platform.features.locks(["sales_windows.*", "prices.*", "calendar.*"])
            asked = holdout.select([name for name in holdout.column_names if not name.startswith("prices.")])
            spine = asked.select([name for name in asked.column_names if "." not in name])
            now = platform.features.training_set(spine, ["prices.*"], keys=["item_id"], time=manifest.time or "")
            for name in names:
                asked = asked.append_column(name, now.column(name))
            assert pc.max(asked.column(share)).as_py() > 10 * pc.max(holdout.column(share)).as_py() > 0
            # then a candidate of the new form is compared with what the champion says to the rows as it knows them
            candidate = msgspec.structs.replace(manifest, features=locks)
            after = others_answers(platform.models["demand"], 1, cache, asked, candidate)
        np.testing.assert_allclose(after, before)


def test_a_new_column_keeps_the_table_and_old_readers_read_on(shop: Path) -> None:
    with opened(shop) as platform:
        platform.features.build()
        before, table = served(platform), platform.features.view("prices").table
    change(shop, "\nfrom ", ",\n    1.5 as fixed\nfrom ")
    with opened(shop) as platform:
        # given a view with one more column, before it is built
        (row,) = platform.features.plan("prices")
        assert (row.change, row.work, row.breaks) == ("added 'fixed'", "everything", ())
        assert row.because == "columns were added, and old rows do not have them"
        view = platform.features.view("prices")
        assert (view.table, view.version, view.number) == (table, 1, 2)
        # then old rows read as null for it
        key = {"item_id": [item(platform)]}
        fixed = platform.features.read(["prices.fixed"], key)["prices.fixed"]
        assert np.isnan(fixed).all()
        assert served(platform) == before
        # and once it is built both readers have what they know
        platform.features.build("prices")
        assert platform.features.read(["prices.fixed"], key)["prices.fixed"].tolist() == [1.5]
        assert served(platform) == before
        assert platform.features.plan("prices")[0].change == ""


def test_another_computation_is_a_new_version_and_both_live_until_nobody_needs_the_old(shop: Path) -> None:
    with opened(shop) as platform:
        platform.features.build()
        before, old = served(platform), platform.features.view("prices")
    change(shop, "    price_eur,\n", "    price_eur * 100 as price_cent,\n")
    with opened(shop) as platform:
        rows = platform.features.plan("prices")
        # then plan tells both, and that nothing breaks, and that the next training misses nothing it names
        assert [(row.version, row.work) for row in rows] == [(2, "everything"), (1, "nothing")]
        assert rows[0].change == "version 2: dropped 'price_eur'; added 'price_cent'"
        assert rows[1].needed_by == ("demand@1 (champion)",)
        assert [row.breaks for row in rows] == [(), ()]
        built = platform.features.build("prices")
        assert list(built) == ["prices", "prices, version 1"]
        assert served(platform) == before
        assert platform.features.view("prices").table != old.table
        assert platform.features.prune() == []


def test_a_source_that_changes_under_a_live_model_is_told_before_it_breaks(shop: Path) -> None:
    with opened(shop) as platform:
        platform.features.build()
        query = platform.project.views["prices"].query
        (table,) = query.tables[:1]
    change(shop, table, f"{table}_gone")
    with opened(shop) as platform:
        (row,) = platform.features.plan("prices")
        assert row.work == "refused"
        assert row.needed_by == ("demand@1 (champion)",)
        assert "'prices' cannot be built" in row.breaks[0]
        with pytest.raises(ProjectError):
            platform.features.build("prices")
        served(platform)
    ran = CliRunner().invoke(command, ["plan", "prices", "--project", str(shop), "--as-of", str(NOW), "--json"])
    assert ran.exit_code == 1
    assert json.loads(ran.stdout)[0]["breaks"]


def test_tables_that_nobody_needs_are_named_by_plan_and_dropped_by_prune(shop: Path) -> None:
    with opened(shop) as platform:
        platform.features.build()
        project = platform.settings.project.name
        platform.online.write(f"{project}.forgotten.0123456789abcdef", [])
        (row,) = [row for row in platform.features.plan() if row.work == "prune"]
        assert row.prunes == (f"{project}.forgotten.0123456789abcdef",)
        assert [each.table for each in platform.features.prune()] == [f"{project}.forgotten.0123456789abcdef"]
        assert platform.features.prune() == []
        served(platform)


def test_a_view_that_is_online_no_more_is_kept_up_for_those_who_read_it_and_dropped_when_nobody_does(
    shop: Path,
) -> None:
    # given two views that are the same, of which the champion reads one
    text = (shop / VIEW).read_text("utf-8")
    (shop / "features/spare.sql").write_text(text, "utf-8")
    with opened(shop) as platform:
        platform.features.build()
        before = served(platform)
        rows = {row.view: row.online_rows for row in platform.features.list()}
    # when both become views for training only
    for name in ("prices", "spare"):
        (shop / f"features/{name}.sql").write_text(text.replace("--- */", "online = false\n--- */", 1), "utf-8")
    with opened(shop) as platform:
        # then plan says whom the one is kept up for, and that the other one goes
        plan = {row.view: row for row in platform.features.plan()}
        assert plan["prices"].needed_by == ("demand@1 (champion)",)
        assert plan["prices"].change == "online = false; kept up until nobody reads it"
        assert plan["spare"].work == "prune"
        assert plan["spare"].because.startswith("its file says online = false and no live version needs this form")
        assert platform.features.plan("spare")[0].because == "online = false: it is for training only"
        assert {row.view: row.state for row in platform.features.list()}["spare"] == "no longer online"
        assert list(platform.features.build("prices")) == ["prices"]
        with pytest.raises(InputError, match="never online"):
            platform.features.build("spare")
        # and so it is
        (gone,) = platform.features.prune()
        assert (gone.table, gone.rows) == (plan["spare"].prunes[0], rows["spare"])
        assert platform.features.prune() == []
        assert served(platform) == before
    # and when it comes back all of its rows do
    (shop / "features/spare.sql").write_text(text, "utf-8")
    with opened(shop) as platform:
        assert platform.features.build("spare")["spare"].because == "it was never built"
        assert {row.view: row.online_rows for row in platform.features.list()} == rows


def test_a_view_that_is_misspelt_is_no_empty_plan(shop: Path) -> None:
    with opened(shop) as platform, pytest.raises(UnknownError, match="did you mean 'prices'"):
        platform.features.plan("price")


def test_an_older_form_that_runs_no_more_stays_readable_and_the_new_one_is_built(shop: Path) -> None:
    with opened(shop) as platform:
        platform.features.build()
        before, old = served(platform), platform.features.view("prices")
        tables = set(platform.online.tables())
    # given a new version of the view, and its source without the column that the champion's form reads
    change(shop, "    price_eur,\n", "    price_eur as price_in_eur,\n")
    change(shop, "from shop.prices", "from (select *, cent / 100.0 as price_eur from shop.prices) as prices")
    source = next((shop / "warehouse").rglob("prices.parquet"))
    sold = pq.read_table(source)
    cents = pc.multiply(sold.column("price_eur"), 100.0)
    pq.write_table(sold.drop_columns(["price_eur"]).append_column("cent", cents), source)
    with opened(shop) as platform:
        # when everything is built, then the error names the view, the form and who needs it
        with pytest.raises(ProjectError, match="Not every form that live models read") as raised:
            platform.features.build()
        (problem,) = raised.value.problems
        assert problem.startswith("prices, version 1, which demand@1 (champion) reads: ")
        assert "price_eur" in problem
        # and the new form is online, as are the other views
        new = platform.features.view("prices")
        assert new.version == 2
        found = platform.features.read(["prices.price_in_eur"], {"item_id": [item(platform)]})
        assert found["prices.price_in_eur"].tolist() == pytest.approx(before["prices.price_eur"])
        # and the old one is read as it was built, with nothing half-written beside it
        assert served(platform) == before
        state = build_state(platform.online, old.table)
        assert state is not None
        assert (state.beside, state.former) == (None, ())
        added = {table.split("~")[0] for table in set(platform.online.tables()) - tables}
        assert added == {new.table}
        # and plan says so beforehand, and a second build has nothing else to do
        broken = next(row for row in platform.features.plan("prices") if row.version == 1)
        assert broken.work == "refused"
        assert broken.breaks[0].startswith("demand@1 (champion): version 1 of 'prices' cannot be built any more: ")
        with pytest.raises(ProjectError, match="Not every form"):
            platform.features.build("prices")
        assert served(platform) == before


def test_an_older_form_whose_column_has_another_type_now_is_not_written_over(shop: Path) -> None:
    with opened(shop) as platform:
        platform.features.build()
        before = served(platform)
    change(shop, "    price_eur,\n", "    cast(price_eur as double) as price_in_eur,\n")
    # given a source whose price is a narrower number now: the older form's SQL runs, and gives another type
    source = next((shop / "warehouse").rglob("prices.parquet"))
    sold = pq.read_table(source)
    narrow = pc.add(sold.column("price_eur"), 1.0).cast(pa.float32())
    pq.write_table(sold.set_column(sold.schema.get_field_index("price_eur"), "price_eur", narrow), source)
    with opened(shop) as platform:
        with pytest.raises(ProjectError, match="Not every form") as raised:
            platform.features.build("prices")
        assert "'price_eur' is float and was double" in raised.value.problems[0]
        assert served(platform) == before


def test_plan_exits_0_where_nothing_breaks_and_writes_nothing(shop: Path) -> None:
    with opened(shop) as platform:
        platform.features.build()
        tables, objects = platform.online.tables(), platform.objects.paths()
    ran = CliRunner().invoke(command, ["plan", "--project", str(shop), "--as-of", str(NOW), "--json"])
    assert ran.exit_code == 0, ran.output
    rows = json.loads(ran.stdout)
    assert {row["work"] for row in rows} == {"nothing"}
    with opened(shop) as platform:
        assert (platform.online.tables(), platform.objects.paths()) == (tables, objects)


def test_one_value_of_a_key_stands_for_all_rows(shop: Path) -> None:
    with opened(shop) as platform:
        platform.features.build()
        items = [item(platform), "nobody's"]
        many = platform.features.read(["prices.price_eur"], {"item_id": items})["prices.price_eur"]
        one = platform.features.read(["prices.price_eur"], {"item_id": items[0]})["prices.price_eur"]
        both = platform.features.read(["prices.price_eur"], {"item_id": items, "shop": 7})["prices.price_eur"]
        assert one.tolist() == many[:1].tolist() == both[:1].tolist()
        assert np.isnan(many[1:]).all()
        with pytest.raises(InputError, match="different lengths: item_id 2, shop 3"):
            platform.features.read(["prices.price_eur"], {"item_id": items, "shop": [1, 2, 3]})
        for _ in range(2):  # also where the list of features was read before
            with pytest.raises(InputError, match="The key 'item_id' is not among the keys, which have 'itemid'"):
                platform.features.read(["prices.price_eur"], {"itemid": items})


def test_a_key_column_may_be_of_numpy_arrow_pandas_or_polars(shop: Path) -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    with opened(shop) as platform:
        platform.features.build()
        items = [item(platform), "nobody's", None]

        def read(given: object) -> np.ndarray:
            return platform.features.read(["prices.price_eur"], {"item_id": given})["prices.price_eur"]

        wanted = read(items)
        assert np.isnan(wanted).tolist() == [False, True, True]
        kinds = (tuple, pa.array, pandas.Series, polars.Series, lambda these: np.array(these, dtype=object))
        for kind in (*kinds, lambda these: pa.chunked_array([these])):
            assert np.array_equal(read(kind(items)), wanted, equal_nan=True)
        for one in (items[0], np.array(items[0]), pa.scalar(items[0])):
            assert read(one).tolist() == wanted[:1].tolist()
        for wrong in (iter(items), set(items), {"item_01": 1}, np.array([items])):
            with pytest.raises(InputError, match="and no list of values"):
                read(wrong)
        with pytest.raises(InputError, match="No feature that was asked for reads 'offered_eur'"):
            platform.features.read(["prices.price_eur"], {"item_id": items}, inputs={"offered_eur": 1.0})


def test_a_row_that_is_too_old_is_told_from_one_that_never_was(shop: Path) -> None:
    with opened(shop) as platform:
        platform.features.build()
        known = item(platform)
    with Platform.open(shop, variables={}).at(NOW + timedelta(days=30)) as later:
        old, never = later.features.get("prices", [known]), later.features.get("prices", ["nobody's"])
    with Platform.open(shop, variables={}).at(NOW - timedelta(days=30)) as earlier:
        early = earlier.features.get("prices", [known])
    assert early["missing"]["prices.price_eur"] == "its row became known later than the moment asked"
    assert old["prices.price_eur"] is None
    assert old["event_time"] is not None
    assert old["missing"]["prices.price_eur"] == "expired: older than the ttl of 3d"
    assert (never["event_time"], never["missing"]["prices.price_eur"]) == (None, "no row for this key")
