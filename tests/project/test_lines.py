"""The line of a TOML key is the line a person sees in an editor."""

import tomllib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.project.lines import Lines

keys = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)
bare = st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
scalars = st.one_of(st.integers(-999, 999), st.booleans(), texts, st.floats(allow_nan=False, allow_infinity=False))
arrays = st.lists(scalars, max_size=4)
tables = st.dictionaries(st.one_of(bare, keys), st.one_of(scalars, arrays), max_size=4)
documents = st.dictionaries(
    st.one_of(bare, keys), st.one_of(scalars, arrays, tables, st.lists(tables, min_size=1, max_size=3)), max_size=5
)


def _key(name: str) -> str:
    return msgspec.json.encode(name).decode().replace("\x7f", "\\u007f")


def _value(value: object, gap: str) -> str:
    if isinstance(value, list):
        return "[" + gap + f",{gap}".join(_value(item, gap) for item in value) + gap + "]"
    return _key(value) if isinstance(value, str) else msgspec.json.encode(value).decode()


def _written(document: dict[Any, Any], gap: str) -> tuple[str, dict[Any, Any]]:
    """A TOML text, and the line on which each key was written."""
    lines: list[str] = []
    places: dict[Any, Any] = {}

    def put(text: str, place: tuple[Any, ...]) -> None:
        places[place] = sum(line.count("\n") + 1 for line in lines) + 1
        lines.append(text)

    plain = {
        k: v
        for k, v in document.items()
        if not isinstance(v, dict) and not (isinstance(v, list) and v and isinstance(v[0], dict))
    }
    for name, value in plain.items():
        put(f"{_key(name)} = {_value(value, gap)}", (name,))
    for name, value in document.items():
        if isinstance(value, dict):
            lines.append("# a [comment] with 'quotes\"")
            put(f"[{_key(name)}]", (name,))
            for inner, item in value.items():
                put(f"  {_key(inner)}={_value(item, gap)} # = [x]", (name, inner))
        elif name not in plain:
            for position, table in enumerate(value):
                put(f"[[ {_key(name)} ]]", (name, position))
                for inner, item in table.items():
                    put(f"{_key(inner)} = {_value(item, gap)}", (name, position, inner))
    return "\n".join(lines) + "\n", places


@given(document=documents, gap=st.sampled_from(["", "\n", " # why\n  "]), first=st.integers(1, 50))
def test_every_key_is_found_on_the_line_where_it_was_written(document: dict[Any, Any], gap: str, first: int) -> None:
    # given a text that means the document
    text, places = _written(document, gap)
    assert tomllib.loads(text) == document
    # when it is located
    lines = Lines(text, first)
    # then every key stands where it was put
    assert {place: lines.of(place) - first + 1 for place in places} == places


@pytest.mark.parametrize(
    ("text", "place", "line"),
    [
        ('a = """\n[b]\nc = 1\n"""\nc = 2\n', ("c",), 5),
        ("a = '''\nc = 1'''\nc = 2\n", ("c",), 3),
        ("a.b.c = 1\na.d = 2\n", ("a", "d"), 2),
        ("a.b.c = 1\na.d = 2\n", ("a", "b"), 1),
        ("t = { x = 1, y = { z = 2 } }\nu = 1\n", ("t", "y", "z"), 1),
        ("t = [\n  { x = 1 },\n  { x = 2 },\n]\n", ("t", 1, "x"), 3),
        ("[[a]]\nb = 1\n[a.c]\nd = 1\n[[a]]\nb = 2\n[a.c]\nd = 2\n", ("a", 1, "c", "d"), 8),
        ("\"a.b\" = 1\n'c d' = 2\n", ("c d",), 2),
        ("a = 1979-05-27 07:32:00\nb = 1\n", ("b",), 2),
        ("[a]\r\nb = 1\r\nc = 2\r\n", ("a", "c"), 3),
        ("a = 1\n", ("missing", "deep"), 1),
        ("\n[a]\nb = 1\n", ("a", "missing"), 2),
        ("", ("a",), 1),
    ],
)
def test_the_odd_corners_of_toml_do_not_shift_a_line(text: str, place: tuple[Any, ...], line: int) -> None:
    tomllib.loads(text)
    assert Lines(text).of(place) == line
