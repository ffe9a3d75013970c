"""An entropy coder: symbols to bits and back, many lanes at a time, in whole numbers only.

Range asymmetric numeral systems (Duda, "Asymmetric numeral systems", 2013, section 3) with
interleaved states (Giesen, "Interleaved entropy coders", 2014): symbol ``i`` belongs to lane
``i % lanes``, each lane is a number of its own, and numpy takes one symbol of all lanes in a step.
A lane costs two bytes, since it has to begin with some number. So each begins with two bytes that
have to be sent anyway, the *cargo*, which the decoder finds in the end; without cargo there are
fewer lanes, and they cost some per cent of what they hold.

Symbols are 0 to 63, and each has one of `NUM_MODELS` fixed distributions: geometric, of mean
``2^(g / 4 - 6)`` for model ``g``, the last symbol standing for itself and all beyond. They are
tables that every machine computes alike, and a sender has nothing to tell but which.

    uint32 x lanes (the states), uint16 x words
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from semantic_net.semantic.bits import UInt8Array
from semantic_net.semantic.reader import PayloadReader

UInt32Array = npt.NDArray[np.uint32]

NUM_SYMBOLS = 64
LAST_SYMBOL = NUM_SYMBOLS - 1

_OCTAVES = range(-6, 4)
NUM_MODELS = 4 * len(_OCTAVES)
"""Quarters of an octave from a mean of 1/64 to just below 16."""

_QUARTERS = (1 << 16, 77936, 92682, 110218)
"""2^(g/4) in units of 2^-16."""

_PRECISION = 12
_TOTAL = 1 << _PRECISION
_LOWEST = 1 << 16
"""States are at least this, and below 2^32."""

_PRECISION_32 = np.uint32(_PRECISION)
_SLOT_MASK = np.uint32(_TOTAL - 1)
_FACTOR_MASK = np.uint32(2 * _TOTAL - 1)
_OFFSET_SHIFT = np.uint32(_PRECISION + 1)
_SYMBOL_SHIFT = np.uint32(2 * _PRECISION + 1)
_WORD_BITS = np.uint32(16)

CARGO_BYTES = 2
"""That one lane carries."""

_SYMBOLS_A_LANE = 256
_SYMBOLS_A_LANE_WITH_CARGO = 128
_MAX_LANES = 1 << 12


def num_lanes(count: int, *, cargo: bool) -> int:
    """Return the lanes of so many symbols: a power of two."""
    each = _SYMBOLS_A_LANE_WITH_CARGO if cargo else _SYMBOLS_A_LANE
    return min(1 << (count // each).bit_length(), _MAX_LANES)


def model_of(zeros: int, ones: int) -> int:
    """Return the model whose mean is nearest below ``zeros / ones``, within what there is."""
    if not ones:
        return NUM_MODELS - 1
    # 4 log2 of the mean is log2 of its fourth power.
    octaves = (((zeros << 16) // ones) ** 4).bit_length() - 1 - 64
    return min(max(octaves - 4 * _OCTAVES.start, 0), NUM_MODELS - 1)


def encode_symbols(symbols: UInt8Array, models: UInt8Array, cargo: bytes | None = None) -> bytes:
    """Return symbols, each coded with the model beside it.

    Args:
        symbols: (N,), below `NUM_SYMBOLS`.
        models: (N,), below `NUM_MODELS`.
        cargo: `CARGO_BYTES` for each lane; None for lanes without.
    """
    tables = _tables()
    count = symbols.size
    lanes = num_lanes(count, cargo=cargo is not None)
    entries = models.astype(np.int32) * NUM_SYMBOLS + symbols
    frequencies, starts = tables.frequencies[entries], tables.starts[entries]
    # At a frequency of all but everything this is 2^32 - 2^20, and still fits.
    limits = frequencies << np.uint32(32 - _PRECISION)
    states = np.full(lanes, _LOWEST, np.uint32)
    if cargo is not None:
        states += np.frombuffer(cargo, "<u2")
    words = []
    for first in reversed(range(0, count, lanes)):
        here = slice(first, min(first + lanes, count))
        active = states[: here.stop - first]
        full = (active >= limits[here]).nonzero()[0]
        if full.size:
            taken = active[full]
            words.append(taken.astype("<u2"))
            active[full] = taken >> np.uint32(16)
        quotients, rests = np.divmod(active, frequencies[here])
        np.left_shift(quotients, np.uint32(_PRECISION), out=active)
        active += rests
        active += starts[here]
    return b"".join((states.astype("<u4").tobytes(), *(w.tobytes() for w in reversed(words))))


def take_symbols(
    reader: PayloadReader, models: UInt8Array, *, cargo: bool = False
) -> tuple[UInt8Array, bytes]:
    """Take as many symbols as there are models, and the cargo.

    Raises:
        RemoteProtocolError: Not what `encode_symbols` writes for these models.
    """
    tables = _tables()
    count = models.size
    lanes = num_lanes(count, cargo=cargo)
    states = reader.take(4 * lanes).view("<u4").astype(np.uint32)
    if (states < _LOWEST).any():
        raise reader.error("a state that no encoder ends with")
    words = reader.peek()[: reader.left // 2 * 2].view("<u2")
    slots = models.astype(np.uint32)
    slots <<= _PRECISION_32
    used = 0
    # A step is a dozen calls on few numbers, so that calls are what it costs.
    for first in range(0, count, lanes):
        active = states[: count - first]
        here = slots[first : first + lanes]
        here += active & _SLOT_MASK
        drawn = tables.slots.take(here)
        here[:] = drawn
        active >>= _PRECISION_32
        active *= drawn & _FACTOR_MASK
        drawn >>= _OFFSET_SHIFT
        drawn &= _SLOT_MASK
        active += drawn
        empty = (active < _LOWEST).nonzero()[0]
        if empty.size:
            taken = words[used : used + empty.size]
            if taken.size < empty.size:
                raise reader.error("ends within its symbols")
            active[empty] = (active[empty] << _WORD_BITS) | taken
            used += empty.size
    reader.take(2 * used)
    slots >>= _SYMBOL_SHIFT
    symbols = slots.astype(np.uint8)
    left = states - np.uint32(_LOWEST)
    if (left >= (_LOWEST if cargo else 1)).any():
        raise reader.error("symbols that nobody has coded")
    return symbols, left.astype("<u2").tobytes() if cargo else b""


@dataclass(frozen=True, slots=True)
class _Tables:
    frequencies: UInt32Array
    """By model and symbol, of `_TOTAL`."""
    starts: UInt32Array
    """The sums of the frequencies before."""
    slots: UInt32Array
    """By model and slot, 0 to `_TOTAL`: from bit 0 on its symbol's frequency, from bit 13 on its
    place among those of the symbol, from bit 25 on the symbol. One table, looked up once."""


@cache
def _tables() -> _Tables:
    frequencies = np.array([_geometric(g) for g in range(NUM_MODELS)], np.uint32)
    starts = np.cumsum(frequencies, axis=1, dtype=np.uint32) - frequencies
    numbers = np.arange(NUM_SYMBOLS, dtype=np.uint8)
    symbols = np.stack([np.repeat(numbers, row) for row in frequencies])
    factors = np.take_along_axis(frequencies, symbols.astype(np.int64), axis=1)
    offsets = np.arange(_TOTAL, dtype=np.uint32)
    offsets = offsets - np.take_along_axis(starts, symbols.astype(np.int64), axis=1)
    slots = factors | offsets << _OFFSET_SHIFT | symbols.astype(np.uint32) << _SYMBOL_SHIFT
    return _Tables(frequencies.ravel(), starts.ravel(), slots.ravel())


def _geometric(model: int) -> list[int]:
    """Return the frequencies of a model, each at least one, that sum to `_TOTAL`."""
    octave, quarter = divmod(model, 4)
    # The mean, in units of 2^-22; of geometric numbers ``mean / (mean + 1)`` is the ratio.
    mean = _QUARTERS[quarter] << octave
    one = 1 << (16 - _OCTAVES.start)
    weights = [mean**n * (mean + one) ** (LAST_SYMBOL - n) * one for n in range(LAST_SYMBOL)]
    weights.append(mean**LAST_SYMBOL * (mean + one))
    total = sum(weights)
    left = _TOTAL - NUM_SYMBOLS
    frequencies = [1 + weight * left // total for weight in weights]
    frequencies[0] += _TOTAL - sum(frequencies)
    return frequencies
