"""May this version answer? Tables and measurements in, a verdict out; ``gate.judge`` asks the questions."""

from towpath.gate.table import score_rows, segment_rows, verdict_rows
from towpath.gate.verdict import Verdict

# Light on purpose: `python -m towpath.gate.footprint` and the registry load this, and the judge brings numpy.
__all__ = ["Verdict", "score_rows", "segment_rows", "verdict_rows"]
