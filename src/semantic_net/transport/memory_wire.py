"""One end of a connection in memory, as a `Wire`.

Everything that is sent reaches the other end from a callback of its own, never from within the
sender's call, in the order in which it was sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Protocol

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.frames import HEADER, Frame, Kind, decode_header
from semantic_net.transport.base import Buffer, LinkTotals
from semantic_net.transport.connection import CLOSED, LOST, Connection
from semantic_net.transport.hub import Hub
from semantic_net.transport.link_meter import LinkMeter, Reading


class Fabric(Protocol):
    """What wires need of the network that they belong to."""

    def add(self, wire: MemoryWire) -> None:
        """Count a wire in."""
        ...

    def remove(self, wire: MemoryWire) -> None:
        """Forget a wire."""
        ...

    def is_cut(self, a: str, b: str) -> bool:
        """Whether nothing passes between two machines."""
        ...

    def arrival_s(self, wire: MemoryWire, num_bytes: int) -> float | None:
        """Return when bytes that ``wire`` sends now arrive; None: never."""
        ...

    def busy_until_s(self, wire: MemoryWire) -> float:
        """Return when the wire's link takes more."""
        ...

    def swallows(self, wire: MemoryWire, kind: Kind) -> bool:
        """Whether frames of ``kind`` on this wire are dropped by script."""
        ...


class _Mark(Enum):
    """What is no frame but arrives in order behind them."""

    END = auto()
    RESET = auto()


class MemoryWire:
    """One end of a connection in memory; a `Wire`."""

    def __init__(self, network: Fabric, hub: Hub, source: str, target: str) -> None:
        self.source = source
        self.target = target
        self.bytes_sent = 0
        self._network = network
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._other: MemoryWire
        self._connection: Connection
        self._in_flight: deque[bytes | _Mark] = deque()
        self._arrived_bytes = 0
        self._busy_s = 0.0
        self._busy_until_s = 0.0
        self._meter = LinkMeter(self._read_counters)
        self._num_due = 0  # of those in flight, how many have arrived but for a cut
        self._finishing = False
        self._gone = False
        self._linger: asyncio.TimerHandle | None = None
        self._pump: asyncio.TimerHandle | None = None

    def open(self, other: MemoryWire, address: str, *, dialled: bool) -> Connection:
        """Begin the handshake with the other end."""
        self._other = other
        self._network.add(self)
        self._connection = self._hub.adopt(self, address, dialled=dialled)
        return self._connection

    # What a connection wants of its wire.

    def ready(self) -> bool:
        """Tell whether the link takes another frame now."""
        if self._finishing or self._gone or self._network.is_cut(self.source, self.target):
            return False
        if (free_s := self._network.busy_until_s(self)) <= self._loop.time():
            return True
        if self._pump is None:
            self._pump = self._loop.call_at(free_s, self._pump_now)
        return False

    def write(self, buffers: Sequence[Buffer], *, is_bulk: bool = False) -> None:
        """Send buffers of whole frames."""
        if not (self._finishing or self._gone):
            self._meter.before_write(is_bulk=is_bulk)
            data = b"".join(buffers)
            self.bytes_sent += len(data)
            self._send(data)

    def finish(self) -> None:
        """Send what was written and our end of stream; wait a little for the other end's."""
        if not (self._finishing or self._gone):
            self._finishing = True
            self._linger = self._loop.call_later(self._hub.settings.flush_s, self.abort)
            self._send(_Mark.END)

    def abort(self) -> None:
        """Close now."""
        if not self._gone:
            self._send(_Mark.RESET)
            self._close("the connection was closed")

    # What the network does to it.

    def break_(self, reason: str) -> None:
        """Lose the connection, this end of it."""
        self._close(reason)

    def vanish(self, detect_s: float) -> None:
        """Fall silent as a machine does that loses its power; the other end notices later."""
        self._loop.call_later(detect_s, self._other.break_, "Connection timed out")
        self._close("this machine is gone")

    def healed(self) -> None:
        """Go on after a cut."""
        self._loop.call_soon(self._deliver)
        self._loop.call_soon(self._pump_now)

    def totals(self) -> LinkTotals:
        """Return what has arrived while payloads were under way; loss shows as time."""
        return self._meter.totals()

    def _read_counters(self) -> Reading:
        return LinkTotals(self._arrived_bytes, self._busy_s, 0), not self._in_flight

    # On the way.

    def _send(self, item: bytes | _Mark) -> None:
        arrival_s = self._network.arrival_s(self, len(item) if isinstance(item, bytes) else 0)
        if arrival_s is None:
            self._loop.call_soon(self.break_, "Connection timed out")
            self._loop.call_soon(self._other.break_, "Connection timed out")
            return
        self._in_flight.append(item)
        now = self._loop.time()
        self._busy_s += max(arrival_s - max(now, self._busy_until_s), 0.0)
        self._busy_until_s = arrival_s
        self._loop.call_at(arrival_s, self._arrive)

    def _arrive(self) -> None:
        self._num_due += 1
        self._deliver()

    def _deliver(self) -> None:
        while self._num_due and not self._network.is_cut(self.source, self.target):
            self._num_due -= 1
            item = self._in_flight.popleft()
            self._arrived_bytes += len(item) if isinstance(item, bytes) else 0
            self._other.take(item)

    def take(self, item: bytes | _Mark) -> None:
        """Take what has arrived from the other end."""
        if self._gone:
            return
        if item is _Mark.RESET:
            self._close("Connection reset by peer")
        elif item is _Mark.END:
            self._connection.lost(CLOSED, "the peer closed the connection")
            self.finish()
            self._close("the connection was closed")
        else:
            assert isinstance(item, bytes)
            self._hub.bytes_received += len(item)
            self._connection.heard_at = self._loop.time()
            self._take_frames(item)

    def _take_frames(self, data: bytes) -> None:
        try:
            for frame in _split(data):
                for each in self._connection.unpack(frame):
                    if self._connection.is_over:
                        return
                    if not self._network.swallows(self._other, each.kind):
                        self._connection.frame_received(each)
        except RemoteProtocolError as exc:
            self._connection.broke_protocol(exc)

    def _pump_now(self) -> None:
        self._pump = None
        if not self._gone:
            self._connection.pump()

    def _close(self, reason: str) -> None:
        if self._gone:
            return
        self._gone = True
        self._network.remove(self)
        for timer in (self._linger, self._pump):
            if timer is not None:
                timer.cancel()
        # Later, as sockets do: whoever closes the wire is not called back from within.
        self._loop.call_soon(self._report_gone, reason)

    def _report_gone(self, reason: str) -> None:
        self._connection.lost(LOST, reason)
        self._hub.wire_gone(self)


def _split(data: bytes) -> Iterator[Frame]:
    view = memoryview(data)
    while view:
        kind, length = decode_header(view[: HEADER.size])
        end = HEADER.size + length
        yield Frame(kind, view[HEADER.size : end])
        view = view[end:]
