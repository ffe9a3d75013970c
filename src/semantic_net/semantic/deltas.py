"""Deltas as they lie in a payload: decoded block by block, when they are folded.

A delta has two parts, parameters and float buffers, end to end as in the model's flat vector. A
part holds views into the payload, adds any range of its entries into an accumulator, and knows a
bound of their magnitude, so that the fold can choose the fastest arithmetic that stays exact.

Entries are whole numbers of 2^-24 (`semantic_net.fixed_point`). Nothing here can fail: whatever
a peer could get wrong was refused when the payload was parsed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from semantic_net.fixed_point import (
    BLOCK,
    SCALE,
    Accumulator,
    Float32Array,
    Int32Array,
    Int64Array,
    delta_to_units,
    magnitude,
    magnitude_in_units,
    to_float32,
    work_array,
)
from semantic_net.semantic.bits import UInt8Array, unpack_codes


class Part(Protocol):
    """Some entries of a delta, in a form of their own."""

    @property
    def size(self) -> int:
        """Entries."""
        ...

    @property
    def bound(self) -> int:
        """An upper bound of the entries' magnitudes, in units; at most `MAX_DELTA`."""
        ...

    @property
    def own_bytes(self) -> int:
        """Bytes of memory beside the payload."""
        ...

    def accumulate(self, out: Accumulator, start: int, factor: int) -> None:
        """Add ``factor`` times the entries from ``start`` on into ``out``, as many as it has."""
        ...


class DenseFloats:
    """Every entry as float32."""

    __slots__ = ("_largest", "_values", "bound")

    own_bytes = 0

    def __init__(self, values: Float32Array, largest: float) -> None:
        """Take the values as they lie.

        Args:
            values: 1-D, finite, little-endian. Not copied, not modified, may be unaligned.
            largest: An upper bound of their magnitudes.
        """
        self._values = values
        self._largest = largest
        self.bound = magnitude_in_units(largest)

    @property
    def size(self) -> int:
        """Entries."""
        return self._values.size

    def accumulate(self, out: Accumulator, start: int, factor: int) -> None:
        """See `Part.accumulate`."""
        if self.bound:
            values = self._values[start : start + out.size]
            out += _times(delta_to_units(values, self._largest), factor, out)


class SparseFloats:
    """Some entries as float32 at sorted positions; the others are zero."""

    __slots__ = ("_largest", "_positions", "_values", "bound", "size")

    def __init__(
        self, positions: Int32Array, values: Float32Array, largest: float, size: int
    ) -> None:
        """Take positions and values as they lie.

        Args:
            positions: 1-D, strictly increasing, below ``size``.
            values: As many, finite, little-endian.
            largest: An upper bound of their magnitudes.
            size: Entries, the zeros included.
        """
        self._positions = positions
        self._values = values
        self._largest = largest
        self.bound = magnitude_in_units(largest)
        self.size = size

    @property
    def positions(self) -> Int32Array:
        """Of the entries that are not zero."""
        return self._positions

    @property
    def own_bytes(self) -> int:
        """See `Part.own_bytes`."""
        return self._positions.nbytes

    def units(self, first: int, last: int) -> Int32Array:
        """Return the entries at ``positions[first:last]``, at most `BLOCK`."""
        return delta_to_units(self._values[first:last], self._largest)

    def accumulate(self, out: Accumulator, start: int, factor: int) -> None:
        """See `Part.accumulate`."""
        _scatter(self, out, start, factor)


class SparseUnits:
    """Some entries as whole numbers at sorted positions; the others are zero."""

    __slots__ = ("_units", "bound", "positions", "size")

    def __init__(self, positions: Int32Array, units: Int32Array, size: int) -> None:
        """Take positions and values as they lie.

        Args:
            positions: 1-D, strictly increasing, below ``size``.
            units: As many, of at most `MAX_DELTA`.
            size: Entries, the zeros included.
        """
        self.positions = positions
        self._units = units
        self.bound = magnitude(units)
        self.size = size

    @property
    def own_bytes(self) -> int:
        """See `Part.own_bytes`."""
        return self.positions.nbytes + self._units.nbytes

    def units(self, first: int, last: int) -> Int32Array:
        """Return the entries at ``positions[first:last]``."""
        return self._units[first:last]

    def accumulate(self, out: Accumulator, start: int, factor: int) -> None:
        """See `Part.accumulate`."""
        _scatter(self, out, start, factor)


