"""One connection between two peers, whatever carries its bytes.

    HANDSHAKE --the handshake establishes--> UP --REFUSE, end of stream, or our wish--> OVER

Owns the handshake, the two lanes and the order in which they reach the wire. What a connection
means for the peer, and which events the shell sees, is its owner's business.
"""

from __future__ import annotations

import asyncio
import enum
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Protocol

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.frames import Frame, Kind
from semantic_net.protocol.handshake import (
    PROTOCOL,
    Established,
    Handshake,
    Outcome,
    Refusal,
    decode_refusal,
    encode_refusal,
)
from semantic_net.protocol.identity import PeerId, peer_id_of
from semantic_net.protocol.packing import MAX_PACKED_BYTES, Packer, Unpacker
from semantic_net.transport.address import dialable_addresses
from semantic_net.transport.base import Buffer, BulkSource
from semantic_net.transport.lanes import Lanes, Pace, RateLimit

LOST = "lost"
CLOSED = "closed"
REPLACED = "replaced"
"""How a connection ends when neither side has anything to say about it."""

PUMP_BYTES = 1024 * 1024
"""Bulk bytes after which a connection lets the event loop do other things."""


TOGETHER_SHARE = 0.25
"""Of a bulk frame's size, what goes out at once of small ones: what is whole early is of use."""


class Wire(Protocol):
    """What carries a connection's frames."""

    def ready(self) -> bool:
        """Tell whether the wire takes another frame now; if not it calls `Connection.pump`."""
        ...

    def write(self, buffers: Sequence[Buffer], *, is_bulk: bool = False) -> None:
        """Take the buffers of one or more frames; they may not change until they are sent."""
        ...

    def finish(self) -> None:
        """Send what was written, take nothing more, and close within a bounded time."""
        ...

    def abort(self) -> None:
        """Close now."""
        ...


class Owner(Protocol):
    """Who is told of a connection's fate."""

    def opened(self, connection: Connection, established: Established) -> None:
        """The handshake is over, frames may follow."""
        ...

    def received(self, connection: Connection, frame: Frame) -> None:
        """A frame came in."""
        ...

    def ended(self, connection: Connection, code: str, reason: str) -> None:
        """The connection is over; called once."""
        ...

    def refused(self, connection: Connection, refusal: Refusal) -> None:
        """The handshake ended in a refusal; called instead of `ended`."""
        ...

    def failed(self, exc: Exception) -> None:
        """A payload's source raised: a bug of ours."""
        ...


class _Phase(enum.Enum):
    HANDSHAKE = enum.auto()
    UP = enum.auto()
    OVER = enum.auto()


