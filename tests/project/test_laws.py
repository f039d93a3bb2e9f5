"""Whatever stands in the files, `tow check` ends with a list of problems, and what has none can be read."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from towpath.project import problems, read
from towpath.project.start import toml_string

FILES = [
    "towpath.toml",
    "features/item_sales.sql",
    "metrics/short_units.sql",
    "models/demand/model.toml",
    "models/demand/training.sql",
    "models/demand/model.py",
    "models/demand/golden.jsonl",
    "monitors/demand/too_low.sql",
]
QUICK = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])

scalars = st.one_of(
    st.integers(-5, 5),
    st.booleans(),
    st.floats(allow_nan=True),
    st.sampled_from(["", "x", "demand", "7d", "item_sales.*", "wape"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "x"]), inner, max_size=2),
)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{toml_string(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, float):
        return "nan" if value != value else repr(value)  # noqa: PLR0124 - nan is not itself
    return toml_string(value) if isinstance(value, str) else msgspec.json.encode(value).decode()


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*place, key))


def _looked_at(shop: Path) -> None:
    """The law itself."""
    found = problems(shop, {})
    for problem in found:
        assert problem.line >= 1
        assert problem.what
        raw = (shop / problem.file).read_bytes() if (shop / problem.file).is_file() else b""
        lines = len(re.split(rb"\r\n|\r|\n", raw))  # a lone carriage return ends a line for Python, and in editors
        assert problem.line <= lines, problem
    if not found:
        assert read(shop, {}).name == tomllib.loads((shop / "towpath.toml").read_text("utf-8"))["project"]["name"]


@pytest.mark.parametrize("file", FILES)
@given(raw=st.binary(max_size=60), share=st.floats(0, 1))
@example(raw=b"\r\x01", share=0.0)
@QUICK
def test_no_bytes_break_it(shop: Path, file: str, raw: bytes, share: float) -> None:
    # given a file that is cut somewhere and goes on with anything
    whole = (shop / file).read_bytes()
    try:
        (shop / file).write_bytes(whole[: int(len(whole) * share)] + raw)
        # when it is looked at, then nothing but problems come of it
        _looked_at(shop)
    finally:
        (shop / file).write_bytes(whole)


@given(data=st.data())
@QUICK
def test_no_value_in_the_place_of_another_breaks_it(shop: Path, data: st.DataObject) -> None:
    # given a declaration in which one value is another
    file = data.draw(st.sampled_from(["towpath.toml", "models/demand/model.toml"]))
    whole = (shop / file).read_text()
    raw = tomllib.loads(whole)
    place = data.draw(st.sampled_from(list(_places(raw))))
    inner = raw
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = data.draw(values)
    try:
        (shop / file).write_text("\n".join(f"{key} = {_toml(value)}" for key, value in raw.items()))
        _looked_at(shop)
    finally:
        (shop / file).write_text(whole)


@given(data=st.data())
@QUICK
def test_no_value_in_a_header_breaks_it(shop: Path, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from([name for name in FILES if name.endswith(".sql")]))
    whole = (shop / file).read_text()
    header, _, body = whole.removeprefix("/* ---").partition("--- */")
    raw = tomllib.loads(header)
    raw[data.draw(st.sampled_from([*raw, "inputs", "features", "segments", "weight"]))] = data.draw(values)
    try:
        text = "\n".join(f"{key} = {_toml(value)}" for key, value in raw.items())
        (shop / file).write_text(f"/* ---\n{text}\n--- */{body}")
        _looked_at(shop)
    finally:
        (shop / file).write_text(whole)
