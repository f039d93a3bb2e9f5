"""A .sql file: header and body apart, lines true, parameters compiled from the tree, nothing that differs from run to run."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.errors import ProjectError
from towpath.sql import Query, quoted
from towpath.warehouse.engine import Engine

names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)


def _problem(text: str) -> str:
    with pytest.raises(ProjectError) as caught:
        assert Query.parse(text, "q.sql").tree
    assert len(caught.value.problems) == 1, caught.value.problems
    return caught.value.problems[0]


@given(
    lead=st.integers(0, 3),
    gap=st.integers(1, 3),
    keys=st.lists(names, unique=True, max_size=4),
    between=st.integers(0, 3),
)
def test_header_and_body_are_told_with_their_true_lines(lead: int, gap: int, keys: list[str], between: int) -> None:
    header = "".join(f"{key} = {i}\n" for i, key in enumerate(keys))
    text = "\n" * lead + "/* ---" + "\n" * gap + header + "--- */" + "\n" * between + " select 1 as one"
    query = Query.parse(text)
    lines = text.split("\n")
    assert query.header == tomllib.loads(header)
    assert query.body.strip() == "select 1 as one"
    assert "select" in lines[query.select_line - 1]
    if keys:
        assert lines[query.header_line - 1].startswith(keys[0])


@given(names)
def test_a_parameter_is_compiled_and_a_text_or_a_cast_is_not(name: str) -> None:
    query = Query.parse(f"select ':{name}' as a, x::text as b, ':x' || :{name}_p as c -- :{name}_q\nfrom t")
    assert query.parameters == (f"{name}_p",)
    assert f"':{name}'" in query.in_dialect("duckdb")
    assert f"${name}_p" in query.in_dialect("duckdb")


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=12)
)
def test_any_name_can_be_quoted(name: str) -> None:
    engine = Engine(64, 1)
    table = engine.read(f"select 1 as {quoted(name)}")
    engine.close()
    assert table.column_names == [name]


@pytest.mark.parametrize(
    "asked",
    [
        "now()", "current_date", "current_timestamp", "today()", "current_time", "localtimestamp", "get_current_timestamp()",
        "random()", "uuid()", "gen_random_uuid()", "nextval('s')", "age(day)", "NOW()", "now ()", "current_localtimestamp()",
    ],
)  # fmt: skip
def test_time_and_chance_are_refused_on_their_line(asked: str) -> None:
    said = _problem(
        f"/* ---\na = 1\n--- */\n-- {asked} in a comment\nselect '{asked.replace(chr(39), '')}' as a,\n  {asked} as b\nfrom t"
    )
    assert said.startswith("q.sql:6: '")
    assert said.endswith("is not replayable; use :as_of, :since or :until")


@pytest.mark.parametrize("asked", ["from t using sample 10", "from t tablesample 10%"])
def test_a_sample_is_chance(asked: str) -> None:
    assert "'sample' is not replayable" in _problem(f"select *\n{asked}")


@pytest.mark.parametrize(
    "sql",
    ["select now, random, today from t", "select age(a, b) from t", "select x.current_day from x", "select 'now()'"],
)
def test_columns_and_texts_of_such_names_are_fine(sql: str) -> None:
    assert Query.parse(sql).tree is not None


def test_each_place_that_asks_for_the_time_is_named() -> None:
    with pytest.raises(ProjectError) as caught:
        assert Query.parse("select now() as a,\n random() as b,\n now() as c", "q.sql").tree
    assert [problem.split(" is")[0] for problem in caught.value.problems] == [
        "q.sql:1: 'now()'",
        "q.sql:2: 'random()'",
        "q.sql:3: 'now()'",
    ]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("select 1; select 2", "2 statements where one SELECT is needed"),
        ("", "0 statements where one SELECT is needed"),
        ("-- nothing", "0 statements where one SELECT is needed"),
        ("insert into t values (1)", "a INSERT where one SELECT is needed"),
        ("drop table t", "a DROP where one SELECT is needed"),
        ("create table t as select 1", "a CREATE where one SELECT is needed"),
        ("copy t to 'x'", "a COPY where one SELECT is needed"),
        ("attach 'x' as y", "a ATTACH where one SELECT is needed"),
        ("pragma threads=1", "where one SELECT is needed"),
        ("set threads = 1", "a SET where one SELECT is needed"),
        ("with d as (delete from t returning *) select * from d", "where one SELECT is needed"),
    ],
)
def test_only_one_select_is_let_through(sql: str, said: str) -> None:
    assert said in _problem(sql)


@pytest.mark.parametrize(
    ("sql", "line"),
    [
        ("select a,\n b from\n where x", 3),
        ("/* ---\na = 1\n--- */\n\nselect (a\nfrom t", 6),
        ("select a b c from t", 1),
        ("select 1,\n 'abc\n", 2),
        ("/* ---\na = 1\nb = = 2\n--- */\nselect 1", 3),
        ("\n\n/* ---\na = 1", 3),
        ("/* ---\n\n\na = 1\na = 2\n--- */ select 1", 5),
    ],
)
def test_a_fault_is_on_its_line(sql: str, line: int) -> None:
    assert _problem(sql).startswith(f"q.sql:{line}: ")


def test_tables_are_those_that_are_read_and_not_what_the_query_names_itself() -> None:
    sql = "with a as (select * from s.x), b as (select * from a join y using (k)) select * from b, (select 1 from s.z) union select * from w"
    assert Query.parse(sql).tables == ("s.x", "s.z", "w", "y")


def test_a_parameter_that_nobody_binds_is_refused_with_the_nearest_and_its_line() -> None:
    query = Query.parse("select ':asof' as a, -- :asof\n b::date as b\nfrom t where d <= :asof", "q.sql")
    with pytest.raises(ProjectError) as caught:
        query.check_parameters(["as_of", "since"])
    assert caught.value.problems == ("q.sql:3: unknown parameter ':asof'; did you mean 'as_of'?",)
    query.check_parameters(["asof"])


def test_a_query_compiles_for_another_engine() -> None:
    text = Query.parse("select a::double as a from t where d <= :as_of").in_dialect("postgres")
    assert text == "SELECT CAST(a AS DOUBLE PRECISION) AS a FROM t WHERE d <= %(as_of)s"


@pytest.mark.parametrize(("written", "mend"), [("$since", ":since"), ("?", ":name"), ("$1", ":1")])
def test_there_is_one_spelling_of_a_parameter(written: str, mend: str) -> None:
    said = _problem(f"select a, '$x ?' as b\nfrom t -- $y ?\nwhere d < {written}")
    assert said == f"q.sql:3: '{written}' is no parameter here; write {mend}"


def test_dollars_in_names_and_texts_are_fine() -> None:
    assert Query.parse('select a$b, "$c", $$ $d ? $$ as e from t').tree is not None


@pytest.mark.parametrize("sql", ["select :as_of as moment from t", "select a, (:as_of) as b from t"])
def test_a_column_that_begins_with_a_parameter_is_told_to_cast_it(sql: str) -> None:
    assert "write cast(:name as …)" in _problem(sql)


def test_a_parameter_that_is_cast_may_begin_a_column() -> None:
    assert Query.parse("select cast(:as_of as date) as moment from t").parameters == ("as_of",)
