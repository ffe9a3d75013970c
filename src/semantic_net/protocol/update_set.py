"""The replicated state: the updates that a peer holds on its base, at most one per (round, author).

An update is in the set once its payload is here and checked. Two signed updates under one
(round, author) void both, everywhere and for good; of a void slot only the evidence is kept. Whose
updates count at all, a `Membership` says, if there is one; the others are held like any, and would
count if it changed its mind.

Whoever can make keys can make up any number of authors, so of each round only those with the lowest
ids are held, `MAX_HELD_AUTHORS` of them, void slots included. Who is not among them never is again,
as authors are only added: what is held is a pure function of all that was ever signed, whatever the
order in which it came, and nobody lacks what another one needs. (An author that is held and comes
after those that count may still count, once some of them are void.) Whom a membership knows has a
place in any case: its records have their own bounds, and change.

What the base includes is known by its history alone, and nothing of
those rounds is taken in any more. Payloads live elsewhere; this module refuses to know where.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set

from semantic_net.protocol.history import History, short
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.membership import Membership
from semantic_net.protocol.update import MAX_AUTHORS, MAX_ROUND, Update, UpdateId

MAX_HELD_AUTHORS = 2 * MAX_AUTHORS
"""Most authors of a round that are held, beside those that a membership knows."""

MAX_LAST_ROUNDS = 4 * MAX_AUTHORS
"""Authors of whom nothing is held any more, and of whom it is known when they published last."""

SUM_BYTES = 16
"""Of a round's digest: nobody can find two sets that have the same."""


