"""The exact arithmetic that every peer shares: integer entries in units of 2^-24.

Float32 becomes integers by ``rint(value * 2^24)``, saturated first, so that no cast is ever out
of range. Casts out of range and fused multiply-adds give different results on x86 and ARM;
nothing in this file can meet either: every product is by a power of two, and so exact.

Entries are int64 by contract and int32 wherever they fit (`NARROW_LIMIT`): half the memory, half
the traffic, half the bytes to hash. Which of the two holds them never changes a value.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
FixedArray = npt.NDArray[np.signedinteger[Any]]
"""int32 or int64."""
Width = type[np.int32] | type[np.int64]
Accumulator = npt.NDArray[Any]
"""int32, int64 or float64, for sums of whole numbers. Whoever chooses int32 or float64 has proved
that each partial sum fits: below 2^31, or below 2^53, up to where float64 holds them exactly."""

FRACTION_BITS = 24
SCALE = 1 << FRACTION_BITS
"""Units in 1.0."""

MAX_DELTA = 1 << (6 + FRACTION_BITS)
"""Largest magnitude of a delta's entry, in units: 2^6. With a power of two, saturating is exact in
float32, and 2^10 authors with weights up to 2^20 sum to at most 2^60."""

MAX_STATE = 1 << 52
"""Largest magnitude of a state's entry, in units (2^28): float64 still holds it exactly."""

MAX_MOMENTUM = 1 << 37
"""Above what a momentum reaches: (2^30 + 1) / (1 - beta), with beta at most 0.99, in units."""

NARROW_LIMIT = (1 << 31) - (1 << 17)
"""Largest magnitude that is kept as int32, in units (just below 2^7). The margin leaves room for
the rounding terms (at most 2^15) that int32 arithmetic adds before it shifts."""

BLOCK = 1 << 16
"""Entries worked on at a time. A few int32 arrays of this length stay close to a core, and numpy's
calls no longer count; from half to twice as many take the same time within a tenth."""


_THREE_QUARTERS = np.float32(0.75)
_THREE_QUARTERS_BITS = _THREE_QUARTERS.view(np.int32)
_FLOAT_SCALE = np.float32(SCALE)
_FLOAT_LIMIT = np.float32(MAX_DELTA / SCALE)


class _WorkArrays(threading.local):
    def __init__(self) -> None:
        self.arrays: dict[tuple[str, object], npt.NDArray[Any]] = {}


_work = _WorkArrays()


def work_array(slot: str, size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array to write into, this thread's own until its next call for the same slot.

    A fresh array for each block would go back to the system each time, and come again as zeroed
    pages: that takes longer than the arithmetic.
    """
    if size > BLOCK:
        return np.empty(size, dtype)
    array = _work.arrays.get((slot, dtype))
    if array is None:
        array = _work.arrays[slot, dtype] = np.empty(BLOCK, dtype)
    return array if size == BLOCK else array[:size]


def delta_to_units(values: Float32Array, largest: float) -> Int32Array:
    """Round a delta to whole units, saturating at |delta| <= 2^6.

    The same as float64 * 2^24 and rint, in float32: times 2^24 is exact there, the nearest whole
    number to a float32 is a float32, and so is the limit.

    Args:
        values: 1-D, finite. Not modified.
        largest: An upper bound of their magnitudes.

    Returns:
        This thread's own `work_array`, until the next call.
    """
    rounded = work_array("units", values.size, np.float32)
    units: Int32Array = rounded.view(np.int32)
    if largest < 0.25:
        # From 1/2 to 1, float32 is spaced by one unit. So this sum is rounded to whole units, ties
        # to even as rint does, and its bits count them from those of 3/4 on, which is even.
        np.add(values, _THREE_QUARTERS, out=rounded)
        units -= _THREE_QUARTERS_BITS
        return units
    if largest > _FLOAT_LIMIT:
        # Clipped before it is scaled: a huge float32 times 2^24 would overflow to infinity.
        values = np.clip(values, -_FLOAT_LIMIT, _FLOAT_LIMIT, out=rounded)
    np.multiply(values, _FLOAT_SCALE, out=rounded)
    np.rint(rounded, out=rounded)
    np.copyto(units, rounded, casting="unsafe")
    return units


def magnitude_in_units(largest: float) -> int:
    """Return the magnitude that `delta_to_units` gives the largest entry, or any bound of it."""
    return min(int(np.rint(np.float64(largest) * SCALE)), MAX_DELTA)


def delta_to_fixed(values: FloatArray) -> Int64Array:
    """Round a delta to fixed point, saturating at |delta| <= 2^6.

    Args:
        values: Any shape, finite. Not modified.
    """
    return _to_fixed(values, MAX_DELTA)


def state_to_fixed(values: FloatArray) -> Int64Array:
    """Round a model's first state to fixed point, saturating at 2^28.

    Args:
        values: Any shape, finite. Not modified.
    """
    return _to_fixed(values, MAX_STATE)


def to_float32(fixed: FixedArray, out: Float32Array | None = None) -> Float32Array:
    """Return the float32 view of fixed-point entries: what a model is loaded with.

    Args:
        fixed: Any shape. Not modified.
        out: Where to write it, of the same shape.
    """
    # The cast rounds to nearest even on every machine; the power of two that follows is exact.
    out = np.empty(fixed.shape, np.float32) if out is None else out
    np.multiply(fixed, 1 / _FLOAT_SCALE, out=out, dtype=np.float32, casting="unsafe")
    return out


def width_for(bound: int) -> Width:
    """Return the narrowest type for entries of this magnitude."""
    return np.int32 if bound <= NARROW_LIMIT else np.int64


def magnitude(fixed: FixedArray) -> int:
    """Return the largest magnitude among fixed-point entries; 0 when there are none."""
    return max(-int(fixed.min()), int(fixed.max())) if fixed.size else 0


def largest_magnitude(values: Float32Array) -> float:
    """Return the largest magnitude among values; inf or nan if any of them is."""
    largest = 0.0
    with np.errstate(invalid="ignore"):
        # In blocks, so that the second of the two passes finds its entries in the cache.
        for start in range(0, values.size, BLOCK):
            block = values[start : start + BLOCK]
            both = max(-float(block.min()), float(block.max()))
            if not both < np.inf:
                return both
            largest = max(largest, both)
    return largest


def _to_fixed(values: FloatArray, limit: int) -> Int64Array:
    # A finite float64 above 2^999 would overflow here; float32, which we send, cannot.
    scaled = np.multiply(values, float(SCALE), dtype=np.float64)
    np.rint(scaled, out=scaled)
    np.clip(scaled, -limit, limit, out=scaled)
    return scaled.astype(np.int64)
