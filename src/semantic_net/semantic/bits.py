"""Small integers and sorted positions as bits, and back, without a loop over entries.

Planes: plane ``p`` holds bit ``p`` of every number, eight numbers a byte, the first in the lowest
bit; the padding of each plane's last byte is zero. Every width works alike, every operation is
over contiguous bytes, and any range can be read without the rest.

Positions: the gaps between sorted positions, Golomb-Rice coded. The low ``rice`` bits of each gap
are planes; what is above them is unary: that many zeros, then a one. With ``rice`` 0 this is the
bitmap of the positions without its trailing zeros, so the best ``rice`` never takes more bytes
than a bitmap, and whatever takes more is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from semantic_net.errors import RemoteProtocolError
from semantic_net.fixed_point import Int32Array, Int64Array

UInt8Array = npt.NDArray[np.uint8]
T = TypeVar("T", np.uint8, np.int64)

CHUNK_BYTES = 1 << 14
"""Unary bytes decoded at a time: bounds the memory whatever a peer sends."""


def plane_bytes(count: int) -> int:
    """Return the bytes of one plane of ``count`` numbers."""
    return (count + 7) // 8


def pack_planes(numbers: UInt8Array | Int64Array, width: int) -> bytes:
    """Return the planes of numbers below ``2^width``."""
    planes = (np.packbits(numbers & (1 << bit), bitorder="little") for bit in range(width))
    return b"".join(plane.tobytes() for plane in planes)


def check_planes(planes: UInt8Array, width: int, count: int) -> None:
    """Refuse padding bits that are not zero: one number has one encoding.

    Args:
        planes: Exactly ``width`` planes of ``count`` numbers.
        width: Bits a number.
        count: Numbers.
    """
    used = count % 8
    if width and used and (planes.reshape(width, -1)[:, -1] >> used).any():
        raise RemoteProtocolError("payload: padding bits are not zero")


def unpack_codes(planes: UInt8Array, width: int, count: int, start: int, stop: int) -> UInt8Array:
    """Return numbers ``start`` to ``stop`` of ``count``, of 1 to 8 bits each."""
    return _unpack(planes, width, count, start, stop, np.uint8)


def _unpack(
    planes: UInt8Array, width: int, count: int, start: int, stop: int, dtype: type[T]
) -> npt.NDArray[T]:
    numbers = np.zeros(stop - start, dtype)
    stride = plane_bytes(count)
    first, skip = divmod(start, 8)
    for plane in reversed(range(width)):
        part = planes[plane * stride + first : plane * stride + plane_bytes(stop)]
        bits = np.unpackbits(part, bitorder="little")
        numbers += numbers  # a shift, and vectorised for bytes too
        numbers |= bits[skip : skip + stop - start]
    return numbers


@dataclass(frozen=True, slots=True)
class PackedPositions:
    """Sorted positions as bytes."""

    rice: int
    """Bits of each gap that are not unary."""
    planes: bytes
    unary: bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of both parts."""
        return len(self.planes) + len(self.unary)


def pack_positions(positions: Int64Array, size: int) -> PackedPositions:
    """Return strictly increasing positions below ``size`` in the fewest bytes of this format."""
    count = len(positions)
    gaps = np.diff(positions, prepend=-1) - 1
    rice = _best_rice(gaps, size)
    ones = np.cumsum((gaps >> rice) + 1) - 1
    unary = np.zeros(int(ones[-1]) + 1 if count else 0, np.uint8)
    unary[ones] = 1
    return PackedPositions(
        rice=rice,
        planes=pack_planes(gaps, rice),
        unary=np.packbits(unary, bitorder="little").tobytes(),
    )


def max_position_bytes(size: int) -> int:
    """Return the most bytes that positions below ``size`` take: those of a bitmap."""
    return plane_bytes(size)


def unpack_positions(
    rice: int, planes: UInt8Array, unary: UInt8Array, count: int, size: int
) -> Int32Array:
    """Return ``count`` strictly increasing positions below ``size``.

    Beside the result, memory is bounded by `CHUNK_BYTES`.

    Raises:
        RemoteProtocolError: Not what `pack_positions` could have written, but for the choice of
            ``rice``.
    """
    if rice > _max_rice(size) or planes.size + unary.size > max_position_bytes(size):
        raise RemoteProtocolError("payload: positions take more bytes than a bitmap")
    check_planes(planes, rice, count)
    if count == 0:
        if unary.size:
            raise RemoteProtocolError("payload: positions of no entries")
        return np.empty(0, np.int32)
    if not unary.size or not unary[-1]:
        raise RemoteProtocolError("payload: positions end with an empty byte")
    zeros = 8 * (unary.size - 1) + int(unary[-1]).bit_length() - count
    # The last position is at least this far out. Checked first, so that no sum below overflows:
    # they stay under size + count * 2^rice <= 2^62.
    if zeros < 0 or (zeros << rice) + count > size:
        raise RemoteProtocolError("payload: positions are out of range")
    positions = np.empty(count, np.int32)
    done, last_one, last_position = 0, -1, -1
    for start in range(0, unary.size, CHUNK_BYTES):
        bits = np.unpackbits(unary[start : start + CHUNK_BYTES], bitorder="little")
        ones = np.flatnonzero(bits) + 8 * start
        if not ones.size:
            continue
        if done + ones.size > count:
            raise RemoteProtocolError("payload: more positions than entries")
        gaps = np.diff(ones, prepend=last_one) - 1
        gaps <<= rice
        gaps |= _unpack(planes, rice, count, done, done + ones.size, np.int64)
        gaps += 1
        np.cumsum(gaps, out=gaps)
        gaps += last_position
        if gaps[-1] >= size:
            raise RemoteProtocolError("payload: positions are out of range")
        positions[done : done + ones.size] = gaps
        done, last_one, last_position = done + ones.size, int(ones[-1]), int(gaps[-1])
    if done != count:
        raise RemoteProtocolError("payload: fewer positions than entries")
    return positions


def _max_rice(size: int) -> int:
    return max(size.bit_length() - 1, 0)


def _best_rice(gaps: Int64Array, size: int) -> int:
    # The best one is near the logarithm of the mean gap; 0 guards the promise about bitmaps.
    count = len(gaps)
    guess = (size // max(count, 1)).bit_length() - 1
    near = range(max(guess - 2, 0), min(guess + 2, _max_rice(size)) + 1)

    def packed_bytes(rice: int) -> int:
        unary_bits = count + int((gaps >> rice).sum())
        return rice * plane_bytes(count) + plane_bytes(unary_bits)

    best: int = min((0, *near), key=packed_bytes)
    return best
