"""Updates that are outside the set, because a base has passed their round, and still here.

Should a base win that includes less, or that is earlier, the payloads are at hand: what it can
still take in is held again. One's own updates are accounted for as well: each counts, if a base
includes it or it is held and its slot is not void, or it is *taken back*: what it carried is added
to the residual and goes out with the next update. When it counts after all, by a later
base or by a peer that brings it back, it is subtracted from the residual again. Never both, never
neither.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from semantic_net.protocol.actions import Action, CountAgain, TakeBack
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.update import Update, UpdateId
from semantic_net.protocol.update_set import UpdateSet

MAX_ROUNDS_BACK = 64
"""Rounds before the frontier of which updates are kept; of one's own, as many turns."""


class Needed(NamedTuple):
    """Which payloads are needed of the rounds that the base includes."""

    frontier: int
    ids: frozenset[UpdateId]


class Passed:
    """What a peer keeps of the rounds that its base includes, and what its own updates became."""

    def __init__(
        self,
        me: PeerId,
        updates: UpdateSet,
        kept: Iterable[Update] = (),
        taken_back: Mapping[UpdateId, int] = MappingProxyType({}),
        *,
        own_bytes: int | None = None,
        others_bytes: int | None = None,
        turn_period: int = 1,
    ) -> None:
        """Take what an earlier process left.

        Args:
            me: This peer.
            updates: The set.
            kept: Updates that the set does not hold, and of which the payloads are here.
            taken_back: The rounds of those of our own that are taken back.
            own_bytes: Most bytes of our own payloads that are kept; None: any.
            others_bytes: Most bytes of those of others.
            turn_period: Rounds in which a peer has one turn.
        """
        self._me = me
        self._updates = updates
        self._own_bytes = math.inf if own_bytes is None else own_bytes
        self._others_bytes = math.inf if others_bytes is None else others_bytes
        self._own_rounds_back = MAX_ROUNDS_BACK * turn_period
        self._taken_back = dict(taken_back)
        self.kept: tuple[Update, ...] = tuple(kept)
        """Updates outside the set whose payloads are needed, ascending by round."""
        self.needed = self._needed()
        """The same in one piece, with the frontier; any thread may ask."""

    def first_own(self, frontier: int) -> int:
        """Return the first round of which an own update is remembered that no base includes."""
        return frontier - self._own_rounds_back + 1

    def own(self) -> list[Update]:
        """Return all of our own that are here, in the set or not; some perhaps twice."""
        return [u for u in (*self.kept, *self._updates) if u.author == self._me]

    def is_taken_back(self, update: Update) -> bool:
        """Tell whether what an update carried is in the residual, or has gone out anew."""
        return update.id in self._taken_back

    def dropped(self, updates: Iterable[Update]) -> list[Update]:
        """Take what the set has dropped; return what it can hold again, on the base it has now."""
        dropped = list(updates)
        signed = Counter((u.round, u.author) for u in dropped)  # two of a void slot, unread
        with_payload = (u for u in dropped if u.author == self._me or signed[u.round, u.author] < 2)
        self.kept = (*self.kept, *with_payload)
        frontier = self._updates.frontier
        return [u for u in self.kept if u.round > frontier and not self.is_taken_back(u)]

    def never_held(self, update: Update) -> list[Action]:
        """Take an own update that the set has no place for, or whose round the base had passed."""
        self.kept = (*self.kept, update)
        return self.settle()

    def settle(self) -> list[Action]:
        """Take back what counts no more, let count what does again, and keep what has room."""
        own = {u.id: u for u in self.own()}
        counting = {u.id for u in own.values() if self._counts(u)}
        back = [u for u in own.values() if u.id not in counting and not self.is_taken_back(u)]
        again = [u for u in own.values() if u.id in counting and self.is_taken_back(u)]
        first = self.first_own(self._updates.frontier)
        rounds = {**self._taken_back, **{u.id: u.round for u in back}}
        self._taken_back = {
            item: number
            for item, number in rounds.items()
            if item not in counting and number >= first
        }
        self.kept = self._that_have_room({u.id: u for u in self.kept}.values())
        self.needed = self._needed()
        actions: list[Action] = [TakeBack(tuple(back))] if back else []
        return [*actions, CountAgain(tuple(again))] if again else actions

    def _needed(self) -> Needed:
        return Needed(self._updates.frontier, frozenset(u.id for u in self.kept))

    def _counts(self, update: Update) -> bool:
        if update.id in self._updates:
            return not self._updates.is_void(update.round, self._me)
        return self._updates.history.includes(update)

    def _that_have_room(self, updates: Iterable[Update]) -> tuple[Update, ...]:
        """Return the latest of our own, those that are taken back first, and of others'."""
        frontier = self._updates.frontier
        recent = [u for u in updates if u.id not in self._updates]
        recent.sort(key=lambda u: (not self.is_taken_back(u), -u.round, u.id))
        first, first_own = frontier - MAX_ROUNDS_BACK + 1, self.first_own(frontier)
        own = [u for u in recent if u.author == self._me and u.round >= first_own]
        others = [
            u
            for u in recent
            if u.author != self._me
            and u.round >= first
            and not self._updates.is_crowded_out(u.round, u.author)
        ]
        kept = [*_within(own, self._own_bytes), *_within(others, self._others_bytes)]
        return tuple(sorted(kept, key=lambda u: (u.round, u.id)))


def _within(updates: Iterable[Update], max_bytes: float) -> Iterator[Update]:
    for update in updates:
        if update.payload_bytes <= max_bytes:  # one that is too large keeps no smaller ones out
            max_bytes -= update.payload_bytes
            yield update
