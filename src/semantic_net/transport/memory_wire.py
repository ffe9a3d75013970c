"""One end of a connection in memory, as a `Wire`.

    uplink of the sender -> link between the two -> downlink of the receiver

Bytes flow through all three at once, as packets do: what arrives last has left last, and each is
used for as long as it takes the bytes alone. Where a machine has plain queues, no more than TCP's
window is under way, and acknowledgements come back by the queues of the other direction. Everything
that is sent reaches the other end from a callback of its own, never from within the sender's call,
in the order in which it was sent.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Protocol

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.frames import HEADER, Frame, decode_header
from semantic_net.transport.bandwidth import bytes_s
from semantic_net.transport.base import Buffer, LinkTotals
from semantic_net.transport.connection import CLOSED, LOST, Connection
from semantic_net.transport.hub import Hub
from semantic_net.transport.lanes import FRAME_S
from semantic_net.transport.link import Link
from semantic_net.transport.link_meter import LinkMeter, Reading
from semantic_net.transport.medium import QUEUE_S, Flow, Machine
from semantic_net.transport.tcp_window import ACK_SHARE, TcpWindow


class Fabric(Protocol):
    """What wires need of the network that they belong to."""

    rng: random.Random
    """For jitter and loss."""

    def add(self, wire: MemoryWire) -> None:
        """Count a wire in."""
        ...

    def remove(self, wire: MemoryWire) -> None:
        """Forget a wire."""
        ...

    def link(self, source: str, target: str) -> Link:
        """Return the link from one machine to another, always the same one."""
        ...

    def machine(self, name: str) -> Machine:
        """Return a machine, always the same one."""
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
        self.link = network.link(source, target)
        self.cut_since_s: float | None = None
        """Since when nothing passes, if so; kept by the network."""
        self.bytes_sent = 0
        self._network = network
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._sender, self._receiver = network.machine(source), network.machine(target)
        self._up, self._down = Flow(self._pump_now), Flow(self._deliver)
        self._other: MemoryWire
        self._connection: Connection
        # What is under way, its bytes on the line, and when the first of them reach the machine and
        # when they were sent.
        self._in_flight: deque[tuple[bytes | _Mark, int, float, float]] = deque()
        self._in_flight_bytes = 0
        self._arrived_bytes = 0
        self._busy_s = 0.0
        self._busy_from_s = 0.0  # while something is in flight
        self._idle_from_s = 0.0
        self._meter = LinkMeter(self._read_counters)
        self._window = TcpWindow()
        self._last_through_s = 0.0  # nothing overtakes what comes later
        self._num_queued = 0  # of those in flight, how many are in the downlink's plain queue
        self._num_due = 0  # of those in flight, how many have arrived but for a cut or the downlink
        self._is_passing = False  # one of them, through the downlink
        self._is_held = False  # by the downlink's backlog
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
        if self._finishing or self._gone or self.cut_since_s is not None:
            return False
        now = self._loop.time()
        if self._in_flight_bytes and self._in_flight_bytes > self._window_bytes(now):
            self._is_held = True
            return False
        if self.link.busy_until_s - QUEUE_S > now:
            if self._pump is None:
                free_s = self.link.busy_until_s - QUEUE_S
                self._pump = self._loop.call_at(free_s, self._pump_in_time)
            return False
        if self._sender.quality.up_bytes_s is None or self._sender.is_fifo:
            return True
        return self._sender.up.is_free_for(self._up, now)

    @property
    def _is_acknowledged(self) -> bool:
        """Whether what is under way counts until an acknowledgement is back."""
        return self._sender.is_fifo or self._receiver.is_fifo

    def _window_bytes(self, now: float) -> float:
        """Return how much may be under way: as TCP, no more than keeps the downlink busy."""
        machine = self._receiver
        if self._is_acknowledged:
            quality = self.link.quality
            limits = (
                quality.bandwidth_bytes_s,
                self._sender.quality.up_bytes_s,
                machine.quality.down_bytes_s,
            )
            least = min((bytes_s(each, now) for each in limits if each is not None), default=0.0)
            held_bytes = least * (quality.delay_s + self._other.link.quality.delay_s)
            segment_bytes = quality.segment_bytes + quality.header_bytes
            return self._window.num_bytes(segment_bytes, held_bytes, now, self._network.rng)
        if machine.quality.down_bytes_s is None or machine.down is self._sender.up:
            return float("inf")
        rate = bytes_s(machine.quality.down_bytes_s, now) / (1 + machine.down.num_waiting)
        return rate * (self.link.quality.delay_s + FRAME_S)

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
        self.cut_since_s = None
        self._loop.call_soon(self._deliver)
        self._loop.call_soon(self._pump_now)

    def totals(self) -> LinkTotals:
        """Return what has arrived while payloads were under way; loss shows as time."""
        return self._meter.totals()

    def _read_counters(self) -> Reading:
        under_way_s = self._loop.time() - self._busy_from_s if self._in_flight else 0.0
        busy_s = self._busy_s + under_way_s
        return LinkTotals(self._arrived_bytes, busy_s, 0), not self._in_flight

    # On the way.

    def _send(self, item: bytes | _Mark) -> None:
        now = self._loop.time()
        begin_s = now if self._up.waits_since_s is None else self._up.waits_since_s
        on_line = self.link.quality.on_line(len(item)) if isinstance(item, bytes) else 0
        leaves_s = now
        enters_s = max(now, self._sender.up.busy_until_s) if self._sender.is_fifo else now
        if (up_bytes_s := self._sender.quality.up_bytes_s) is not None:
            leaves_s = self._sender.up.carry(self._up, up_bytes_s, on_line, now)
        arrival_s = self.link.send(on_line, now, self._network.rng, leaves_s)
        if arrival_s is None:
            self._loop.call_soon(self.break_, "Connection timed out")
            self._loop.call_soon(self._other.break_, "Connection timed out")
            return
        if not self._in_flight:
            self._busy_from_s = max(begin_s, self._idle_from_s)
        self._in_flight.append((item, on_line, enters_s + self.link.quality.delay_s, now))
        self._in_flight_bytes += on_line
        self._loop.call_at(arrival_s, self._arrive)

    def _arrive(self) -> None:
        machine, now = self._receiver, self._loop.time()
        down_bytes_s = machine.quality.down_bytes_s
        if machine.is_fifo and down_bytes_s is not None:
            _, on_line, begin_s, _ = self._in_flight[self._num_due + self._num_queued]
            self._num_queued += 1
            waiting_bytes = machine.down.backlog_bytes(down_bytes_s, now) + on_line
            lost_bytes = min(waiting_bytes - machine.quality.queue_bytes, on_line)
            through_s = machine.down.carry(self._down, down_bytes_s, on_line, begin_s)
            if lost_bytes > 0:
                through_s += self._again_s(lost_bytes)
            self._last_through_s = max(through_s, self._last_through_s, now)
            self._loop.call_at(self._last_through_s, self._dequeued)
        else:
            self._num_due += 1
            self._deliver()

    def _again_s(self, num_bytes: float) -> float:
        """Return how much later comes what the downlink's queue has no room for.

        The sender hears of it, and sends it by its uplink once more.
        """
        now, sender = self._loop.time(), self._sender
        took_s = self._acknowledgement_s(0) + self.link.quality.delay_s
        if sender.is_fifo and sender.quality.up_bytes_s is not None:
            took_s += sender.up.carry(self._up, sender.quality.up_bytes_s, num_bytes, now) - now
        return took_s

    def _dequeued(self) -> None:
        self._num_queued -= 1
        self._num_due += 1
        self._deliver()

    def _deliver(self) -> None:
        """Hand over what has arrived, as fast as the other machine's downlink takes it."""
        while self._num_due and not self._is_passing and self.cut_since_s is None:
            if not self._passes():
                return
            self._hand_over()

    def _passes(self) -> bool:
        """Tell whether what is next is through the downlink; if not we are called when it is."""
        machine, now = self._receiver, self._loop.time()
        down_bytes_s = machine.quality.down_bytes_s
        if down_bytes_s is None or machine.is_fifo:
            return True
        if machine.down is self._sender.up:  # in a channel it has been
            return True
        if not machine.down.is_free_for(self._down, now):
            return False
        _, on_line, begin_s, _ = self._in_flight[0]
        through_s = machine.down.carry(self._down, down_bytes_s, on_line, begin_s)
        if through_s <= now:
            return True
        self._is_passing = True
        self._loop.call_at(through_s, self._passed)
        return False

    def _passed(self) -> None:
        self._is_passing = False
        if self.cut_since_s is None:  # else it comes again after the cut
            self._hand_over()
            self._deliver()

    def _hand_over(self) -> None:
        self._num_due -= 1
        item, on_line, _, sent_s = self._in_flight.popleft()
        self._arrived_bytes += len(item) if isinstance(item, bytes) else 0
        if not self._in_flight:
            self._idle_from_s = self._loop.time()
            self._busy_s += self._idle_from_s - self._busy_from_s
        if self._is_acknowledged and on_line:
            back_s = self._acknowledgement_s(on_line)
            self._loop.call_later(back_s, self._acknowledged, on_line, sent_s)
        else:
            self._acknowledged(on_line, sent_s)
        self._other.take(item)

    def _acknowledgement_s(self, on_line: int) -> float:
        """Return how long the acknowledgement of so much takes, behind all that goes its way."""
        back, now = self._other, self._loop.time()
        quality = back.link.quality
        num_segments = on_line / (quality.segment_bytes + quality.header_bytes)
        num_bytes = ACK_SHARE * num_segments * quality.header_bytes
        took_s = quality.delay_s
        up, down = self._receiver, self._sender
        # Each as it is now: what comes until the acknowledgement is there is not known yet.
        if up.is_fifo and up.quality.up_bytes_s is not None:
            took_s += up.up.carry(back._up, up.quality.up_bytes_s, num_bytes, now) - now
        if down.is_fifo and down.quality.down_bytes_s is not None:
            took_s += down.down.carry(back._down, down.quality.down_bytes_s, num_bytes, now) - now
        return took_s

    def _acknowledged(self, on_line: int, sent_s: float) -> None:
        self._in_flight_bytes -= on_line
        self._window.round_trip_s = self._loop.time() - sent_s
        if self._is_held:
            self._is_held = False
            self._loop.call_soon(self._pump_now)

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
                self._hub.frames_received += 1
                for each in self._connection.unpack(frame):
                    if self._connection.is_over:
                        return
                    if each.kind not in self._other.link.swallowed:
                        self._connection.frame_received(each)
        except RemoteProtocolError as exc:
            self._connection.broke_protocol(exc)

    def _pump_in_time(self) -> None:
        self._pump = None
        self._pump_now()

    def _pump_now(self) -> None:
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
