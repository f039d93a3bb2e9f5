"""``tow features diff``: forms by the names that people give them."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from towpath.cli.features import command
from towpath.demo.story import STORY
from towpath.errors import InputError, UnknownError
from towpath.platform import Platform

NOW = STORY.morning(9)
VIEW = "features/prices.sql"


@pytest.fixture
def shop(played: Path, tmp_path: Path) -> Path:
    """The played shop, to be changed."""
    return Path(shutil.copytree(played, tmp_path / "shop"))


def ran(shop: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["diff", *arguments, "--project", str(shop), "--as-of", str(NOW)])


def test_a_recorded_form_the_file_and_what_a_model_was_trained_on_are_the_same_until_the_file_changes(
    shop: Path,
) -> None:
    with Platform.open(shop, variables={}).at(NOW) as platform:
        assert not platform.features.diff("prices", 1, "working").differ
        assert not platform.features.diff("prices", "demand@1", 1).differ
    equal = ran(shop, "prices", "demand@1", "working")
    assert equal.exit_code == 0, equal.output
    # when the file computes one feature in another way, and adds one
    path = shop / VIEW
    text = path.read_text("utf-8")
    assert "    price_eur,\n" in text
    path.write_text(
        text.replace("    price_eur,\n", "    price_eur + 1 as price_eur,\n    2.0 as fixed,\n", 1), "utf-8"
    )
    # then values and schema are told apart, and only where they differ
    other = ran(shop, "prices", "demand@1", "working", "--json")
    assert other.exit_code == 1
    found = json.loads(other.stdout)
    assert (found["differ"], found["added"], found["computation"]) == (True, ["fixed"], "the computation changed")
    assert found["rows_a"] == found["rows_b"] == found["rows_both"] > 0
    price = found["features"][0]
    assert (price["feature"], price["share"], price["mean_absolute"]) == ("price_eur", 1.0, pytest.approx(1))
    assert len(price["examples"]) == 3
    assert all(one["b"] == pytest.approx(one["a"] + 1) and "item_id" in one["key"] for one in price["examples"])
    assert [one["differing"] for one in found["features"][1:]] == [0, 0]
    people = ran(shop, "prices", "1", "working")
    assert people.exit_code == 1
    assert "examples" in people.stdout


def test_the_file_at_two_moments_says_what_changed_between(played: Path) -> None:
    earlier = STORY.morning(6)
    with Platform.open(played, variables={}).at(NOW) as platform:
        found = platform.features.diff("prices", earlier, "working")
        assert (found.at_a, found.at_b, found.a) == (earlier, NOW, f"{earlier:%Y-%m-%dT%H:%M:%S}")
        assert found.rows_both
        assert found.other_times == found.rows_both  # each item has a newer row
        same = platform.features.diff("prices", f"1:{earlier:%Y-%m-%dT%H:%M}", f"{earlier:%Y-%m-%dT%H:%M}")
        assert not same.differ


def test_a_view_that_another_project_published_is_compared_by_its_forms(shop: Path, tmp_path: Path) -> None:
    path = shop / VIEW
    path.write_text(path.read_text("utf-8").replace("/* ---\n", "/* ---\npublish = true\n", 1), "utf-8")
    with Platform.open(shop, variables={}).at(NOW) as platform:
        platform.features.build("prices")
        name = platform.settings.project.name
    other = tmp_path / "other"
    other.mkdir()
    (other / "towpath.toml").write_text(
        f'[project]\nname = "other"\nteam = "b"\n[stores]\nobjects = "{shop}/.towpath/objects"\n'
        f'[warehouse]\nurl = "duckdb://{shop}/warehouse"\n'
    )
    with Platform.open(other, variables={}).at(NOW) as platform:
        found = platform.features.diff(f"{name}/prices", 1, "working")
        assert (found.differ, found.rows_both) == (False, found.rows_a)
        shown = platform.features.show(f"{name}/prices")
        assert (shown["entity"], shown["forms"], shown["used_by"]) == (
            {"item_id": "string"},
            1,
            (f"{name}/demand@1 (champion)",),
        )
        # and plan says who builds it, and how fresh it is; a build of it is refused
        (row,) = platform.features.plan(f"{name}/prices")
        assert (row.version, row.work, row.rows, row.needed_by) == (1, "nothing", 0, ("demand@1 (champion)",))
        assert row.because.startswith(f"'{name}' builds it: last built ")
        assert "; 1 form, the newest published " in row.because
        with pytest.raises(InputError, match=f"'{name}/prices' is built by its own project '{name}'"):
            platform.features.build(f"{name}/prices")
        for ask in (platform.features.plan, platform.features.build):
            with pytest.raises(UnknownError, match=f"no published view '{name}/price'; did you mean"):
                ask(f"{name}/price")
        with pytest.raises(UnknownError, match=r"no form '7'; there are: 1 .*; working; demand@1"):
            platform.features.diff(f"{name}/prices", 7, 1)
        with pytest.raises(UnknownError, match=f"no published view '{name}/price'; did you mean"):
            platform.features.diff(f"{name}/price", 1, "working")


def test_a_form_that_is_not_there_is_refused_with_those_that_are(played: Path) -> None:
    with Platform.open(played, variables={}).at(NOW) as platform:
        for called in ("2", "0", "demand@9", "nobody@1", "head"):
            with pytest.raises(UnknownError, match=f"no form '{called}'; there are: 1 .*; working; demand@1"):
                platform.features.diff("prices", called, "working")
        with pytest.raises(UnknownError, match="did you mean 'prices'"):
            platform.features.diff("price", 1, "working")
