"""How far updates are from each other, exactly, at the speed of floating-point matrix products.

Entries are whole numbers. Each is split into halves of 16 bits, so that every product is at most
2^30 and every sum over a block below 2^53: float64 holds all of them, and neither the order of
adding nor a fused multiply-add can change one. So all machines find the same distances, and the
same order of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from semantic_net.aggregation.rules import Delta
from semantic_net.fixed_point import BLOCK, Float64Array

Integers = npt.NDArray[np.object_]
"""Python's own whole numbers, which do not overflow."""

_HALF = 1 << 16
_ROOM = 1 << 21
"""Entries of all updates together that are looked at at a time."""


def inner_products(deltas: Sequence[Delta], start: int, stop: int) -> Integers:
    """Return the inner product of each pair of updates, (N, N).

    Args:
        deltas: N of them, with entries of at most 2^30.
        start: Of the range of entries that counts.
        stop: Its end.
    """
    bound = max(delta.bound(start, stop) for delta in deltas)
    return _sum_of(_blocks(deltas, start, stop), _all_pairs, bound, stop - start)


def squared_distances(deltas: Sequence[Delta], centre: Delta, start: int, stop: int) -> list[int]:
    """Return the squared distance of each update from a centre.

    Args:
        deltas: N of them, with entries of at most 2^30, as those of the centre.
        centre: Where they are measured from.
        start: Of the range of entries that counts.
        stop: Its end.
    """

    def differences() -> Iterator[Float64Array]:
        first = start
        for rows in _blocks(deltas, start, stop):
            here = np.zeros(rows.shape[1])
            centre.accumulate(here, first, 1)
            first += here.size
            rows -= here
            yield rows

    bound = max(delta.bound(start, stop) for delta in deltas) + centre.bound(start, stop)
    distances: list[int] = _sum_of(differences(), _equal_rows, bound, stop - start).tolist()
    return distances


def pairwise(products: Integers) -> Integers:
    """Return the squared distance of each pair, (N, N), from their inner products."""
    own = products.diagonal()
    distances: Integers = own[:, None] + own[None, :] - 2 * products
    return distances


def columns_at_a_time(num_updates: int) -> int:
    """Return how many entries of each update are looked at at a time, so that memory is bounded."""
    return max(min(BLOCK, _ROOM // num_updates), 1)


def _blocks(deltas: Sequence[Delta], start: int, stop: int) -> Iterator[Float64Array]:
    """Yield the updates' entries, (N, as many as fit), range after range; at least one."""
    size = columns_at_a_time(len(deltas))
    for first in range(start, max(stop, start + 1), size):
        rows = np.zeros((len(deltas), min(size, stop - first)))
        for row, delta in zip(rows, deltas, strict=True):
            delta.accumulate(row, first, 1)
        yield rows


def _all_pairs(left: Float64Array, right: Float64Array) -> Float64Array:
    products: Float64Array = left @ right.T
    return products


def _equal_rows(left: Float64Array, right: Float64Array) -> Float64Array:
    products: Float64Array = np.einsum("ij,ij->i", left, right)
    return products


def _sum_of(
    blocks: Iterator[Float64Array],
    products: Callable[[Float64Array, Float64Array], Float64Array],
    bound: int,
    size: int,
) -> Integers:
    """Return the sum over all blocks of the products of their rows.

    Args:
        blocks: (N, any) each, at least one.
        products: Of which rows with which.
        bound: Of the entries' magnitudes, at most 2^31.
        size: Columns of all blocks together, at most 2^31.
    """
    if bound * bound * min(size, BLOCK) < 1 << 53 and bound * bound * size < 1 << 63:
        whole = (products(rows, rows).astype(np.int64) for rows in blocks)
        return np.asarray(sum(whole)).astype(object)
    # Halves are at most 2^15, sums of their products 2^46 in a block: 2^15 blocks stay below 2^62.
    parts = (_products_of_halves(rows, products) for rows in blocks)
    high, mixed, low = np.asarray(sum(parts)).astype(object)
    sums: Integers = high * _HALF**2 + (mixed + mixed.T) * _HALF + low
    return sums


def _products_of_halves(
    rows: Float64Array, products: Callable[[Float64Array, Float64Array], Float64Array]
) -> npt.NDArray[np.int64]:
    """Return the products of upper with upper halves, upper with lower, and lower with lower."""
    high = np.rint(rows / _HALF)
    low = rows - high * _HALF
    pairs = ((high, high), (high, low), (low, low))
    return np.stack([products(left, right) for left, right in pairs]).astype(np.int64)
