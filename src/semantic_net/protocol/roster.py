"""Who is there: the latest heartbeat of every peer heard of, and how long ago it came.

Only a fresh heartbeat shows life; an update may have travelled for long. Freshness is by
(incarnation, sequence) as its peer signed them, age by our own clock, so that no two clocks are
ever compared. At most `MAX_SIGHTINGS` peers are remembered: anyone can make up a key.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, KeysView, Mapping, Set
from dataclasses import dataclass

import msgspec

from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.membership import Membership
from semantic_net.protocol.messages import HeartbeatBody, HeartbeatMessage
from semantic_net.protocol.update import MAX_AUTHORS

MAX_SIGHTINGS = MAX_AUTHORS

RELAYS_PER_LIFE = 4
"""Times that a peer with nothing new to say is passed on before it would count as gone."""

RELAYS_PER_LIFE_IF_SAMPLED = 3
"""The same in a large fleet, where each is passed on by everybody."""


OPEN_SHARE = 1 / 3
"""Share of a large fleet, as far as it is heard, that has to have reached a round."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """The latest heartbeat of a peer, and when it reached us."""

    body: HeartbeatBody
    message: HeartbeatMessage
    heard_at: float
    passed_on_at: float


class Roster:
    """The peers heard of, this one not among them."""

    def __init__(
        self,
        liveness_s: float,
        max_liars: int = 0,
        membership: Membership | None = None,
        *,
        is_sampled: bool = False,
    ) -> None:
        """Begin with nobody.

        Args:
            liveness_s: Seconds of silence after which a peer counts as gone.
            max_liars: Devices that may say what is not so.
            membership: Which peers take part, and on which devices; None: everybody does.
            is_sampled: Not everybody is told of, but whose turn is near.
        """
        self._liveness_s = liveness_s
        self._max_liars = max_liars
        self._membership = membership
        self._sightings: dict[PeerId, Sighting] = {}
        self._is_sampled = is_sampled
        self._alive: dict[PeerId, HeartbeatBody] = {}  # asked for far more often than changed
        self._alive_until = math.inf  # by then somebody may have fallen silent
        self._reached: list[int] | None = None  # the rounds that those have open

    def is_news(self, peer: PeerId, body: HeartbeatBody) -> bool:
        """Tell whether a heartbeat is later than the last one of its peer."""
        before = self.latest(peer)
        return before is None or (body.incarnation, body.sequence) > (
            before.incarnation,
            before.sequence,
        )

    def has_room_for(self, peer: PeerId, now: float, *, is_neighbour: bool) -> bool:
        """Tell whether a peer may be remembered, for which another may have to be forgotten.

        The longest silent goes first; one that is alive makes room for a neighbour only.
        """
        if peer in self._sightings or len(self._sightings) < MAX_SIGHTINGS:
            return True
        oldest = min(self._sightings, key=lambda p: self._sightings[p].heard_at)
        return is_neighbour or not self._is_alive(self._sightings[oldest], now)

    def hear(
        self, peer: PeerId, body: HeartbeatBody, message: HeartbeatMessage, now: float
    ) -> bool:
        """Take in a heartbeat that is news; tell whether others should hear it from us.

        What it says anew goes on at once. That it still lives goes on just often enough. Where
        not everybody is told of, only what it says of its turns is news for the rest.
        """
        before = self._sightings.pop(peer, None)
        if before is None:
            due = not body.leaving  # of whom nobody has heard needs to say goodbye to nobody
        elif self._is_sampled:
            due = body.turn != before.body.turn or (
                now >= before.passed_on_at + self._liveness_s / RELAYS_PER_LIFE_IF_SAMPLED
            )
        else:
            due = (
                msgspec.structs.replace(before.body, sequence=body.sequence) != body
                or now >= before.passed_on_at + self._liveness_s / RELAYS_PER_LIFE
            )
        passed_on_at = now if before is None or due else before.passed_on_at
        if len(self._sightings) >= MAX_SIGHTINGS:
            self.forget(min(self._sightings, key=lambda p: self._sightings[p].heard_at))
        sighting = self._sightings[peer] = Sighting(body, message, now, passed_on_at)
        was_alive = self._alive.pop(peer, None)
        if self._is_alive(sighting, now):
            self._alive[peer] = body
            # That the others expire is known already; this one does so after all of them.
            self._alive_until = min(self._alive_until, self._expires_at(sighting))
        if was_alive is None or was_alive.round != body.round or body.leaving:
            self._reached = None
        return due

    def forget_silent(self, but: Container[PeerId], now: float) -> None:
        """Forget all that are not alive, but for some."""
        for peer in self._sightings.keys() - self.alive(now).keys():
            if peer not in but:
                self.forget(peer)

    def forget(self, peer: PeerId) -> None:
        """Forget a peer that takes part no more."""
        self._sightings.pop(peer, None)
        if self._alive.pop(peer, None) is not None:
            self._reached = None

    @property
    def known(self) -> KeysView[PeerId]:
        """The peers heard of."""
        return self._sightings.keys()

    @property
    def num_known(self) -> int:
        """Number of peers heard of."""
        return len(self._sightings)

    def all_said_goodbye(self) -> bool:
        """Tell whether peers were heard of, and every one of them left in good order."""
        return bool(self._sightings) and all(s.body.leaving for s in self._sightings.values())

    def latest(self, peer: PeerId) -> HeartbeatBody | None:
        """Return a peer's latest heartbeat, however old."""
        sighting = self._sightings.get(peer)
        return None if sighting is None else sighting.body

    def silence_of(self, peer: PeerId, now: float) -> float | None:
        """Return the seconds since a peer was heard last; None where it never was."""
        sighting = self._sightings.get(peer)
        return None if sighting is None else now - sighting.heard_at

    def alive(self, now: float) -> Mapping[PeerId, HeartbeatBody]:
        """Return the peers with a fresh heartbeat that are not leaving, as long as nothing new
        is heard."""
        if now >= self._alive_until:
            live = {p: s for p, s in self._sightings.items() if self._is_alive(s, now)}
            self._alive = {p: s.body for p, s in live.items()}
            self._alive_until = min(map(self._expires_at, live.values()), default=math.inf)
            self._reached = None
        return self._alive

    def silent(self, now: float) -> Mapping[PeerId, HeartbeatBody]:
        """Return the peers that were heard of and neither are alive nor said goodbye."""
        return {
            p: s.body
            for p, s in self._sightings.items()
            if not (s.body.leaving or self._is_alive(s, now))
        }

    def messages_for(self, neighbour: PeerId, now: float) -> list[HeartbeatMessage]:
        """Return what a new neighbour should hear of others, and what it last said itself.

        The latter, however old, tells a peer that has lost its journal what it has signed. Where
        not everybody is told of, it is of those whose turn is near.
        """
        return [
            s.message
            for peer, s in self._sightings.items()
            if peer == neighbour
            or (self._is_alive(s, now) and (s.body.is_due or not self._is_sampled))
        ]

    def alive_messages(self, now: float) -> Mapping[PeerId, HeartbeatMessage]:
        """Return the latest heartbeats of the peers that are alive."""
        return {p: s.message for p, s in self._sightings.items() if self._is_alive(s, now)}

    def open_round(
        self, now: float, *, believes_one: bool = True, without: Set[PeerId] = frozenset()
    ) -> int:
        """Return the highest round that two live peers have reached; 0 if none is open.

        One that is wrong or lies makes nobody skip rounds where there are more. Where more may
        lie it takes one more than those, each on a device of its own. Whom we know by the word of
        another only speaks with that one's voice. In a large fleet it takes a share of all: a few
        that were cut off may be ahead, as with few turns their rounds are short, and they wait for
        the rest better than the rest skips rounds for them.

        Args:
            now: The time.
            believes_one: Whether to believe it where it is the only one alive.
            without: Devices that have no say, nor whoever they vouch for.
        """
        rounds = self._rounds_reached(self.alive(now), without)
        if self._max_liars == 0 and len(rounds) == 1:
            return rounds[0] if believes_one else 0
        needed = max(self._max_liars, 1) + 1
        if self._is_sampled:
            needed = max(needed, math.ceil(OPEN_SHARE * len(rounds)))
        return rounds[-needed] if len(rounds) >= needed else 0

    def _rounds_reached(
        self, alive: Mapping[PeerId, HeartbeatBody], without: Set[PeerId]
    ) -> list[int]:
        """Return the rounds that are open, by voice, ascending."""
        if self._membership is None:
            if self._reached is None:
                self._reached = sorted([body.round for body in alive.values()])
            return self._reached
        reached: dict[PeerId, int] = {}
        for peer, body in alive.items():
            # Whose voice is whose, devices may say anew at any time.
            whose = self._membership.voice_of(peer) or peer
            if whose in without or self._membership.device_of(peer) in without:
                continue
            reached[whose] = max(reached.get(whose, 0), body.round)
        return sorted(reached.values())

    def num_devices(self, peers: Iterable[PeerId]) -> int:
        """Return on how many devices peers run, as far as that is known."""
        return len(set(map(self.device_of, peers)))

    def takes_part(self, peer: PeerId) -> bool:
        """Tell whether a peer is to be heard: others may be connected and count for nothing."""
        return self._membership is None or self._membership.is_in(peer)

    def may_take_part(self, peer: PeerId) -> bool:
        """Tell whether a peer takes part, or has not yet shown its device."""
        return self.takes_part(peer) or self.device_of(peer) == peer

    def device_of(self, peer: PeerId) -> PeerId:
        """Return the device that a peer runs on; itself, where that is not known."""
        device = None if self._membership is None else self._membership.device_of(peer)
        return device or peer

    def next_expiry(self, now: float) -> float | None:
        """Return when the next live peer would count as gone, if it stays silent."""
        return self._alive_until if self.alive(now) else None

    # Everything that asks for an age asks here: two ways to round could make a wake-up that
    # finds nothing to do, again and again.

    def _expires_at(self, sighting: Sighting) -> float:
        return sighting.heard_at + self._liveness_s

    def _is_alive(self, sighting: Sighting, now: float) -> bool:
        return not sighting.body.leaving and now < self._expires_at(sighting)
