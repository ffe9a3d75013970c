"""One end of a connection in memory, as a `Wire`.

    uplink of the sender -> link between the two -> downlink of the receiver

Bytes flow through all three at once, as packets do: what arrives last has left last, and each is
used for as long as it takes the bytes alone. What is under way counts until an acknowledgement is
back, and no more than TCP's window is. Where a machine has plain queues acknowledgements come back
by those of the other direction. Everything that is sent reaches the other end from a callback of
its own, never from within the sender's call, in the order in which it was sent.

The two ends know nothing of each other but what has had the time to get there, except in plain
queues: so each may be in a process of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.frames import HEADER, Frame, decode_header
from semantic_net.transport.bandwidth import bytes_s
from semantic_net.transport.base import Buffer, LinkTotals
from semantic_net.transport.connection import CLOSED, LOST, Connection
from semantic_net.transport.flight import Flight
from semantic_net.transport.hub import Hub
from semantic_net.transport.lanes import FRAME_S
from semantic_net.transport.link import Link
from semantic_net.transport.link_meter import LinkMeter, Reading
from semantic_net.transport.medium import QUEUE_S, Flow, Machine
from semantic_net.transport.memory_ends import Dial, FarEnd, Item, Mark, clock
from semantic_net.transport.tcp_window import ACK_SHARE, TcpWindow

CONNECTION_LOST = "Connection timed out"


class Fabric(Protocol):
    """What wires need of the network that they belong to."""

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

    def dice(self, name: str) -> random.Random:
        """Return a machine's dice for jitter, loss and windows, always the same ones."""
        ...


