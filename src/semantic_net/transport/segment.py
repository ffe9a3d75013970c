"""A piece of a byte stream on its way, as `reliable` sends it where messages can get lost.

    version | flags | source (16) | stream (16) | number | offset | acknowledged | echo | limit
    and the bytes

All numbers are big-endian, 8 bytes each. ``source`` is where answers go, ``stream`` is what the
dialling end has drawn. Pure: no socket, no clock.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from semantic_net.errors import RemoteProtocolError
from semantic_net.transport.base import Buffer

VERSION = 1
ID_BYTES = 16
HEADER = struct.Struct(f">BB{ID_BYTES}s{ID_BYTES}sQQQQQ")

MAX_DATA_BYTES = 5 * 512 * 1024
"""Most bytes of the stream in one segment. Small ones cost more: who puts or takes one has to
wait for Python's lock each time."""


class Flags(enum.IntFlag):
    """What is special about a segment."""

    NONE = 0
    OPEN = 1
    """Begins a stream; its bytes say who dials, and are none of the stream's."""
    FIN = 2
    """Nothing follows these bytes; the end counts as one more of them."""
    RESET = 4
    """The sender knows no such stream, or does not want it any more."""
    PROBE = 8
    """Asks what has arrived."""
    GAP = 16
    """The sender has received more, behind something that is missing."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One message of one stream."""

    flags: Flags = Flags.NONE
    number: int = 0
    """Counts what is sent and wants an answer; what is sent again has a new one. 0: wants none."""
    offset: int = 0
    """Of the first byte in the stream."""
    acknowledged: int = 0
    """The sender has received the other direction up to here."""
    echo: int = 0
    """The highest number that it has received."""
    limit: int = 0
    """It takes bytes up to here."""
    data: Sequence[Buffer] = ()

    @property
    def num_bytes(self) -> int:
        """How many bytes of the stream it carries, the end included."""
        return sum(map(len, self.data)) + bool(self.flags & Flags.FIN)


@dataclass(frozen=True, slots=True)
class Route:
    """Which stream a segment belongs to, and who sends it."""

    source: bytes
    stream: bytes


def encode_segment(route: Route, segment: Segment) -> tuple[Buffer, ...]:
    """Return the parts of the message that a segment is."""
    header = HEADER.pack(
        VERSION,
        segment.flags,
        route.source,
        route.stream,
        segment.number,
        segment.offset,
        segment.acknowledged,
        segment.echo,
        segment.limit,
    )
    return header, *segment.data


def decode_segment(message: bytes) -> tuple[Route, Segment]:
    """Read a message; the segment's bytes are a view of it.

    Raises:
        RemoteProtocolError: It is no segment.
    """
    if len(message) < HEADER.size:
        raise RemoteProtocolError("a message too short for a segment")
    version, flags, source, stream, number, offset, acknowledged, echo, limit = HEADER.unpack_from(
        message
    )
    if version != VERSION or flags >= 2 * Flags.GAP:
        raise RemoteProtocolError(f"a segment of version {version} with flags {flags:#04x}")
    data = memoryview(message)[HEADER.size :]
    if len(data) > MAX_DATA_BYTES:
        raise RemoteProtocolError(f"a segment of {len(data)} bytes")
    segment = Segment(
        Flags(flags), number, offset, acknowledged, echo, limit, (data,) if data else ()
    )
    return Route(source, stream), segment
