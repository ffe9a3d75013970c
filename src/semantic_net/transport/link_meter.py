"""What a link carries while payloads are under way on it.

A heartbeat keeps a connection busy, too, for a round trip: as throughput it would make a link of
long delay look slow. So the counters of a wire are read where a payload begins, and where the next
control frame finds that all has arrived: in between nothing was under way in vain.
"""

from __future__ import annotations

from collections.abc import Callable

from semantic_net.transport.base import LinkTotals

NOTHING = LinkTotals(0, 0.0, 0)

Reading = tuple[LinkTotals, bool]
"""What a wire has carried so far, and whether all that was written has arrived."""


class LinkMeter:
    """Sums up what is carried between those points."""

    def __init__(self, read: Callable[[], Reading | None]) -> None:
        """Take how the wire's counters are read; None where there are none."""
        self._read = read
        self._sum = NOTHING
        self._from: LinkTotals | None = None

    def before_write(self, *, is_bulk: bool) -> None:
        """Note that something is about to be written."""
        if is_bulk and self._from is None:
            if (reading := self._read()) is not None:
                self._from = reading[0]
        elif not is_bulk and self._from is not None:
            self.totals()

    def totals(self) -> LinkTotals:
        """Return the sum so far."""
        if self._from is None or (reading := self._read()) is None:
            return self._sum
        now, has_arrived = reading
        found = LinkTotals(
            self._sum.sent_bytes + now.sent_bytes - self._from.sent_bytes,
            self._sum.busy_s + now.busy_s - self._from.busy_s,
            self._sum.lost_bytes + now.lost_bytes - self._from.lost_bytes,
        )
        if has_arrived:
            self._sum, self._from = found, None
        return found
