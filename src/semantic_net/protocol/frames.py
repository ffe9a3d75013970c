"""The unit on the wire: a fixed 16-byte header and a body.

    magic "SNET" | version | kind | flags (2 bytes, zero) | body length (8 bytes)

All numbers are big-endian. A body over its kind's limit is refused from the header, before a
byte of it is stored. `FrameDecoder` owns the one buffer of a connection: a socket writes into
it, and whole frames come out as views of it, so that a payload is copied once, to its place.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from semantic_net.errors import LocalProtocolError, RemoteProtocolError

MAGIC = b"SNET"
VERSION = 1
HEADER = struct.Struct(">4sBBHQ")

MAX_CHUNK_BYTES = 256 * 1024
"""Most payload bytes in one CHUNK frame."""


class Kind(enum.IntEnum):
    """What a frame's body holds."""

    HELLO = 1
    CONFIRM = 2
    REFUSE = 3
    HEARTBEAT = 4
    HAVE = 5
    WANT = 6
    UPDATE = 7
    CHUNK = 8
    ABSENT = 9
    NEIGHBOURS = 10
    PACKED = 11
    """Other control frames, in the connection's deflate stream."""
    PACKED_CHUNK = 12
    BINDING = 13
    STATEMENT = 14
    VITALS = 15
    MEASURE = 16
    """Bytes that measure a link, between two doctors; out of place in any session."""
    SUMS = 17
    HINTS = 18


MAX_BODY_BYTES: dict[Kind, int] = {
    Kind.HELLO: 64 * 1024,
    Kind.CONFIRM: 1024,
    Kind.REFUSE: 4096,
    Kind.HEARTBEAT: 4096,
    Kind.HAVE: 256 * 1024,
    Kind.WANT: 256,
    Kind.UPDATE: 2048,
    Kind.CHUNK: MAX_CHUNK_BYTES + 256,
    Kind.ABSENT: 256,
    Kind.NEIGHBOURS: 128 * 1024,
    Kind.PACKED: 16 * 1024,
    Kind.PACKED_CHUNK: MAX_CHUNK_BYTES + 256,
    Kind.BINDING: 512,
    Kind.STATEMENT: 512,
    Kind.VITALS: 1024,
    Kind.MEASURE: 16 * 1024,
    Kind.SUMS: 64 * 1024,
    Kind.HINTS: 4096,
}
MAX_FRAME_BYTES = HEADER.size + max(MAX_BODY_BYTES.values())

_TLS_HANDSHAKE = b"\x16\x03"
"""How a TLS connection begins."""

UNLIKE_MODES = "one end has security.mode pinned, the other open: set the same on both"

FIRST_BUFFER_BYTES = 32 * 1024
"""What a connection's decoder begins with; it grows with the frames that come."""


# All that a header says but the length, at one go: it is asked for every frame.
_HALVES = struct.Struct(">8sQ")
_BEGINS = {HEADER.pack(MAGIC, VERSION, kind, 0, 0)[:8]: kind for kind in Kind}


class Frame(msgspec.Struct, frozen=True):  # of which there are many
    """One frame; ``body`` may be a view that is only valid for a while."""

    kind: Kind
    body: bytes | memoryview


def encode_header(kind: Kind, body_bytes: int) -> bytes:
    """Return the header of a frame whose body is written separately.

    Raises:
        LocalProtocolError: The body is over its kind's limit.
    """
    if body_bytes > MAX_BODY_BYTES[kind]:
        raise LocalProtocolError(
            f"a {kind.name} of {body_bytes} bytes is over the limit of {MAX_BODY_BYTES[kind]}"
        )
    return HEADER.pack(MAGIC, VERSION, kind, 0, body_bytes)


def encode_frame(kind: Kind, body: bytes) -> bytes:
    """Return a whole frame.

    Raises:
        LocalProtocolError: The body is over its kind's limit.
    """
    return encode_header(kind, len(body)) + body


def decode_header(header: bytes | memoryview) -> tuple[Kind, int]:
    """Return kind and body length of a 16-byte header.

    Raises:
        RemoteProtocolError: Not our protocol, an unknown kind, or a body over the limit.
    """
    begin, length = _HALVES.unpack(header)
    kind = _BEGINS.get(begin)
    if kind is None:
        raise _malformed(header)
    if length > MAX_BODY_BYTES[kind]:
        raise RemoteProtocolError(
            f"a {kind.name} of {length} bytes is over the limit of {MAX_BODY_BYTES[kind]}"
        )
    return kind, length


