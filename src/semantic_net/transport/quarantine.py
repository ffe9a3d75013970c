"""Who has broken the protocol too often is kept out for a while.

A connection on which a peer breaks it ends at once, and the peer may call again: it may be a bug,
or a broken disk. Whoever goes on and on would have us do the same work again and again. What it
has signed is judged on its own, by everybody alike: a quarantine is between two peers, and takes
nothing out of what either holds. Time comes in as ``now``.
"""

from __future__ import annotations

from dataclasses import dataclass

from semantic_net.protocol.handshake import QUARANTINED, Refusal
from semantic_net.protocol.identity import PeerId

STRIKES = 3
"""Breaches after which a peer is kept out."""

FIRST_S, LONGEST_S = 60.0, 960.0
"""For how long, at first and at most: twice as long each time."""

FORGIVEN_S = 3600.0
"""Seconds without a breach after which those before are forgotten."""

MAX_OFFENDERS = 1024
"""That are remembered; whoever can make keys can make more of them."""


@dataclass(slots=True)
class _Record:
    strikes: int = 0
    times: int = 0
    until: float = 0.0
    last_at: float = 0.0
    reason: str = ""


class Quarantine:
    """What peers (or, where the wire proves them, devices) have done."""

    def __init__(self) -> None:
        self._records: dict[PeerId, _Record] = {}

    def strike(self, who: PeerId, reason: str, now: float) -> None:
        """Note a breach."""
        record = self._records.pop(who, None)
        if record is None or now - record.last_at > FORGIVEN_S:
            record = _Record()
        self._records[who] = record  # the latest last
        if len(self._records) > MAX_OFFENDERS:
            del self._records[next(iter(self._records))]
        record.strikes += 1
        record.last_at, record.reason = now, reason
        if record.strikes >= STRIKES:
            record.until = now + min(FIRST_S * 2**record.times, LONGEST_S)
            record.times += 1
            record.strikes = 0

    def objection(self, who: PeerId, now: float) -> Refusal | None:
        """Refuse whom we keep out."""
        record = self._records.get(who)
        if record is None or now >= record.until:
            return None
        return Refusal(
            QUARANTINED,
            f"kept out for {record.until - now:.0f} s more after {STRIKES} breaches of the "
            f"protocol, the last: {record.reason}",
        )
