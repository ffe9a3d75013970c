"""A payload on its way to one peer, cut into frames as the connection takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from semantic_net.protocol.frames import MAX_CHUNK_BYTES
from semantic_net.protocol.messages import chunk_buffers
from semantic_net.protocol.update import UpdateId
from semantic_net.transport.base import Buffer


class PayloadSource:
    """A `BulkSource` over one item's bytes, from an offset on; the bytes are never copied."""

    def __init__(
        self,
        item: UpdateId,
        payload: memoryview,
        offset: int,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the bytes, and what to call once the last of them is handed over."""
        self._item = item
        self._payload = payload
        self._offset = offset
        self._on_end = on_end

    def next_frame(self, max_bytes: int) -> Sequence[Buffer] | None:
        """Return the buffers of the next CHUNK, or None at the end or once cancelled."""
        size = min(max_bytes, MAX_CHUNK_BYTES)
        data = self._payload[self._offset : self._offset + size]
        if not data:
            self.cancel()
            self._on_end()
            return None
        offset, self._offset = self._offset, self._offset + len(data)
        return chunk_buffers(self._item, offset, data)

    def cancel(self) -> None:
        """Send nothing more, and let go of the bytes."""
        self._payload = memoryview(b"")