class MemoryWire:
    """One end of a connection in memory; a `Wire`, and a `FarEnd` of the other one."""

    def __init__(self, network: Fabric, source: str, target: str, dial: Dial) -> None:
        self.source = source
        self.target = target
        self.dial = dial
        self.order = source, target, dial
        """In which the wires of a machine are told of a fault: the same one in any process."""
        self.link = network.link(source, target)
        self.cut_since_s: float | None = None
        """Since when nothing passes, if so; kept by the network."""
        self.bytes_sent = 0
        self._back = network.link(target, source)
        self._network = network
        self._clock = clock()
        self._dice = network.dice(source)
        self._machine, self._other_machine = network.machine(source), network.machine(target)
        self._up, self._down = Flow(self._pump_now), Flow(self._deliver)
        self._other_rank = 0, target, source
        self._hub: Hub
        self._other: FarEnd
        self._connection: Connection
        self._flight = Flight()
        self._meter = LinkMeter(self._read_counters)
        self._window = TcpWindow()
        self._is_held = False  # by what is in flight
        # What has arrived for us but for a cut or the downlink: with its bytes on the line, and
        # when the first of them reached us.
        self._due: deque[tuple[Item, int, float]] = deque()
        self._last_through_s = 0.0  # nothing overtakes what comes later
        self._is_passing = False  # the first of them, through the downlink
        self._is_open = False
        self._is_deaf = False
        self._finishing = False
        self._gone = False
        self._linger: asyncio.TimerHandle | None = None
        self._pump: asyncio.TimerHandle | None = None

    def open(self, hub: Hub, other: FarEnd, address: str, *, dialled: bool) -> Connection:
        """Begin the handshake with the other end."""
        self._hub, self._other, self._is_open = hub, other, True
        self._network.add(self)
        self._connection = self._hub.adopt(self, address, dialled=dialled)
        return self._connection

    @property
    def is_gone(self) -> bool:
        """Whether nothing is sent any more, and what arrives is not taken."""
        return self._gone

    # What a connection wants of its wire.

    def ready(self) -> bool:
        """Tell whether the link takes another frame now."""
        if self._finishing or self._gone or self.cut_since_s is not None:
            return False
        now = self._clock.time()
        if not self._flight.is_empty and self._is_window_full(now):
            self._hold()
            return False
        if self.link.busy_until_s - QUEUE_S > now:
            if self._pump is None:
                free_s = self.link.busy_until_s - QUEUE_S
                self._pump = self._clock.call_at(free_s, self._pump_in_time)
            return False
        if self._machine.quality.up_bytes_s is None or self._machine.is_fifo:
            return True
        return self._machine.up.is_free_for(self._up, now)

    @property
    def _is_queued(self) -> bool:
        """Whether what is sent waits in a plain queue on its way."""
        return self._machine.is_fifo or self._other_machine.is_fifo

    def _is_window_full(self, now: float) -> bool:
        """Tell whether as much is under way as may be: as TCP, what keeps the downlink busy."""
        flight = self._flight
        flight.settle(now)
        if flight.is_empty:
            return False
        quality = self.link.quality
        round_trip_s = quality.delay_s + self._back.quality.delay_s
        if self._is_queued:
            limits = (
                quality.bandwidth_bytes_s,
                self._machine.quality.up_bytes_s,
                self._other_machine.quality.down_bytes_s,
            )
            least = min((bytes_s(each, now) for each in limits if each is not None), default=0.0)
            segment_bytes = quality.segment_bytes + quality.header_bytes
            held_bytes = least * round_trip_s
            num_bytes = self._window.num_bytes(
                segment_bytes, held_bytes, flight.round_trip_s, now, self._dice
            )
            return flight.on_line_bytes > num_bytes
        down_bytes_s = self._other_machine.quality.down_bytes_s
        if down_bytes_s is None or self._other_machine.down is self._machine.up:
            return False
        share_bytes_s = flight.share_bytes_s
        if share_bytes_s is None:
            share_bytes_s = bytes_s(down_bytes_s, now)
        return flight.on_line_bytes > share_bytes_s * (round_trip_s + FRAME_S)

    def _hold(self) -> None:
        """Be called when something is acknowledged."""
        if not self._is_held:
            self._is_held = True
            if (next_s := self._flight.next_s) is not None:
                self._go_on_at(next_s)

    def _go_on_at(self, at_s: float) -> None:
        # Not the rank of what crosses the link: that is ordered by when it was sent, and this is
        # asked for when we hear of the acknowledgement, or are held.
        rank = 1, self.target, f"{self.source} {self.dial}"
        self._clock.call_in_rank(at_s, rank, self._go_on)

    def _go_on(self) -> None:
        self._is_held = False
        self._pump_now()

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
            self._linger = self._clock.call_later(self._hub.settings.flush_s, self.abort)
            self._send(Mark.END)

    def abort(self) -> None:
        """Close now."""
        if not self._gone:
            self._send(Mark.RESET)
            self._close("the connection was closed")

    # What the network does to it.

    def break_(self, reason: str) -> None:
        """Lose the connection, this end of it."""
        self._close(reason)

    def vanish(self, detect_s: float) -> None:
        """Fall silent as a machine does that loses its power; the other end notices later."""
        self._other.break_at(self._clock.time() + detect_s, CONNECTION_LOST)
        self._close("this machine is gone")

    def never_open(self) -> None:
        """Let nothing arrive that the other end sends: nobody listened any more."""
        self._is_deaf = self._gone = True

    def healed(self) -> None:
        """Go on after a cut."""
        self.cut_since_s = None
        self._clock.call_soon(self._deliver)
        self._clock.call_soon(self._pump_now)

    def totals(self) -> LinkTotals:
        """Return what was taken while payloads were under way; loss shows as time."""
        return self._meter.totals()

    def _read_counters(self) -> Reading:
        totals = self._flight.totals(self._clock.time())
        return totals, self._flight.is_empty

    # On the way there.

    def _send(self, item: Item) -> None:
        now = self._clock.time()
        begin_s = now if self._up.waits_since_s is None else self._up.waits_since_s
        num_bytes = len(item) if isinstance(item, bytes) else 0
        on_line = self.link.quality.on_line(num_bytes)
        leaves_s = now
        machine = self._machine
        enters_s = max(now, machine.up.busy_until_s) if machine.is_fifo else now
        if (up_bytes_s := machine.quality.up_bytes_s) is not None:
            leaves_s = machine.up.carry(self._up, up_bytes_s, on_line, now)
        arrival_s = self.link.send(on_line, now, self._dice, leaves_s)
        delay_s = self.link.quality.delay_s
        if arrival_s is None:
            self._clock.call_soon(self.break_, CONNECTION_LOST)
            self._other.break_at(now + delay_s, CONNECTION_LOST)
            return
        if num_bytes:
            self._flight.send(num_bytes, on_line, now, begin_s)
        self._other.arrive(arrival_s, item, on_line, enters_s + delay_s)

    def acknowledge(self, at_s: float, share_bytes_s: float | None) -> None:
        """Learn, at an instant to come, that the oldest in flight was taken; see `FarEnd`."""
        is_next = self._flight.next_s is None
        self._flight.acknowledge(at_s, share_bytes_s)
        if self._is_held and is_next:
            self._go_on_at(at_s)

    # On the way here.

    def arrive(self, at_s: float, item: Item, on_line: int, enters_s: float) -> None:
        """Take something from the link, at an instant to come; see `FarEnd`."""
        self._clock.call_in_rank(at_s, self._other_rank, self.arrived, item, on_line, enters_s)

    def break_at(self, at_s: float, reason: str) -> None:
        """Lose the connection, at an instant to come; see `FarEnd`."""
        self._clock.call_in_rank(at_s, self._other_rank, self.break_, reason)

    def arrived(self, item: Item, on_line: int, enters_s: float) -> None:
        """Take something from the link, now; see `FarEnd.arrive`."""
        if self._is_deaf:
            return
        machine, now = self._machine, self._clock.time()
        down_bytes_s = machine.quality.down_bytes_s
        if machine.is_fifo and down_bytes_s is not None:
            waiting_bytes = machine.down.backlog_bytes(down_bytes_s, now) + on_line
            lost_bytes = min(waiting_bytes - machine.quality.queue_bytes, on_line)
            through_s = machine.down.carry(self._down, down_bytes_s, on_line, enters_s)
            if lost_bytes > 0:
                through_s += self._again_s(lost_bytes)
            self._last_through_s = max(through_s, self._last_through_s, now)
            self._clock.call_at(self._last_through_s, self._dequeued, item, on_line, enters_s)
        else:
            self._dequeued(item, on_line, enters_s)

    def _again_s(self, num_bytes: float) -> float:
        """Return how much later comes what the downlink's queue has no room for.

        The sender hears of it, and sends it by its uplink once more.
        """
        other, sender, now = self._beside, self._other_machine, self._clock.time()
        took_s = self._acknowledgement_s(0) + self._back.quality.delay_s
        if sender.is_fifo and sender.quality.up_bytes_s is not None:
            took_s += sender.up.carry(other._up, sender.quality.up_bytes_s, num_bytes, now) - now
        return took_s

    def _dequeued(self, item: Item, on_line: int, enters_s: float) -> None:
        self._due.append((item, on_line, enters_s))
        self._deliver()

    def _deliver(self) -> None:
        """Hand over what has arrived, as fast as the downlink takes it."""
        while self._due and not self._is_passing and self.cut_since_s is None:
            if not self._passes():
                return
            self._hand_over()

    def _passes(self) -> bool:
        """Tell whether what is next is through the downlink; if not we are called when it is."""
        machine, now = self._machine, self._clock.time()
        down_bytes_s = machine.quality.down_bytes_s
        if down_bytes_s is None or machine.is_fifo:
            return True
        if machine.down is self._other_machine.up:  # in a channel it has been
            return True
        if not machine.down.is_free_for(self._down, now):
            return False
        _, on_line, enters_s = self._due[0]
        through_s = machine.down.carry(self._down, down_bytes_s, on_line, enters_s)
        if through_s <= now:
            return True
        self._is_passing = True
        self._clock.call_at(through_s, self._passed)
        return False

    def _passed(self) -> None:
        self._is_passing = False
        if self.cut_since_s is None:  # else it comes again after the cut
            self._hand_over()
            self._deliver()

    def _hand_over(self) -> None:
        item, on_line, _ = self._due.popleft()
        if isinstance(item, bytes):
            now, machine = self._clock.time(), self._machine
            share_bytes_s = None
            if (down_bytes_s := machine.quality.down_bytes_s) is not None:
                share_bytes_s = bytes_s(down_bytes_s, now) / (1 + machine.down.num_waiting)
            self._other.acknowledge(now + self._acknowledgement_s(on_line), share_bytes_s)
        self._take(item)

    def _acknowledgement_s(self, on_line: int) -> float:
        """Return how long the acknowledgement of so much takes, behind all that goes its way."""
        quality = self.link.quality
        if not self._is_queued:
            return quality.delay_s
        other, now = self._beside, self._clock.time()
        num_segments = on_line / (quality.segment_bytes + quality.header_bytes)
        num_bytes = ACK_SHARE * num_segments * quality.header_bytes
        took_s = quality.delay_s
        up, down = self._machine, self._other_machine
        # Each as it is now: what comes until the acknowledgement is there is not known yet.
        if up.is_fifo and up.quality.up_bytes_s is not None:
            took_s += up.up.carry(self._up, up.quality.up_bytes_s, num_bytes, now) - now
        if down.is_fifo and down.quality.down_bytes_s is not None:
            took_s += down.down.carry(other._down, down.quality.down_bytes_s, num_bytes, now) - now
        return took_s

    @property
    def _beside(self) -> MemoryWire:
        """The other end, where it is in this process: plain queues have no meaning otherwise."""
        assert isinstance(self._other, MemoryWire)
        return self._other

    def _take(self, item: Item) -> None:
        """Take what has come from the other end."""
        if self._gone:
            return
        if item is Mark.RESET:
            self._close("Connection reset by peer")
        elif item is Mark.END:
            self._connection.lost(CLOSED, "the peer closed the connection")
            self.finish()
            self._close("the connection was closed")
        else:
            assert isinstance(item, bytes)
            self._hub.bytes_received += len(item)
            self._connection.heard_at = self._clock.time()
            self._take_frames(item)

    def _take_frames(self, data: bytes) -> None:
        try:
            for frame in _split(data):
                self._hub.frames_received += 1
                for each in self._connection.unpack(frame):
                    if self._connection.is_over:
                        return
                    if each.kind not in self._back.swallowed:
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
        if self._is_open:  # else nobody knows of it
            # Later, as sockets do: whoever closes the wire is not called back from within.
            self._clock.call_soon(self._report_gone, reason)

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
