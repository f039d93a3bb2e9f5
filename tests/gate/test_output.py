import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.gate.output import check_output, wrong_rows
from towpath.project.declarations import OutputDeclaration


@given(values=st.lists(st.floats(), max_size=20), low=st.floats(-10, 0), high=st.floats(0, 10))
def test_a_number_is_wrong_exactly_where_it_is_outside_or_not_finite(
    values: list[float], low: float, high: float
) -> None:
    wrong = wrong_rows(np.array(values), OutputDeclaration(low=low, high=high))
    assert wrong.tolist() == [not low <= value <= high for value in values]


@pytest.mark.parametrize(
    ("values", "declaration", "wrong"),
    [
        (np.array([0.5, 1.2, -0.1]), OutputDeclaration(kind="probability"), [False, True, True]),
        (np.array(["a", "c"], dtype=object), OutputDeclaration(kind="class", classes=("a", "b")), [False, True]),
        (np.array([0, 2]), OutputDeclaration(kind="class", classes=("0", "1")), [False, True]),
        (np.array(["a", None], dtype=object), OutputDeclaration(kind="text"), [False, True]),
        (np.array([["a", "b"], ["a", None]], dtype=object), OutputDeclaration(kind="ranking"), [False, True]),
        (np.array([[1.0, 2.0], [1.0, np.inf]]), OutputDeclaration(kind="vector"), [False, True]),
        (np.array([1.5, None, "x"], dtype=object), OutputDeclaration(), [False, True, True]),
        (np.array([True, False]), OutputDeclaration(), [False, False]),
    ],
)
def test_each_kind_knows_its_wrong_rows(values: np.ndarray, declaration: OutputDeclaration, wrong: list[bool]) -> None:
    assert wrong_rows(values, declaration).tolist() == wrong


def test_the_first_wrong_row_is_shown() -> None:
    check = check_output(np.array([1.0, 99.0, -1.0]), OutputDeclaration(low=0, high=10))
    assert (check.rows, check.wrong, check.detail) == (3, 2, "row 1 answers 99.0")
