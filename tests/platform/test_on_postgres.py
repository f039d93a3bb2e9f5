"""A project over PostgreSQL: pushed rows beside history, ill sources, and a training set that can be proved."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from postgres_server import PostgresServer
from towpath import features as room
from towpath.clock import FixedClock
from towpath.errors import ProjectError
from towpath.platform import Platform
from towpath.platform.own_landing import on_own_landing
from towpath.sql import Query
from warehouse_stand import AdbcStand

START = datetime(2026, 3, 9, tzinfo=UTC)
CLICKS = """/* ---
entity = "id"
event_time = "event"
created_time = "landed_at"
--- */
with rows as (
    select id, event, landed_at, x, note from marts.history
    union all
    select id, event, landed_at, x, note from landing.clicks
)
select id, event, landed_at, x, note, date_trunc('day', event) + interval '1 day' as next_day, x::numeric(9, 2) as price from rows
"""


def at(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.fixture
def server(postgres: PostgresServer) -> Iterator[AdbcStand]:
    opened = AdbcStand(postgres.database())
    opened.land(
        pa.table(
            {
                "id": ["a", "b"],
                "event": pa.array([at(1), at(2)], pa.timestamp("us", "UTC")),
                "landed_at": pa.array([at(1), at(2)], pa.timestamp("us", "UTC")),
                "x": [1.0, 2.0],
                "note": ["h", None],
            }
        ),
        "marts.history",
    )
    yield opened
    opened.close()


@pytest.fixture
def folder(server: AdbcStand, tmp_path: Path) -> Path:
    (tmp_path / "features").mkdir()
    (tmp_path / "towpath.toml").write_text(
        f'[project]\nname = "shop"\nteam = "area"\n[warehouse]\nurl = "{server.url}"\nmemory_mib = 64\n'
    )
    (tmp_path / "features" / "clicks.sql").write_text(CLICKS)
    return tmp_path


def opened(folder: Path, moment: datetime) -> Platform:
    return Platform.open(folder, clock=FixedClock(moment), variables={})


def spine(*moments: tuple[str, int]) -> pa.Table:
    return pa.table(
        {"id": [key for key, _ in moments], "t": pa.array([at(s) for _, s in moments], pa.timestamp("us", "UTC"))}
    )


def test_pushed_rows_stand_beside_history_in_reads_builds_and_training_sets(folder: Path) -> None:
    with opened(folder, at(10)) as platform:
        assert platform.warehouse.read(Query.parse("select * from landing.clicks")).num_rows == 0
        platform.features.build("clicks")
        answer = platform.features.push(
            "clicks",
            [
                {"id": "a", "event": at(5).isoformat(), "x": 5.5, "note": "né'w"},
                {"id": "c", "event": at(6).isoformat()},
            ],
        )
        assert (answer.accepted, answer.refused) == (2, 0)
        (landed, other) = platform.warehouse.read(
            Query.parse("select * from landing.clicks order by event")
        ).to_pylist()
        assert (landed["id"], landed["x"], landed["note"], landed["landed_at"]) == ("a", 5.5, "né'w", at(10))
        assert (other["id"], other["x"]) == ("c", None)
        joined = platform.features.training_set(
            spine(("a", 4), ("a", 11), ("b", 11), ("c", 11)), features=["clicks.x", "clicks.price"], time="t"
        )
        assert joined.column("clicks.x").to_pylist() == [1.0, 5.5, 2.0, None]
    with opened(folder, at(20)) as platform:
        platform.features.build("clicks", full=True)
        values = platform.features.read(["clicks.x", "clicks.note"], {"id": ["a", "b", "c"]})
        assert values["clicks.note"].tolist() == ["né'w", None, None]
        older = platform.features.recorded(platform.features.view("clicks"))
    # and a form that the file does not have any more reads them in its own types
    view = folder / "features" / "clicks.sql"
    view.write_text(view.read_text().replace("x, note", "cast(x as text) as x"))
    with opened(folder, at(20)) as platform:
        assert platform.warehouse.describe(platform.features.view("clicks").query).field("x").type == "string"
        landed = Query.parse("select id, x from landing.clicks order by id")
        assert platform.warehouse.read(landed).to_pylist() == [{"id": "c", "x": None}]
        query = on_own_landing(platform, older).query
        rows = platform.warehouse.read(query).to_pylist()
        assert [(row["id"], row["x"]) for row in rows if row["note"] == "né'w"] == [("a", 5.5)]


def test_nothing_of_the_pushed_rows_stays_on_the_server(folder: Path, server: AdbcStand) -> None:
    with opened(folder, at(10)) as platform:
        platform.features.push("clicks", {"id": "a", "event": at(5).isoformat(), "x": 5.5})
        assert platform.warehouse.read(Query.parse("select * from landing.clicks")).num_rows == 1
    assert server.warehouse.tables() == ["marts.history"]


def test_a_table_of_the_companys_own_goes_before_the_pushed_rows(folder: Path, server: AdbcStand) -> None:
    server.run("create schema landing")
    server.run("create table landing.clicks as select * from marts.history")
    with opened(folder, at(10)) as platform:
        platform.features.push("clicks", {"id": "z", "event": at(5).isoformat(), "x": 5.5})
        assert set(platform.warehouse.read(Query.parse("select * from landing.clicks")).column("id").to_pylist()) == {
            "a",
            "b",
        }


def test_pushed_rows_without_history_beside_them_say_what_to_write(folder: Path) -> None:
    (folder / "features" / "clicks.sql").write_text(
        CLICKS.replace("union all", "where id not in (select id from landing.clicks)\nunion all")
    )
    with opened(folder, at(10)) as platform, pytest.raises(ProjectError, match="other than as one leg of a union"):
        platform.features.training_set(spine(("a", 4)), features=["clicks.x"], time="t")


def test_the_same_training_set_is_proved_until_a_row_changes(folder: Path, server: AdbcStand) -> None:
    with opened(folder, at(10)) as platform:

        def manifest() -> room.TrainingSetManifest:
            return room.manifest_of(platform.features.training_set(spine(("a", 4)), features=["clicks.x"], time="t"))

        first, second = manifest(), manifest()
        assert first.unproved == ()
        assert first.same_as(second)
        server.run("update marts.history set x = 9 where id = 'b'")
        assert first.differences(manifest()) == ("the table 'marts.history', which 'clicks' reads",)
        platform.features.push("clicks", {"id": "a", "event": at(5).isoformat(), "x": 5.5})
        assert set(second.differences(manifest())) == {
            "the table 'marts.history', which 'clicks' reads",
            "the table 'landing.clicks', which 'clicks' reads",
        }


@pytest.mark.parametrize(
    ("declared", "kinds"),
    [
        ('freshness = "30h"\nvolume = { at_least = 1, at_most = 30 }', []),
        ('columns = { landed_at = "time", x = "number", note = "text" }', []),
        ('freshness = "1h"', ["late"]),
        ("volume = { at_least = 20, at_most = 30 }", ["few"]),
        ('columns = { landed_at = "time", x = "text" }', ["columns"]),
        ('columns = { landed_at = "time", gone = "text" }', ["columns"]),
    ],
)
def test_a_source_is_ill_or_well_as_it_is_with_files(folder: Path, declared: str, kinds: list[str]) -> None:
    text = f'["marts.history"]\nowner = "ana"\nlanded_at = "landed_at"\n{declared}\n'
    (folder / "sources.toml").write_text(text, "utf-8")
    with opened(folder, START + timedelta(hours=25)) as platform:
        assert [one.kind for one in platform.sources.ill()] == kinds
