"""A build of all views, of which some fail."""

from pathlib import Path

import pytest

from towpath.cli import main
from towpath.clock import FixedClock
from towpath.errors import InputError, ProjectError
from towpath.platform import Platform
from towpath.project import Answers, init
from towpath.types import utc

NOW = utc("2026-03-01T08:00")
VIEW = """/* ---
entity = "item_id"
event_time = "day_end"
--- */
select item_id, cast(day as timestamp) as day_end, {column} from shop.sales
"""
FUNCTION = '''"""Says whether there is any.

---
[inputs]
one = "broken.one"

[outputs]
any = "double"
---
"""


def anything(one):
    """A number."""
    return {"any": one}
'''


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A project whose views run, but for one or two."""
    init(tmp_path / "shop", Answers(name="shop", team="area", owner="ana"), clock=FixedClock("2026-03-01"))
    features = tmp_path / "shop/features"
    (features / "broken.sql").write_text(VIEW.format(column="gone as one"))
    (features / "anything.py").write_text(FUNCTION)
    (features / "zeal.sql").write_text(VIEW.format(column="units as one"))
    return tmp_path / "shop"


def test_a_view_that_fails_stops_no_other_and_what_hangs_on_it_is_named(shop: Path) -> None:
    with Platform.open(shop, clock=FixedClock(NOW), variables={}) as platform:
        with pytest.raises(ProjectError, match="gone") as told:
            platform.features.build()
        assert "broken.sql:5" in told.value.where
        assert "hangs on it: on-demand 'anything'" in told.value.what
        assert "built: item_sales, zeal" in told.value.what
        online = {row.view: row.online_rows or 0 for row in platform.features.list()}
        assert online["item_sales"] > 0
        assert online["zeal"] > 0
        # asked for alone it is the error itself
        with pytest.raises(ProjectError, match="gone") as alone:
            platform.features.build("broken")
        assert "built:" not in alone.value.what
        # and of two each is said
        (shop / "features/awry.sql").write_text(VIEW.format(column="lost as one"))
    with (
        Platform.open(shop, clock=FixedClock(NOW), variables={}) as again,
        pytest.raises(ProjectError, match="2 of 4") as both,
    ):
        again.features.build()
    assert [("awry.sql:5" in said, "broken.sql:5" in said) for said in both.value.problems] == [
        (True, False),
        (False, True),
    ]


def test_a_fault_that_the_engine_tells_has_its_line_also_among_others(shop: Path) -> None:
    wordy = VIEW.format(column="units as one").replace("cast(day as timestamp)", "cast(day as text)")
    (shop / "features/wordy.sql").write_text(wordy)
    told = "features/wordy.sql:3: 'day_end' is string and no time; cast it to timestamp in the SELECT"
    with Platform.open(shop, clock=FixedClock(NOW), variables={}) as platform:
        with pytest.raises(ProjectError, match="2 of 4") as both:
            platform.features.build()
        assert both.value.problems[1] == told
        assert {row.view: row.error for row in platform.features.list()}["wordy"] == told
        assert {row.view: row.because for row in platform.features.plan()}["wordy"] == told


def test_the_command_shows_what_was_built_and_exits_as_a_fault(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["features", "build", "--project", str(shop), "--as-of", "2026-03-01T08:00"])
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert "item_sales" in said.out
    assert "zeal" in said.out
    assert "broken.sql:5" in said.err


def test_a_key_of_another_type_and_a_view_that_nobody_built_are_no_missing_rows(shop: Path) -> None:
    numbered = VIEW.format(column="units").replace("item_id", "n").replace("select n", "select cast(7 as bigint) as n")
    (shop / "features/numbered.sql").write_text(numbered.replace("\n--- */", "\nonline = false\n--- */"))
    with Platform.open(shop, clock=FixedClock(NOW), variables={}) as platform:
        never = platform.features.get("numbered", ["7"])
    assert never["missing"] == {"numbered.units": "it is never online: online = false in features/numbered.sql:4"}
    (shop / "features/numbered.sql").write_text(numbered)
    with Platform.open(shop, clock=FixedClock(NOW), variables={}) as platform:
        with pytest.raises(InputError, match="The key 'n' is 'seven', which is no int64") as told:
            platform.features.get("numbered", ["seven"])
        assert told.value.where == "features/numbered.sql:2"
        before = platform.features.get("numbered", ["7"])
        assert before["missing"] == {"numbered.units": "nothing of it is online yet: tow features build numbered"}
        platform.features.build("numbered")
        assert platform.features.get("numbered", ["7"])["missing"] == {}
        assert platform.features.get("numbered", ["8"])["missing"] == {"numbered.units": "no row for this key"}
