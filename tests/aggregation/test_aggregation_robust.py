"""Robust rules: against plain Python numbers, in any order, and with liars among the authors."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from fold_support import Given, NumberDelta, contributions_of
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.aggregation import geometry
from semantic_net.aggregation.fold import FoldConfig, fold_round
from semantic_net.aggregation.ratio import ONE
from semantic_net.aggregation.robust import ROBUST_RULES, PastMean
from semantic_net.aggregation.rule_config import MAX_BYZANTINE, RULE_NAMES, RuleConfig
from semantic_net.aggregation.rules import MAX_CONTRIBUTIONS, Contribution
from semantic_net.aggregation.state import start_state
from semantic_net.config.sections import AGGREGATION_RULES
from semantic_net.errors import ConfigError
from semantic_net.fixed_point import MAX_DELTA, MAX_MOMENTUM

LENGTH = 3
NOTHING = PastMean(np.empty(0, np.int32), 0, 0)

Vector = tuple[int, ...]
entries = st.integers(-MAX_DELTA, MAX_DELTA) | st.integers(-9, 9) | st.integers(-70_000, 70_000)
vectors = st.tuples(*[entries] * LENGTH)
rounds = st.lists(vectors, min_size=1, max_size=9)


def keyed(authors: Sequence[Vector]) -> list[Contribution]:
    """Contributions whose keys are in the order given."""
    return [Contribution(NumberDelta(v), 1, bytes([i])) for i, v in enumerate(authors)]


def reduce(
    name: str,
    contributions: Sequence[Contribution],
    *,
    byzantine_ratio: float = 0.2,
    mixes: bool = False,
    centre: PastMean = NOTHING,
    length: int = LENGTH,
) -> list[int]:
    cfg = RuleConfig.of(name, byzantine_ratio, mixes_nearest=mixes)
    rule = cfg.reduce(contributions, 0, length, centre)
    out = np.empty(length, np.int32)
    rule.reduce(0, out)
    assert all(abs(int(g)) <= rule.bound <= MAX_DELTA for g in out)
    return [int(g) for g in out]


# In Python's own numbers, as the papers state them.


def rounded(x: Fraction) -> int:
    return floor(x + Fraction(1, 2))


def mean_of(authors: Sequence[Vector]) -> Vector:
    return tuple(
        rounded(Fraction(sum(column), len(authors))) for column in zip(*authors, strict=True)
    )


def distance(a: Vector, b: Vector) -> int:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def product(a: Vector, b: Vector) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))


def nearest(authors: Sequence[Vector], f: int) -> list[Vector]:
    squares = [product(one, one) for one in authors]
    most = sorted(squares)[(len(authors) - 1) // 2]
    shares = [ONE if s <= most else math.isqrt(most * ONE * ONE // s) for s in squares]

    def mixed(place: int) -> Vector:
        def nearness(other: int) -> tuple[bool, int]:
            lengths = math.isqrt(squares[place] * squares[other])
            cosine = (product(authors[place], authors[other]) << 30) // lengths if lengths else 0
            return other == place, cosine

        order = sorted(range(len(authors)), key=nearness, reverse=True)
        # Of equals the first comes first, also in reverse.
        members = order[: len(authors) - f]
        columns = zip(*(authors[j] for j in members), strict=True)
        weights = [shares[j] for j in members]
        total = len(members) * ONE
        return tuple(
            rounded(Fraction(sum(n * x for n, x in zip(weights, column, strict=True)), total))
            for column in columns
        )

    return [mixed(place) for place in range(len(authors))]


def by_score(authors: Sequence[Vector], f: int) -> list[Vector]:
    def score(place: int) -> int:
        others = [distance(authors[place], o) for i, o in enumerate(authors) if i != place]
        return sum(sorted(others)[: max(len(authors) - f - 2, 1)])

    return [authors[place] for place in sorted(range(len(authors)), key=score)]


def trimmed(authors: Sequence[Vector], f: int) -> Vector:
    columns = (sorted(column)[f : len(authors) - f] for column in zip(*authors, strict=True))
    return tuple(rounded(Fraction(sum(column), len(column))) for column in columns)


def clipped(authors: Sequence[Vector], centre: Vector) -> Vector:
    squares = [distance(one, centre) for one in authors]
    radius = sorted(squares)[(len(authors) - 1) // 2]
    shares = [
        Fraction(ONE if s <= radius else math.isqrt(radius * ONE * ONE // s), ONE) for s in squares
    ]
    return tuple(
        rounded(
            Fraction(c)
            + sum((n * (one[i] - c) for n, one in zip(shares, authors, strict=True)), Fraction())
            / len(authors)
        )
        for i, c in enumerate(centre)
    )


REFERENCES: dict[str, Callable[[Sequence[Vector], int], Vector]] = {
    "clipped": lambda authors, f: clipped(authors, (0,) * LENGTH),
    "trimmed_mean": trimmed,
    "median": lambda authors, f: trimmed(authors, (len(authors) - 1) // 2),
    "krum": lambda authors, f: by_score(authors, f)[0],
    "multi_krum": lambda authors, f: mean_of(by_score(authors, f)[: len(authors) - f]),
}


def test_every_robust_rule_has_a_reference() -> None:
    assert {"mean", *REFERENCES} == set(RULE_NAMES)


@pytest.mark.parametrize("mixes", [False, True])
@pytest.mark.parametrize("name", REFERENCES)
@given(authors=rounds, ratio=st.sampled_from([0.0, 0.1, 0.2, 0.34, 0.49]))
def test_a_rule_is_what_its_paper_says(
    name: str, mixes: bool, authors: list[Vector], ratio: float
) -> None:
    f = min(rounded(Fraction(round(ratio * ONE) * len(authors), ONE)), (len(authors) - 1) // 2)
    seen = nearest(authors, f) if mixes else authors
    found = reduce(name, keyed(authors), byzantine_ratio=ratio, mixes=mixes)
    assert tuple(found) == REFERENCES[name](seen, f)


@given(rounds, st.lists(entries, min_size=LENGTH, max_size=LENGTH), st.sampled_from([0.25, 0.9]))
def test_clipping_is_around_where_the_last_rounds_went(
    authors: list[Vector], momentum: list[int], beta: float
) -> None:
    held = np.array(momentum, np.int64)
    centre = PastMean(held, MAX_DELTA, round(beta * ONE))
    share = ONE - round(beta * ONE)
    past = tuple(rounded(Fraction(share * m, ONE)) for m in momentum)
    assert tuple(reduce("clipped", keyed(authors), centre=centre)) == clipped(authors, past)


# What can be checked by hand.

LIAR = (-900, 900, -900)
HONEST = [(10, 0, 1), (12, 0, 1), (11, 1, 1), (9, 2, 1)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean", [-172, 181, -179]),
        ("trimmed_mean", [10, 1, 1]),
        ("median", [10, 1, 1]),
        ("krum", [11, 1, 1]),
        ("multi_krum", [11, 1, 1]),
    ],
)
def test_a_liar_of_five_moves_the_mean_and_no_other_rule(name: str, expected: list[int]) -> None:
    assert reduce(name, keyed([*HONEST, LIAR])) == expected


def test_clipping_lets_a_liar_count_no_more_than_an_honest_author() -> None:
    found = reduce("clipped", keyed([*HONEST, LIAR]))
    without = reduce("clipped", keyed(HONEST))
    moved = math.dist(found, without)
    assert moved < 2 * math.dist(HONEST[1], (0, 0, 0)) / 5 + 1


def test_a_median_of_an_even_number_is_between_the_middle_two() -> None:
    authors = keyed([(0,), (1,), (10,), (1000,)])
    assert reduce("median", authors, length=1) == [6]


@pytest.mark.parametrize(
    ("num_authors", "ratio", "expected"),
    [(1, 0.4, 0), (2, 0.4, 0), (3, 0.2, 1), (10, 0.2, 2), (10, 0.0, 0), (10, 0.499, 4)],
)
def test_how_many_may_lie_is_a_share_of_those_that_are_here(
    num_authors: int, ratio: float, expected: int
) -> None:
    assert RuleConfig.of("krum", ratio).num_byzantine(num_authors) == expected


# In any order, of any size.


@pytest.mark.parametrize("mixes", [False, True])
@pytest.mark.parametrize("name", REFERENCES)
@given(rounds, st.randoms(use_true_random=False))
def test_the_order_of_authors_does_not_show(
    name: str, mixes: bool, authors: list[Vector], shuffler: random.Random
) -> None:
    contributions = keyed(authors)
    expected = reduce(name, contributions, mixes=mixes)
    shuffler.shuffle(contributions)
    assert reduce(name, contributions, mixes=mixes) == expected


@pytest.mark.parametrize("mixes", [False, True])
@pytest.mark.parametrize("name", REFERENCES)
@given(vectors, st.integers(1, 7))
def test_authors_that_agree_are_believed(
    name: str, mixes: bool, vector: Vector, count: int
) -> None:
    assert tuple(reduce(name, keyed([vector] * count), mixes=mixes)) == vector


@pytest.mark.parametrize("name", REFERENCES)
@given(st.lists(vectors, min_size=3, max_size=9), st.data())
def test_each_author_counts_once_whatever_it_says_of_its_examples(
    name: str, authors: list[Vector], data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.integers(1, 1 << 20), min_size=9, max_size=9))
    lying = [c._replace(weight=w) for c, w in zip(keyed(authors), weights, strict=False)]
    assert reduce(name, lying) == reduce(name, keyed(authors))


@pytest.mark.parametrize("name", REFERENCES)
def test_a_full_round_at_the_limits_is_exact(name: str) -> None:
    """Most authors, largest entries: nothing overflows, and half against half is no one's win."""
    signs = [1 if i % 2 else -1 for i in range(MAX_CONTRIBUTIONS)]
    authors = [
        Contribution(NumberDelta([MAX_DELTA * s, 7]), 1, i.to_bytes(2, "big"))
        for i, s in enumerate(signs)
    ]
    found = reduce(name, authors, length=2)
    assert found[0] in (
        (0,) if name in ("clipped", "trimmed_mean", "median") else range(-MAX_DELTA, MAX_DELTA + 1)
    )
    assert found[1] == 7


