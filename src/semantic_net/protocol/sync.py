"""Syncing peers is syncing sets: "I have these", "I want those".

Every neighbour gets the full list on connect and each new update at once, the one it came from
included: to that one it is the acknowledgement. A wanted item is asked of one holder at a time,
from the byte where the last one broke off. Duplicates, reordering and retries are harmless.

What this module refuses: payloads that were not asked for, and more bytes than the signed
header or the agreed model allows.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.actions import Action, Check, CheckBase, Discard, Send, Serve, Write
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.messages import (
    MAX_HAVE_ENTRIES,
    Absent,
    Chunk,
    Have,
    HaveEntry,
    Want,
)
from semantic_net.protocol.update import Update, UpdateId
from semantic_net.protocol.update_set import UpdateSet

WINDOW = 32
"""Most items asked of one neighbour at a time."""

MAX_ANNOUNCED = 1 << 20
"""Most updates that one neighbour may announce in a session."""


@dataclass(slots=True)
class _Neighbour:
    announced: set[UpdateId] = field(default_factory=set)
    listed: bool = False
    outstanding: int = 0


@dataclass(slots=True)
class _Transfer:
    """An item that somebody holds and we do not."""

    id: UpdateId
    round: int
    """0 for a base."""
    author: PeerId | None
    holders: list[PeerId]
    size: int | None
    update: Update | None = None
    received: int = 0
    source: PeerId | None = None
    progress_at: float = 0.0
    checking: bool = False


class Sync:
    """What each neighbour holds, what we want, and from whom it is under way."""

    def __init__(self, updates: UpdateSet, stall_s: float) -> None:
        """Take the set to fill, and the seconds without progress after which to ask again."""
        self._updates = updates
        self._stall_s = stall_s
        self._neighbours: dict[PeerId, _Neighbour] = {}
        self._transfers: dict[UpdateId, _Transfer] = {}
        self._by_slot: dict[tuple[int, PeerId | None], set[UpdateId]] = {}
        self._queue: list[tuple[int, UpdateId]] = []  # a heap: older rounds first
        self._inadmissible: dict[UpdateId, tuple[int, PeerId]] = {}

    # What the round machine asks.

    def neighbours(self) -> tuple[PeerId, ...]:
        """Return the connected peers."""
        return tuple(self._neighbours)

    def pending(self, round_index: int, author: PeerId) -> bool:
        """Tell whether somebody here holds an update of this slot that we do not."""
        return any(t.holders for t in self._in_slot(round_index, author))

    def refused(self, round_index: int, author: PeerId) -> bool:
        """Tell whether the author's update of this round turned out inadmissible."""
        return (round_index, author) in self._inadmissible.values()

    def settled(self) -> bool:
        """Tell whether every neighbour has listed what it holds, and we hold all of it."""
        return not any(t.holders for t in self._transfers.values()) and all(
            n.listed for n in self._neighbours.values()
        )

    def holds_all(self, peer: PeerId, ids: set[UpdateId]) -> bool:
        """Tell whether a neighbour is known to hold all of these."""
        neighbour = self._neighbours.get(peer)
        return neighbour is not None and ids <= neighbour.announced

    # Events.

    def connected(self, peer: PeerId) -> list[Action]:
        """List what we hold to a new neighbour."""
        self._neighbours[peer] = _Neighbour()
        entries = [_entry(update) for update in self._updates]
        parts = [
            tuple(entries[i : i + MAX_HAVE_ENTRIES])
            for i in range(0, len(entries), MAX_HAVE_ENTRIES)
        ] or [()]
        last = len(parts) - 1
        return [Send((peer,), Have(part, i == last)) for i, part in enumerate(parts)]

    def disconnected(self, peer: PeerId, now: float) -> list[Action]:
        """Ask others for what was under way from a lost neighbour."""
        self._neighbours.pop(peer, None)
        for transfer in self._transfers.values():
            if peer in transfer.holders:
                transfer.holders.remove(peer)
            if transfer.source == peer:
                self._release(transfer)
        self._forget_rumours()
        return self._request(now)

    def have(self, peer: PeerId, message: Have, now: float) -> list[Action]:
        """Note what a neighbour holds; want what we lack.

        Raises:
            RemoteProtocolError: It announces more than `MAX_ANNOUNCED` updates.
        """
        neighbour = self._neighbours[peer]
        neighbour.listed |= message.complete
        if len(neighbour.announced) + len(message.entries) > MAX_ANNOUNCED:
            raise RemoteProtocolError(f"announces more than {MAX_ANNOUNCED} updates")
        for entry in message.entries:
            neighbour.announced.add(entry.id)
            if entry.id in self._updates or entry.id in self._inadmissible:
                continue
            author = PeerId(entry.author)
            if self._updates.is_void(entry.round, author):
                continue
            self._hold(peer, entry.id, entry.round, author, size=None)
        return self._request(now)

    def base_offered(self, peer: PeerId, base: UpdateId, size: int, now: float) -> list[Action]:
        """Want a base that a neighbour has."""
        self._hold(peer, base, 0, None, size=size)
        return self._request(now)

    def want(self, peer: PeerId, message: Want, base: UpdateId) -> list[Action]:
        """Serve what a neighbour asks for, if we hold it.

        Args:
            peer: Who asks.
            message: For what, from which byte on.
            base: The one base that we serve.
        """
        if message.id == base:
            return [Serve(peer, message.id, message.offset)]
        update = self._updates.get(message.id)
        if update is None:
            return [Send((peer,), Absent(message.id))]
        if message.offset > update.payload_bytes:
            raise RemoteProtocolError("wants bytes beyond an update's end")
        actions: list[Action] = [Send((peer,), update.message)]
        if not self._updates.is_void(update.round, update.author):
            actions.append(Serve(peer, message.id, message.offset))
        return actions

    def header(self, peer: PeerId, update: Update, now: float) -> tuple[list[Action], bool]:
        """Take an admitted header; tell also whether it voided a slot.

        Raises:
            RemoteProtocolError: It is not what the neighbour announced under this id.
        """
        transfer = self._transfers.get(update.id)
        if transfer is None or transfer.checking:  # it came by another way, or is void
            return [], False
        if (transfer.round, transfer.author) != (update.round, update.author):
            raise RemoteProtocolError("an update under another round or author than announced")
        transfer.update, transfer.size = update, update.payload_bytes
        rivals = [
            t.update
            for t in self._in_slot(update.round, update.author)
            if t.update is not None and t.id != update.id
        ]
        if rivals or self._updates.holds(update.round, update.author):
            return self._void(update, rivals, now), True
        return self._advance(transfer, now), False

    def chunk(self, peer: PeerId, chunk: Chunk, now: float) -> list[Action]:
        """Place a chunk if it is the next one of something under way.

        Raises:
            RemoteProtocolError: It goes beyond the item's end, or precedes its header.
        """
        transfer = self._transfers.get(chunk.id)
        if transfer is None or transfer.checking or chunk.offset != transfer.received:
            return []  # a leftover of an earlier request: harmless
        if transfer.size is None:
            raise RemoteProtocolError("a payload ahead of its header")
        if not chunk.data or chunk.offset + len(chunk.data) > transfer.size:
            raise RemoteProtocolError("a chunk that is empty or beyond its item's end")
        transfer.received += len(chunk.data)
        transfer.progress_at = now
        write = Write(chunk.id, transfer.size, chunk.offset, chunk.data)
        return [write, *self._advance(transfer, now)]

    def absent(self, peer: PeerId, message: Absent, now: float) -> list[Action]:
        """Look elsewhere for what a neighbour does not hold after all."""
        transfer = self._transfers.get(message.id)
        if transfer is not None and peer in transfer.holders:
            transfer.holders.remove(peer)
            if transfer.source == peer:
                self._release(transfer)
            self._forget_rumours()
        return self._request(now)

    def accepted(self, update: Update, now: float) -> list[Action]:
        """Announce an update that has just been added to the set."""
        self._drop(update.id)
        message = Have((_entry(update),), False)
        announce: list[Action] = [Send(self.neighbours(), message)] if self._neighbours else []
        return [*announce, *self._request(now)]

    def wanted(self, item: UpdateId) -> bool:
        """Tell whether an item is still to come."""
        return item in self._transfers

    def inadmissible(self, update: Update, now: float) -> list[Action]:
        """Never want this update again: it has its author's word, and does not decode."""
        self._inadmissible[update.id] = _slot(update)
        self._drop(update.id)
        return [Discard(update.id), *self._request(now)]

    def corrupt(self, item: UpdateId, now: float) -> tuple[list[Action], PeerId | None]:
        """Start an item anew whose bytes do not match its hash; return who served it."""
        transfer = self._transfers[item]
        culprit = transfer.source
        transfer.received, transfer.checking = 0, False
        if culprit is not None:
            transfer.holders.remove(culprit)
        self._release(transfer)
        return [Discard(item), *self._request(now)], culprit

    def base_accepted(self, base: UpdateId, now: float) -> list[Action]:
        """Take a base that has arrived off the list of wanted items."""
        self._drop(base)
        return self._request(now)

    def tick(self, now: float) -> list[Action]:
        """Ask again for what makes no progress, of another holder where there is one."""
        for transfer in self._transfers.values():
            if (
                transfer.source is not None
                and not transfer.checking
                and now - transfer.progress_at >= self._stall_s
            ):
                holders = transfer.holders
                holders.append(holders.pop(holders.index(transfer.source)))
                self._release(transfer)
        return self._request(now)

    def next_stall(self) -> float | None:
        """Return when the next transfer would count as stalled."""
        return min(
            (
                t.progress_at + self._stall_s
                for t in self._transfers.values()
                if t.source is not None and not t.checking
            ),
            default=None,
        )

    # The inside.

    def _in_slot(self, number: int, author: PeerId | None) -> list[_Transfer]:
        return [self._transfers[item] for item in sorted(self._by_slot.get((number, author), ()))]

    def _forget_rumours(self) -> None:
        """Drop what nobody here holds and nothing has arrived of."""
        for transfer in list(self._transfers.values()):
            if not transfer.holders and not transfer.received and not transfer.checking:
                self._drop(transfer.id)

    def _hold(
        self, peer: PeerId, item: UpdateId, number: int, author: PeerId | None, size: int | None
    ) -> None:
        transfer = self._transfers.get(item)
        if transfer is None:
            transfer = _Transfer(item, number, author, [], size)
            self._transfers[item] = transfer
            self._by_slot.setdefault((number, author), set()).add(item)
            self._enqueue(transfer)
        if peer not in transfer.holders:
            if not transfer.holders and transfer.source is None:
                self._enqueue(transfer)
            transfer.holders.append(peer)

    def _enqueue(self, transfer: _Transfer) -> None:
        heapq.heappush(self._queue, (transfer.round, transfer.id))

    def _request(self, now: float) -> list[Action]:
        actions: list[Action] = []
        later = []
        while self._queue:
            key = heapq.heappop(self._queue)
            transfer = self._transfers.get(key[1])
            if transfer is None or transfer.source is not None or transfer.checking:
                continue
            free = [h for h in transfer.holders if self._neighbours[h].outstanding < WINDOW]
            if not free:
                if transfer.holders:
                    later.append(key)
                continue
            # The first of the least busy: who announced it first is likely the nearest.
            source = min(free, key=lambda h: self._neighbours[h].outstanding)
            self._neighbours[source].outstanding += 1
            transfer.source, transfer.progress_at = source, now
            actions.append(Send((source,), Want(transfer.id, transfer.received)))
        for key in later:
            heapq.heappush(self._queue, key)
        return actions

    def _advance(self, transfer: _Transfer, now: float) -> list[Action]:
        transfer.progress_at = now
        if transfer.received != transfer.size:
            return []
        transfer.checking = True
        if transfer.update is None:
            return [CheckBase(transfer.id)]
        return [Check(transfer.update)]

    def _void(self, update: Update, rivals: list[Update], now: float) -> list[Action]:
        """Two signed updates under one slot: keep both headers as evidence, and no payload."""
        actions: list[Action] = []
        for evidence in (*rivals, update):
            self._updates.add(evidence)
        number, author = _slot(update)
        for other in self._in_slot(number, author):
            self._drop(other.id)
            actions.append(Discard(other.id))
        entries = tuple(_entry(u) for u in self._updates.slot(number, author))
        if self._neighbours:
            actions.append(Send(self.neighbours(), Have(entries, False)))
        return [*actions, *self._request(now)]

    def _release(self, transfer: _Transfer) -> None:
        """Take the transfer from its source, to be asked of anyone again."""
        if transfer.source is not None and transfer.source in self._neighbours:
            self._neighbours[transfer.source].outstanding -= 1
        transfer.source = None
        self._enqueue(transfer)

    def _drop(self, item: UpdateId) -> None:
        transfer = self._transfers.pop(item, None)
        if transfer is None:
            return
        slot = (transfer.round, transfer.author)
        self._by_slot[slot].discard(item)
        if not self._by_slot[slot]:
            del self._by_slot[slot]
        if transfer.source is not None and transfer.source in self._neighbours:
            self._neighbours[transfer.source].outstanding -= 1


def _entry(update: Update) -> HaveEntry:
    return HaveEntry(update.round, update.author, update.id)


def _slot(update: Update) -> tuple[int, PeerId]:
    return update.round, update.author
