"""How much TCP has under way where it meets plain queues, and what its acknowledgements take.

In a plain queue (``tc tbf``, a switch's port, most modems) whoever has more under way gets more of
the line, and acknowledgements wait behind the payloads that go the other way. So flows are not
equal, some of them come last, and lines idle that a fair scheduler would keep busy.

What is under way is drawn. The figures are of `ss -ti`, of four peers that exchange 0.3 MB each on
links of 5 Mbit/s behind ``tc tbf`` (Linux 6.18, BBR), while their connections had something to
send. BBR's windows do not follow such queues: it goes by the shortest round trip that it has seen.
"""

from __future__ import annotations

import math
import random

WINDOW_SEGMENTS = 22
"""Segments under way: the median."""

WINDOW_SPREAD = 0.7
"""Standard deviation of the logarithm, over connections and time."""

KEPT_ROUND_TRIPS = 6
"""For so long a connection keeps its window. Measured is an autocorrelation that falls to 1/e in
three round trips of 0.12 s; a step of twice the length is alike for as long."""

ACK_SHARE = 0.5
"""Acknowledgements for a segment; Linux sends one for every two."""


class TcpWindow:
    """What one connection has under way, in one direction."""

    __slots__ = ("_num_bytes", "_redraw_at")

    def __init__(self) -> None:
        self._num_bytes = 0.0
        self._redraw_at = -math.inf

    def num_bytes(
        self,
        segment_bytes: int,
        held_bytes: float,
        round_trip_s: float,
        now: float,
        rng: random.Random,
    ) -> float:
        """Return how much may be under way.

        Args:
            segment_bytes: On the line, headers included.
            held_bytes: What the path holds without a queue; TCP has twice that under way.
            round_trip_s: Of what was acknowledged last, the queues on its way included.
            now: In seconds.
            rng: Draws a window for some round trips.
        """
        if now >= self._redraw_at:
            spread = math.exp(WINDOW_SPREAD * rng.gauss(0, 1))
            self._num_bytes = spread * max(WINDOW_SEGMENTS * segment_bytes, 2 * held_bytes)
            self._redraw_at = now + KEPT_ROUND_TRIPS * round_trip_s
        return self._num_bytes
