"""Views are listed, and read one row at a time, by people who wait for it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from towpath.cli.features import command
from towpath.clock import FixedClock
from towpath.errors import UnavailableError
from towpath.platform import Platform
from towpath.project import Answers, init
from towpath.types import utc

if TYPE_CHECKING:
    from tests.conftest import RedisServer

NOW = utc("2026-03-01T08:00")
SECOND = """/* ---
entity = "item_id"
event_time = "day_end"
--- */
select item_id, cast(day as timestamp) as day_end, units from shop.sales
"""


def test_views_are_listed_where_the_online_store_hangs_and_nobody_waits_long(
    own_redis: "RedisServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shop"
    init(folder, Answers(name="shop", team="area", owner="ana"), clock=FixedClock("2026-03-01"))
    (folder / "features/second.sql").write_text(SECOND)
    (folder / "features/awry.sql").write_text(SECOND.replace("units", "gone"))
    monkeypatch.setenv("TOWPATH__STORES__ONLINE", own_redis.url())
    with Platform.open(folder, clock=FixedClock(NOW)) as platform:
        platform.features.build("item_sales")
    arguments = ["--project", str(folder), "--as-of", str(NOW)]
    own_redis.pause()
    # given a store that takes connections and says nothing, then the views are listed as files and builds tell them
    ran = CliRunner().invoke(command, [*arguments, "--json"])
    assert ran.exit_code == 2
    rows = {row["view"]: row for row in json.loads(ran.stdout)}
    assert [rows[name]["state"] for name in ("item_sales", "second", "awry")] == ["built", "not built", "broken"]
    assert rows["item_sales"]["online_rows"] is None
    assert "does not answer in time (1 s): redis://" in rows["item_sales"]["rows_unknown"]
    assert "mend:  tow doctor" in ran.stderr
    # and one row is refused as soon
    platform = Platform.open(folder, clock=FixedClock(NOW))
    with platform, pytest.raises(UnavailableError, match=r"\(1 s\)"):
        platform.features.get("item_sales", ["x"])
    # when it goes on, then everything is known again
    own_redis.go_on()
    with Platform.open(folder, clock=FixedClock(NOW)) as platform:
        platform.online.tables()  # which waits longer
    ran = CliRunner().invoke(command, [*arguments, "--json"])
    assert ran.exit_code == 0, ran.output
    rows = {row["view"]: row for row in json.loads(ran.stdout)}
    assert rows["item_sales"]["online_rows"] > 0
    assert rows["item_sales"]["rows_unknown"] == ""
