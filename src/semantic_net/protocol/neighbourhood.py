"""Who hears whom directly, and where each can be dialled.

Every peer tells its neighbours whom it hears without detour. So nobody passes on what the other
hears anyway: in a full mesh no heartbeat travels twice. The same lists carry addresses, from which
a peer finds those that it was not told of. Both are hints that a liar may bend: at worst the liar
itself hears less, or somebody dials in vain; who answers there is proven by its key.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from semantic_net.protocol.address import is_worth_a_dial, means_the_same_to_all
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.messages import MAX_NEIGHBOURS, Neighbour, Neighbours

SILENT_SHARE = 1 / 3
"""Share of the liveness after which a silent neighbour is no longer heard directly: early enough
for others to pass its heartbeats on before it would count as gone."""


@dataclass(slots=True)
class _Session:
    told: tuple[str, ...]
    """Where others can dial the neighbour."""
    same_machine: bool
    touched_at: float
    """When anything came over it last."""
    heard_at: float | None = None
    """When its own heartbeat came last, from itself."""
    is_heard: bool = False
    """So that it belongs on our list."""
    hears: dict[PeerId, tuple[str, ...]] = field(default_factory=dict)
    """Whom it hears directly, and where those can be dialled."""


class Neighbourhood:
    """What one peer knows of the sessions around it."""

    def __init__(
        self,
        liveness_s: float,
        heartbeat_s: float,
        *,
        pace_s: float = 0.0,
        max_listed: int = MAX_NEIGHBOURS,
    ) -> None:
        """Begin without sessions.

        Args:
            liveness_s: Seconds after which the silent count as gone.
            heartbeat_s: Between two heartbeats.
            pace_s: Between two of our lists, where sessions come and go by the dozen.
            max_listed: Most of those that we hear on our list: the others are not missed there,
                but hear some things twice.
        """
        self._pace_s = pace_s
        self._max_listed = max_listed
        self._listed_at = -math.inf
        self._liveness_s = liveness_s
        self._silent_s = max(SILENT_SHARE * liveness_s, 1.5 * heartbeat_s)
        self._sessions: dict[PeerId, _Session] = {}
        self._has_news = False
        self._silence_from = math.inf  # nobody falls off our list before

    def connected(
        self, peer: PeerId, addresses: tuple[str, ...], now: float, *, same_machine: bool = False
    ) -> None:
        """Note a session, where its other end can be dialled, and whether it is on this machine."""
        told = tuple(filter(means_the_same_to_all, addresses))
        self._sessions[peer] = _Session(told, same_machine, now)

    def disconnected(self, peer: PeerId) -> None:
        """Note the end of a session."""
        self._has_news |= self._sessions.pop(peer).is_heard

    def touched(self, peer: PeerId, now: float) -> None:
        """Note that something came over a session."""
        self._sessions[peer].touched_at = now

    def dead(self, now: float) -> list[PeerId]:
        """Return the neighbours whose sessions carry nothing any more.

        Something in between may hold the connection open though nobody is there, or hold back
        what is sent: a new one may find another way.
        """
        sessions = self._sessions.items()
        return [p for p, s in sessions if now >= s.touched_at + self._liveness_s]

    def next_death(self) -> float | None:
        """Return when the next session counts as dead, if nothing comes over it."""
        touched = (session.touched_at for session in self._sessions.values())
        first = min(touched, default=None)
        return None if first is None else first + self._liveness_s

    def heard(self, peer: PeerId, now: float) -> None:
        """Note a neighbour's own heartbeat, from itself."""
        session = self._sessions[peer]
        session.heard_at = now
        self._has_news |= not session.is_heard
        session.is_heard = True
        self._silence_from = min(self._silence_from, self._silent_at(session))

    def told(self, peer: PeerId, message: Neighbours) -> list[PeerId]:
        """Take a neighbour's list; return whom it does not hear directly any more."""
        session = self._sessions[peer]
        before, session.hears = (
            session.hears,
            {
                PeerId(n.id): tuple(a for a in n.addresses if self.is_worth_a_dial(peer, a))
                for n in message.heard
            },
        )
        return [other for other in before if other not in session.hears]

    def is_worth_a_dial(self, peer: PeerId, address: str) -> bool:
        """Tell whether to dial an address that a neighbour tells of."""
        return is_worth_a_dial(address, same_machine=self._sessions[peer].same_machine)

    def needs(self, peer: PeerId, origin: PeerId) -> bool:
        """Tell whether a neighbour hears of ``origin`` only if somebody passes it on."""
        return origin not in self._sessions[peer].hears

    def num_others(self, peer: PeerId, me: PeerId) -> int:
        """Return how many others a neighbour hears directly, as it says."""
        hears = self._sessions[peer].hears
        return len(hears) - (me in hears)

    def news(self, now: float) -> Neighbours | None:
        """Return our list if it has changed since the last call."""
        if now >= self._silence_from:
            for session in self._sessions.values():
                if session.is_heard and now >= self._silent_at(session):
                    session.is_heard = False
                    self._has_news = True
            first = self.next_silence()
            self._silence_from = math.inf if first is None else first
        if not self._has_news or now < self._listed_at + self._pace_s:
            return None
        self._has_news = False
        self._listed_at = now
        return self.list()

    def next_news(self) -> float | None:
        """Return when a change of our list may be told, if one waits for that."""
        return self._listed_at + self._pace_s if self._has_news and self._pace_s else None

    def list(self) -> Neighbours:
        """Return our list: whom we hear directly."""
        heard = [Neighbour(p, s.told) for p, s in self._sessions.items() if s.is_heard]
        return Neighbours(tuple(heard[: self._max_listed]))

    def next_silence(self) -> float | None:
        """Return when the next neighbour falls off our list, if it stays silent."""
        heard = (s for s in self._sessions.values() if s.is_heard)
        return min((self._silent_at(session) for session in heard), default=None)

    def addresses(self) -> Iterator[tuple[PeerId, str]]:
        """Iterate over peers that are no neighbours of ours, with an address of each."""
        for session in self._sessions.values():
            for peer, addresses in session.hears.items():
                if peer not in self._sessions:
                    for address in addresses:
                        yield peer, address

    def _silent_at(self, session: _Session) -> float:
        assert session.heard_at is not None, "it has been heard"
        return session.heard_at + self._silent_s
