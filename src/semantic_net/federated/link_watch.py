"""What the links did between two looks at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from semantic_net.protocol.identity import PeerId
from semantic_net.semantic.rate import MIN_BYTES, LinkUse
from semantic_net.transport.base import LinkTotals

TICK_S = 0.004
"""Kernels count in ticks: what was over in less than one took no time."""

MAX_REMEMBERED = 1024
"""Peers of which the last measurement is remembered."""

_NOTHING = LinkTotals(0, 0.0, 0)
_UNKNOWN = LinkUse(0, 0.0, 0)


class LinkWatch:
    """Remembers of each link where the last measurement ended, and what it was."""

    def __init__(self) -> None:
        self._before: dict[PeerId, LinkTotals] = {}
        self._uses: dict[PeerId, LinkUse] = {}

    def since_last(self, links: Mapping[PeerId, LinkTotals]) -> list[LinkUse]:
        """Return the use of each link; where too little has passed, what was measured before."""
        for peer in self._before.keys() - links.keys():
            del self._before[peer]
        for peer, totals in links.items():
            before = self._before.get(peer, _NOTHING)
            if totals.session != before.session:
                before = replace(_NOTHING, session=totals.session)
            sent = totals.sent_bytes - before.sent_bytes
            if sent >= MIN_BYTES:
                lost = totals.lost_bytes - before.lost_bytes
                busy_s = max(totals.busy_s - before.busy_s, TICK_S)
                self._uses[peer] = LinkUse(sent, busy_s, lost)
                self._before[peer] = totals
            else:
                self._before[peer] = before
        # What a lost link was like says more of the next one to the same peer than nothing does.
        while len(self._uses) > MAX_REMEMBERED:
            del self._uses[next(iter(self._uses))]
        return [self._uses.get(peer, _UNKNOWN) for peer in links]
