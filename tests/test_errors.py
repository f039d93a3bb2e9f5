"""The tree of errors: who acts next, and a text that says what, where and how to mend."""

import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath import errors
from towpath.errors import CallerError, OwnerError, ProjectError, RetryError, TowpathError, nearest

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TowpathError)]
LEAVES = [kind for kind in ALL if not kind.__subclasses__()]
words = st.text(max_size=20)


@pytest.mark.parametrize("kind", ALL)
@given(what=words, where=words, mend=words)
def test_an_error_survives_pickling_whole(kind: type[TowpathError], what: str, where: str, mend: str) -> None:
    error = kind(what, where, mend)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.what, again.where, again.mend) == (error.what, where, mend)
    assert error.what == what or what.endswith("?.")


def test_a_sentence_that_ends_in_an_offered_name_ends_once() -> None:
    offered, listed = nearest("demnad", ["demand"]), nearest("x", ["demand"])
    assert TowpathError(f"There is no 'demnad'{offered}.").what == "There is no 'demnad'; did you mean 'demand'?"
    assert TowpathError(f"There is no 'x'{listed}.").what == "There is no 'x'; there are: 'demand'."


@given(problems=st.lists(words, max_size=3))
def test_a_project_error_keeps_every_problem(problems: list[str]) -> None:
    again = pickle.loads(pickle.dumps(ProjectError("2 problems", "shop", "tow check", problems)))
    assert again.problems == tuple(problems)
    assert all(problem in str(again) for problem in problems)


@pytest.mark.parametrize("kind", LEAVES)
def test_one_of_three_acts_next(kind: type[TowpathError]) -> None:
    assert sum(issubclass(kind, root) for root in (CallerError, OwnerError, RetryError)) == 1


def test_codes_are_a_closed_list_without_doubles() -> None:
    codes = [kind.code for kind in ALL]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", LEAVES)
def test_the_drawn_tree_names_every_error_with_its_code(kind: type[TowpathError]) -> None:
    line = next(line for line in (errors.__doc__ or "").splitlines() if kind.__name__ in line)
    assert line.split()[-1] == kind.code
    assert kind.__name__ in errors.__all__
    numbers = [word for word in line.split() if word.isdigit()]
    assert numbers in ([], [str(kind.status)])


@pytest.mark.parametrize("kind", LEAVES)
def test_the_caller_gets_4xx_for_a_fault_of_theirs_and_nobody_gets_500(kind: type[TowpathError]) -> None:
    assert kind.status != 500
    assert (400 <= kind.status < 500) or not issubclass(kind, CallerError)


def test_an_empty_where_or_mend_leaves_no_empty_line() -> None:
    assert str(TowpathError("gone")) == "gone"
    assert str(TowpathError("gone", mend="wait")) == "gone\n  mend:  wait"


@given(name=words, known=st.lists(words, max_size=8))
def test_nearest_never_fails_and_offers_only_what_is_known(name: str, known: list[str]) -> None:
    said = nearest(name, known)
    assert said == "" or any(f"'{word}'" in said for word in known)


def test_nearest_takes_any_iterable_and_stops_at_five() -> None:
    assert nearest("x", (c * 9 for c in "abcdefg")).count("'") == 10
