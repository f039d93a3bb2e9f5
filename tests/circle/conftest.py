"""Lets the tests of the circle share `circle_stand`, and one trained project."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from circle_stand import copied, crowned


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one promoted version; read it, and copy it to change it."""
    return crowned(tmp_path_factory.mktemp("prepared") / "shop")


@pytest.fixture
def project(prepared: Path, tmp_path: Path) -> Path:
    """A promoted project of the test's own."""
    return copied(prepared, tmp_path / "shop")
