"""The weighted mean of a round, on three ways to the same number."""

from __future__ import annotations

import math
import random
import weakref

import numpy as np
import pytest
from fold_support import Given, NumberDelta, contributions_of, exact_mean
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.aggregation.rules import (
    MAX_CONTRIBUTIONS,
    MAX_WEIGHT,
    Contribution,
    WeightedMean,
    mean,
)
from semantic_net.fixed_point import MAX_DELTA

LENGTH = 4
numbers = st.tuples(*[st.integers(-MAX_DELTA, MAX_DELTA) | st.integers(-9, 9)] * LENGTH)
small_numbers = st.tuples(*[st.integers(-9, 9)] * LENGTH)
weights = st.integers(1, MAX_WEIGHT) | st.integers(1, 3)
rounds = st.lists(st.builds(Given, numbers, weights), min_size=1, max_size=6)
small_rounds = st.lists(
    st.builds(Given, small_numbers, st.integers(1, 1000)), min_size=1, max_size=9
)


def mean_of(contributions: list[Contribution], length: int = LENGTH) -> list[int]:
    out = np.empty(length, np.int32)
    rule = mean(contributions, 0, length)
    rule.reduce(0, out)
    assert all(abs(int(g)) <= rule.bound for g in out)
    return [int(g) for g in out]


def with_slack(round_given: list[Given], slack: int) -> list[Contribution]:
    return [Contribution(NumberDelta(n, slack), w) for n, w in round_given]


def test_the_mean_counts_examples_and_rounds_halves_up() -> None:
    ours, theirs = Given((10, -10, 3, -3), 1), Given((0, 0, 0, 0), 1)
    assert mean_of(contributions_of([ours, theirs])) == [5, -5, 2, -1]
    assert mean_of(contributions_of([ours, Given((2, 2, 2, 2), 3)])) == [4, -1, 2, 1]


def test_equal_weights_count_as_one_each() -> None:
    large = (MAX_DELTA // 2,)
    rule = mean(contributions_of([Given(large, 96), Given(large, 96)]), 0, 1)
    assert rule.way == WeightedMean._in_int32  # 192 times as much would not fit


@given(rounds | small_rounds)
def test_the_mean_is_the_exact_one(round_given: list[Given]) -> None:
    assert mean_of(contributions_of(round_given)) == exact_mean(round_given)


@given(small_rounds)
def test_all_ways_give_the_same(round_given: list[Given]) -> None:
    """A looser bound forces the wider arithmetic upon the same numbers."""
    ways = {slack: with_slack(round_given, slack) for slack in (0, 1 << 31, 1 << 60)}
    taken = [mean(c, 0, LENGTH).way for c in ways.values()]
    assert taken == [WeightedMean._in_int32, WeightedMean._in_float64, WeightedMean._in_int64]
    assert [mean_of(c) for c in ways.values()] == [exact_mean(round_given)] * 3


@pytest.mark.parametrize("total", [3, 1 << 20, (1 << 20) - 1, 999_983])
@pytest.mark.parametrize("sign", [1, -1])
def test_float64_is_exact_up_to_its_limit(total: int, sign: int) -> None:
    """The sums nearest to a half, at the end of the range that float64 is used for."""
    heavy = total - 1
    d = sign * (min((1 << 49) // total, MAX_DELTA) - 4)
    for near in range(-3, 4):
        given_round = [Given((d, d, d, d), heavy), Given((d + near,) * LENGTH, 1)]
        contributions = with_slack(given_round, 0)
        rule = mean(contributions, 0, LENGTH)
        assert rule.way == WeightedMean._in_float64
        assert mean_of(contributions) == exact_mean(given_round)


def test_beyond_that_limit_halves_still_round_up() -> None:
    """Float64 has no bit left for a half there: it would round ties to the even neighbour."""
    first, second, third = MAX_WEIGHT, MAX_WEIGHT - 1, MAX_WEIGHT - 1
    total = first + second + third
    to_a_half = total // 2 * pow(third, -1, total) % total  # third times it leaves half of total
    d = MAX_DELTA - 2 * total
    near = (d, d + 1, -d, -d - 1)
    last = tuple(n + to_a_half for n in near)
    given_round = [Given(near, first), Given(near, second), Given(last, third)]
    assert mean(contributions_of(given_round), 0, LENGTH).way == WeightedMean._in_int64
    assert mean_of(contributions_of(given_round)) == exact_mean(given_round)


def test_the_largest_sums_fit() -> None:
    largest = Given((MAX_DELTA, -MAX_DELTA, 1, -1), MAX_WEIGHT)
    lighter = Given(largest.numbers, MAX_WEIGHT - 1)  # coprime: nothing can be divided out
    everyone = [largest] * (MAX_CONTRIBUTIONS - 1) + [lighter]
    assert mean_of(contributions_of(everyone)) == [MAX_DELTA, -MAX_DELTA, 1, -1]


@given(rounds, st.randoms(use_true_random=False), st.integers(1, 1000))
def test_order_and_a_common_factor_of_weights_do_not_matter(
    round_given: list[Given], shuffler: random.Random, factor: int
) -> None:
    common = math.gcd(*(weight for _, weight in round_given))
    expected = mean_of(contributions_of(round_given))
    shuffler.shuffle(round_given)
    assert mean_of(contributions_of(round_given)) == expected
    scaled = [Given(n, w // common * factor) for n, w in round_given]
    if max(weight for _, weight in scaled) <= MAX_WEIGHT:
        assert mean_of(contributions_of(scaled)) == expected


def test_a_range_of_entries_is_reduced_alone() -> None:
    rule = mean(contributions_of([Given((1, 2, 3, 400), 1)]), 1, 3)
    assert rule.bound == 3
    out = np.empty(2, np.int32)
    rule.reduce(1, out)
    assert out.tolist() == [2, 3]


def test_a_rule_lets_go_of_its_deltas_at_once() -> None:
    """Payloads are large; none may wait for the garbage collector."""
    delta = NumberDelta([1])
    rule = mean([Contribution(delta, 1)], 0, 1)
    alive = weakref.ref(delta)
    del rule, delta
    assert alive() is None


@pytest.mark.parametrize(
    ("number", "weight"), [(0, 1), (MAX_CONTRIBUTIONS + 1, 1), (1, 0), (2, MAX_WEIGHT + 1)]
)
def test_rounds_beyond_the_limits_are_refused(number: int, weight: int) -> None:
    with pytest.raises(ValueError, match="not 1 to"):
        mean([Contribution(NumberDelta([1]), weight)] * number, 0, 1)
