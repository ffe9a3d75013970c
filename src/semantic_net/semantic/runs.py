"""Whole numbers that are mostly small: kept positions as runs of dropped ones, and magnitudes.

Numbers come in groups whose mean is known. Of each number the lowest bits, as many as leave a mean
of 4 to 8, go as they are; the rest becomes a symbol of `semantic_net.semantic.rans`, after as many
times the last symbol as it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from semantic_net.fixed_point import BLOCK, Int64Array
from semantic_net.semantic.bits import UInt8Array, check_planes, plane_bytes
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


def pack_runs(parts: list[Int64Array], groups: list[Group], cargo: bytes) -> bytes:
    """Return the numbers of all groups, one group after the other, and some bytes beside them.

    Args:
        parts: The numbers of each group.
        groups: As `Group.for_numbers` makes them.
        cargo: Of any length.
    """
    low, symbols, models = [], [], []
    for numbers, group in zip(parts, groups, strict=True):
        low.append(_low_bits(numbers, group.shift))
        escapes, last = np.divmod(numbers >> group.shift, LAST_SYMBOL)
        coded = np.full(group.num_symbols, LAST_SYMBOL, np.uint8)
        coded[np.cumsum(escapes + 1) - 1] = last
        symbols.append(coded)
        models.append(np.full(coded.size, group.model, np.uint8))
    all_symbols = np.concatenate(symbols)
    carried = CARGO_BYTES * num_lanes(all_symbols.size, cargo=True)
    front = cargo[:carried].ljust(carried, b"\0")
    return b"".join(
        (
            np.packbits(np.concatenate(low), bitorder="little").tobytes(),
            encode_symbols(all_symbols, np.concatenate(models), front),
            cargo[carried:],
        )
    )


def take_runs(
    reader: PayloadReader, groups: list[Group], cargo_bytes: int
) -> tuple[list[Int64Array], bytes]:
    """Take the numbers of each group, and the bytes beside them.

    The caller has bounded how many there are.

    Raises:
        RemoteProtocolError: Not what `pack_runs` has written.
    """
    num_bits = sum(group.count * group.shift for group in groups)
    low = reader.take(plane_bytes(num_bits))
    check_planes(low, 1, num_bits)
    if cargo_bytes > reader.left:  # wherever it lies, before room is made for what it is beside
        raise reader.error("ends within its cargo")
    models = [np.full(group.num_symbols, group.model, np.uint8) for group in groups]
    symbols, cargo = take_symbols(reader, np.concatenate(models), cargo=True)
    if any(cargo[cargo_bytes:]):
        raise reader.error("padding bytes are not zero")
    cargo = cargo[:cargo_bytes] + reader.take(max(cargo_bytes - len(cargo), 0)).tobytes()
    parts = []
    symbol = bit = 0
    for group in groups:
        coded = symbols[symbol : symbol + group.num_symbols]
        ends = np.flatnonzero(coded != LAST_SYMBOL)
        # Each group ends with the end of a number, and holds as many as it says.
        if ends.size != group.count or (coded[-1:] == LAST_SYMBOL).any():
            raise reader.error("a group of numbers with more or fewer than it says")
        numbers: Int64Array = np.diff(ends, prepend=-1) - 1
        numbers *= LAST_SYMBOL
        numbers += coded[ends]
        _append_low_bits(numbers, group.shift, low, bit)
        parts.append(numbers)
        symbol += group.num_symbols
        bit += group.count * group.shift
    return parts, cargo


def _low_bits(numbers: Int64Array, shift: int) -> UInt8Array:
    """Return the lowest bits of each number, one a byte."""
    bits = np.empty((numbers.size, shift), np.uint8)
    for place in range(shift):
        bits[:, place] = (numbers >> place) & 1
    return bits.ravel()


def _append_low_bits(numbers: Int64Array, shift: int, packed: UInt8Array, start: int) -> None:
    """Shift numbers, in place, and set their lowest bits to those from bit ``start`` on."""
    numbers <<= shift
    # In blocks: a bit takes a byte here, and more.
    for first in range(0, numbers.size, BLOCK):
        here = numbers[first : first + BLOCK]
        byte, skip = divmod(start + first * shift, 8)
        count = skip + here.size * shift
        bits = np.unpackbits(packed[byte:], count=count, bitorder="little")[skip:]
        for place in range(shift):
            here |= np.left_shift(bits[place::shift], place, dtype=np.int64)
