"""The last good answer to a key."""

from hypothesis import given
from hypothesis import strategies as st

from towpath.serving.last import LEFT, LastAnswers


@given(puts=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 100)), max_size=60))
def test_it_keeps_the_newest_of_the_keys_that_were_answered_last(puts: list[tuple[str, int]]) -> None:
    kept = LastAnswers(keys=4)
    for at, (key, value) in enumerate(puts):
        kept.put(key, value, at)
    last = dict(puts)
    recent = list(dict.fromkeys(key for key, _ in reversed(puts)))[:4]
    assert len(kept) == len(recent)
    for key in "abcdefgh":
        assert kept.get(key, now_us=1_000, age_us=10_000) == (last[key] if key in recent else LEFT)


def test_an_answer_older_than_declared_and_a_row_without_key_are_left() -> None:
    kept = LastAnswers()
    kept.put("x", 1.0, 10)
    assert kept.get("x", now_us=15, age_us=5) == 1.0
    assert kept.get("x", now_us=16, age_us=5) is LEFT
    assert kept.get(None, now_us=10, age_us=5) is LEFT
