"""Rules under which a few authors that lie do little harm: each author counts once.

Numbers of examples can lie, so weights do not count. Every rule is a pure function of the round's
updates (and, of one, of the momentum) in whole numbers: distances are exact
(`semantic_net.aggregation.geometry`), roots are whole, ties go by the updates' ids.

The rules that pick or shorten whole updates end as weights, and so as a `WeightedMean`: what is
sparse stays sparse. Those that look at each entry on its own sort them, block by block.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from semantic_net.aggregation.geometry import (
    Integers,
    columns_at_a_time,
    inner_products,
    pairwise,
    squared_distances,
)
from semantic_net.aggregation.ratio import ONE, Ratio
from semantic_net.aggregation.rules import Delta, Rule, WeightedMean
from semantic_net.fixed_point import (
    MAX_DELTA,
    Accumulator,
    FixedArray,
    Int32Array,
    Int64Array,
    work_array,
)

_SHARE_BITS = 16
"""Updates are shortened to n / 2^16 of their length."""

_COSINE_BITS = 30


@dataclass(frozen=True, slots=True)
class Round:
    """What a rule sees: the updates of a round, one an author, in the order of their ids."""

    deltas: Sequence[Delta]
    start: int
    """Of the range of entries that is reduced."""
    stop: int
    num_byzantine: int
    """f: how many of the authors may lie; below half of them."""
    centre: Delta
    """Where the last rounds went, on average."""

    def __len__(self) -> int:
        return len(self.deltas)

    def mean_of(self, members: Sequence[int], slot: str = "sums") -> WeightedMean:
        """Return the mean of some of the updates."""
        terms = [(self.deltas[i], 1) for i in members]
        return WeightedMean(terms, self.start, self.stop, slot=slot)

    def distances(self) -> Integers:
        """Return the squared distance of each pair of updates, (N, N)."""
        return pairwise(inner_products(self.deltas, self.start, self.stop))


class PastMean:
    """The mean of the past rounds, as the momentum weighs them: a centre for `clipped`.

    The momentum is a sum of them with weights 1, beta, beta^2, ..., which sum to 1 / (1 - beta).
    """

    def __init__(self, momentum: FixedArray, bound: int, beta: int) -> None:
        """Take the momentum before the round, and its factor.

        Args:
            momentum: In units, as long as the parameters; empty for none, where the mean is zero.
            bound: An upper bound of its magnitudes.
            beta: In units of 2^-16.
        """
        self._momentum = momentum
        self._share = Ratio(ONE - beta)
        self._bound = self._share.of(bound) if momentum.size else 0

    def bound(self, start: int, stop: int) -> int:
        """See `Delta.bound`."""
        return min(self._bound, MAX_DELTA)

    def accumulate(self, out: Accumulator, start: int, factor: int) -> None:
        """See `Delta.accumulate`."""
        if not self._bound:
            return
        units = self._share.times(self._momentum[start : start + out.size])
        if self._bound > MAX_DELTA:
            units = np.clip(units, -MAX_DELTA, MAX_DELTA)
        out += np.multiply(units, factor, dtype=out.dtype, casting="unsafe")


_NOTHING = PastMean(np.empty(0, np.int64), 0, 0)


def clipped(updates: Round) -> Rule:
    """Shorten what lies further from the centre than most, to the median distance; then average.

    ``g = c + 1/n sum_i (x_i - c) min(1, t / |x_i - c|)`` with t the median of ``|x_i - c|``, of an
    even number the lower one: centred clipping (Karimireddy et al., "Learning from History for
    Byzantine Robust Optimization", 2021, equation CC), its centre the mean of past rounds that the
    momentum holds, and its radius the round's own.
    """
    squares = squared_distances(updates.deltas, updates.centre, updates.start, updates.stop)
    shares = _shares(squares, sorted(squares)[(len(squares) - 1) // 2])
    terms = [(delta, n) for delta, n in zip(updates.deltas, shares, strict=True) if n]
    rest = (len(updates) << _SHARE_BITS) - sum(shares)
    if rest:
        terms.append((updates.centre, rest))
    return WeightedMean(terms, updates.start, updates.stop)


def multi_krum(updates: Round) -> Rule:
    """Average the n - f updates that are nearest to their own n - f - 2 nearest.

    Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    2017, section 4.
    """
    return updates.mean_of(_by_score(updates)[: len(updates) - updates.num_byzantine])


def krum(updates: Round) -> Rule:
    """Take the one update that is nearest to its n - f - 2 nearest (ibid., section 3.1)."""
    return updates.mean_of(_by_score(updates)[:1])


def trimmed_mean(updates: Round) -> Rule:
    """Of each entry, leave out the f largest and the f smallest, and average the others.

    Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", 2018,
    definition 2.
    """
    return _TrimmedMean(updates, updates.num_byzantine)


def median(updates: Round) -> Rule:
    """Take the median of each entry; of an even number the mean of the middle two (ibid.)."""
    return _TrimmedMean(updates, (len(updates) - 1) // 2)


def mixed_with_nearest(updates: Round) -> Round:
    """Put the mean of its n - f nearest, itself among them, in the place of each update.

    Nearest-neighbour mixing (Allouah et al., "Fixing by Mixing: A Recipe for Optimal Byzantine ML
    under Heterogeneity", 2023, algorithm 2): a rule behind it bears that honest peers differ. Here
    nearest is by direction, and what is longer than the median is shortened to it first. Sparse
    updates of honest peers share few entries, so that their distances say how long they are, and
    only their directions say where they lead.
    """
    products = inner_products(updates.deltas, updates.start, updates.stop)
    squares = products.diagonal().tolist()
    shares = _shares(squares, sorted(squares)[(len(squares) - 1) // 2])
    count = len(updates) - updates.num_byzantine
    mixed = []
    for i, row in enumerate(products.tolist()):
        cosines = [_cosine(*each) for each in zip(row, squares, itertools.repeat(squares[i]))]
        cosines[i] = 2 << _COSINE_BITS  # itself, even if it leads nowhere
        members = _in_order([-cosine for cosine in cosines])[:count]
        terms: list[tuple[Delta, int]] = [(updates.deltas[j], shares[j]) for j in members]
        rest = (count << _SHARE_BITS) - sum(share for _, share in terms)
        terms = [(delta, share) for delta, share in terms if share]
        if rest:
            terms.append((_NOTHING, rest))
        mixed.append(_Reduced(WeightedMean(terms, updates.start, updates.stop, slot="mixed")))
    return Round(mixed, updates.start, updates.stop, updates.num_byzantine, updates.centre)


ROBUST_RULES: dict[str, Callable[[Round], Rule]] = {
    "clipped": clipped,
    "trimmed_mean": trimmed_mean,
    "median": median,
    "krum": krum,
    "multi_krum": multi_krum,
}
"""By the name in ``aggregation.rule``."""


def _shares(squares: Sequence[int], most: int) -> list[int]:
    """Return how much of each length is left, in units of 2^-16, where none may exceed one.

    Args:
        squares: Of the lengths.
        most: Square of the longest that is left as it is.
    """
    whole = 1 << _SHARE_BITS
    return [
        whole if square <= most else math.isqrt((most << 2 * _SHARE_BITS) // square)
        for square in squares
    ]


def _cosine(product: int, square: int, other_square: int) -> int:
    """Return the cosine between two updates, in units of 2^-30, rounded down; 0 for none."""
    length = math.isqrt(square * other_square)
    return (product << _COSINE_BITS) // length if length else 0


def _in_order(numbers: Sequence[int]) -> list[int]:
    """Return the indices that sort numbers; of equal ones the first comes first."""
    return sorted(range(len(numbers)), key=numbers.__getitem__)


def _by_score(updates: Round) -> list[int]:
    """Return the updates in the order of Krum's score: the sum of distances to the nearest."""
    count = max(len(updates) - updates.num_byzantine - 2, 1)
    scores = [
        sum(sorted(row[:i] + row[i + 1 :])[:count])
        for i, row in enumerate(updates.distances().tolist())
    ]
    return _in_order(scores)


class _Reduced:
    """What a rule gives, as a delta for the next rule."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule

    def bound(self, start: int, stop: int) -> int:
        """See `Delta.bound`."""
        return self._rule.bound

    def accumulate(self, out: Accumulator, start: int, factor: int) -> None:
        """See `Delta.accumulate`."""
        entries = work_array("reduced", out.size, np.int32)
        self._rule.reduce(start, entries)
        terms = work_array("reduced terms", out.size, out.dtype)
        np.multiply(entries, factor, out=terms, dtype=out.dtype, casting="unsafe")
        out += terms


class _TrimmedMean:
    """Entry by entry, the mean of all but the largest and the smallest."""

    def __init__(self, updates: Round, trim: int) -> None:
        self._deltas = updates.deltas
        self._trim = trim
        self.bound = max(delta.bound(updates.start, updates.stop) for delta in updates.deltas)

    def reduce(self, start: int, out: Int32Array) -> None:
        """See `Rule.reduce`."""
        size = columns_at_a_time(len(self._deltas))
        for first in range(0, out.size, size):
            self._reduce(start + first, out[first : first + size])

    def _reduce(self, start: int, out: Int32Array) -> None:
        rows = np.zeros((len(self._deltas), out.size), np.int32)
        for row, delta in zip(rows, self._deltas, strict=True):
            delta.accumulate(row, start, 1)
        rows.sort(axis=0)
        kept = rows[self._trim : len(rows) - self._trim]
        sums: Int64Array = kept.sum(axis=0, dtype=np.int64)
        sums += len(kept) // 2
        sums //= len(kept)
        out[:] = sums