def test_a_rule_over_many_blocks_is_that_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    authors = keyed([tuple(rng.integers(-(1 << 28), 1 << 28, 400).tolist()) for _ in range(5)])
    for name, mixes in itertools.product(REFERENCES, (False, True)):
        expected = reduce(name, authors, mixes=mixes, length=400)
        with monkeypatch.context() as patch:
            patch.setattr(geometry, "_ROOM", 5 * 64)
            assert reduce(name, authors, mixes=mixes, length=400) == expected


@given(
    st.lists(st.lists(entries, min_size=5, max_size=5), min_size=1, max_size=4),
    st.lists(entries, min_size=5, max_size=5),
)
def test_distances_are_exact(rows: list[list[int]], centre: list[int]) -> None:
    deltas = [NumberDelta(row) for row in rows]
    products = geometry.inner_products(deltas, 1, 5)
    assert products.tolist() == [
        [sum(a * b for a, b in zip(x[1:], y[1:], strict=True)) for y in rows] for x in rows
    ]
    assert geometry.pairwise(products).tolist() == [
        [distance(tuple(x[1:]), tuple(y[1:])) for y in rows] for x in rows
    ]
    assert geometry.squared_distances(deltas, NumberDelta(centre), 1, 5) == [
        distance(tuple(x[1:]), tuple(centre[1:])) for x in rows
    ]


