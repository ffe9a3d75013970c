"""zstd frames from outside, opened in bounded memory.

A limit on the library's output does not bound it: where a frame declares its size, that is what
python-zstandard allocates, however large. So the declared size is read first; zstd
then writes into a buffer of that size, and whatever does not fit is an error.
"""

from __future__ import annotations

import zstandard

from semantic_net.errors import RemoteProtocolError


def compress(data: bytes | memoryview, level: int) -> bytes:
    """Return one frame that declares its size and holds no checksum: updates carry a hash."""
    return zstandard.ZstdCompressor(level, write_checksum=False).compress(data)


def decompress(frame: bytes | memoryview, max_bytes: int) -> bytes:
    """Return the content of exactly one frame, at least one byte, whose header declares its size.

    Args:
        frame: From outside.
        max_bytes: Most bytes of content.

    Raises:
        RemoteProtocolError: Something else, or more; refused before any of it is decompressed.
    """
    try:
        declared = zstandard.get_frame_parameters(frame).content_size
        if not 0 < declared <= max_bytes:
            raise RemoteProtocolError(
                f"zstd: a frame that does not declare 1 to {max_bytes} bytes of content"
            )
        content = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as exc:
        raise RemoteProtocolError(f"zstd: {exc}") from exc
    if len(content) != declared:
        raise RemoteProtocolError("zstd: a frame with another size than it declares")
    return content
