"""A payload on its way to one peer, cut into frames as the connection takes them."""

from __future__ import annotations

from collections.abc import Sequence

from semantic_net.protocol.frames import MAX_CHUNK_BYTES
from semantic_net.protocol.messages import chunk_buffers
from semantic_net.protocol.update import UpdateId
from semantic_net.transport.base import Buffer


class PayloadSource:
    """A `BulkSource` over one item's bytes, from an offset on; the bytes are never copied."""

    def __init__(self, item: UpdateId, payload: memoryview, offset: int) -> None:
        self._item = item
        self._payload = payload
        self._offset = offset

    def next_frame(self, max_bytes: int) -> Sequence[Buffer] | None:
        """Return the buffers of the next CHUNK, or None at the end or once cancelled."""
        size = min(max_bytes, MAX_CHUNK_BYTES)
        data = self._payload[self._offset : self._offset + size]
        if not data:
            return None
        offset, self._offset = self._offset, self._offset + len(data)
        return chunk_buffers(self._item, offset, data)

    def cancel(self) -> None:
        """Send nothing more."""
        self._payload = memoryview(b"")
