import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.errors import ProjectError
from towpath.gate.golden import GoldenCase, compare_golden, read_golden, write_golden

plain = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(answers=st.lists(plain.filter(lambda value: value is not None), min_size=1, max_size=4))
def test_what_a_version_answered_is_what_it_must_answer_again(answers: list[Any]) -> None:
    cases = [GoldenCase(request={"a": number}) for number in range(len(answers))]
    frozen = read_golden(write_golden(cases, answers))
    assert compare_golden(frozen, answers).passed
    assert [case.line for case in frozen] == list(range(1, len(answers) + 1))


@given(known=st.floats(-1e6, 1e6), tolerance=st.floats(0, 10), off=st.floats(-20, 20))
def test_a_number_may_differ_by_its_tolerance(known: float, tolerance: float, off: float) -> None:
    case = GoldenCase(request={}, answer=known, tolerance=tolerance)
    allowed = max(tolerance, 1e-6 * abs(known))
    assert compare_golden([case], [known + off]).passed == (abs(known + off - known) <= allowed)


def test_every_bad_line_is_said_with_its_number() -> None:
    lines = [b'{"request": {"a": 1}}', b"", b"{", b'{"answer": 1}', b'{"request": {}, "toleranc": 1}', b"\xff"]
    with pytest.raises(ProjectError) as wrong:
        read_golden(b"\n".join(lines), "models/demand/golden.jsonl")
    assert [problem.split(": ")[0] for problem in wrong.value.problems] == [
        f"models/demand/golden.jsonl:{line}" for line in (3, 4, 5, 6)
    ]
    assert "toleranc" in wrong.value.problems[2]


@pytest.mark.parametrize(
    ("known", "found", "same"),
    [
        (12.3, np.float32(12.3), True),
        (1, True, False),
        (True, 1, False),
        (2, "2", False),
        ("yes", "yes", True),
        (1.0, math.nan, False),
        (1.0, None, False),
        (["a", "b"], np.array(["a", "b"], dtype=object), True),
        (["a", "b"], ["b", "a"], False),
        (["a"], ["a", "b"], False),
        ({"p": 0.5}, {"p": 0.5, "more": 1}, True),
        ({"p": 0.5}, {"q": 0.5}, False),
        (None, None, True),
    ],
)
def test_what_counts_as_the_same_answer(known: Any, found: Any, same: bool) -> None:
    assert compare_golden([GoldenCase(request={}, answer=known)], [found]).passed is same


def test_a_case_without_an_answer_asks_only_for_one() -> None:
    (case,) = read_golden(json.dumps({"request": {"a": 1}}).encode())
    assert compare_golden([case], [3.0]).passed
    assert not compare_golden([case], [math.nan]).passed
    assert not compare_golden([case], [None]).passed


def test_a_case_that_failed_says_how() -> None:
    case = GoldenCase(request={}, answer=1.0, line=4)
    result = compare_golden([case], [None], errors={0: "column 'price' is missing"})
    assert result.failures == ("golden.jsonl:4: no answer: column 'price' is missing",)
