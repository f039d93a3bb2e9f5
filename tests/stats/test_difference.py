import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towpath.errors import InputError, UndefinedError
from towpath.stats.difference import Estimate, ratio_difference, ratio_interval

Floats = np.ndarray


def rows(seed: int, entities: int = 12, per_entity: int = 4) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Numerators and denominators of two forecasters on the same rows, and the entity of each row."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(entities), per_entity)
    volume = rng.gamma(2, 5, len(groups)) + 0.1
    habit = rng.uniform(0.1, 0.5, entities)[groups]
    a = volume * habit * rng.uniform(0.5, 1.5, len(groups))
    b = volume * habit * rng.uniform(0.6, 1.7, len(groups))
    return a, volume, b, volume, groups


def compared(data: tuple[Floats, ...], seed: int = 1, **options: object) -> Estimate:
    return ratio_difference(*data, resamples=200, rng=np.random.default_rng(seed), **options)  # pyright: ignore[reportArgumentType]


seeds = st.integers(0, 10_000)


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_exchanging_the_sides_flips_the_signs(seed: int) -> None:
    a, da, b, db, groups = rows(seed)
    there, back = compared((a, da, b, db, groups)), compared((b, db, a, da, groups))
    assert (there.estimate, there.low, there.high) == pytest.approx((-back.estimate, -back.high, -back.low))


@given(seed=seeds, scale=st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_the_scale_of_weights_does_not_matter(seed: int, scale: float) -> None:
    a, da, b, db, groups = rows(seed)
    plain, scaled = compared((a, da, b, db, groups)), compared((a * scale, da * scale, b * scale, db * scale, groups))
    assert (plain.estimate, plain.low, plain.high) == pytest.approx((scaled.estimate, scaled.low, scaled.high))


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_the_order_of_rows_and_the_names_of_entities_do_not_matter(seed: int) -> None:
    a, da, b, db, groups = rows(seed)
    order = np.random.default_rng(seed).permutation(len(groups))
    names = np.array([f"item-{group:03d}" for group in groups])
    plain, shuffled = compared((a, da, b, db, groups)), compared(tuple(x[order] for x in (a, da, b, db, names)))
    assert (plain.estimate, plain.low, plain.high) == pytest.approx((shuffled.estimate, shuffled.low, shuffled.high))


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_a_row_split_in_two_changes_nothing(seed: int) -> None:
    # rows of one entity are no new information: only its sums count
    data = rows(seed)
    halves = tuple(np.repeat(x, 2) / 2 for x in data[:4])
    plain, split = compared(data), compared((*halves, np.repeat(data[4], 2)))
    assert (plain.low, plain.high) == pytest.approx((split.low, split.high))


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_more_confidence_is_a_wider_interval_around_the_estimate(seed: int) -> None:
    narrow, wide = (compared(rows(seed), confidence=confidence) for confidence in (0.8, 0.99))
    assert wide.low <= narrow.low <= narrow.high <= wide.high
    assert wide.low <= wide.estimate <= wide.high


def test_the_same_generator_gives_the_same_bounds() -> None:
    assert compared(rows(3), seed=5) == compared(rows(3), seed=5)
    assert compared(rows(3), seed=5).low != compared(rows(3), seed=6).low


def test_a_bias_is_compared_by_its_distance_from_zero() -> None:
    # given A that is 10% too low and B that is 30% too high
    groups = np.arange(50)
    found = compared((np.full(50, -0.1), np.ones(50), np.full(50, 0.3), np.ones(50), groups), absolute=True)
    assert found.estimate == pytest.approx(-0.2)


def test_rows_of_one_entity_are_not_independent() -> None:
    # given 30 entities whose 20 rows each say the same thing
    rng = np.random.default_rng(0)
    habit = np.repeat(rng.uniform(-1, 1, 30), 20)
    one = np.ones(600)
    by_entity = ratio_interval(habit, one, np.repeat(np.arange(30), 20), rng=rng)
    by_row = ratio_interval(habit, one, np.arange(600), rng=rng)
    # then resampling rows would promise an interval that is far too narrow: by the root of 20
    width = (by_entity.high - by_entity.low) / (by_row.high - by_row.low)
    assert 3.5 < width < 6.5


def covered(data_sets: int, entities: int, resamples: int) -> float:
    """Share of simulated data sets whose 90% interval holds the true difference."""
    rng = np.random.default_rng(20_260_301)
    # E[volume · habit] is known: volumes are independent of habits, whose means are 0.30 and 0.33
    truth, hits = 0.30 - 0.33, 0
    for _ in range(data_sets):
        groups = np.repeat(np.arange(entities), 5)
        volume = np.repeat(rng.gamma(2, 5, entities), 5) * rng.uniform(0.5, 1.5, len(groups))
        shared = rng.normal(0, 0.1, entities)[groups]
        a = volume * (0.30 + shared + rng.normal(0, 0.05, len(groups)))
        b = volume * (0.33 + 0.5 * shared + rng.normal(0, 0.05, len(groups)))
        found = ratio_difference(a, volume, b, volume, groups, resamples=resamples, confidence=0.9, rng=rng)
        hits += found.low <= truth <= found.high
    return hits / data_sets


def test_an_interval_of_90_percent_holds_the_truth_in_about_90_percent() -> None:
    # 300 coins of 0.9 have a standard deviation of 0.017
    assert 0.85 < covered(300, entities=60, resamples=400) < 0.95


@pytest.mark.parametrize(("entities", "least"), [(12, 0.855), (30, 0.865), (200, 0.88)])
@pytest.mark.nightly
def test_an_interval_of_90_percent_comes_closer_to_90_with_more_entities(entities: int, least: float) -> None:
    assert least < covered(2_000, entities=entities, resamples=1_000) < 0.92


def test_many_entities_are_drawn_in_blocks_with_the_same_width() -> None:
    rng = np.random.default_rng(1)
    value = rng.normal(0, 1, 100_000)
    found = ratio_interval(value, np.ones(100_000), np.arange(100_000), rng=rng)
    # the mean of 100,000 standard normals has a 95% interval of ± 1.96 / √100,000
    assert found.high - found.low == pytest.approx(2 * 1.96 / np.sqrt(100_000), rel=0.1)
    assert found.entities == 100_000


def test_no_ratio_exists_over_zero() -> None:
    with pytest.raises(UndefinedError, match="sums to zero over 2 rows of 2 entities"):
        ratio_interval([1, 1], [0, 0], [0, 1], rng=np.random.default_rng(0))
    # and where one entity carries all of the volume, a third of the draws miss it
    with pytest.raises(UndefinedError, match="too few of the 20 entities"):
        ratio_interval(np.eye(20)[0], np.eye(20)[0], np.arange(20), rng=np.random.default_rng(0))
    with pytest.raises(UndefinedError, match="zero"):
        ratio_interval([], [], [], rng=np.random.default_rng(0))


def test_one_entity_says_nothing_about_chance() -> None:
    with pytest.raises(UndefinedError, match="3 rows of one entity"):
        ratio_interval([1, 2, 3], [1, 1, 1], [7, 7, 7], rng=np.random.default_rng(0))


def test_ragged_or_unfinite_rows_are_refused() -> None:
    with pytest.raises(InputError, match="must match"):
        ratio_interval([1, 2], [1], [0, 1], rng=np.random.default_rng(0))
    with pytest.raises(InputError, match="1 of 2 values are not finite"):
        ratio_interval([1, np.nan], [1, 1], [0, 1], rng=np.random.default_rng(0))
