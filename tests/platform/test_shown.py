"""What a notebook shows of the platform: tables that are small, escaped, and never an exception."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import towpath
from towpath.errors import InputError, ProjectError
from towpath.platform import Platform
from towpath.platform.shown import as_html, as_text, or_the_fault

FUNCTION = '"""Half.\n\n---\n[inputs]\na = "double"\n\n[outputs]\nb = "double"\n---\n"""\n\n\ndef half(a):\n    return {"b": a / 2}\n'

cells = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just(("a", "b")))


@pytest.fixture
def begun(tmp_path: Path) -> Platform:
    from towpath.clock import SystemClock
    from towpath.project import Answers, init

    init(tmp_path, Answers(name="shop", team="forecasting"), clock=SystemClock())
    (tmp_path / "features/half.py").write_text(FUNCTION)
    return towpath.open(tmp_path)


def test_what_makes_no_training_set_is_refused_by_what_was_given(begun: Platform) -> None:
    import pandas as pd
    import polars as pl

    at = datetime(2026, 3, 1, tzinfo=UTC)
    rows = pd.DataFrame({"item_id": ["item_01", "item_02"], "at": [at, at]}, index=[7, 9])
    ask = begun.features.training_set
    # given a frame with a nameless index, then it is no column
    assert ask(rows, ["item_sales.price_eur"], time="at").column_names == ["item_id", "at", "item_sales.price_eur"]
    # and what is no table says what it is
    lazy: Any = pl.from_pandas(rows).lazy()
    nothing: Any = None
    for spine, said in (
        (rows.assign(item_id=["item_01", 2]), "The spine is a pandas.* and makes no table: .*column item_id"),
        (lazy, "The spine is a LazyFrame"),
        (nothing, "The spine is a NoneType and makes no table"),
    ):
        with pytest.raises(InputError, match=said):
            ask(spine, ["item_sales.*"], time="at")
    with pytest.raises(InputError, match="What is pushed is a NoneType and makes no table"):
        begun.features.push("item_sales", nothing)
    # and so do features that are no list, or name no view, and a moment that is none of the two
    with pytest.raises(InputError, match=r"one text, 'item_sales\.\*', and no list"):
        ask(rows, "item_sales.*", time="at")
    with pytest.raises(InputError, match="'price_eur' says no view"):
        begun.features.read(["price_eur"], {"item_id": ["item_01"]})
    otherwise: Any = "knwon"
    with pytest.raises(InputError, match="as_of is 'knwon'"):
        ask(rows, ["item_sales.*"], time="at", as_of=otherwise)


def test_the_folder_is_a_path_or_its_text(tmp_path: Path) -> None:
    (tmp_path / "towpath.toml").write_text('[project]\nname = "empty"\nteam = "a"\n', "utf-8")
    for folder in (tmp_path, str(tmp_path)):
        with towpath.open(folder) as first, Platform.open(folder) as second:
            assert first.folder == second.folder == tmp_path.resolve()


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=60))
def test_whatever_the_cells_hold_there_is_one_line_for_each_row_up_to_fifty(rows: list[tuple[object, object]]) -> None:
    table = [{"a": first, "b": second} for first, second in rows]
    assert len(as_text("Rows", table).splitlines()) == 2 + min(len(rows), 51)
    assert as_html("Rows", table).count("<tr>") == 1 + min(len(rows), 51)


@given(st.text(), st.text())
def test_nothing_that_people_wrote_becomes_markup(title: str, cell: str) -> None:
    text = as_html(title, [{cell: cell}])
    tags = {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    parts = text.replace("</", "<").split("<")[1:]
    assert {part.split(">")[0] for part in parts} <= tags


def test_a_fault_is_shown_and_not_raised() -> None:
    def shown() -> str:
        raise ProjectError("The <b> is wrong.", where="towpath.toml")

    assert "The <b> is wrong." in or_the_fault(shown)
    assert "The &lt;b&gt; is wrong." in or_the_fault(shown, html=True)


def test_cells_read_well() -> None:
    row = {"at": datetime(2026, 4, 13, 6, tzinfo=UTC), "share": 0.123456, "yes": True, "none": None, "few": ("a", "b")}
    assert as_text("One", [row]).split()[-6:] == ["06:00", "0.1235", "yes", "-", "a,", "b"]


def test_a_new_project_has_readable_reprs_everywhere(begun: Platform) -> None:
    with begun:
        assert repr(begun).startswith("Platform('shop' of 'forecasting' at ")
        assert repr(begun.models).splitlines()[0] == "1 model of shop"
        assert repr(begun.models["demand"]) == "Model demand: standard, no champion yet"
        assert "item_sales" in repr(begun.features)
        assert repr(begun.features).splitlines()[-1].split() == ["half", "-", "-", "-", "-", "-"]
        assert repr(begun.watch).startswith("no open incidents in ")
        for shown in (begun, begun.models, begun.models["demand"], begun.features, begun.watch):
            ET.fromstring(shown._repr_html_())


def test_a_broken_project_shows_its_problems(begun: Platform) -> None:
    (begun.folder / "models" / "demand" / "model.toml").write_text("tier = 3\n")
    with begun:
        assert "models/demand/model.toml" in repr(begun.models)
        assert begun.models._repr_html_().startswith("<pre>")
        assert "<table>" in begun._repr_html_()


def test_a_password_in_a_url_is_not_shown(begun: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOWPATH__STORES__CATALOG", "postgresql://tow:hunter2@db/catalog")
    with towpath.open(begun.folder) as platform:
        assert "postgresql://" in platform._repr_html_()
        assert "hunter2" not in platform._repr_html_() + repr(platform)


@pytest.mark.slow
def test_a_played_project_shows_champion_verdict_and_incident(played: Path) -> None:
    with towpath.open(played) as platform:
        assert "@1 passed" in repr(platform.models)
        assert "critical, champion @1" in repr(platform.models["demand"])
        assert "2026-04-13 06:00" in platform.models["demand"]._repr_html_()
        assert repr(platform.watch).startswith("1 open incident in ")
        assert "did_it_run" in platform.watch._repr_html_()
        assert "sales_windows" in platform.features._repr_html_()


def test_showing_a_project_loads_no_data_frame_library(begun: Platform) -> None:
    code = (
        "import sys, towpath\n"
        f"p = towpath.open({str(begun.folder)!r})\n"
        "[x._repr_html_() + repr(x) for x in (p, p.models, p.models['demand'], p.features, p.watch)]\n"
        "print([n for n in ('pandas', 'polars', 'rich', 'sklearn', 'IPython') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
