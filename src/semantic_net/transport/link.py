"""One direction of a link in memory: when does what is sent arrive?

Pure arithmetic: the time and the dice come in. As in TCP nothing overtakes anything, and what is
lost comes later, together with all that was sent behind it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from semantic_net.protocol.frames import Kind

MAX_LOSSES = 6
"""Losses of one frame in a row that break a connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkQuality:
    """What a link is like in one direction."""

    bandwidth_bytes_s: float | None = None
    """None for no limit."""
    delay_s: float = 0.001
    jitter_s: float = 0.0
    """Added to the delay, uniformly from 0 to this."""
    loss: float = 0.0
    """Share of frames that are lost and sent again after a retransmission timeout, in [0, 1]."""

    @property
    def retransmission_s(self) -> float:
        """The first retransmission timeout; it doubles with each loss of the same frame."""
        return max(0.2, 2 * self.delay_s)


class Link:
    """One direction between two machines."""

    def __init__(self, quality: LinkQuality) -> None:
        self.quality = quality
        self.busy_until_s = 0.0
        self._last_arrival_s = 0.0
        self.swallowed: frozenset[Kind] = frozenset()

    def send(self, num_bytes: int, now: float, rng: random.Random) -> float | None:
        """Return when bytes that are sent now arrive, or None when they never do."""
        quality = self.quality
        begin_s = max(now, self.busy_until_s)
        self.busy_until_s = begin_s + num_bytes / (quality.bandwidth_bytes_s or float("inf"))
        late_s = quality.jitter_s * rng.random() if quality.jitter_s else 0.0
        losses = 0
        while quality.loss and rng.random() < quality.loss:
            late_s += quality.retransmission_s * 2**losses
            losses += 1
            if losses == MAX_LOSSES:
                return None
        arrival_s = self.busy_until_s + quality.delay_s + late_s
        self._last_arrival_s = max(self._last_arrival_s, arrival_s)  # behind what is late, too
        return self._last_arrival_s
