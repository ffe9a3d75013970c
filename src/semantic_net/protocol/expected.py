"""Whom the open round waits for, and what of them is still to come. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.messages import HeartbeatBody
from semantic_net.protocol.roster import Roster
from semantic_net.protocol.sync import Sync
from semantic_net.protocol.turns import Turns
from semantic_net.protocol.update_set import UpdateSet

MAX_IN_VAIN = 3
"""Deadlines in a row that a peer may let pass, alive and ready, before nobody waits for it until an
update of it has come."""

Alive = Mapping[PeerId, HeartbeatBody]


class Expected:
    """The peers that may still publish in the open round, or are known to have."""

    def __init__(self, updates: UpdateSet, sync: Sync, roster: Roster, turns: Turns) -> None:
        """Expect nobody.

        Args:
            updates: What is held.
            sync: What is under way.
            roster: Who is heard of.
            turns: Who publishes in which round.
        """
        self._updates = updates
        self._sync = sync
        self._roster = roster
        self._turns = turns
        self._round = 0
        self.peers: frozenset[PeerId] = frozenset()
        self._published: dict[PeerId, int] = {}  # in the open round: who, and in which incarnation
        self._arrived: set[PeerId] = set()  # whose update of the round is here: it stays
        self._in_vain: dict[PeerId, tuple[int, int]] = {}
        """Who was waited for to the deadline: how often in a row, and its last round then."""

    def open(self, number: int, alive: Alive, unready: Collection[PeerId] = ()) -> None:
        """Expect whoever is ready and may publish in a round, and who says that it has.

        Args:
            number: The round.
            alive: Who is.
            unready: Those to be expected though they are still getting ready.
        """
        self._round, self._arrived = number, set()
        self._published = {p: b.incarnation for p, b in alive.items() if b.last_round == number}
        self.peers = frozenset(
            peer
            for peer, body in alive.items()
            if (
                self._may_publish(peer, body, is_ready=body.ready or peer in unready)
                or (peer in self._published and self._turns.has(peer, number))
            )
            and not self._is_given_up(peer)
        )

    def heard(self, peer: PeerId, body: HeartbeatBody) -> None:
        """Note a heartbeat: the next one may overtake the update that this one tells of."""
        if body.last_round == self._round:
            self._published[peer] = body.incarnation

    def expect_more(self, alive: Alive) -> None:
        """Expect these as well, as far as they are ready and may publish in the round."""
        self.peers |= {
            peer
            for peer, body in alive.items()
            if self._may_publish(peer, body, is_ready=body.ready) and not self._is_given_up(peer)
        }

    def num_outstanding(self, alive: Alive, limit: float = math.inf) -> int | None:
        """Return how many are still to be waited for; None if above the limit."""
        number = 0
        for peer in self._not_here():
            if not self._is_settled(peer, alive):
                number += 1
                if number > limit:
                    return None
        return number

    def outstanding(self, alive: Alive) -> tuple[PeerId, ...]:
        """Return who is still to be waited for, by id."""
        return tuple(sorted(p for p in self.peers if not self._is_settled(p, alive)))

    def missing(self) -> tuple[PeerId, ...]:
        """Return those of whom no update of the round is held, by id."""
        return tuple(sorted(p for p in self.peers if not self._updates.holds(self._round, p)))

    def waited_in_vain(self, alive: Alive) -> None:
        """Note that the round closes by its deadline: whom it has waited for for nothing."""
        for peer in self.outstanding(alive):
            times, before = self._in_vain.get(peer, (0, 0))
            last_round = self._updates.last_round_of(peer)
            self._in_vain[peer] = (times + 1 if last_round == before else 1, last_round)
        self._in_vain = {p: v for p, v in self._in_vain.items() if p in self._roster.known}

    def _may_publish(self, peer: PeerId, body: HeartbeatBody, *, is_ready: bool) -> bool:
        """Tell whether a peer may still publish in the round: it has not passed its turn."""
        return is_ready and body.next_round <= self._round and self._turns.has(peer, self._round)

    def _is_given_up(self, peer: PeerId) -> bool:
        """Tell whether a peer was waited for often, and nothing of it has come since."""
        times, last_round = self._in_vain.get(peer, (0, 0))
        return times >= MAX_IN_VAIN and self._updates.last_round_of(peer) == last_round

    def _not_here(self) -> set[PeerId]:
        rest = set(self.peers - self._arrived)
        self._arrived |= {peer for peer in rest if self._updates.holds(self._round, peer)}
        return rest - self._arrived

    def _is_settled(self, peer: PeerId, alive: Alive) -> bool:
        """Tell whether nothing more of a peer is to be waited for in the round."""
        if self._updates.holds(self._round, peer) or self._sync.refused(self._round, peer):
            return True
        if self._updates.is_crowded_out(self._round, peer):
            return True  # whatever it has published
        if self._sync.pending(self._round, peer, alive):
            return False  # somebody has it
        body = alive.get(peer)
        if body is None:
            return True  # gone
        has_published = self._published.get(peer) == body.incarnation
        return body.next_round > self._round and not has_published  # moved past
