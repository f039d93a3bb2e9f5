"""A file says whose SQL it is written in: it is parsed, checked and followed so, and it runs as it was written."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from postgres_server import PostgresServer
from towpath import features
from towpath.errors import ProjectError
from towpath.features.lineage import lineage
from towpath.project.declarations import FeatureHeader
from towpath.project.folder import ViewFile
from towpath.sql import Query
from warehouse_stand import AdbcStand, FileStand

HEADER = "/* ---\nentity = 'id'\nevent_time = 'at'\ndialect = 'postgres'\n--- */\n"
NOON = datetime(2011, 7, 1, 12, tzinfo=UTC)
MOMENTS = {"as_of": NOON, "since": datetime(1900, 1, 1, tzinfo=UTC)}
VIEW = r"""
select distinct on (id)
    id,
    at,
    price::numeric(9,2) as price,
    pieces / 2 as half,
    date_trunc('day', at) as day,
    name ~ '^a[0-9]+$' as numbered,
    name ~* '^A' as starts_with_a,
    "Two Words" as two_words,
    tags @> array['new'] as is_new,
    'old' = any(tags) as is_old,
    cardinality(tags[1:2]) as first_tags,
    doc ->> 'colour' as colour,
    (doc #>> '{size,0}')::int as size,
    doc ? 'colour' as has_colour,
    doc ?| array['colour', 'none'] as has_any,
    doc @> '{"size": [4]}' as is_four,
    (select count(*) from generate_series(1, 3) as g(i) where g.i > 1)::int as series,
    E'it\'s' as said
from items
where at <= :as_of and at > :as_of::timestamptz - interval '7 days'
order by id, at desc, pieces desc nulls last
"""


def in_postgres(body: str, path: str = "features/v.sql") -> Query:
    return Query.parse(HEADER + body, path)


@pytest.fixture(scope="module")
def server(postgres: PostgresServer) -> Iterator[AdbcStand]:
    opened = AdbcStand(postgres.database())
    opened.run("""
        create table items (
            id text, at timestamptz, price float, pieces int, name text, "Two Words" text, tags text[], doc jsonb)
    """)
    opened.run("""
        insert into items values
            ('a', '2011-06-30 10:00Z', 1.239, 7, 'a1', 'x y', array['new', 'red', 'big'], '{"colour": "red", "size": [4]}'),
            ('a', '2011-06-30 09:00Z', 9, 9, 'a1', 'older', array['old'], '{}'),
            ('b', '2011-06-20 10:00Z', 9, 9, 'b', 'older than a week', array['old'], '{}'),
            ('c', '2011-07-01 11:00Z', 2, 5, 'AA', 'z', array['old'], '{"size": [5]}')
    """)
    yield opened
    opened.close()


def test_what_is_written_for_postgresql_runs_there_as_it_was_written(server: AdbcStand) -> None:
    first, second = server.warehouse.read(in_postgres(VIEW), {"as_of": NOON}).to_pylist()
    assert first == {
        "id": "a", "at": datetime(2011, 6, 30, 10, tzinfo=UTC), "price": 1.24, "half": 3,
        "day": datetime(2011, 6, 30, tzinfo=UTC), "numbered": True, "starts_with_a": True, "two_words": "x y",
        "is_new": True, "is_old": False, "first_tags": 2, "colour": "red", "size": 4, "has_colour": True,
        "has_any": True, "is_four": True, "series": 2, "said": "it's",
    }  # fmt: skip
    assert (second["id"], second["half"], second["numbered"], second["has_colour"]) == ("c", 2, False, False)


def test_a_view_of_it_is_described_joined_and_built(server: AdbcStand) -> None:
    query = in_postgres(VIEW)
    header = FeatureHeader(entity="id", event_time="at", dialect="postgres")
    view = features.describe(ViewFile(name="v", query=query, header=header), server.warehouse)
    spine = pa.table({"id": ["a", "b"], "t": pa.array([NOON, NOON], pa.timestamp("us", "UTC"))})
    joined = features.training_set(
        server.warehouse, spine, keys=["id"], time="t", features=["v.price", "v.half"], views={"v": view}, parameters=MOMENTS
    )  # fmt: skip
    assert joined.select(["v.price", "v.half"]).to_pylist() == [
        {"v.price": 1.24, "v.half": 3},
        {"v.price": None, "v.half": None},
    ]
    kept = features.lock({"v": view}, ["v.half"])[0]
    assert features.view_of_lock(kept).query.dialect == "postgres"


def test_lineage_follows_it() -> None:
    followed = lineage(in_postgres("select id, at, (doc ->> 'a')::int / b as q, x ~ 'a' as m from s.t where k ? 'a'"))
    assert {name: [str(each) for each in found or ()] for name, found in followed.columns.items()} == {
        "id": ["s.t.id"], "at": ["s.t.at"], "q": ["s.t.b", "s.t.doc"], "m": ["s.t.x"],
    }  # fmt: skip
    assert [str(each) for each in followed.rows or ()] == ["s.t.k"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("now()", "now"),
        ("current_timestamp", "current_timestamp"),
        ("clock_timestamp()", "clock_timestamp"),
        ("timeofday()", "timeofday"),
        ("random()", "random"),
        ("gen_random_uuid()", "gen_random_uuid"),
        ("age(at)", "age"),
        ("'now'::timestamptz", "now"),
        ("date 'today'", "today"),
    ],
)
def test_the_time_and_chance_are_refused_on_their_line(word: str, said: str) -> None:
    with pytest.raises(ProjectError) as caught:
        _ = in_postgres(f"select id,\n  at,\n  {word} as x\nfrom t").tree
    (problem,) = caught.value.problems
    assert problem.startswith("features/v.sql:8: '" + said)


def test_a_text_of_such_a_word_is_a_text() -> None:
    assert in_postgres("select 'now' as a, 'today'::text as b, age(a, b) as c from t").parameters == ()


@pytest.mark.parametrize("sign", ["$1", "$name"])
def test_foreign_parameters_are_refused_and_the_operator_of_json_is_not(sign: str) -> None:
    with pytest.raises(ProjectError, match=r"is no parameter here"):
        _ = in_postgres(f"select id from t where a = {sign}").tree
    assert in_postgres("select id from t where a ? 'k' and at < :as_of").parameters == ("as_of",)


def test_the_same_words_of_another_dialect_are_another_view(server: AdbcStand) -> None:
    prints = set[str]()
    for dialect in ("duckdb", "postgres"):
        query = Query.parse(HEADER.replace("postgres", dialect) + "select id, at, pieces / 2 as half from items")
        header = FeatureHeader(entity="id", event_time="at")
        prints.add(features.describe(ViewFile(name="v", query=query, header=header), server.warehouse).fingerprint)
    assert len(prints) == 2


def test_another_engine_does_not_guess_what_it_means(tmp_path: Path) -> None:
    stand = FileStand(tmp_path)
    name = stand.land(pa.table({"id": ["a"], "n": [7]}))
    query = in_postgres(f"select id, n / 2 as half from {name}")
    for ask in (stand.warehouse.describe, stand.warehouse.read):
        with pytest.raises(ProjectError, match="is written for 'postgres'") as caught:
            ask(query)
        assert caught.value.where == "features/v.sql:4"
    stand.close()


def test_other_engines_words_are_read_too() -> None:
    flat = Query.parse(
        "/* ---\ndialect = 'snowflake'\n--- */\nselect d:a.b::int as x from t qualify row_number() over (order by a) = 1"
    )
    assert "t" in flat.tables
    big = Query.parse(
        "/* ---\ndialect = 'bigquery'\n--- */\nselect safe_cast(a as int64) as x from `p.d.t` where at < :as_of"
    )
    assert (big.parameters, big.tables) == (("as_of",), ("p.d.t",))
    with pytest.raises(ProjectError, match="generate_uuid"):
        _ = Query.parse("/* ---\ndialect = 'bigquery'\n--- */\nselect generate_uuid() as x from t").tree


def test_the_words_of_the_project_reach_a_spine_without_a_header(server: AdbcStand) -> None:
    spine = Query.parse("select distinct on (id) id, at from items order by id, at", "spine", dialect="postgres")
    assert server.warehouse.read(spine).num_rows == 3
    assert spine.select_line == 1
    with pytest.raises(ProjectError, match="spine:2: 'now"):
        _ = Query.parse("select id,\nnow() as at from items", "spine", dialect="postgres").tree
