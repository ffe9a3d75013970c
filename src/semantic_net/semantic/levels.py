"""Two magnitudes and a sign for each kept value: the quantiser of mode `topk_quantize`.

The border between the two magnitudes starts halfway between the smallest and the largest value on
a logarithmic scale, and then moves to where the sum of squared errors has a minimum (Lloyd, "Least
Squares Quantization in PCM", 1982). With error feedback the kept values are much alike, but for a
few large ones, and a border halfway on a linear scale would leave the lower level to all of them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from semantic_net.fixed_point import MAX_DELTA, SCALE, Float32Array, Float64Array, Int32Array
from semantic_net.semantic.bits import UInt8Array

BoolArray = npt.NDArray[np.bool_]

_STEPS = 3
"""Of Lloyd's iteration: later ones hardly move the border."""


def quantize_to_levels(values: Float32Array) -> tuple[UInt8Array, tuple[int, int]]:
    """Return each value as a code, and the two magnitudes that codes stand for.

    Args:
        values: (K,), finite, not zero.

    Returns:
        (K,) codes, with bit 0 for a negative value and bit 1 for the second magnitude; and the
        two magnitudes in whole units of 2^-24, the means of what they stand for (saturated at
        `MAX_DELTA`, at least one).
    """
    magnitudes = np.abs(values).astype(np.float64)
    np.minimum(magnitudes, MAX_DELTA / SCALE, out=magnitudes)
    if not magnitudes.size:
        return np.empty(0, np.uint8), (1, 1)
    border = float(np.sqrt(magnitudes.min() * magnitudes.max()))
    for _ in range(_STEPS):
        is_high = magnitudes >= border
        low, high = _means(magnitudes, is_high)
        border = (low + high) / 2
    is_high = magnitudes >= border
    low, high = _means(magnitudes, is_high)
    codes: UInt8Array = np.signbit(values).view(np.uint8)
    codes |= np.left_shift(is_high.view(np.uint8), 1)
    return codes, (_to_units(low), _to_units(high))


def level_units(codes: UInt8Array, levels: tuple[int, int]) -> Int32Array:
    """Return what codes stand for, in units of 2^-24."""
    low, high = levels
    units: Int32Array = np.array([low, -low, high, -high], np.int32)[codes]
    return units


def _means(magnitudes: Float64Array, is_high: BoolArray) -> tuple[float, float]:
    """Return the means of both groups; of an empty one, the other's."""
    num_high = int(np.count_nonzero(is_high))
    num_low = magnitudes.size - num_high
    sum_high = float(magnitudes[is_high].sum())
    sum_low = float(magnitudes.sum()) - sum_high
    high = sum_high / num_high if num_high else sum_low / num_low
    low = sum_low / num_low if num_low else high
    return low, high


def _to_units(value: float) -> int:
    return min(max(round(value * SCALE), 1), MAX_DELTA)
