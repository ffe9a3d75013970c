"""What neighbours are told of what we hold, and told again until they have said so themselves.

Every neighbour gets the list on connect, but for the rounds of which both hold the same, as digests
of each show; and each new update at once, the one it came from included: to that one it is the
acknowledgement. What a neighbour does not acknowledge it is told again. Pure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from semantic_net.protocol.actions import Action, Send
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.messages import MAX_HAVE_ENTRIES, MAX_SUMS, Have, HaveEntry, Sum, Sums
from semantic_net.protocol.update import Update, UpdateId
from semantic_net.protocol.update_set import UpdateSet

MAX_OFFERED = 1 << 14
"""Most updates that one neighbour may announce beyond those held: about 11 MB of notes."""

MAX_UNANSWERED = 1 << 12
"""Most entries of our list that wait for a neighbour's word: what it may lack, or not have read."""

MAX_TOLD_AGAIN = 64
"""Most entries that a neighbour is told again at a time: it may be busy with those before."""

TELL_AGAIN_SHARE = 0.25
"""Share of the time after which something is told again that passes before more of it is."""


@dataclass(slots=True)
class _Listener:
    awaits_sums: bool
    """It sums up what it holds before we list what we do."""
    lacks: dict[UpdateId, float] = field(default_factory=dict)
    """What it was told of and has not announced itself, and when it was told last; that order."""
    again_from: float = -math.inf
    """Before that it is told nothing again: it has been told enough."""
    listed_to: tuple[int, str] = (0, "")
    """How far our list for it has come, by round and author."""
    ahead: set[UpdateId] = field(default_factory=set)
    """What it has announced itself that our list has not come to."""
    same: frozenset[int] = frozenset()
    """The rounds of which it held, when the session began, just what we did."""
    told_all: bool = False
    """Our list has come to its end."""
    frontier: int = 0
    """The last round of its base: of rounds up to it, it takes nothing in."""
    fell_at: float = -math.inf
    """When it went back to an earlier one."""


