"""Control frames in the deflate stream of their connection.

What peers say to each other repeats itself: the same keys, digests and names in every heartbeat
and list. So control frames that go out together travel as one PACKED frame, of which the body
continues one raw deflate stream (RFC 1951) for as long as the connection lives, each part flushed
to a whole byte. A receiver opens it in bounded memory: a part holds at most `MAX_PACKED_BYTES` of
whole frames, whatever its own size.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.frames import HEADER, Frame, Kind, decode_header, encode_frame

MAX_PACKED_BYTES = 8 * 1024
"""Most bytes of frames in one part; what is longer goes as it is."""

_WINDOW_BITS = -13
"""Raw deflate that looks back 8 kB at most, as others may send it."""

_OWN_WINDOW_BITS = -12
_MEMORY_LEVEL = 5
"""What we send looks back 4 kB, some ten heartbeats: 32 kB of memory a connection. Twice as much
saves 1.5% of the bytes, and takes a seventh longer where there are many connections."""

_FLUSH_END = b"\x00\x00\xff\xff"
"""What every flush ends with, and nobody needs to send (RFC 7692, section 7.2.1)."""

_NEVER_PACKED = frozenset(
    {Kind.HELLO, Kind.CONFIRM, Kind.REFUSE, Kind.CHUNK, Kind.PACKED_CHUNK, Kind.PACKED}
)


class Packer:
    """Our half of a connection: frames to parts of the stream."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(
            zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, _OWN_WINDOW_BITS, _MEMORY_LEVEL
        )

    def pack(self, frames: bytes) -> bytes:
        """Return whole frames as one PACKED frame, if they are few enough; else as they are."""
        if len(frames) > MAX_PACKED_BYTES:
            return frames
        part = self._deflate.compress(frames) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return encode_frame(Kind.PACKED, part.removesuffix(_FLUSH_END))


class Unpacker:
    """The other end's half: parts of the stream to frames."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_WINDOW_BITS)

    def unpack(self, frame: Frame) -> Iterator[Frame]:
        """Yield the frames in a PACKED frame; any other as it is.

        Raises:
            RemoteProtocolError: The stream is broken, a part is too large, or it holds something
                else than whole frames that may be packed.
        """
        if frame.kind is not Kind.PACKED:
            yield frame
            return
        view = memoryview(self._open(bytes(frame.body)))
        if not view:
            raise RemoteProtocolError("a PACKED without frames")
        while view:
            if len(view) < HEADER.size:
                raise RemoteProtocolError("a PACKED that ends within a frame")
            kind, length = decode_header(view[: HEADER.size])
            end = HEADER.size + length
            if kind in _NEVER_PACKED or end > len(view):
                raise RemoteProtocolError(f"a PACKED with a {kind.name} that does not belong there")
            yield Frame(kind, view[HEADER.size : end])
            view = view[end:]

    def _open(self, part: bytes) -> bytes:
        try:
            frames = self._inflate.decompress(part + _FLUSH_END, MAX_PACKED_BYTES + 1)
        except zlib.error as exc:
            raise RemoteProtocolError(f"a malformed PACKED: {exc}") from exc
        if len(frames) > MAX_PACKED_BYTES or self._inflate.unconsumed_tail:
            raise RemoteProtocolError(f"a PACKED of more than {MAX_PACKED_BYTES} bytes")
        if self._inflate.eof:
            raise RemoteProtocolError("a PACKED that ends its stream")
        return frames