class Connection:
    """Our end of one connection."""

    def __init__(
        self,
        owner: Owner,
        wire: Wire,
        handshake: Handshake,
        address: str,
        *,
        dialled: bool,
        limit: RateLimit | None = None,
        cork_s: float = 0.0,
    ) -> None:
        self.address = address
        self.dialled = dialled
        self.established: Established | None = None
        self.device: PeerId | None = None
        """Which device the wire has proven the other end to be."""
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        """When the last byte arrived; kept by the wire."""
        self.outcome: asyncio.Future[Outcome | str] = self._loop.create_future()
        """How the handshake ended; a string says why it did not."""
        self.end_code = CLOSED
        """Why the connection is over, once it is."""
        self.ended_by_us = False
        """Whether it is over because we refused to go on."""
        self._owner = owner
        self._wire = wire
        self._handshake = handshake
        self._phase = _Phase.HANDSHAKE
        self._lanes = Lanes()
        self._pace = Pace()
        self._limit = limit or RateLimit(None)
        self._cork_s = cork_s
        self._pump_soon: asyncio.Handle | None = None
        self._pump_at: asyncio.TimerHandle | None = None  # when the rate limit lets more out
        self._packer: Packer | None = None  # once the other end says that it unpacks
        self._unpacker = Unpacker()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is read from or written to the connection."""
        return self._phase is _Phase.OVER

    @property
    def peer(self) -> PeerId | None:
        """Who the other end says it is."""
        return self._handshake.peer

    @property
    def is_proven(self) -> bool:
        """Whether it has proven that on this connection, whatever came of it."""
        return self._handshake.is_proven

    @property
    def listening_at(self) -> str:
        """Where the other end says that it can be dialled; else the address seen."""
        hello = self._handshake.hello
        if self.dialled or hello is None:
            return self.address
        return next(iter(dialable_addresses(hello, self.address)), self.address)

    @property
    def claim(self) -> tuple[PeerId, bytes] | None:
        """The session that the other end may believe in."""
        return self._handshake.claim

    @property
    def control_bytes(self) -> int:
        """Bytes of control frames that wait."""
        return self._lanes.control_bytes

    def start(self) -> None:
        """Say hello."""
        self._wire.write((self._handshake.start(),))

    # What the wire reports.

    def unpack(self, frame: Frame) -> Iterator[Frame]:
        """Yield the frames in one that has arrived: itself, or those packed into it.

        Raises:
            RemoteProtocolError: It is no time for packed ones, or they break the protocol.
        """
        if self._phase is _Phase.HANDSHAKE:
            return iter((frame,))
        return self._unpacker.unpack(frame)

    def frame_received(self, frame: Frame) -> None:
        """Take a frame; once the connection is over, whoever ended it, nothing more counts.

        Raises:
            RemoteProtocolError: It breaks the handshake.
        """
        if self._phase is _Phase.OVER:
            return
        if self._phase is _Phase.HANDSHAKE:
            self._handshake_frame(frame)
        elif frame.kind is Kind.REFUSE:
            refusal = decode_refusal(frame)
            self._end(refusal.code, f"the peer ended it: {refusal.reason}")
            self._wire.finish()
        else:
            self._owner.received(self, frame)

    def _handshake_frame(self, frame: Frame) -> None:
        reply, outcome = self._handshake.receive(frame)
        if reply:
            self._wire.write((reply,))
        if isinstance(outcome, Established):
            self._phase = _Phase.UP
            self.established = outcome
            if outcome.hello.unpacks:
                self._packer = Packer()
            self._settle(outcome)
            self._owner.opened(self, outcome)
        elif outcome is not None:
            self._end_refused(outcome)

    def authenticated(self, device_key: bytes) -> None:
        """Hold the other end to the device that the wire has proven it to be."""
        self.device = peer_id_of(device_key)
        self._handshake.device_key = device_key

    def kept_out(self, refusal: Refusal, device_key: bytes | None = None) -> None:
        """End a connection that the wire could not make secure: no frame can go out.

        Args:
            refusal: Why.
            device_key: Of the device that the other end has proven to be, if it has.
        """
        if device_key is not None:
            self.device = peer_id_of(device_key)
        if self._phase is _Phase.HANDSHAKE:
            self._end_refused(refusal)
        elif not self.is_over:
            self._end(refusal.code, refusal.reason)
            self._wire.finish()

    def broke_protocol(self, exc: RemoteProtocolError) -> None:
        """End a connection whose stream makes no sense."""
        self.refuse(PROTOCOL, str(exc))

    def lost(self, code: str, reason: str) -> None:
        """Note that the wire is gone, or that the other end will send nothing more."""
        if not self.is_over:
            self._end(code, reason)

    def pump(self) -> None:
        """Move what waits onto the wire, as long as it takes more.

        One write has all control frames, some of what is passed on, and some of the payloads, so
        that what is said at about the same time takes few packets.
        """
        budget = PUMP_BYTES
        while self._phase is _Phase.UP and not self._lanes.is_empty and self._wire.ready():
            if budget <= 0:
                self._pump_later()
                return
            now = self._loop.time()
            buffers = self._pull_frames(now)
            wait_s = self._limit.wait_s(now)
            bulk = [] if wait_s > 0 else self._pull_bulk(now)
            if buffers or bulk:
                self._wire.write([*buffers, *bulk], is_bulk=bool(bulk))
            if wait_s > 0:
                self._pump_later(wait_s)
                return
            budget -= _num_bytes(bulk)

    def _pull_frames(self, now: float) -> list[bytes]:
        """Take all control frames that wait, and of what is passed on some, if the limit allows."""
        is_free = self._limit.wait_s(now) <= 0
        frames = self._lanes.take_control()
        passed_on = self._lanes.take_latest() if is_free else b""
        if len(frames) + len(passed_on) <= MAX_PACKED_BYTES:
            parts = [frames + passed_on]
        else:
            parts = [frames, passed_on]
        buffers = [self._packed(part) for part in parts if part]
        self._limit.spend(_num_bytes(buffers), now)
        return buffers

    def _pull_bulk(self, now: float) -> list[Buffer]:
        """Pull frames of payloads: one, or several small ones."""
        chunk_bytes = min(self._pace.chunk_bytes, self._limit.chunk_bytes)
        pulled: list[Buffer] = []
        num_bytes = 0
        try:
            while num_bytes <= chunk_bytes * TOGETHER_SHARE:
                buffers = self._lanes.next_bulk(chunk_bytes - num_bytes)
                if buffers is None:
                    break
                pulled += buffers
                num_bytes += _num_bytes(buffers)
        except Exception as exc:  # whatever it is, the shell hears of it
            self._lanes.clear()
            self._owner.failed(exc)
            return []
        if not pulled:
            self._pace.idle()
            return []
        self._pace.pulled(num_bytes, now)
        self._limit.spend(num_bytes, now)
        return pulled

    def _packed(self, frames: bytes) -> bytes:
        return frames if self._packer is None else self._packer.pack(frames)

    def _pump_later(self, wait_s: float = 0.0) -> None:
        if wait_s > 0:
            at = self._loop.time() + wait_s
            if self._pump_at is not None:
                if self._pump_at.when() <= at:
                    return
                self._pump_at.cancel()
            self._pump_at = self._loop.call_later(wait_s, self._pump_in_time)
        elif self._pump_soon is None:
            self._pump_soon = self._loop.call_soon(self._pump_now)

    def _pump_in_time(self) -> None:
        self._pump_at = None
        self.pump()

    def _pump_now(self) -> None:
        self._pump_soon = None
        self.pump()

    # What the owner wants.

    def send(self, frame: bytes, replaces: bytes | None = None) -> None:
        """Queue a control frame; it is written once the caller has returned, with its like.

        With a key it is something to pass on, and replaces an earlier one that still waits.
        """
        if replaces is None:
            self._lanes.add_control(frame)
        else:
            self._lanes.add_latest(replaces, frame)
        self._pump_later(self._cork_s)

    def stream(self, source: BulkSource) -> None:
        """Queue a payload; it is first pulled after the caller has returned."""
        self._lanes.add_bulk(source)
        self._pump_later()

    def refuse(self, code: str, reason: str) -> None:
        """End the connection and tell the other end why."""
        if self.is_over:
            return
        self.ended_by_us = True
        refusal = Refusal(code, reason)
        self._flush_control()
        self._wire.write((encode_refusal(refusal),))
        if self._phase is _Phase.HANDSHAKE:
            self._end_refused(refusal)
        else:
            self._end(code, reason)
            self._wire.finish()

    def finish(self) -> None:
        """End the connection in silence, after the control frames that wait."""
        if not self.is_over:
            self._flush_control()
            self._become_over("closed")
            self._wire.finish()

    def abort(self, code: str, reason: str) -> None:
        """End the connection now; what waits is lost."""
        if not self.is_over:
            self._end(code, reason)
        self._wire.abort()

    def _flush_control(self) -> None:
        if self._lanes.control_bytes:
            self._wire.write((self._packed(self._lanes.take_control()),))

    def _end_refused(self, refusal: Refusal) -> None:
        self._become_over(refusal)
        self._wire.finish()
        self._owner.refused(self, refusal)

    def _end(self, code: str, reason: str) -> None:
        self.end_code = code
        self._become_over(reason)
        self._owner.ended(self, code, reason)

    def _become_over(self, outcome: Refusal | str) -> None:
        self._phase = _Phase.OVER
        self._lanes.clear()
        self._settle(outcome)
        if self._pump_soon is not None:
            self._pump_soon.cancel()
            self._pump_soon = None
        if self._pump_at is not None:
            self._pump_at.cancel()
            self._pump_at = None

    def _settle(self, outcome: Outcome | str) -> None:
        if not self.outcome.done():  # done earlier, or whoever waited for it was cancelled
            self.outcome.set_result(outcome)


def _num_bytes(buffers: Sequence[Buffer]) -> int:
    return sum(map(len, buffers))


def reason_of(exc: BaseException) -> str:
    """Return in a few words what went wrong with a connection."""
    if isinstance(exc, socket.gaierror):
        return exc.strerror or "the name is not known"
    if isinstance(exc, OSError) and exc.errno:
        return os.strerror(exc.errno)
    return str(exc) or type(exc).__name__
