"""Any byte stream as a `Wire`: frames and TLS on it, and what keeps a flood from harming others.

What arrives is written straight into the frame decoder's buffer, and payloads are handed down
without joining them to anything. `StreamWire` asks for no more as soon as what is below takes no
more, so that what waits here is less than one frame.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import cast

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.frames import Frame, FrameDecoder, WholeFrames
from semantic_net.protocol.handshake import SECURITY, encode_refusal
from semantic_net.transport.address import seen_address
from semantic_net.transport.base import Buffer, LinkTotals
from semantic_net.transport.connection import CLOSED, LOST, Connection, reason_of
from semantic_net.transport.hub import UNREAD, Hub
from semantic_net.transport.link_meter import LinkMeter, Reading
from semantic_net.transport.tls import Pins, TlsChannel, TlsError

log = logging.getLogger(__name__)

JOIN_BYTES = 16 * 1024
"""Frames up to this size go down as one buffer: a copy is cheaper than a call."""

FRAMES_A_TURN = 128
"""Frames of one connection after which others have a turn: one read may hold thousands."""

BREATH_S = 0.02
"""Seconds until that connection's next turn, at least. No honest peer says so much; a flood gets a
share of the processor, and TCP makes it wait."""

MAX_SHARE = 0.25
"""Share of the processor that a flood of frames on one connection may take."""

BUSY_S = 0.02
"""Seconds of work after which that share is looked at."""

MAX_EMPTY_BYTES = 256 * 1024
"""Sealed bytes in a row that hold nothing, each a small piece of work: TLS has such messages."""

_DISCARD = memoryview(bytearray(64 * 1024))
"""Where what nobody reads goes, of all connections."""

MAX_UNREAD_BYTES = 1024 * 1024
"""Sealed bytes that may wait for a peer that makes TLS answer and does not read."""

SEALED_BYTES = (32 * 1024, 256 * 1024)
"""What is read of a TLS connection at a time, at first and at most: whoever sends much costs half
the time if much is taken at once, and a stranger gets little."""


class StreamWire(asyncio.BufferedProtocol):
    """One byte stream of asyncio's, with TLS on it or without."""

    def __init__(self, hub: Hub, dialled: str | None, pins: Pins | None = None) -> None:
        """Wait for the connection.

        Args:
            hub: Whose it is.
            dialled: The address; None when we were dialled.
            pins: Whom TLS lets in; None for no TLS.
        """
        self._hub = hub
        self._dialled = dialled
        self._pins = pins
        self._tls = None if pins is None else pins.channel(dialled=dialled is not None)
        self._sealed = memoryview(bytearray(0 if pins is None else SEALED_BYTES[0]))
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self.connection: Connection
        self._decoder: FrameDecoder | None = FrameDecoder()
        self._paused = False
        self._frames_this_turn = 0
        self._busy_s, self._busy_since = 0.0, self._loop.time()
        self._empty_bytes = 0
        self._breathing = False  # enough frames for now: those that have come wait
        self._finishing = False
        self._linger: asyncio.TimerHandle | None = None
        self._written = 0
        self._meter = LinkMeter(self._read_counters)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._transport = cast(asyncio.Transport, transport)
        # Full means: what is below takes no more. Then nothing further is pulled.
        self._transport.set_write_buffer_limits(high=0)
        # A connection that was reset before it was accepted has no name any more.
        peername = transport.get_extra_info("peername") or ("unknown", 0)
        address = self._dialled or str(seen_address(peername))
        self.connection = self._hub.adopt(self, address, dialled=self._dialled is not None)
        if self._tls is not None:
            self._read_sealed(self._tls)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where what arrives may be written."""
        if self._decoder is None:
            return _DISCARD
        return self._decoder.writable() if self._tls is None else self._sealed

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was written there."""
        self._hub.bytes_received += nbytes
        if self._decoder is None:
            return
        self.connection.heard_at = self._loop.time()
        self._frames_this_turn = 0
        if self._tls is None:
            self._take_frames(self._decoder.received(nbytes))
        else:
            self._tls.received(self._sealed[:nbytes])
            self._empty_bytes += nbytes
            self._read_sealed(self._tls)
            is_full = nbytes == len(self._sealed) < SEALED_BYTES[1]
            if is_full and self._tls is not None and self._tls.device_key is not None:
                self._sealed = memoryview(bytearray(2 * nbytes))

    def take_whole(self, data: memoryview) -> int:
        """Take the whole frames at the beginning of what has arrived, without a copy.

        Returns:
            How many bytes they have; what is left, if anything, goes to `get_buffer`.
        """
        if self._tls is not None or self._decoder is None or self._decoder.missing_bytes:
            return 0
        frames = WholeFrames(data)
        self._frames_this_turn = 0
        self._take_frames(iter(frames))
        if frames.num_bytes:
            self._hub.bytes_received += frames.num_bytes
            self.connection.heard_at = self._loop.time()
        return frames.num_bytes

    def wanted(self, num_bytes: int) -> int:
        """Return how many of so many bytes `get_buffer` should have: the rest may lie whole."""
        if self._tls is not None or self._decoder is None:
            return num_bytes
        return min(num_bytes, self._decoder.missing_bytes or num_bytes)

    def _read_sealed(self, tls: TlsChannel) -> None:
        """Take what TLS has for us, and send what it has for the other end."""
        try:
            while self._decoder is not None and not self._breathing:
                num_bytes = tls.read_into(self._decoder.writable())
                if tls.device_key is not None and self.connection.device is None:
                    self.connection.authenticated(tls.device_key)
                if not num_bytes or self.connection.is_over:
                    break
                self._empty_bytes = 0
                self._take_frames(self._decoder.received(num_bytes))
            self._send(tls.to_send())
            if self._empty_bytes > MAX_EMPTY_BYTES:
                self.connection.broke_protocol(RemoteProtocolError("TLS that holds nothing"))
            if self._transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
                self.connection.abort(UNREAD, "the peer does not read what it is sent")
        except TlsError as exc:
            if exc.refusal.code == SECURITY:  # it reads no alert, but a frame
                self._send(encode_refusal(exc.refusal))
            else:
                self._send(tls.to_send())  # the alert
            self.connection.kept_out(exc.refusal, exc.device_key)
        if self.connection.is_over:
            self._stop_decoding()

    def _send(self, data: bytes) -> None:
        # TLS may have an answer when we have said our last already.
        if data and not (self._finishing or self._transport.is_closing()):
            self._written += len(data)
            self._transport.write(data)

    def _take_frames(self, frames: Iterator[Frame]) -> None:
        """Take frames that have arrived, or some of them and the others next turn."""
        connection, began = self.connection, self._loop.time()
        try:
            for frame in frames:
                for each in connection.unpack(frame):
                    connection.frame_received(each)
                    self._frames_this_turn += 1
                if connection.is_over or self._frames_this_turn >= FRAMES_A_TURN:
                    break
        except RemoteProtocolError as exc:
            connection.broke_protocol(exc)
        if connection.is_over:
            self._stop_decoding()
        elif (wait_s := self._breath_after(self._loop.time() - began)) > 0:
            self._breathing = True
            self._transport.pause_reading()
            self._loop.call_later(wait_s, self._take_more)

    def _breath_after(self, took_s: float) -> float:
        """Return the seconds for which others have their turn; 0 for none."""
        wait_s = BREATH_S if self._frames_this_turn >= FRAMES_A_TURN else 0.0
        self._busy_s += took_s
        if self._busy_s > BUSY_S:
            now = self._loop.time()
            wait_s = max(wait_s, self._busy_s / MAX_SHARE - (now - self._busy_since))
            self._busy_s, self._busy_since = 0.0, now + wait_s
        return wait_s

    def _take_more(self) -> None:
        self._breathing = False
        self._frames_this_turn = 0
        if self._decoder is None:
            return
        self._transport.resume_reading()  # unless it is paused anew
        self._take_frames(self._decoder.received(0))
        if self._tls is not None:
            self._read_sealed(self._tls)

    def pause_writing(self) -> None:
        """Note that what is below takes no more."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on with what waits."""
        self._paused = False
        self.connection.pump()

    def eof_received(self) -> None:
        """Note that the other end is through; asyncio closes once our own bytes are out."""
        self._linger_on()
        self.connection.lost(CLOSED, "the peer closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end of the connection."""
        if self._linger is not None:
            self._linger.cancel()
        self._settle_sent()
        self._stop_decoding()
        self.connection.lost(LOST, reason_of(exc) if exc else "the connection was closed")
        self._hub.wire_gone(self)

    # What a connection wants of its wire.

    def ready(self) -> bool:
        """Tell whether what is below takes another frame now."""
        return not (self._paused or self._finishing or self._transport.is_closing())

    def write(self, buffers: Sequence[Buffer], *, is_bulk: bool = False) -> None:
        """Hand buffers down; what is not taken at once must not change."""
        if self._finishing or self._transport.is_closing():
            return
        if self._pins is not None and self._tls is None:
            return  # what cannot be sealed does not go out
        self._meter.before_write(is_bulk=is_bulk)
        num_bytes = sum(memoryview(buffer).nbytes for buffer in buffers)
        if num_bytes > JOIN_BYTES:
            self._fit_unsent(num_bytes)
        if self._tls is not None:
            self._write_sealed(self._tls, buffers)
            return
        self._written += num_bytes
        if num_bytes <= JOIN_BYTES and len(buffers) > 1:
            buffers = (b"".join(buffers),)
        # One by one: writelines() joins, that is copies, before Python 3.12, and does not pause
        # us when it should in 3.12.0 to 3.12.8, 3.13.0 and 3.13.1 (CVE-2024-12254).
        for buffer in buffers:
            self._transport.write(buffer)

    def _write_sealed(self, tls: TlsChannel, buffers: Sequence[Buffer]) -> None:
        try:
            for buffer in buffers:
                tls.write(buffer)
        except TlsError as exc:
            log.debug("%s: %s", self.connection.address, exc)
            self._transport.abort()  # `connection_lost` says so when this turn is over
        else:
            self._send(tls.to_send())

    def finish(self) -> None:
        """Send what was written and our end of stream; wait a little for the other end's.

        Closing at once with unread bytes in the kernel would reset the connection, and the
        other end would lose what we said last.
        """
        if self._finishing or self._transport.is_closing():
            return
        self._finishing = True
        self._linger_on()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self._settle_sent()
        self._transport.abort()

    @property
    def bytes_sent(self) -> int:
        """Bytes that what is below has taken."""
        return self._written - self._transport.get_write_buffer_size()

    def totals(self) -> LinkTotals:
        """Return what the stream's counters say of it while payloads were under way."""
        return self._meter.totals()

    def _read_counters(self) -> Reading | None:
        """Return what is below has carried; None where nobody counts."""
        return None

    def _fit_unsent(self, frame_bytes: int) -> None:
        """Let about so much wait below, where that can be told: it delays control frames."""

    def _settle_sent(self) -> None:
        # Once the transport is closed it has forgotten what it did not send.
        self._written = self.bytes_sent

    def _linger_on(self) -> None:
        if self._linger is None:
            self._linger = self._loop.call_later(self._hub.settings.flush_s, self.abort)

    def _stop_decoding(self) -> None:
        if self._decoder is not None:
            self._decoder = self._tls = None  # frees their buffers
            self._sealed = memoryview(bytearray())
