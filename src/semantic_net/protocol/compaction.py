"""Changes of the base: later ones that we make, and those of others that we take over.

`Bases` knows which; here is what follows from it for the set, the sync and the rounds.
"""

from __future__ import annotations

from collections.abc import Callable

from semantic_net.protocol.actions import Action, Cut, Discard, Level, Tell
from semantic_net.protocol.bases import Base, BaseConfig, Bases
from semantic_net.protocol.history import History, short
from semantic_net.protocol.identity import PeerId, short_id
from semantic_net.protocol.item import Item
from semantic_net.protocol.messages import HeartbeatBody
from semantic_net.protocol.passed import Passed
from semantic_net.protocol.rounds import Rounds
from semantic_net.protocol.sync import Sync
from semantic_net.protocol.update import Update, UpdateId
from semantic_net.protocol.update_set import UpdateSet

MAX_BASES_BEFORE = 2
"""Most earlier bases that are still served."""


class Compaction:
    """Makes bases, and takes over those of others."""

    def __init__(
        self,
        cfg: BaseConfig,
        bases: Bases,
        updates: UpdateSet,
        sync: Sync,
        rounds: Rounds,
        passed: Passed,
        add: Callable[[Update, float], list[Action]],
    ) -> None:
        """Take the parts that a change of the base touches, and how an update is taken in."""
        self._cfg = cfg
        self._bases = bases
        self._updates = updates
        self._sync = sync
        self._rounds = rounds
        self._passed = passed
        self._add = add
        self._before: tuple[UpdateId, ...] = ()  # somebody may still be fetching one
        self._cut: Cut | None = None  # under way
        self._cut_tried_in = 0  # that round, the last time
        self._is_full = False  # and that was said

    @property
    def bases_needed(self) -> tuple[UpdateId, ...]:
        """Which bases we serve, or may have plans for; any thread may ask."""
        return (self._bases.base.digest, *self._before)

    def consider(self, peer: PeerId, body: HeartbeatBody, now: float) -> list[Action]:
        """Want the base that a neighbour stands on, if it is better than ours."""
        base = self._bases.offered(body)
        if base is not None and not self._is_wanted(base, now):
            base = None
        return self._sync.base_offered(peer, base, now)

    def base_checked(self, base: Base, history: History, now: float) -> list[Action]:
        """A base that was better than ours when it was offered is here, and is what it said."""
        item = Item(base.digest, base)
        if not self._sync.wanted(item):  # another one was taken meanwhile
            return [Discard(item)]
        accepted = self._sync.base_accepted(base.digest, now)
        if not self._is_wanted(base, now):
            return accepted
        counted = self._others_that_count()
        tell = _tell_taken_over(base, self._bases.base)
        actions = [tell, *self._stand_on(base, history, now)]
        if left_out := len(counted - self._others_that_count()):
            text = (
                f"{left_out} updates of other peers that counted here are not part of that base: "
                "they are left out, unless a peer still holds them"
            )
            actions.append(Tell(Level.WARNING, text))
        self._rounds.base_taken_over()
        return [*actions, *accepted]

    def base_made(self, cut: Cut, base: Base, now: float) -> list[Action]:
        """The base that was asked for is made and stored."""
        assert cut is self._cut, "one at a time"
        self._cut = None
        history = cut.history
        is_current = (
            cut.plan.base == self._bases.base.digest
            and self._updates.set_digest(history.frontier) == history.set_digest
        )
        if not is_current:  # something came late, and belongs into it
            return []
        return self._stand_on(base, history, now)

    def look_for_cut(self, closed_round: int, now: float) -> list[Action]:
        """Make a later base if one is due; once a round, should something come late for it."""
        rounds = self._rounds
        if rounds.is_ending or self._cut is not None or self._cut_tried_in == closed_round:
            return []
        through = min(closed_round, rounds.nothing_new_through)
        due = self._bases.due(through, now, all_met=not rounds.waiting_for)
        if due is None:
            return []
        self._cut_tried_in = closed_round
        history = self._updates.history_through(due.frontier, self._cfg.every)
        if history.is_full:
            return self._tell_full()
        self._cut = Cut(rounds.plan_again(due.frontier), history)
        if due.is_stable:
            return [self._cut]
        silent = ", ".join((*map(short_id, due.silent), *rounds.waiting_for))
        text = (
            f"updates up to round {due.frontier} are compacted without {silent}: the disk budget "
            "(p2p.disk_budget_mb) is used up"
        )
        return [Tell(Level.WARNING, text), self._cut]

    def _tell_full(self) -> list[Action]:
        if self._is_full:
            return []
        self._is_full = True
        text = "no later snapshot can be made: its history is full; start a new run from this model"
        return [Tell(Level.WARNING, text)]

    def _is_wanted(self, base: Base, now: float) -> bool:
        return self._bases.is_wanted(base, now, in_use=self._rounds.has_begun)

    def _stand_on(self, base: Base, history: History, now: float) -> list[Action]:
        """Fold on another base from now on, and see to what was held of the rounds it includes."""
        self._before = (*self._before, self._bases.base.digest)[-MAX_BASES_BEFORE:]
        self._bases.base = base
        dropped = self._updates.rebase(history)
        actions = self._sync.rebased(now)
        for update in self._passed.dropped(dropped):
            actions += self._add(update, now)
        return [*actions, *self._passed.settle()]

    def _others_that_count(self) -> set[bytes]:
        return self._updates.counting() - {short(update.id) for update in self._passed.own()}


def _tell_taken_over(base: Base, ours: Base) -> Tell:
    name = base.digest.hex()[:12]
    if base.frontier:
        through = f"through round {base.frontier}, of {base.num_included} updates"
        return Tell(Level.INFO, f"snapshot {name} {through}, taken over from another peer")
    whose = "given by hand" if ours.given else "of its own"
    text = f"starting weights taken over from another peer ({name}), not those {whose}"
    return Tell(Level.WARNING if ours.given else Level.INFO, text)