class UpdateSet:
    """The updates that a peer holds; grows, and gives up only what a base includes."""

    def __init__(
        self,
        history: History,
        updates: Iterable[Update] = (),
        membership: Membership | None = None,
    ) -> None:
        """Take the history of the base, and what was held so far.

        Args:
            history: Of the base.
            updates: What was held.
            membership: Whose updates count; None: everybody's.
        """
        self.history = history
        self._membership = membership
        self._rounds: dict[int, dict[PeerId, tuple[Update, ...]]] = {}
        self._by_id: dict[UpdateId, Update] = {}
        self._order: list[int] = []  # the rounds with updates, ascending
        self._live: dict[int, tuple[Update, ...]] = {}  # cached, as the digests are
        self._sums: dict[int, bytes] = {}
        self._digests: list[bytes] = []  # through each round of a first part of the order
        self._limits: dict[int, PeerId | None] = {}  # of rounds with many authors; cached too
        self._evidence: dict[UpdateId, Update] = {}
        self._crowded_out: list[Update] = []
        self._last_rounds: dict[PeerId, int] = {}
        self._authors: Counter[PeerId] = Counter()
        self.payload_bytes = 0
        """Of everything held, void slots included."""
        for update in updates:
            self.add(update)
        self._crowded_out.clear()  # nobody was told of them

    def __contains__(self, update_id: object) -> bool:
        return update_id in self._by_id

    def __iter__(self) -> Iterator[Update]:
        """Iterate over everything held, void slots' evidence included, by round and author."""
        return self.after(0, "")

    def after(self, round_index: int, author: str) -> Iterator[Update]:
        """Iterate over what is held under later slots than this one, by round and author."""
        for number in self._order[bisect.bisect_left(self._order, round_index) :]:
            slots = self._rounds[number]
            for other in sorted(slots):
                if (number, other) > (round_index, author):
                    yield from slots[other]

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def frontier(self) -> int:
        """The last round that the base includes: no update up to it is held, or taken in."""
        return self.history.frontier

    @property
    def authors(self) -> Set[PeerId]:
        """Whose updates are held, and would count in rounds to come."""
        if self._membership is None:
            return self._authors.keys()
        return set(filter(self._membership.is_in, self._authors))

    def recount(self, first_rounds: Mapping[PeerId, int]) -> int | None:
        """Look at what counts again; return the first round that differs, if one does.

        Args:
            first_rounds: By author: from which round on the membership has changed its mind.
        """
        self._limits.clear()
        affected = [
            number
            for number in self._order
            if any(number >= first_rounds.get(a, number + 1) for a in self._rounds[number])
        ]
        if not affected:
            return None
        for number in affected:
            self._live.pop(number, None)
        del self._digests[bisect.bisect_left(self._order, affected[0]) :]
        return affected[0]

    def get(self, update_id: UpdateId) -> Update | None:
        """Return a held update, or a void slot's evidence."""
        return self._by_id.get(update_id)

    def add(self, update: Update) -> bool:
        """Take an update in; tell whether the set changed.

        A second update under one (round, author) voids the slot. A third changes nothing. A new
        author of a full round takes the place of the last one, whom `take_crowded_out` tells.
        """
        held = self.slot(update.round, update.author)
        if update in held or len(held) > 1 or update.round <= self.frontier:
            return False
        if self.is_crowded_out(update.round, update.author):
            return False
        if update.round not in self._rounds:
            bisect.insort(self._order, update.round)
        slots = self._rounds.setdefault(update.round, {})
        slots[update.author] = tuple(sorted((*held, update), key=lambda u: u.id))
        self._by_id[update.id] = update
        self._authors[update.author] += 1
        self.payload_bytes += update.payload_bytes
        last = self._last_rounds.get(update.author, 0)
        self._last_rounds[update.author] = max(last, update.round)
        if held:
            self._evidence |= {each.id: each for each in (*held, update)}
        else:
            self._make_room(update.round)
        self._live.pop(update.round, None)
        self._sums.pop(update.round, None)
        del self._digests[bisect.bisect_left(self._order, update.round) :]
        return True

    def rebase(self, history: History) -> list[Update]:
        """Stand on another base; return what was held of the rounds that it includes."""
        self.history = history
        self._digests.clear()
        num_included = bisect.bisect_right(self._order, history.frontier)
        dropped: list[Update] = []
        for number in self._order[:num_included]:
            self._live.pop(number, None)
            self._sums.pop(number, None)
            self._limits.pop(number, None)
            for slot in self._rounds.pop(number).values():
                dropped.extend(slot)
        del self._order[:num_included]
        for update in dropped:
            self._let_go(update)
        gone = [author for author in self._last_rounds if author not in self._authors]
        gone.sort(key=self._last_rounds.__getitem__, reverse=True)
        for author in gone[MAX_LAST_ROUNDS:]:
            del self._last_rounds[author]
        return dropped

    def is_crowded_out(self, round_index: int, author: PeerId) -> bool:
        """Tell whether nothing of an author is to be held in a round, now or later."""
        last = self._limit(round_index)
        return last is not None and author > last and not self._is_known(author)

    def take_crowded_out(self) -> list[Update]:
        """Return what is not held any more because others came first, since the last call."""
        updates, self._crowded_out = self._crowded_out, []
        return updates

    def is_void(self, round_index: int, author: PeerId) -> bool:
        """Tell whether the author has equivocated in this round."""
        return len(self.slot(round_index, author)) > 1

    def holds(self, round_index: int, author: PeerId) -> bool:
        """Tell whether nothing more is to come under (round, author): an update, or a void."""
        return author in self._rounds.get(round_index, {})

    def slot(self, round_index: int, author: PeerId) -> tuple[Update, ...]:
        """Return what is held under (round, author): nothing, an update, or a void's evidence."""
        return self._rounds.get(round_index, {}).get(author, ())

    def evidence(self) -> list[Update]:
        """Return both updates of every void slot: they must outlive a restart, or one revives.

        Any thread may ask.
        """
        return list(self._evidence.copy().values())

    def live(self, round_index: int) -> tuple[Update, ...]:
        """Return what counts in a round, by author: of too many the first `MAX_AUTHORS`."""
        live = self._live.get(round_index)
        if live is None:
            slots = self._rounds.get(round_index, {})
            counting = [slots[a][0] for a in self._counting(round_index) if len(slots[a]) == 1]
            live = self._live[round_index] = tuple(counting[:MAX_AUTHORS])
        return live

    def counting(self) -> set[bytes]:
        """Return the short ids of all that counts, in the base or after it."""
        live = {short(u.id) for number in self._order for u in self.live(number)}
        return self.history.short_ids() | live

    def rounds(self) -> list[int]:
        """Return the rounds with updates, ascending."""
        return list(self._order)

    def last_round_of(self, author: PeerId) -> int:
        """Return the highest round in which an update of the author was seen here; 0 for none."""
        return self._last_rounds.get(author, 0)

    @property
    def digest(self) -> bytes:
        """The set digest of everything held, and of the base."""
        return self.set_digest(MAX_ROUND)

    def set_digest(self, through: int) -> bytes:
        """Return the hash of what counts through a round; equal sets have equal digests.

        A void slot counts as such, whichever evidence a peer happens to hold. The digests form a
        chain from the origin over the rounds, so that only what has changed, usually the last
        round, costs. Of rounds that the base includes it is known where the history has a mark.
        """
        num_rounds = bisect.bisect_right(self._order, through)
        for number in self._order[len(self._digests) : num_rounds]:
            before = self._digests[-1] if self._digests else self.history.set_digest
            self._digests.append(self._chain(before, number))
        return self._digests[num_rounds - 1] if num_rounds else self.history.set_digest

    def digest_at(self, round_index: int) -> bytes | None:
        """Return the set digest through any round, if it is known."""
        if round_index < self.frontier:
            return self.history.digest_at(round_index)
        return self.set_digest(round_index)

    def sum_of(self, round_index: int) -> bytes:
        """Return a digest of all that is held of a round, whether or not it counts."""
        found = self._sums.get(round_index)
        if found is None:
            slots = self._rounds.get(round_index, {})
            ids = sorted(update.id for slot in slots.values() for update in slot)
            found = hashlib.sha256(b"".join(ids)).digest()[:SUM_BYTES]
            self._sums[round_index] = found
        return found

    def history_through(self, frontier: int, mark_every: int) -> History:
        """Return the history of the base that would include everything through a round.

        Args:
            frontier: The round; after the present base's.
            mark_every: Rounds between two marks; divides ``frontier``.
        """
        first = self.frontier - self.frontier % mark_every + mark_every
        marks = [(n, self.set_digest(n)) for n in range(first, frontier + 1, mark_every)]
        rounds = ((n, self.live(n)) for n in self._order if n <= frontier)
        return self.history.grown(marks, rounds)

    def _is_known(self, author: PeerId) -> bool:
        return self._membership is not None and self._membership.device_of(author) is not None

    def _limit(self, number: int) -> PeerId | None:
        """Return the last author that has a place in a full round; None for one with room."""
        slots = self._rounds.get(number, {})
        if len(slots) < MAX_HELD_AUTHORS:
            return None
        if number not in self._limits:
            strangers = [author for author in slots if not self._is_known(author)]
            is_full = len(strangers) >= MAX_HELD_AUTHORS
            self._limits[number] = max(strangers) if is_full else None
        return self._limits[number]

    def _make_room(self, number: int) -> None:
        """Give up the last authors of a round that has too many, if it has."""
        self._limits.pop(number, None)
        slots = self._rounds[number]
        if len(slots) <= MAX_HELD_AUTHORS:
            return
        strangers = [author for author in slots if not self._is_known(author)]
        for author in heapq.nlargest(len(strangers) - MAX_HELD_AUTHORS, strangers):
            for update in slots.pop(author):
                self._let_go(update)
                self._crowded_out.append(update)
            if author not in self._authors:
                del self._last_rounds[author]

    def _let_go(self, update: Update) -> None:
        del self._by_id[update.id]
        self._evidence.pop(update.id, None)
        self.payload_bytes -= update.payload_bytes
        self._authors[update.author] -= 1
        if not self._authors[update.author]:
            del self._authors[update.author]

    def _counting(self, number: int) -> list[PeerId]:
        authors = sorted(self._rounds.get(number, ()))
        if self._membership is None:
            return authors
        return self._membership.counting(number, authors)

    def _chain(self, before: bytes, number: int) -> bytes:
        authors, slots = self._counting(number), self._rounds[number]
        if not authors:
            return before
        hasher = hashlib.sha256(before + number.to_bytes(8, "little"))
        for author in authors:
            void = len(slots[author]) > 1
            hasher.update(author.encode("ascii"))
            hasher.update(b"\0" * 32 if void else slots[author][0].id)
        return hasher.digest()
