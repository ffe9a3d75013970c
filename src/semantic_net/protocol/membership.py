"""Who is there: the latest heartbeat of every peer heard of, and how long ago it came.

Only a fresh heartbeat shows life; an update may have travelled for long. Freshness is by
(incarnation, sequence) as its peer signed them, age by our own clock, so that no two clocks are
ever compared.
"""

from __future__ import annotations

from dataclasses import dataclass

from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.messages import HeartbeatBody, HeartbeatMessage


@dataclass(frozen=True, slots=True)
class Sighting:
    """The latest heartbeat of a peer, and when it reached us."""

    body: HeartbeatBody
    message: HeartbeatMessage
    heard_at: float


class Roster:
    """The peers heard of, this one not among them."""

    def __init__(self, liveness_s: float) -> None:
        self._liveness_s = liveness_s
        self._sightings: dict[PeerId, Sighting] = {}

    def is_news(self, peer: PeerId, body: HeartbeatBody) -> bool:
        """Tell whether a heartbeat is later than the last one of its peer."""
        before = self.latest(peer)
        return before is None or (body.incarnation, body.sequence) > (
            before.incarnation,
            before.sequence,
        )

    def hear(
        self, peer: PeerId, body: HeartbeatBody, message: HeartbeatMessage, now: float
    ) -> None:
        """Take in a heartbeat that is news."""
        self._sightings[peer] = Sighting(body, message, now)

    @property
    def num_known(self) -> int:
        """Number of peers ever heard of."""
        return len(self._sightings)

    def all_said_goodbye(self) -> bool:
        """Tell whether peers were heard of, and every one of them left in good order."""
        return bool(self._sightings) and all(s.body.leaving for s in self._sightings.values())

    def latest(self, peer: PeerId) -> HeartbeatBody | None:
        """Return a peer's latest heartbeat, however old."""
        sighting = self._sightings.get(peer)
        return None if sighting is None else sighting.body

    def alive(self, now: float) -> dict[PeerId, HeartbeatBody]:
        """Return the peers with a fresh heartbeat that are not leaving."""
        return {
            peer: s.body
            for peer, s in self._sightings.items()
            if now - s.heard_at < self._liveness_s and not s.body.leaving
        }

    def messages(self, now: float) -> list[HeartbeatMessage]:
        """Return the live peers' heartbeats, to pass on to a new neighbour."""
        alive = self.alive(now)
        return [s.message for peer, s in self._sightings.items() if peer in alive]

    def open_round(self, now: float) -> int:
        """Return the highest round open at a live peer; 0 if none is."""
        return max((body.round for body in self.alive(now).values()), default=0)

    def next_expiry(self, now: float) -> float | None:
        """Return when the next live peer would count as gone, if it stays silent."""
        alive = self.alive(now)
        return min(
            (s.heard_at + self._liveness_s for p, s in self._sightings.items() if p in alive),
            default=None,
        )
