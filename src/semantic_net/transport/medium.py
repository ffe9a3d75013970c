"""What many connections of a machine share: its uplink, its downlink, a radio, or a channel.

Whoever wants to send over a busy medium waits for its turn, and only one is woken when it is free.
Turns go by start-time fair queueing (Goyal, Vin and Cheng, 1996): each flow has a tag, which grows
by the bytes that it sends, and the least tag is next. So flows that always have something to send
get as many bytes each, whatever the size of their chunks, and one that seldom sends waits for what
is on the line and for no queue. Where there is but a plain queue what comes first is first through;
`tcp_window` says what that does.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass

from semantic_net.transport.bandwidth import Bandwidth, RateTrace, bytes_s, end_s

QUEUE_S = 0.001
"""Of what is sent, seconds' worth that may wait for the line, as in a network card: a flow is not
woken for each frame of a few microseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineQuality:
    """What all connections of a machine share."""

    up_bytes_s: Bandwidth = None
    """Of what it sends, headers included; None for no limit."""
    down_bytes_s: Bandwidth = None
    """Of what it receives. In a channel it is the sender's speed that counts."""
    is_fifo: bool = False
    """Whether there is a plain queue in front of each, not fair turns. A channel has turns."""
    queue_bytes: float = 64_000
    """What such a queue in front of the downlink holds; what is beyond that is sent again."""
    half_duplex: bool = False
    """Whether it cannot send while it receives."""
    channel: str | None = None
    """Name of a channel of which all its machines use a part each at a time."""


class Flow:
    """One connection's use of a medium."""

    __slots__ = ("is_waiting", "tag", "turn", "waits_since_s")

    def __init__(self, turn: Callable[[], None]) -> None:
        """Take what is called when it is its turn."""
        self.turn = turn
        self.tag = 0.0
        self.is_waiting = False
        self.waits_since_s: float | None = None
        """Since when; during the turn that follows, too."""


class Medium:
    """One at a time."""

    __slots__ = ("_in_turn", "_num_queued", "_tag", "_timer", "_waiting", "busy_until_s")

    def __init__(self) -> None:
        self.busy_until_s = 0.0
        self._tag = 0.0  # of whoever had the last turn
        self._waiting: list[tuple[float, int, Flow]] = []
        self._num_queued = 0
        self._in_turn: Flow | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def num_waiting(self) -> int:
        """Flows that wait for their turn."""
        return len(self._waiting)

    def is_free_for(self, flow: Flow, now: float) -> bool:
        """Tell whether a flow may send now; if not it has a turn later."""
        if self.busy_until_s - QUEUE_S <= now and (not self._waiting or flow is self._in_turn):
            return True
        if not flow.is_waiting:
            flow.is_waiting, flow.waits_since_s = True, now
            self._num_queued += 1
            heapq.heappush(self._waiting, (max(flow.tag, self._tag), self._num_queued, flow))
            self._wake_in_time()
        return False

    def carry(self, flow: Flow, bandwidth: Bandwidth, num_bytes: float, begin_s: float) -> float:
        """Send a flow's bytes, from ``begin_s`` on at the earliest; return when they are through.

        Who does not ask whether it may comes behind what is on the line.
        """
        self.busy_until_s = end_s(bandwidth, max(begin_s, self.busy_until_s), num_bytes)
        flow.tag = max(flow.tag, self._tag) + num_bytes
        return self.busy_until_s

    def backlog_bytes(self, bandwidth: float | RateTrace, now: float) -> float:
        """Return how much waits, about."""
        return max(self.busy_until_s - now, 0.0) * bytes_s(bandwidth, now)

    def _wake_in_time(self) -> None:
        if self._timer is None and self._in_turn is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self.busy_until_s - QUEUE_S, self._give_turns)

    def _give_turns(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._waiting and self.busy_until_s - QUEUE_S <= now:
            self._tag, _, flow = heapq.heappop(self._waiting)
            flow.is_waiting, self._in_turn = False, flow
            flow.turn()
            self._in_turn = None
            if not flow.is_waiting:
                flow.waits_since_s = None
        if self._waiting:
            self._wake_in_time()


class Machine:
    """A machine's share in what its connections use."""

    __slots__ = ("_own", "down", "is_fifo", "quality", "up")

    def __init__(self) -> None:
        self.quality = MachineQuality()
        self.is_fifo = False
        self._own = Medium(), Medium()
        self.up, self.down = self._own

    def use(self, quality: MachineQuality, channel: Medium | None) -> None:
        """Be like this from now on."""
        self.quality = quality
        self.is_fifo = quality.is_fifo and channel is None
        self.up, self.down = self._own
        if quality.half_duplex:
            self.down = self.up
        if channel is not None:
            self.up = self.down = channel
