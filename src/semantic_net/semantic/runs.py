"""Whole numbers that are mostly small: kept positions as runs of dropped ones, and magnitudes.

Numbers come in groups whose mean is known. Of each number the lowest bits, as many as leave a mean
of 4 to 8, go as they are; the rest becomes a symbol of `semantic_net.semantic.rans`, after as many
times the last symbol as it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from semantic_net.errors import RemoteProtocolError
from semantic_net.fixed_point import Int64Array
from semantic_net.semantic.rans import (
    CARGO_BYTES,
    LAST_SYMBOL,
    encode_symbols,
    model_of,
    num_lanes,
    take_symbols,
)
from semantic_net.semantic.reader import PayloadReader


@dataclass(frozen=True, slots=True)
class Group:
    """Numbers that are coded alike."""

    count: int
    shift: int
    """Lowest bits of each that go as they are."""
    model: int
    num_escapes: int
    """Symbols beyond one for each number."""

    @classmethod
    def of(cls, count: int, total: int, num_escapes: int = 0) -> Group:
        """Return how numbers are coded of which the sum, or a bound of it, is known."""
        shift = max((total // max(count, 1)).bit_length() - 3, 0)
        return cls(count, shift, model_of(total >> shift, count), num_escapes)

    @classmethod
    def for_numbers(cls, numbers: Int64Array, total: int) -> Group:
        """Return how these numbers are coded, of which the receiver knows a bound of the sum."""
        group = cls.of(numbers.size, total)
        return replace(group, num_escapes=int(((numbers >> group.shift) // LAST_SYMBOL).sum()))

    @property
    def num_symbols(self) -> int:
        """Of all its numbers."""
        return self.count + self.num_escapes


def pack_runs(numbers: Int64Array, groups: list[Group], cargo: bytes) -> bytes:
    """Return the numbers of all groups, one group after the other, and some bytes beside them."""
    counts = [group.count for group in groups]
    shifts = np.repeat([group.shift for group in groups], counts)
    models = np.repeat(np.array([group.model for group in groups], np.uint8), counts)
    escapes, last = np.divmod(numbers >> shifts, LAST_SYMBOL)
    symbols = np.full(numbers.size + int(escapes.sum()), LAST_SYMBOL, np.uint8)
    symbols[np.cumsum(escapes + 1) - 1] = last
    carried = CARGO_BYTES * num_lanes(symbols.size, cargo=True)
    coded = encode_symbols(
        symbols, np.repeat(models, escapes + 1), cargo[:carried].ljust(carried, b"\0")
    )
    return b"".join((_pack_low(numbers, shifts), coded, cargo[carried:]))


def take_runs(
    reader: PayloadReader, groups: list[Group], cargo_bytes: int
) -> tuple[Int64Array, bytes]:
    """Take the numbers of all groups, and the bytes beside them.

    The caller has bounded how many there are.

    Raises:
        RemoteProtocolError: Not what `pack_runs` has written.
    """
    counts = [group.count for group in groups]
    shifts = np.repeat([group.shift for group in groups], counts)
    low = _take_low(reader, shifts)
    lengths = [group.num_symbols for group in groups]
    models = np.repeat(np.array([group.model for group in groups], np.uint8), lengths)
    symbols, cargo = take_symbols(reader, models, cargo=True)
    if any(cargo[cargo_bytes:]):
        raise reader.error("padding bytes are not zero")
    cargo = cargo[:cargo_bytes] + reader.take(max(cargo_bytes - len(cargo), 0)).tobytes()
    ends = np.flatnonzero(symbols != LAST_SYMBOL)
    borders = np.cumsum(lengths)
    # Each group ends with the end of a number, and holds as many as it says.
    if (np.searchsorted(ends, borders) != np.cumsum(counts)).any() or (
        symbols[borders[np.array(lengths) > 0] - 1] == LAST_SYMBOL
    ).any():
        raise reader.error("a group of numbers with more or fewer than it says")
    sums = np.cumsum(symbols, dtype=np.int64)[ends]
    numbers: Int64Array = np.diff(sums, prepend=0)
    numbers <<= shifts
    numbers |= low
    return numbers, cargo


def _pack_low(numbers: Int64Array, shifts: Int64Array) -> bytes:
    owners, places = _bit_places(shifts)
    return np.packbits((numbers[owners] >> places) & 1, bitorder="little").tobytes()


def _take_low(reader: PayloadReader, shifts: Int64Array) -> Int64Array:
    num_bits = int(shifts.sum())
    packed = reader.take((num_bits + 7) // 8)
    bits = np.unpackbits(packed, bitorder="little")
    if bits[num_bits:].any():
        raise RemoteProtocolError("payload: padding bits are not zero")
    _, places = _bit_places(shifts)
    low = np.zeros(shifts.size, np.int64)
    with_bits = np.flatnonzero(shifts)
    if with_bits.size:
        starts = (np.cumsum(shifts) - shifts)[with_bits]
        low[with_bits] = np.add.reduceat(bits[:num_bits].astype(np.int64) << places, starts)
    return low


def _bit_places(shifts: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return whose each bit is, and which of its bits."""
    owners = np.repeat(np.arange(shifts.size), shifts)
    starts = np.cumsum(shifts) - shifts
    return owners, np.arange(owners.size) - starts[owners]
