"""The replicated state: the set of updates that a peer holds, at most one per (round, author).

An update is in the set once its payload is here and checked. Two signed updates under one
(round, author) void both, everywhere and for good (DESIGN 2.5); of a void slot only the evidence
is kept. Payloads live elsewhere; this module refuses to know where.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator

from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.update import MAX_AUTHORS, MAX_ROUND, Update, UpdateId


class UpdateSet:
    """The updates that a peer holds; grows, and never forgets."""

    def __init__(self, updates: Iterable[Update] = ()) -> None:
        self._rounds: dict[int, dict[PeerId, tuple[Update, ...]]] = {}
        self._by_id: dict[UpdateId, Update] = {}
        self._round_digests: dict[int, bytes] = {}
        self._digest: bytes | None = None  # of everything
        for update in updates:
            self.add(update)

    def __contains__(self, update_id: object) -> bool:
        return update_id in self._by_id

    def __iter__(self) -> Iterator[Update]:
        """Iterate over everything held, void slots' evidence included, by round and author."""
        for number in sorted(self._rounds):
            slots = self._rounds[number]
            yield from itertools.chain.from_iterable(slots[author] for author in sorted(slots))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, update_id: UpdateId) -> Update | None:
        """Return a held update, or a void slot's evidence."""
        return self._by_id.get(update_id)

    def add(self, update: Update) -> bool:
        """Take an update in; tell whether the set changed.

        A second update under one (round, author) voids the slot. A third changes nothing.
        """
        slots = self._rounds.setdefault(update.round, {})
        held = slots.get(update.author, ())
        if update in held or len(held) > 1:
            return False
        slots[update.author] = tuple(sorted((*held, update), key=lambda u: u.id))
        self._by_id[update.id] = update
        self._round_digests.pop(update.round, None)
        self._digest = None
        return True

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
        """Return both updates of every void slot: they must outlive a restart, or one revives."""
        slots = (slot for held in self._rounds.values() for slot in held.values())
        return [update for slot in slots if len(slot) > 1 for update in slot]

    def live(self, round_index: int) -> tuple[Update, ...]:
        """Return what counts in a round, by author: of too many the first `MAX_AUTHORS`."""
        slots = self._rounds.get(round_index, {})
        counting = [slots[a][0] for a in sorted(slots) if len(slots[a]) == 1]
        return tuple(counting[:MAX_AUTHORS])

    def rounds(self) -> list[int]:
        """Return the rounds with updates, ascending."""
        return sorted(self._rounds)

    def last_round_of(self, author: PeerId) -> int:
        """Return the highest round in which the author has an update here; 0 for none."""
        return max((n for n, slots in self._rounds.items() if author in slots), default=0)

    @property
    def digest(self) -> bytes:
        """The set digest of everything held."""
        if self._digest is None:
            self._digest = self.set_digest(MAX_ROUND)
        return self._digest

    def set_digest(self, through: int) -> bytes:
        """Return the hash of what counts through a round; equal sets have equal digests.

        A void slot counts as such, whichever evidence a peer happens to hold.
        """
        total = hashlib.sha256(b"semantic-net set 1\0")
        for number in self.rounds():
            if number <= through:
                total.update(self._round_digest(number))
        return total.digest()

    def _round_digest(self, number: int) -> bytes:
        digest = self._round_digests.get(number)
        if digest is None:
            hasher = hashlib.sha256(number.to_bytes(8, "little"))
            slots = self._rounds[number]
            for author in sorted(slots):
                void = len(slots[author]) > 1
                hasher.update(author.encode("ascii"))
                hasher.update(b"\0" * 32 if void else slots[author][0].id)
            digest = self._round_digests[number] = hasher.digest()
        return digest
