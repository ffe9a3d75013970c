"""Whole numbers of any size in as few bytes as they need (LEB128), in one way only."""

from __future__ import annotations

from collections.abc import Iterable

from semantic_net.semantic.reader import PayloadReader

_MAX_BYTES = 9
"""Enough for numbers below 2^63; more are refused."""


def pack_varints(numbers: Iterable[int]) -> bytes:
    """Return numbers from 0 to 2^63 - 1, seven bits a byte, the lowest first."""
    packed = bytearray()
    for number in numbers:
        while number > 0x7F:
            packed.append(number & 0x7F | 0x80)
            number >>= 7
        packed.append(number)
    return bytes(packed)


def take_varint(reader: PayloadReader, most: int) -> int:
    """Take one number.

    Raises:
        RemoteProtocolError: It is above ``most``, is written with more bytes than it needs, or
            the payload ends.
    """
    number = 0
    for place in range(_MAX_BYTES):
        byte = int(reader.take(1)[0])
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            if place and not byte:
                raise reader.error("a number with a byte too many")
            break
    else:
        raise reader.error("a number without an end")
    if number > most:
        raise reader.error(f"the number {number}, where {most} is the most")
    return number