class Announcements:
    """What each neighbour has been told of."""

    def __init__(self, updates: UpdateSet, stall_s: float) -> None:
        """Take what is held.

        Args:
            updates: That set.
            stall_s: Seconds after which what is not acknowledged is told again.
        """
        self._updates = updates
        self._stall_s = stall_s
        self._listeners: dict[PeerId, _Listener] = {}
        self._to_announce: dict[UpdateId, set[PeerId]] = {}
        """What nobody was told of yet, and which neighbours have announced it themselves."""

    def has_all(self, peer: PeerId, through: int) -> bool:
        """Tell whether a peer, if a neighbour, has announced all that we hold through a round."""
        listener = self._listeners.get(peer)
        if listener is None:
            return True
        told = (self._updates.get(item) for item in listener.lacks)
        if any(update is not None and update.round <= through for update in told):
            return False
        return listener.told_all or all(
            update.round > through
            or update.round in listener.same
            or update.round <= listener.frontier
            or update.id in listener.ahead
            for update in self._updates.after(*listener.listed_to)
        )

    # Who is there.

    def connected(self, peer: PeerId, now: float, *, sums_up: bool = False) -> list[Action]:
        """List what we hold to a new neighbour; first sum it up, if it does so too."""
        self._listeners[peer] = _Listener(awaits_sums=sums_up)
        if sums_up:
            rounds = self._updates.rounds()[-MAX_SUMS:]
            return [Send((peer,), Sums(tuple(Sum(n, self._updates.sum_of(n)) for n in rounds)))]
        return self._list_on(peer, MAX_UNANSWERED, now)

    def disconnected(self, peer: PeerId) -> None:
        """Forget what a lost neighbour was told."""
        del self._listeners[peer]

    def sums(self, peer: PeerId, message: Sums, now: float) -> list[Action]:
        """List what we hold of the rounds of which a neighbour does not hold the same."""
        listener = self._listeners[peer]
        if not listener.awaits_sums:
            return []  # once a session: there is nothing to say to another
        listener.awaits_sums = False
        held = set(self._updates.rounds())
        listener.same = frozenset(
            each.round
            for each in message.rounds
            if each.round in held and each.digest == self._updates.sum_of(each.round)
        )
        return self._list_on(peer, MAX_UNANSWERED, now)

    # What they say.

    def acknowledged(self, peer: PeerId, entries: Iterable[HaveEntry], now: float) -> list[Action]:
        """Note what a neighbour announces itself; go on with our list.

        It waits for our word on its list as we do for its word on ours.
        """
        listener = self._listeners[peer]
        answered: list[Update] = []
        for entry in entries:
            listener.lacks.pop(entry.id, None)
            if (holders := self._to_announce.get(entry.id)) is not None:
                holders.add(peer)
            update = self._updates.get(entry.id)
            if update is not None and _is_ahead_of_list(listener, update):
                answered.append(update)
                listener.ahead.add(entry.id)
        parts = _entries(answered) if answered else []
        return [*(Send((peer,), Have(part, False)) for part in parts), *self._list_more(peer, now)]

    def stands_on(self, peer: PeerId, frontier: int, now: float) -> list[Action]:
        """Note a neighbour's frontier: tell it of no round that its base includes."""
        listener = self._listeners[peer]
        before = listener.frontier
        if frontier < before:  # to list all anew costs us far more than it costs to say so
            if now < listener.fell_at + self._stall_s:
                return []  # each heartbeat says it again
            listener.fell_at = now
        listener.frontier = frontier
        if frontier > before:
            self._drop_lacks(listener)
            return self._list_more(peer, now)
        if frontier < before:  # on another base, it takes in what we have not told it of
            listener.lacks.clear()
            listener.ahead.clear()
            listener.same = frozenset()
            listener.listed_to, listener.told_all = (0, ""), False
            return self._list_on(peer, MAX_UNANSWERED, now)
        return []

    # What we have to say.

    def add(self, update: Update, known_to: Iterable[PeerId]) -> None:
        """Announce an update soon; who has announced it itself does not lack it."""
        self._to_announce[update.id] = set(known_to)

    def repeat(self, update: Update) -> None:
        """Announce an update again of which nobody needs to say that it holds it."""
        self._to_announce[update.id] = {*self._listeners}

    def lost(self, peer: PeerId, item: UpdateId, now: float) -> None:
        """Note that a neighbour does not hold any more what we hold: tell it of it again."""
        if item in self._updates:
            self._listeners[peer].lacks[item] = now

    def forget(self, updates: Iterable[Update]) -> None:
        """Say no more of updates that are not held any more: others came first."""
        for update in updates:
            self._to_announce.pop(update.id, None)
            for listener in self._listeners.values():
                listener.lacks.pop(update.id, None)
                listener.ahead.discard(update.id)

    def announce(self, now: float) -> list[Action]:
        """Tell all neighbours of what has been added since the last call."""
        if not self._to_announce:
            return []
        told, self._to_announce = self._to_announce, {}
        updates = [u for item in told if (u := self._updates.get(item)) is not None]
        for peer, listener in self._listeners.items():
            for update in updates:
                if peer not in told[update.id] and update.round > listener.frontier:
                    listener.lacks[update.id] = now
        return [Send(tuple(self._listeners), Have(part, False)) for part in _entries(updates)]

    def rebased(self, now: float) -> list[Action]:
        """Tell nothing more of the rounds that our own base includes by now."""
        actions: list[Action] = []
        for peer, listener in self._listeners.items():
            self._drop_lacks(listener)
            listener.ahead = {item for item in listener.ahead if item in self._updates}
            actions += self._list_more(peer, now)
        return actions

    def tick(self, now: float) -> list[Action]:
        """Tell again what is not acknowledged."""
        actions: list[Action] = []
        for peer, listener in self._listeners.items():
            if now >= self._told_again_at(listener):
                actions += self._tell_again(peer, listener, now)
        return actions

    def next_wakeup(self) -> float:
        """Return when `tick` is due, if nothing happens before; infinity for never."""
        return min(map(self._told_again_at, self._listeners.values()), default=math.inf)

    # The inside.

    def _drop_lacks(self, listener: _Listener) -> None:
        listener.lacks = {
            item: told_at
            for item, told_at in listener.lacks.items()
            if (u := self._updates.get(item)) is not None and u.round > listener.frontier
        }

    def _list_more(self, peer: PeerId, now: float) -> list[Action]:
        """Go on with our list once the neighbour has answered half of what it was told."""
        listener = self._listeners[peer]
        unanswered = len(listener.lacks)
        if listener.told_all or 2 * unanswered > MAX_UNANSWERED:
            return []
        return self._list_on(peer, MAX_UNANSWERED - unanswered, now)

    def _list_on(self, peer: PeerId, num_entries: int, now: float) -> list[Action]:
        """Tell a neighbour the next entries of our list, and when they are the last."""
        listener = self._listeners[peer]
        if listener.awaits_sums:
            return []
        listed: list[Update] = []
        listener.told_all = True
        for update in self._updates.after(*listener.listed_to):
            is_told = update.id in listener.ahead or update.round in listener.same
            if is_told or update.round <= listener.frontier:
                continue
            # Both of a void slot go together: one alone would look like an update.
            if len(listed) >= num_entries and _slot(update) != _slot(listed[-1]):
                listener.listed_to, listener.told_all = _slot(listed[-1]), False
                break
            listed.append(update)
        if listener.told_all:
            listener.ahead.clear()
        listener.lacks |= dict.fromkeys((update.id for update in listed), now)
        parts = _entries(listed)
        last = len(parts) - 1
        return [
            Send((peer,), Have(part, listener.told_all and i == last))
            for i, part in enumerate(parts)
        ]

    def _told_again_at(self, listener: _Listener) -> float:
        told_at = next(iter(listener.lacks.values()), math.inf)
        return max(told_at + self._stall_s, listener.again_from)

    def _tell_again(self, peer: PeerId, listener: _Listener, now: float) -> list[Action]:
        """Repeat what was not answered for long; go on with our list though, if it can."""
        listener.again_from = now + TELL_AGAIN_SHARE * self._stall_s
        lacks = itertools.islice(listener.lacks.items(), MAX_TOLD_AGAIN)
        due = [item for item, told_at in lacks if now >= told_at + self._stall_s]
        again = [u for item in due if (u := self._updates.get(item)) is not None]
        for update in again:
            del listener.lacks[update.id]
            listener.lacks[update.id] = now
        actions: list[Action] = [Send((peer,), Have(part, False)) for part in _entries(again)]
        if not listener.told_all and len(listener.lacks) <= MAX_OFFERED // 2:
            actions += self._list_on(peer, MAX_HAVE_ENTRIES, now)
        return actions


def _entries(updates: Iterable[Update]) -> list[tuple[HaveEntry, ...]]:
    """Return entries in parts that fit a message; one at least."""
    entries = [HaveEntry(update.round, update.author, update.id) for update in updates]
    starts = range(0, len(entries), MAX_HAVE_ENTRIES)
    return [tuple(entries[i : i + MAX_HAVE_ENTRIES]) for i in starts] or [()]


def _is_ahead_of_list(listener: _Listener, update: Update) -> bool:
    """Tell whether our list would only tell a neighbour later of what it has announced itself."""
    is_listed = listener.told_all or _slot(update) <= listener.listed_to
    return not is_listed and update.id not in listener.ahead


def _slot(update: Update) -> tuple[int, PeerId]:
    return update.round, update.author
