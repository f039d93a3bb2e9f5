"""A whole project that tests break in one place each."""

from collections.abc import Callable
from pathlib import Path

import pytest

from towpath.clock import FixedClock
from towpath.project import Answers, init, problems

Shop = Callable[..., list[str]]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A project as ``tow init`` writes it."""
    folder = tmp_path / "shop"
    init(folder, Answers(name="shop", team="forecasting"), clock=FixedClock("2026-03-01"))
    return folder


@pytest.fixture
def faults() -> Callable[[Path], list[str]]:
    """Every problem as text; no variables of the machine."""
    return lambda folder: [str(problem) for problem in problems(folder, {})]
