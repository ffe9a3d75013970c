"""What one end of a connection in memory has under way, as its sender knows it.

Pure bookkeeping: times come in. An acknowledgement is told of before it is there, and counts from
then on.
"""

from __future__ import annotations

from collections import deque

from semantic_net.transport.base import LinkTotals


class Flight:
    """What was sent and is not acknowledged, and sums of what was."""

    def __init__(self) -> None:
        self.on_line_bytes = 0
        """Under way, headers included."""
        self.share_bytes_s: float | None = None
        """Of the other end's downlink, as it was when the last was acknowledged."""
        self.round_trip_s = 0.0
        """Of what was acknowledged last, the queues on its way included."""
        self._sent: deque[tuple[int, int, float]] = deque()  # bytes, those on the line, and when
        self._acknowledged: deque[tuple[float, float | None]] = deque()  # when, and the share then
        self._arrived_bytes = 0
        self._busy_s = 0.0
        self._busy_from_s = 0.0  # while something is under way
        self._idle_from_s = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether all was acknowledged when one looked last."""
        return not self._sent

    @property
    def next_s(self) -> float | None:
        """When the next acknowledgement is there, as far as it is told of."""
        return self._acknowledged[0][0] if self._acknowledged else None

    def send(self, num_bytes: int, on_line: int, now: float, begin_s: float) -> None:
        """Note what is sent.

        Args:
            num_bytes: Of the socket.
            on_line: Headers included.
            now: When it is sent.
            begin_s: Since when it was to be.
        """
        self.settle(now)
        if not self._sent:
            self._busy_from_s = max(begin_s, self._idle_from_s)
        self._sent.append((num_bytes, on_line, now))
        self.on_line_bytes += on_line

    def acknowledge(self, at_s: float, share_bytes_s: float | None) -> None:
        """Note when the next of what is under way will be acknowledged; none overtakes another."""
        if self._acknowledged:
            at_s = max(at_s, self._acknowledged[-1][0])
        self._acknowledged.append((at_s, share_bytes_s))

    def settle(self, now: float) -> None:
        """Count what is acknowledged by now."""
        while self._acknowledged and self._acknowledged[0][0] <= now:
            at_s, self.share_bytes_s = self._acknowledged.popleft()
            num_bytes, on_line, sent_s = self._sent.popleft()
            self._arrived_bytes += num_bytes
            self.on_line_bytes -= on_line
            self.round_trip_s = at_s - sent_s
            if not self._sent:
                self._busy_s += at_s - self._busy_from_s
                self._idle_from_s = at_s

    def totals(self, now: float) -> LinkTotals:
        """Return what has arrived so far, and for how long something was under way."""
        self.settle(now)
        under_way_s = now - self._busy_from_s if self._sent else 0.0
        return LinkTotals(self._arrived_bytes, self._busy_s + under_way_s, 0)
