"""A minute of everything at once; `just soak` does the same for half an hour."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.slow
def test_fifty_swaps_and_three_killed_workers_cost_no_answer_no_record_and_no_memory() -> None:
    asked = [sys.executable, str(SOAK), "--seconds", "60", "--swaps", "50", "--kills", "3"]
    ran = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-1_000:] + ran.stderr[-3_000:]
    said = json.loads(ran.stdout.splitlines()[-1])
    assert (said["wrong"], said["unanswered"], said["lost_of_the_journal"]) == (0, 0, 0)
    assert (said["swaps"], said["kills"]) == (50, 3)
    assert said["champion"] > 1_000