class QuantizedCodes:
    """Every entry as a code of at most 8 bits, with a step and a zero point per tensor."""

    __slots__ = ("_half_steps", "_offsets", "_planes", "_width", "_zeros", "bound")

    own_bytes = 0

    def __init__(
        self,
        planes: UInt8Array,
        width: int,
        half_steps: Sequence[int],
        zeros: Sequence[int],
        offsets: Sequence[int],
    ) -> None:
        """Take the planes as they lie.

        Args:
            planes: ``width`` planes of codes (see `semantic_net.semantic.bits`).
            width: Bits a code, 1 to 8.
            half_steps: Of each tensor, in units.
            zeros: Of each tensor: twice the code that stands for zero, at most twice the last code.
            offsets: Where each tensor starts, and the end of the last one.
        """
        self._planes = planes
        self._width = width
        self._half_steps = half_steps
        self._zeros = zeros
        self._offsets = offsets
        last = 2 * ((1 << width) - 1)
        self.bound = max(
            (half * max(zero, last - zero) for half, zero in zip(half_steps, zeros, strict=True)),
            default=0,
        )

    @property
    def size(self) -> int:
        """Entries."""
        return self._offsets[-1]

    def accumulate(self, out: Accumulator, start: int, factor: int) -> None:
        """See `Part.accumulate`."""
        stop = start + out.size
        codes = unpack_codes(self._planes, self._width, self.size, start, stop)
        steps = work_array("steps", out.size, np.int16)
        np.multiply(codes, 2, out=steps, dtype=np.int16)
        terms = work_array("terms", out.size, out.dtype)
        tensor = bisect_right(self._offsets, start) - 1
        first = 0
        while first < out.size:
            last = min(self._offsets[tensor + 1] - start, out.size)
            here = slice(first, last)
            # Zero goes first: so no product is larger than the bound allows.
            steps[here] -= self._zeros[tensor]
            half_step = self._half_steps[tensor] * factor
            np.multiply(steps[here], half_step, out=terms[here], dtype=out.dtype)
            first, tensor = last, tensor + 1
        out += terms


class ParsedDelta:
    """One author's delta, as agreed with the model's schema: parameters, then float buffers."""

    __slots__ = ("_buffers", "parameters", "size")

    def __init__(self, parameters: Part, buffers: Part) -> None:
        self.parameters = parameters
        self._buffers = buffers
        self.size = parameters.size + buffers.size

    @property
    def own_bytes(self) -> int:
        """Bytes of memory beside the payload, of which it holds views."""
        return self.parameters.own_bytes + self._buffers.own_bytes

    def bound(self, start: int, stop: int) -> int:
        """Return an upper bound of the magnitudes from ``start`` to ``stop``, in units."""
        split = self.parameters.size
        return max(
            self.parameters.bound if start < min(split, stop) else 0,
            self._buffers.bound if stop > max(split, start) else 0,
        )

    def accumulate(self, out: Accumulator, start: int, factor: int) -> None:
        """Add ``factor`` times the entries from ``start`` on into ``out``, as many as it has.

        Args:
            out: 1-D; ``start + out.size`` is at most ``size``. Each sum must fit.
            start: First entry.
            factor: At least 1.
        """
        split = self.parameters.size
        in_parameters = min(max(split - start, 0), out.size)
        if in_parameters:
            self.parameters.accumulate(out[:in_parameters], start, factor)
        if in_parameters < out.size:
            self._buffers.accumulate(out[in_parameters:], start + in_parameters - split, factor)

    def to_fixed(self) -> Int64Array:
        """Return all entries at once: for tests and tools, the fold goes by blocks."""
        fixed = np.zeros(self.size, np.int64)
        self.accumulate(fixed, 0, 1)
        return fixed

    def to_float32(self) -> Float32Array:
        """Return all entries as float32, rounded where float32 cannot hold them."""
        flat = np.empty(self.size, np.float32)
        for start in range(0, self.size, BLOCK):
            fixed = np.zeros(min(BLOCK, self.size - start), np.int64)
            self.accumulate(fixed, start, 1)
            to_float32(fixed, out=flat[start : start + fixed.size])
        return flat


def subtract(part: Part, values: Float32Array) -> None:
    """Subtract a part from float values, in place; what float32 cannot hold is rounded once.

    Args:
        part: What to subtract.
        values: 1-D, as many as the part has entries.
    """
    if isinstance(part, SparseFloats | SparseUnits):
        for first in range(0, part.positions.size, BLOCK):
            here = part.positions[first : first + BLOCK]
            terms = np.multiply(part.units(first, first + here.size), 1 / SCALE)
            values[here] = values[here] - terms
        return
    # Float32 holds what a float payload decodes to; codes and steps can have more digits.
    dtype = np.float32 if isinstance(part, DenseFloats) else np.float64
    size = min(BLOCK, part.size)
    units, entries = np.empty(size, np.int32), np.empty(size, dtype)
    for start in range(0, part.size, BLOCK):
        block = values[start : start + BLOCK]
        units.fill(0)
        part.accumulate(units[: block.size], start, 1)
        np.multiply(units, 1 / SCALE, out=entries, dtype=dtype, casting="unsafe")
        np.subtract(block, entries[: block.size], out=block, casting="same_kind")


def _scatter(part: SparseFloats | SparseUnits, out: Accumulator, start: int, factor: int) -> None:
    """Add ``factor`` times the entries from ``start`` on into ``out``, as many as it has."""
    ends = np.array([start, min(start + out.size, part.size)], np.int32)
    first, last = part.positions.searchsorted(ends)
    if first < last:
        # Numpy's own index type: any other is converted at each use, and slowly.
        here = np.subtract(part.positions[first:last], start, dtype=np.intp)
        terms = _times(part.units(first, last), factor, out)
        out[here] += terms  # positions are distinct, so every entry counts


def _times(units: Int32Array, factor: int, out: Accumulator) -> Accumulator:
    """Return the products in the type of ``out``, which the caller has proved to hold them."""
    if factor == 1 and out.dtype == np.int32:
        return units
    terms = work_array("terms", units.size, out.dtype)
    np.multiply(units, factor, out=terms, dtype=out.dtype, casting="unsafe")
    return terms
