"""Fixtures that several rooms share: the real data, and engines that are skipped by name where they are missing."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Two busy cores make any deadline a coin toss; how fast things are is what benchmarks/ says.
settings.register_profile("towpath", deadline=None)
settings.load_profile("towpath")


def missing(what: str, mend: str) -> None:
    """Skip by name on a laptop; fail where CI promised the engine."""
    message = f"{what} is missing ({mend})"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data: ``TOWPATH_DATA``, else ``../shared/data`` beside the checkout."""
    named = os.environ.get("TOWPATH_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data is missing (set TOWPATH_DATA; looked in '{folder}')")
    return folder


@pytest.fixture(autouse=True)
def _no_foreign_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("TOWPATH__") or n in {"TOWPATH_ENV", "TOWPATH_OUTPUT"}]:
        monkeypatch.delenv(name)
