"""What becomes of one's own updates: each counts, or goes out anew; never both, never neither.

An update counts if the base includes it, or if it is held and its slot is not void. What counts no
more is *taken back*: what it carried is added to the residual and goes out with the next update
(DESIGN 2.7). A later base may include it after all, or a peer bring it back where an earlier base
still takes it in: then it is subtracted from the residual again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from semantic_net.protocol.actions import Action, CountAgain, TakeBack
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.update import Update, UpdateId
from semantic_net.protocol.update_set import UpdateSet

MAX_PASSED = 64
"""Most own updates outside the set of which the payloads are kept."""


class OwnUpdates:
    """The own updates of which the payloads are here."""

    def __init__(
        self,
        me: PeerId,
        updates: UpdateSet,
        passed: Iterable[Update] = (),
        taken_back: Collection[UpdateId] = (),
        max_bytes: int | None = None,
    ) -> None:
        """Take what an earlier process left.

        Args:
            me: Their author.
            updates: The set.
            passed: Those that the set does not hold.
            taken_back: Which of all are in the residual.
            max_bytes: Of the payloads of those that the set does not hold; None: any.
        """
        self._me = me
        self._updates = updates
        self._max_bytes = math.inf if max_bytes is None else max_bytes
        self._taken_back = frozenset(taken_back)
        self.passed: tuple[Update, ...] = tuple(passed)
        """Those that the set does not hold, ascending by round: their payloads are to be kept."""

    def is_taken_back(self, update: Update) -> bool:
        """Tell whether what an update carried is in the residual, or has gone out anew."""
        return update.id in self._taken_back

    def dropped(self, updates: Iterable[Update]) -> list[Update]:
        """Take what the set has dropped; return what it can hold again, on the base it has now."""
        self.passed = (*self.passed, *(u for u in updates if u.author == self._me))
        return [
            u for u in self.passed if u.round > self._updates.frontier and not self.is_taken_back(u)
        ]

    def never_held(self, update: Update) -> list[Action]:
        """Take an update whose round the base had passed before it was made."""
        self.passed = (*self.passed, update)
        return self.settle()

    def settle(self) -> list[Action]:
        """Take back what counts no more, and let count what does again."""
        held = (u for u in self._updates if u.author == self._me)
        own = {u.id: u for u in (*self.passed, *held)}
        self.passed = self._latest(u for u in own.values() if u.id not in self._updates)
        counting = {u.id for u in own.values() if self._counts(u)}
        back = [u for u in own.values() if u.id not in counting | self._taken_back]
        again = [u for u in own.values() if u.id in counting & self._taken_back]
        self._taken_back = frozenset(own) - counting
        actions: list[Action] = [TakeBack(tuple(back))] if back else []
        return [*actions, CountAgain(tuple(again))] if again else actions

    def _counts(self, update: Update) -> bool:
        if update.id in self._updates:
            return not self._updates.is_void(update.round, self._me)
        return self._updates.history.includes(update)

    def _latest(self, updates: Iterable[Update]) -> tuple[Update, ...]:
        """Return the last ones, as many as are worth their place, ascending by round."""
        kept: list[Update] = []
        room = self._max_bytes
        for update in sorted(updates, key=lambda u: u.round)[-MAX_PASSED:][::-1]:
            room -= update.payload_bytes
            if room < 0:
                break
            kept.append(update)
        return tuple(reversed(kept))
