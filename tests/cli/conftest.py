"""Lets the tests of this room start the servers of `test_server`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
