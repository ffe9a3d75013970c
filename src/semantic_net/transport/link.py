"""One direction of a link in memory: when does what is sent arrive?

Pure arithmetic: the time and the dice come in. As in TCP nothing overtakes anything, and what is
lost comes later, together with all that was sent behind it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from semantic_net.protocol.frames import Kind
from semantic_net.transport.bandwidth import Bandwidth, end_s

MAX_LOSSES = 6
"""Losses of one frame in a row that break a connection."""

SEGMENT_BYTES = 1448
"""What TCP puts into one packet on Ethernet."""

ETHERNET_HEADER_BYTES = 66
"""Of each such packet, as ``tc tbf`` counts: Ethernet 14, IPv4 20, TCP with timestamps 32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkQuality:
    """What a link is like in one direction."""

    bandwidth_bytes_s: Bandwidth = None
    """Of what is on the line, headers included; None for no limit."""
    delay_s: float = 0.001
    jitter_s: float = 0.0
    """Added to the delay, uniformly from 0 to this."""
    loss: float = 0.0
    """Share of frames that are lost and sent again after a retransmission timeout, in [0, 1]."""
    header_bytes: int = 0
    """That each segment takes on the line besides what it carries; `ETHERNET_HEADER_BYTES` as
    ``tc`` counts. What a socket has sent does not include them."""
    segment_bytes: int = SEGMENT_BYTES

    @property
    def retransmission_s(self) -> float:
        """The first retransmission timeout; it doubles with each loss of the same frame."""
        return max(0.2, 2 * self.delay_s)

    def on_line(self, num_bytes: int) -> int:
        """Return what bytes of a socket take on the line."""
        return num_bytes + -(-num_bytes // self.segment_bytes) * self.header_bytes


class Link:
    """One direction between two machines."""

    __slots__ = ("busy_until_s", "last_arrival_s", "quality", "swallowed")

    def __init__(self, quality: LinkQuality) -> None:
        self.quality = quality
        self.busy_until_s = 0.0
        self.last_arrival_s = 0.0
        """When all has arrived that was sent so far."""
        self.swallowed: frozenset[Kind] = frozenset()

    def send(
        self, num_bytes: int, now: float, rng: random.Random, leaves_s: float = 0.0
    ) -> float | None:
        """Return when bytes that are sent now arrive, or None when they never do.

        Args:
            num_bytes: On the line, headers included.
            now: When they begin to leave the machine.
            rng: For jitter and loss.
            leaves_s: When the last of them leaves the machine, if that takes time.
        """
        quality = self.quality
        begin_s = max(now, self.busy_until_s)
        self.busy_until_s = end_s(quality.bandwidth_bytes_s, begin_s, num_bytes)
        late_s = quality.jitter_s * rng.random() if quality.jitter_s else 0.0
        losses = 0
        while quality.loss and rng.random() < quality.loss:
            late_s += quality.retransmission_s * 2**losses
            losses += 1
            if losses == MAX_LOSSES:
                return None
        arrival_s = max(self.busy_until_s, leaves_s) + quality.delay_s + late_s
        self.last_arrival_s = max(self.last_arrival_s, arrival_s)  # behind what is late, too
        return self.last_arrival_s