def _malformed(header: bytes | memoryview) -> RemoteProtocolError:
    """Return what is wrong with a header that begins like none of ours."""
    magic, version, number, flags, _ = HEADER.unpack(header)
    if magic[:2] == _TLS_HANDSHAKE:
        return RemoteProtocolError(UNLIKE_MODES)
    if magic != MAGIC:
        return RemoteProtocolError("not a semantic-net frame")
    if version != VERSION:
        return RemoteProtocolError(f"wire version {version}, this peer speaks {VERSION}")
    if number not in set(Kind):
        return RemoteProtocolError(f"unknown frame kind {number}")
    return RemoteProtocolError(f"unknown flags {flags:#06x} in a {Kind(number).name}")


T = TypeVar("T")


def decode_body(decoder: msgspec.msgpack.Decoder[T], frame: Frame) -> T:
    """Return a frame's body as the typed value that ``decoder`` reads.

    Raises:
        RemoteProtocolError: The body is malformed or breaks a limit of the type.
    """
    try:
        return decoder.decode(frame.body)
    # Beside its own errors msgspec lets these two through: text that is no UTF-8, and a body
    # that nests thousands of arrays where the type ends.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RemoteProtocolError(f"a malformed {frame.kind.name}: {exc}") from exc


class WholeFrames:
    """The frames that lie whole at the beginning of some bytes, as views of them."""

    def __init__(self, data: memoryview) -> None:
        """Take the bytes, which may not change until the frames have been dealt with."""
        self._data = data
        self.num_bytes = 0
        """Of the frames so far."""

    def __iter__(self) -> Iterator[Frame]:
        """Yield them.

        Raises:
            RemoteProtocolError: The bytes break the protocol.
        """
        while len(self._data) - self.num_bytes >= HEADER.size:
            body = self.num_bytes + HEADER.size
            kind, length = decode_header(self._data[self.num_bytes : body])
            if len(self._data) - body < length:
                return
            self.num_bytes = body + length
            yield Frame(kind, self._data[body : self.num_bytes])


class FrameDecoder:
    """Turn a byte stream, cut anywhere, back into frames.

    Either `feed` bytes, or let a socket write into `writable` and call `received`.
    """

    def __init__(self) -> None:
        self._view = memoryview(bytearray(FIRST_BUFFER_BYTES))
        self._start = 0  # first byte not yet returned in a frame
        self._end = 0  # first byte not yet written

    def writable(self) -> memoryview:
        """Return the free end of the buffer; it is never empty.

        The buffer grows as frames need it, so that who sends little takes little.
        """
        view = self._view
        if self._start == self._end:
            self._start = self._end = 0
        elif 4 * (len(view) - self._end) < len(view):
            pending = view[self._start : self._end]
            if 2 * len(pending) > len(view):
                self._view = memoryview(bytearray(2 * len(view)))
            self._view[: len(pending)] = bytes(pending)
            self._start, self._end = 0, len(pending)
        return self._view[self._end :]

    @property
    def missing_bytes(self) -> int:
        """How many bytes the frame that has begun lacks, or its header; 0 between two frames."""
        pending = self._end - self._start
        if not pending:
            return 0
        if pending < HEADER.size:
            return HEADER.size - pending
        _, length = decode_header(self._view[self._start : self._start + HEADER.size])
        return max(HEADER.size + length - pending, 0)

    def received(self, num_bytes: int) -> Iterator[Frame]:
        """Yield the frames that ``num_bytes`` bytes, just written to `writable`, complete.

        A frame's body is a view into the buffer: valid until the next call of `writable`.

        Raises:
            RemoteProtocolError: The stream breaks the protocol; nothing more can be read from it.
        """
        self._end += num_bytes
        while self._end - self._start >= HEADER.size:
            body = self._start + HEADER.size
            kind, length = decode_header(self._view[self._start : body])
            if self._end - body < length:
                return
            self._start = body + length
            yield Frame(kind, self._view[body : self._start])

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that ``data`` completes, with bodies of their own.

        Raises:
            RemoteProtocolError: As `received`.
        """
        frames = []
        rest = memoryview(data)
        while rest:
            free = self.writable()
            num_bytes = min(len(free), len(rest))
            free[:num_bytes] = rest[:num_bytes]
            rest = rest[num_bytes:]
            frames += [Frame(f.kind, bytes(f.body)) for f in self.received(num_bytes)]
        return frames
