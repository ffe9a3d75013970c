"""A payload on its way to one peer, cut into frames as the connection takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from semantic_net.federated.packed_chunks import pack_part
from semantic_net.protocol.frames import MAX_CHUNK_BYTES, Kind
from semantic_net.protocol.messages import chunk_buffers
from semantic_net.protocol.update import UpdateId
from semantic_net.transport.base import Buffer


class PayloadSource:
    """A `BulkSource` over one item's bytes, from an offset on; copied only to be compressed."""

    def __init__(
        self,
        item: UpdateId,
        read: Callable[[], memoryview],
        offset: int,
        on_end: Callable[[], object] = lambda: None,
        *,
        packs: bool = False,
    ) -> None:
        """Prepare to serve an item.

        Args:
            item: Which one.
            read: Gives its bytes, or none if it cannot be served any more; asked when the item's
                turn has come, so that what waits in a queue takes no memory.
            offset: The first byte to send.
            on_end: Called once the last byte is handed over.
            packs: Compress each frame that gets shorter: for bases, to whoever unpacks them.
        """
        self._item = item
        self._read = read
        self._payload: memoryview | None = None
        self._offset = offset
        self._on_end = on_end
        self._packs = packs

    @property
    def has_begun(self) -> bool:
        """Whether some of it has been handed over."""
        return self._payload is not None

    def seek(self, offset: int) -> None:
        """Go on from another byte."""
        self._offset = offset

    def next_frame(self, max_bytes: int) -> Sequence[Buffer] | None:
        """Return the buffers of the next CHUNK, or None at the end."""
        if self._payload is None:
            self._payload = self._read()
        size = min(max_bytes, MAX_CHUNK_BYTES)
        data = self._payload[self._offset : self._offset + size]
        if not data:
            self._payload = None
            self._on_end()
            return None
        offset, self._offset = self._offset, self._offset + len(data)
        if self._packs and (packed := pack_part(data)) is not None:
            return chunk_buffers(self._item, offset, packed, Kind.PACKED_CHUNK)
        return chunk_buffers(self._item, offset, data)
