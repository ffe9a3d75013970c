"""Parts of a base, compressed for the wire: lossless, and the same bytes at both ends.

A base is known by the hash of its plain form, and is fetched by offsets into that: so each part is
compressed on its own, may come from anyone, and two builds of zstd need not agree on anything. Its
bytes are shuffled first, all lowest bytes of its 32-bit numbers, then all second ones: what the
numbers of a state have in common is their highest bytes (Masui et al., "A compression scheme for
radio data in high performance computing", 2015, section 3.2).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from semantic_net.protocol.frames import MAX_CHUNK_BYTES
from semantic_net.zstd import compress, decompress

UInt8Array = npt.NDArray[np.uint8]

LEVEL = 3
"""Higher ones find little more in a model's state, and take several times as long."""

_WIDTH = 4


def pack_part(data: memoryview) -> bytes | None:
    """Return some bytes of a base compressed; None where that saves nothing."""
    packed = compress(_shuffled(np.frombuffer(data, np.uint8)), LEVEL)
    return packed if len(packed) < len(data) else None


def unpack_part(packed: memoryview) -> memoryview:
    """Return the bytes of a base in a compressed part.

    Raises:
        RemoteProtocolError: It is no zstd frame, or one of more than `MAX_CHUNK_BYTES`.
    """
    shuffled = np.frombuffer(decompress(packed, MAX_CHUNK_BYTES), np.uint8)
    whole = shuffled.size // _WIDTH * _WIDTH
    plain = np.empty_like(shuffled)
    plain[:whole].reshape(-1, _WIDTH)[:] = shuffled[:whole].reshape(_WIDTH, -1).T
    plain[whole:] = shuffled[whole:]
    return plain.data


def _shuffled(plain: UInt8Array) -> bytes:
    whole = plain.size // _WIDTH * _WIDTH
    shuffled = np.empty_like(plain)
    shuffled[:whole].reshape(_WIDTH, -1)[:] = plain[:whole].reshape(-1, _WIDTH).T
    shuffled[whole:] = plain[whole:]
    return shuffled.tobytes()
