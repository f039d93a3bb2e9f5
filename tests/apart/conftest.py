"""Lets the tests of this room share `apart_stand`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
