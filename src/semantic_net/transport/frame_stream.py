"""A TCP connection whose frames are awaited one by one: for looking at a peer, not for sessions.

Sessions have `SocketWire`, which copies less and waits for nobody. The frames, the TLS and who is
let in are the same.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque

from semantic_net.protocol.frames import Frame, FrameDecoder
from semantic_net.transport.tcp import tune
from semantic_net.transport.tls import TlsChannel

READ_BYTES = 64 * 1024
DEAD_AFTER_S = 10.0


class EndOfStream(Exception):
    """The other end has closed the connection."""


class FrameStream:
    """One connection, with TLS on it or without."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tls: TlsChannel | None
    ) -> None:
        """Take an open connection; TLS begins with the first read."""
        self._reader, self._writer, self._tls = reader, writer, tls
        self._decoder = FrameDecoder()
        self._frames: deque[Frame] = deque()
        self.sock: socket.socket = writer.get_extra_info("socket")
        # Full means: the kernel takes no more. What is sent shall be as good as under way.
        writer.transport.set_write_buffer_limits(high=0)
        tune(self.sock, DEAD_AFTER_S)

    @property
    def device_key(self) -> bytes | None:
        """The key of the device at the other end, where TLS has proven one."""
        return None if self._tls is None else self._tls.device_key

    async def next_frame(self) -> Frame:
        """Return the next frame, with a body of its own.

        Raises:
            EndOfStream: The other end has closed.
            RemoteProtocolError: The stream is no stream of frames.
            TlsError: The other end is nobody that we let in, or does not let us in. What TLS has
                to say of that goes out with `flush` only.
            OSError: The connection broke.
        """
        if self._tls is not None and self.device_key is None:
            self._take(b"")  # the dialling end speaks first
            self.flush()
        while not self._frames:
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise EndOfStream
            self._take(data)
            self.flush()
        return self._frames.popleft()

    async def send(self, frame: bytes) -> None:
        """Send a frame, and wait until the kernel has taken it.

        Raises:
            TlsError: It cannot be sealed.
            OSError: The connection broke.
        """
        self.write(frame)
        await self._writer.drain()

    def write(self, frame: bytes) -> None:
        """Send a frame, and wait for nothing."""
        if self._tls is None:
            self._writer.write(frame)
        else:
            self._tls.write(frame)
            self.flush()

    def flush(self) -> None:
        """Send what TLS has to say."""
        if self._tls is not None and (data := self._tls.to_send()):
            self._writer.write(data)

    async def finish(self, within_s: float) -> None:
        """Send what was written, and close once the other end has, or after some time."""
        try:
            self._writer.write_eof()
            await asyncio.wait_for(self._discard(), within_s)
        except (OSError, asyncio.TimeoutError):
            pass  # it is gone, or takes too long: closing is all that was wanted
        self.close()

    def close(self) -> None:
        """Close now; what the other end still says is lost."""
        self._writer.transport.abort()

    async def _discard(self) -> None:
        while await self._reader.read(READ_BYTES):
            pass

    def _take(self, data: bytes) -> None:
        if self._tls is None:
            self._frames += self._decoder.feed(data)
            return
        self._tls.received(data)
        while num_bytes := self._tls.read_into(self._decoder.writable()):
            for frame in self._decoder.received(num_bytes):
                self._frames.append(Frame(frame.kind, bytes(frame.body)))
