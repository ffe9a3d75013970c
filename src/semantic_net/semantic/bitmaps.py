"""Sorted positions as a compressed bitmap: shorter than gaps where they lie in clusters.

The bitmap is one zstd frame: eight positions a byte, the first in the lowest bit, without the
zero bytes at its end.
"""

from __future__ import annotations

import numpy as np

from semantic_net.errors import RemoteProtocolError
from semantic_net.fixed_point import Int32Array, Int64Array
from semantic_net.semantic.bits import UInt8Array, plane_bytes
from semantic_net.zstd import compress, decompress

_TRIAL_LEVEL = 3
_PROMISING = 1.15
"""Where a fast trial takes at most this many times the bytes to beat, a thorough one follows."""

_THOROUGH = ((1 << 14, 12), (1 << 28, 6))
"""Level by the bitmap's size: the time it takes stays near that of finding the positions."""


def pack_bitmap(positions: Int64Array, size: int, limit: int) -> bytes | None:
    """Return strictly increasing positions below ``size``; None if that takes ``limit`` bytes."""
    if not len(positions):
        return None
    bitmap = np.zeros(plane_bytes(size), np.uint8)
    flags = np.zeros(8 * bitmap.size, np.bool_)
    flags[positions] = True
    bitmap = np.packbits(flags, bitorder="little")[: int(positions[-1]) // 8 + 1]
    packed = compress(bitmap.data, _TRIAL_LEVEL)
    if len(packed) < _PROMISING * limit:
        level = next(level for most, level in _THOROUGH if bitmap.size <= most)
        packed = min(packed, compress(bitmap.data, level), key=len)
    return packed if len(packed) < limit else None


def unpack_bitmap(packed: UInt8Array, count: int, size: int) -> Int32Array:
    """Return ``count`` strictly increasing positions below ``size``.

    Raises:
        RemoteProtocolError: Not what `pack_bitmap` could have written.
    """
    bitmap = np.frombuffer(decompress(packed.data, plane_bytes(size)), np.uint8)
    if not bitmap[-1]:
        raise RemoteProtocolError("payload: a bitmap that ends with an empty byte")
    flags = np.unpackbits(bitmap, bitorder="little").view(np.bool_)
    # Counted first: a frame of a few bytes may hold every position there is.
    if np.count_nonzero(flags) != count or flags[size:].any():
        raise RemoteProtocolError("payload: a bitmap of other positions than announced")
    return np.flatnonzero(flags).astype(np.int32)