# In the fold.


@pytest.mark.parametrize("name", REFERENCES)
def test_a_fold_with_buffers_and_momentum_stands_still_where_all_agree(name: str) -> None:
    """Buffers are reduced on their own; a model without them is, too."""
    for num_buffers in (0, 2):
        cfg = FoldConfig.of(
            num_parameters=2, num_buffers=num_buffers, outer_momentum=0.5, outer_lr=1.0, rule=name
        )
        start = start_state(np.zeros(2 + num_buffers, np.float32), 2, momentum=True)
        same = contributions_of([Given((8, -8, 3, 3)[: 2 + num_buffers], 1)] * 3)
        one = fold_round(start, same, cfg)
        assert one.parameters.tolist() == [12, -12]  # g + beta * m
        assert one.buffers.tolist() == [3, 3][:num_buffers]
        two = fold_round(one, same, cfg)
        assert two.momentum.tolist() == [12, -12]
        in_place = fold_round(one, same, cfg, out=one)
        assert in_place.digest == two.digest


def test_the_past_is_no_larger_than_an_update_may_be() -> None:
    centre = PastMean(np.array([MAX_MOMENTUM, -MAX_MOMENTUM, 4]), MAX_MOMENTUM, ONE // 2)
    assert centre.bound(0, 3) == MAX_DELTA
    out = np.zeros(3, np.int64)
    centre.accumulate(out, 0, 2)
    assert out.tolist() == [2 * MAX_DELTA, -2 * MAX_DELTA, 4]


# Settings.


def test_settings_that_make_no_sense_name_their_key() -> None:
    for ratio in (-0.1, 0.5, 0.9):
        with pytest.raises(ConfigError, match=r"aggregation.byzantine_ratio must be in \[0, 0.5\)"):
            RuleConfig.of("krum", ratio)
    with pytest.raises(ConfigError, match="nearest_neighbour_mixing goes in front of"):
        RuleConfig.of("mean", 0.2, mixes_nearest=True)
    assert RuleConfig.of("krum", 0.499999999).byzantine == MAX_BYZANTINE
    assert RULE_NAMES == ("mean", *ROBUST_RULES) == AGGREGATION_RULES
