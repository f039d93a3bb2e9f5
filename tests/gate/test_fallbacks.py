import numpy as np

from towpath.gate.fallbacks import check_fallback
from towpath.project.declarations import FallbackDeclaration, OutputDeclaration

LINK = FallbackDeclaration(name="recent_mean", function="recent_mean", budget_ms=50)
OUTPUT = OutputDeclaration(low=0.0)


def test_a_link_that_answers_every_row_in_time_passes() -> None:
    check = check_fallback(LINK, OUTPUT, rows=2, values=np.array([1.0, 2.0]), one_row_ms=3.0)
    assert (check.name, check.passed, check.detail) == ("recent_mean", True, "answered 2 of 2 rows")


def test_each_way_to_fail_is_said() -> None:
    for values, error, one_row_ms, said in (
        (None, "ZeroDivisionError in model.py:9", 1.0, "failed: ZeroDivisionError in model.py:9"),
        (np.array([1.0]), "", 1.0, "answered 1 of 2 rows"),
        (
            np.array([1.0, np.nan]),
            "",
            1.0,
            "gave 1 of 2 answers that are not a number from 0 up: row 1 answers nan",
        ),
        (np.array([1.0, 2.0]), "", 80.0, "takes 80 ms for one row (budget 50 ms)"),
    ):
        check = check_fallback(LINK, OUTPUT, rows=2, values=values, error=error, one_row_ms=one_row_ms)
        assert not check.passed
        assert check.detail == said
