"""What a rule of aggregation is: a round's deltas in, one delta out, block by block; and the mean.

A rule is made once a round for a range of entries, and sees all contributions at once. Their order
never shows in the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from semantic_net.fixed_point import MAX_DELTA, NARROW_LIMIT, Accumulator, Int32Array, work_array

MAX_WEIGHT = 1 << 20
MAX_CONTRIBUTIONS = 1 << 10
"""In a round. With weights and deltas at their limits, sums reach 2^60."""

_FLOAT64_LIMIT = 1 << 49


class Delta(Protocol):
    """What the fold needs of a decoded update; entries are in units of 2^-24."""

    def bound(self, start: int, stop: int) -> int:
        """Return an upper bound, at most `MAX_DELTA`, of the magnitudes from start to stop."""
        ...

    def accumulate(self, out: Accumulator, start: int, factor: int) -> None:
        """Add ``factor`` times the entries from ``start`` on into ``out``, as many as it has."""
        ...


class Contribution(NamedTuple):
    """One author's part in a round."""

    delta: Delta
    weight: int
    """Number of examples, 1 to 2^20."""
    key: bytes = b""
    """Puts contributions in an order that is the same on all peers: the update's id."""


class Rule(Protocol):
    """A round's contributions, ready to be reduced over a range of entries."""

    @property
    def bound(self) -> int:
        """An upper bound of the result's magnitudes, in units; at most `MAX_DELTA`."""
        ...

    def reduce(self, start: int, out: Int32Array) -> None:
        """Write the entries from ``start`` on into ``out``, as many as it has."""
        ...


class WeightedMean:
    """``g = (2a + W) // 2W``: the mean, rounded to the nearest unit, halves up.

    a is the sum of weight times delta, W the sum of weights. Dividing all weights by a common
    factor c changes nothing, as (2ca + cW) / 2cW is the same fraction; equal weights become 1.

    In whole numbers it is (a + W // 2) // W: for even W the same fraction; for odd W it leaves out
    half a unit of the numerator, which cannot move the floor of a whole number over W.

    Three ways to the same number, the fastest that is exact for this round's magnitudes:

    - int32 where all sums fit.
    - float64 for |a| <= 2^49: the nearest whole number to (a + 1/4) / W. The quarter moves every
      fraction of W less than half way to the next one, and halves up; so no tie is left, and the
      nearest half is at least 1/4W away. Each sum is a whole number below 2^53 and exact, with
      or without fused operations; the two roundings of ``* (1 / W)`` are below 2^-52 * 2^49 / W,
      less than that distance.
    - int64 otherwise: sums reach 2^60.
    """

    def __init__(
        self, terms: Sequence[tuple[Delta, int]], start: int, stop: int, *, slot: str = "sums"
    ) -> None:
        """Take the deltas, and the weight of each.

        Args:
            terms: At least one; weights are at least 1, and sum to at most 2^31.
            start: Of the range of entries that is reduced.
            stop: Its end.
            slot: Of the `work_array` for sums: another one where a delta is such a mean itself.
        """
        self._slot = slot
        common = math.gcd(*(weight for _, weight in terms))
        self._terms = [(delta, weight // common) for delta, weight in terms]
        self._total = sum(weight for _, weight in self._terms)
        bounds = [delta.bound(start, stop) for delta, _ in self._terms]
        self.bound = min(max(bounds), MAX_DELTA)
        largest_sum = sum(
            bound * weight for bound, (_, weight) in zip(bounds, self._terms, strict=True)
        )
        self.way: Callable[[WeightedMean, int, Int32Array], None]
        if largest_sum + self._total <= NARROW_LIMIT:
            self.way = WeightedMean._in_int32
        elif largest_sum <= _FLOAT64_LIMIT:
            self.way = WeightedMean._in_float64
        else:
            self.way = WeightedMean._in_int64

    def reduce(self, start: int, out: Int32Array) -> None:
        """See `Rule.reduce`."""
        self.way(self, start, out)

    def _sum_into(self, out: Accumulator, start: int) -> None:
        for delta, weight in self._terms:
            delta.accumulate(out, start, weight)

    def _in_int32(self, start: int, out: Int32Array) -> None:
        out.fill(self._total // 2)
        self._sum_into(out, start)
        if self._total > 1:
            out //= self._total

    def _in_float64(self, start: int, out: Int32Array) -> None:
        sums = work_array(self._slot, out.size, np.float64)
        sums.fill(0.25)  # 2^49 and quarters: 51 bits of float64's 53
        self._sum_into(sums, start)
        sums *= 1 / self._total
        np.rint(sums, out=sums)
        out[:] = sums

    def _in_int64(self, start: int, out: Int32Array) -> None:
        sums = work_array(self._slot, out.size, np.int64)
        sums.fill(self._total // 2)
        self._sum_into(sums, start)
        sums //= self._total
        out[:] = sums


def mean(contributions: Sequence[Contribution], start: int, stop: int) -> WeightedMean:
    """Return the mean of a round, weighted by the number of examples."""
    if not 0 < len(contributions) <= MAX_CONTRIBUTIONS:
        raise ValueError(f"{len(contributions)} contributions, not 1 to {MAX_CONTRIBUTIONS}")
    weights = [contribution.weight for contribution in contributions]
    if not 1 <= min(weights) <= max(weights) <= MAX_WEIGHT:
        raise ValueError(f"weights {min(weights)} to {max(weights)}, not 1 to {MAX_WEIGHT}")
    return WeightedMean([(c.delta, c.weight) for c in contributions], start, stop)
