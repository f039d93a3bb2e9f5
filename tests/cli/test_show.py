"""What a command shows: a table for people, JSON when asked, and a pipe changes nothing but colour, width and progress."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import click
import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.cli.show import show, working
from towpath.errors import InputError


class Row(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    calls: int | None = None
    share: float = 0.5
    at: datetime = datetime(2026, 3, 1, tzinfo=UTC)
    parts: tuple[str, ...] = ()


Capture = pytest.CaptureFixture[str]


def _json(capsys: Capture, value: object) -> object:
    show(value, as_json=True)
    return json.loads(capsys.readouterr().out)


def test_a_list_of_structs_is_a_table_with_a_line_each(capsys: Capture) -> None:
    show([Row(name="demand", calls=12), Row(name="search", parts=("a", "b"))])
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "calls", "share", "at", "parts"]
    assert first.split() == ["demand", "12", "0.5", "2026-03-01", "00:00", "-"]
    assert second.split() == ["search", "-", "0.5", "2026-03-01", "00:00", "a,", "b"]


def test_a_struct_is_a_line_for_each_field(capsys: Capture) -> None:
    show(Row(name="demand"))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "name",
        "calls",
        "share",
        "at",
        "parts",
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": 1, "b": None}, {"a": 1, "b": None}),
        ([{"a": 1}, {"b": 2}], [{"a": 1}, {"b": 2}]),
        (pa.table({"a": [1, None], "t": [datetime(2026, 3, 1, tzinfo=UTC)] * 2}), [{"a": 1, "t": "2026-03-01T00:00:00+00:00"}, {"a": None, "t": "2026-03-01T00:00:00+00:00"}]),
        (np.array([1.5, 2.5]), [1.5, 2.5]),
        (np.float64(1.5), 1.5),
        ({1: Path("a/b")}, {"1": "a/b"}),
        ((timedelta(hours=36), date(2026, 3, 1), b"x"), ["36h", "2026-03-01", "x"]),
        ("text", "text"),
        (None, None),
        ([], []),
        (float("nan"), None),
        ({"deep": [Row(name="x")]}, {"deep": [{"name": "x", "calls": None, "share": 0.5, "at": "2026-03-01T00:00:00+00:00", "parts": []}]}),
    ],
)  # fmt: skip
def test_json_has_the_same_values_in_plain_types(capsys: Capture, value: object, expected: object) -> None:
    assert _json(capsys, value) == expected


def test_an_arrow_table_is_a_table(capsys: Capture) -> None:
    show(pa.table({"model": ["demand"], "wape": [0.2134567]}))
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["model", "wape"], ["demand", "0.2135"]]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(12_903.0, "12903"), (9_999.7, "10000"), (9_999.4, "9999"), (0.36514, "0.3651"), (-2.5e7, "-25000000")],
)
def test_people_read_no_exponents(capsys: Capture, value: float, shown: str) -> None:
    show({"bookings": value})
    assert capsys.readouterr().out.split()[-1] == shown


def test_nothing_is_said_in_words_to_people_and_as_a_list_to_programs(capsys: Capture) -> None:
    show([], empty="No model yet.")
    assert capsys.readouterr().out == "No model yet.\n"
    assert _json(capsys, []) == []


def test_the_environment_asks_for_json_too(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOWPATH_OUTPUT", "json")
    show({"a": 1})
    assert json.loads(capsys.readouterr().out) == {"a": 1}


def test_an_unknown_output_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOWPATH_OUTPUT", "jsn")
    with pytest.raises(InputError, match="did you mean 'json'"):
        show({})


def test_through_a_pipe_nothing_is_cut_and_nothing_is_coloured(capsys: Capture) -> None:
    show([{"a": "x" * 500, "b": "y" * 500}])
    out = capsys.readouterr().out
    assert "x" * 500 in out
    assert "y" * 500 in out
    assert "\x1b" not in out


def test_brackets_in_a_value_are_no_markup(capsys: Capture) -> None:
    show([{"a": "[red]x[/red] :smile:"}])
    assert "[red]x[/red] :smile:" in capsys.readouterr().out


@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=5),
            st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
            max_size=3,
        ),
        max_size=3,
    )
)
def test_whatever_is_shown_as_json_reads_back_the_same(rows: list[dict[str, object]]) -> None:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        show(rows, as_json=True)
    assert json.loads(out.getvalue()) == rows


def test_progress_is_for_terminals_alone(capsys: Capture) -> None:
    with working("training demand"):
        pass
    assert capsys.readouterr() == ("", "")


def test_where_a_terminal_has_no_room_for_the_columns_a_row_is_a_record(tmp_path: Path) -> None:
    import os
    import pty
    import subprocess
    import sys

    def seen(columns: int) -> list[str]:
        rows = "[{'model': 'demand', 'owner': 'forecasting', 'state': 'live'}, {'model': 'search', 'owner': 'web', 'state': 'live'}]"
        master, worker = pty.openpty()
        subprocess.run(
            [sys.executable, "-c", f"from towpath.cli.show import show; show({rows})"],
            stdout=worker,
            check=True,
            env=os.environ | {"COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "xterm"},
        )
        os.close(worker)
        text = click.unstyle(os.read(master, 10_000).decode())
        os.close(master)
        return [" ".join(line.split()) for line in text.splitlines() if line.strip()]

    assert seen(80) == ["model owner state", "demand forecasting live", "search web live"]
    assert seen(20) == ["model demand", "owner forecasting", "state live", "model search", "owner web", "state live"]
