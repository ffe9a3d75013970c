"""One reliable byte stream over messages, as a transport of asyncio's: what a wire runs on.

`ReliableStream` decides what goes out and when; here are the clock, the timer, and what asyncio's
protocols expect of a connection. Of Zenoh nothing is known here but that messages go somewhere.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Sequence

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.address import Address
from semantic_net.transport.base import Buffer, LinkTotals
from semantic_net.transport.link_meter import Reading
from semantic_net.transport.reliable import ReliableStream
from semantic_net.transport.segment import (
    Flags,
    Route,
    Segment,
    encode_segment,
)
from semantic_net.transport.stream_wire import StreamWire

log = logging.getLogger(__name__)

DEAD_AFTER_S = 60.0
"""Seconds without an answer after which a stream is given up. Whoever cannot wait for that hangs up
earlier: `p2p.liveness_s` is about peers, this is about what their routers may still deliver."""

OPEN_S = (0.25, 2.0)
"""Seconds after which a call that is not answered is made again, at first and at most."""

Send = Callable[[Sequence[Buffer], bool], None]
"""Sends the parts of a message; the flag says whether it only answers, and may overtake others."""


class ZenohStream(asyncio.Transport):
    """One end of a stream."""

    def __init__(
        self, route: Route, address: Address, send: Send, gone: Callable[[ZenohStream], None]
    ) -> None:
        """Prepare; nothing goes out before `call` or `start`.

        Args:
            route: Of what this end sends.
            address: Of the other end.
            send: Sends a message to the other end.
            gone: Told once when the stream is over.
        """
        super().__init__({"peername": (address.host, address.port)})
        self.route = route
        self._loop = asyncio.get_running_loop()
        self._out, self._gone_to = send, gone
        self._stream = ReliableStream()
        self._protocol: StreamWire | None = None
        self._answered: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self._reads = True
        self._is_paused = self._is_closing = self._is_gone = self._eof_told = False

    # How it begins.

    async def call(self, opening: bytes) -> None:
        """Call the other end until it answers; ``opening`` says who calls.

        Raises:
            OSError: It does not know of any such peer.
        """
        wait_s, most_s = OPEN_S
        message = encode_segment(self.route, Segment(Flags.OPEN, data=(opening,)))
        try:
            while not self._answered.done():
                self._out(message, False)
                await asyncio.wait({self._answered}, timeout=wait_s)
                wait_s = min(2 * wait_s, most_s)
            self._answered.result()
        except BaseException:
            self.abort()
            raise

    def start(self, protocol: StreamWire) -> None:
        """Hand the stream to whoever speaks on it."""
        self._protocol = protocol
        protocol.connection_made(self)
        self._send_soon()
        self._read()

    # What arrives.

    def received(self, segment: Segment) -> None:
        """Take a segment of this stream."""
        if self._is_gone:
            return
        if segment.flags & Flags.RESET:
            self.lose(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))
            return
        if segment.flags & Flags.OPEN:
            self._out(self._encoded(Segment()), True)  # our answer was lost, or is on its way
            return
        if not self._answered.done():
            self._answered.set_result(None)
        try:
            self._stream.received(segment, self._loop.time())
        except RemoteProtocolError as exc:
            log.debug("%s: %s", self.get_extra_info("peername"), exc)
            self.abort()
            return
        self._read()
        self._send_soon()

    def _read(self) -> None:
        incoming = self._stream.incoming
        while incoming.ready and self._reads and not self._is_gone:
            if self._protocol is None:
                return
            data = incoming.ready[0]
            if num_bytes := self._protocol.take_whole(data):
                incoming.read(num_bytes)
                continue
            buffer = self._protocol.get_buffer(len(data))
            num_bytes = min(len(buffer), self._protocol.wanted(len(data)))
            buffer[:num_bytes] = data[:num_bytes]
            incoming.read(num_bytes)
            self._protocol.buffer_updated(num_bytes)
        if self._reads and incoming.is_over and self._protocol and not self._eof_told:
            self._eof_told = True
            self._protocol.eof_received()
            if not self._is_gone:
                self.close()

    def pause_reading(self) -> None:
        """Leave what arrives where it is; the other end is sent no more room."""
        self._reads = False

    def resume_reading(self) -> None:
        """Go on with what has arrived."""
        if not self._reads:
            self._reads = True
            self._loop.call_soon(self._read_on)

    def is_reading(self) -> bool:
        """Tell whether what arrives is read."""
        return self._reads and not self._is_closing

    def _read_on(self) -> None:
        self._read()
        self._send_soon()

    # What goes out.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes, which may not change until they have arrived."""
        outgoing = self._stream.outgoing
        if self._is_closing or self._is_gone or not data:
            return
        outgoing.write(data)
        if outgoing.waiting_bytes >= min(outgoing.room, outgoing.most_in_one):
            self._send()
        if outgoing.waiting_bytes > outgoing.room:
            self._pause()
        self._send_soon()

    def _pause(self) -> None:
        if not self._is_paused and self._protocol is not None:
            self._is_paused = True
            self._protocol.pause_writing()

    def _encoded(self, segment: Segment) -> Sequence[Buffer]:
        return encode_segment(self.route, segment)

    def _send_soon(self) -> None:
        if self._soon is None and not self._is_gone:
            self._soon = self._loop.call_soon(self._send_now)

    def _send_now(self) -> None:
        self._soon = None
        if self._is_gone:
            return
        outgoing = self._stream.outgoing
        if self._is_paused and outgoing.waiting_bytes <= outgoing.room:
            self._is_paused = False
            assert self._protocol is not None, "it was told to pause"
            self._protocol.resume_writing()  # before what waits goes out: segments get fuller
        self._send()
        if self._is_closing and outgoing.has_arrived:
            self.lose(None)

    def _send(self) -> None:
        for segment in self._stream.to_send(self._loop.time()):
            self._out(self._encoded(segment), not segment.number)
        self._wake_in_time()

    def _wake_in_time(self) -> None:
        wake_at = self._stream.wake_at()
        if wake_at is None or (self._timer is not None and self._timer.when() <= wake_at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(wake_at, self._woken)

    def _woken(self) -> None:
        self._timer = None
        silent_since = self._stream.outgoing.silent_since
        if silent_since is not None and self._loop.time() - silent_since > DEAD_AFTER_S:
            self.lose(TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))
        else:
            self._send_now()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: what may wait follows from what can go out."""

    def get_write_buffer_size(self) -> int:
        """Return the bytes that wait to go out."""
        return self._stream.outgoing.waiting_bytes

    def counters(self) -> Reading:
        """Return what the other end has of it, and whether that is all."""
        outgoing = self._stream.outgoing
        busy_s = outgoing.busy_s(self._loop.time())
        totals = LinkTotals(outgoing.acknowledged, busy_s, outgoing.lost_bytes)
        return totals, outgoing.has_arrived

    # How it ends.

    def can_write_eof(self) -> bool:
        """Tell that one direction can end before the other."""
        return True

    def write_eof(self) -> None:
        """End what this end sends."""
        self._stream.outgoing.finish()
        self._send_soon()

    def is_closing(self) -> bool:
        """Tell whether nothing more can be written."""
        return self._is_closing or self._is_gone

    def close(self) -> None:
        """End it once all has arrived."""
        self._is_closing = True
        self.write_eof()

    def abort(self) -> None:
        """End it now, and tell the other end."""
        if not self._is_gone:
            self._out(self._encoded(Segment(Flags.RESET)), False)
            self.lose(None)

    def lose(self, exc: Exception | None) -> None:
        """End it now, and tell nobody but this end."""
        if self._is_gone:
            return
        self._is_gone = True
        for alarm in (self._timer, self._soon):
            if alarm is not None:
                alarm.cancel()
        if not self._answered.done():
            self._answered.set_exception(exc or ConnectionAbortedError())
            self._answered.exception()  # seen: perhaps nobody waits any more
        self._gone_to(self)
        if self._protocol is not None:
            self._loop.call_soon(self._protocol.connection_lost, exc)


class ZenohWire(StreamWire):
    """A stream over Zenoh as a wire."""

    def _read_counters(self) -> Reading | None:
        assert isinstance(self._transport, ZenohStream)
        return self._transport.counters()
