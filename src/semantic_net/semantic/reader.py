"""Takes a payload apart, never beyond its end; what it gives are views.

What a codec's parser finds wrong is a `RemoteProtocolError` that names the codec.
"""

from __future__ import annotations

import mmap

import numpy as np

from semantic_net.errors import RemoteProtocolError
from semantic_net.fixed_point import Float32Array, largest_magnitude
from semantic_net.semantic.bits import UInt8Array

Buffer = bytes | bytearray | memoryview | mmap.mmap


class PayloadReader:
    """The bytes of one payload that are not taken yet."""

    def __init__(self, codec: str, payload: Buffer) -> None:
        self._codec = codec
        self._left = np.frombuffer(payload, np.uint8) if len(payload) else np.empty(0, np.uint8)

    def error(self, problem: str) -> RemoteProtocolError:
        """Return an error that says what is wrong with which codec's payload."""
        return RemoteProtocolError(f"payload {self._codec}: {problem}")

    @property
    def left(self) -> int:
        """Bytes that are not taken yet."""
        return self._left.size

    def take(self, num_bytes: int) -> UInt8Array:
        """Take the next bytes.

        Raises:
            RemoteProtocolError: There are not as many.
        """
        if num_bytes > self._left.size:
            raise self.error(f"ends {num_bytes - self._left.size} bytes early")
        taken, self._left = self._left[:num_bytes], self._left[num_bytes:]
        return taken

    def peek(self) -> UInt8Array:
        """Return all that is left, without taking it."""
        return self._left

    def floats(self, count: int) -> tuple[Float32Array, float]:
        """Take float32 values, as they lie, with their largest magnitude.

        Raises:
            RemoteProtocolError: There are not as many, or one is not finite.
        """
        values: Float32Array = self.take(4 * count).view("<f4")
        largest = largest_magnitude(values)
        if not largest < np.inf:
            raise self.error("a value is not finite")
        return values, largest

    def end(self) -> None:
        """Refuse what is left.

        Raises:
            RemoteProtocolError: There is something.
        """
        if self._left.size:
            raise self.error(f"{self._left.size} bytes too long")
