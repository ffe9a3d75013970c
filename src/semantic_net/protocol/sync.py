"""Syncing peers is syncing sets: "I have these", "I want those".

What is said of the former, `announcements` decides; of the latter, this module and `transfers`.
Duplicates, reordering and retries are harmless.

What this module refuses: more bytes than were asked for, than the signed header or the agreed
model allows, more announcements than a neighbour may keep us busy with, more updates that nobody
may hold than a bug explains, and what has no place in its round.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.actions import (
    Action,
    Check,
    CheckBase,
    Discard,
    Open,
    Send,
    Serve,
    Write,
)
from semantic_net.protocol.announcements import MAX_OFFERED, Announcements
from semantic_net.protocol.bases import Base
from semantic_net.protocol.frames import MAX_CHUNK_BYTES
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.item import Item
from semantic_net.protocol.messages import (
    Absent,
    Chunk,
    Have,
    HaveEntry,
    PackedChunk,
    Sums,
    Want,
)
from semantic_net.protocol.transfers import (
    BASE_SLOT,
    PROGRESS_BYTES,
    Slot,
    Transfer,
    Transfers,
)
from semantic_net.protocol.update import MAX_ROUND, Update, UpdateId
from semantic_net.protocol.update_set import UpdateSet

LIST_PATIENCE = 4
"""Times the wait for what makes no progress that a neighbour has to list what it holds."""

MAX_RIVALS = 2
"""Most updates of a slot that one neighbour may announce: what is held of a void one."""

MAX_GRANTS = 256
"""Latest requests to one neighbour of which it is known how much they let it send."""

SPARE_BYTES = 4 * MAX_CHUNK_BYTES
"""Bytes that a neighbour may send beyond what it was asked for."""

MAX_VAIN_PARTS = 32
"""Most compressed parts that a neighbour has opened in vain before it is asked again."""


MAX_BAD_SERVED = 16
"""Most inadmissible updates that a neighbour may serve in a session: who looks at what it has
before it tells of it serves none, but for its own if it has a bug."""

MAX_INADMISSIBLE = 256
"""Latest inadmissible updates that are remembered. One that is forgotten may be served again, on
its neighbour's account; and should its author sign another for its round, that one counts, unless
somebody else who remembers tells of both."""


@dataclass(slots=True)
class _Neighbour:
    list_due: float
    """When it counts as having announced all, whatever it says."""
    listed: bool = False
    """It has announced everything that it held when the session began."""
    base: Base | None = None
    """The better base that it offers."""
    num_bad: int = 0
    """Inadmissible updates that it has served."""
    vain_parts: int = 0
    """Compressed parts opened since it was asked, or one went on with what we lacked."""
    may_send: int = SPARE_BYTES
    """Bytes of what it was asked for that have not come."""
    granted: dict[UpdateId, int] = field(default_factory=dict)
    """How many of them are of what, for what it turns out not to have."""
    is_opened: bool = False
    """The chunk that comes next was in a compressed part, and is counted."""


class Sync:
    """What each neighbour holds, and what we want of it."""

    def __init__(
        self,
        updates: UpdateSet,
        stall_s: float,
        progress_bytes: int = PROGRESS_BYTES,
        max_item_bytes: int = MAX_CHUNK_BYTES,
    ) -> None:
        """Take the set to fill.

        Args:
            updates: That set.
            stall_s: Seconds without progress after which to ask again, or another.
            progress_bytes: How much of a payload counts as progress.
            max_item_bytes: Size of the largest update or base.
        """
        self._max_item_bytes = max_item_bytes
        self._updates = updates
        self._stall_s = stall_s
        self._neighbours: dict[PeerId, _Neighbour] = {}
        self._transfers = Transfers(stall_s, progress_bytes, self._has_place)
        self._inadmissible: dict[Slot, Update] = {}  # headers alone, the oldest first
        self._announcements = Announcements(updates, stall_s)
        self.horizon = MAX_ROUND
        """The last round of which anything is wanted yet: what is later is told again later."""

    # What the machine asks.

    def neighbours(self) -> tuple[PeerId, ...]:
        """Return the connected peers."""
        return tuple(self._neighbours)

    def pending(self, round_index: int, author: PeerId, alive: Collection[PeerId]) -> bool:
        """Tell whether a live neighbour holds an update of this slot that we do not."""
        return self._transfers.is_pending((round_index, author), alive)

    def progress_of_all(self) -> tuple[int, int]:
        """Return how many bytes of all that is wanted are here, and of how many that are known."""
        return self._transfers.progress()

    def progress(self, round_index: int, author: PeerId) -> tuple[int, int | None] | None:
        """Return how many bytes of an update are here, and its size where that is known.

        None where nobody has announced it, or it is here.
        """
        found = self._transfers.in_slot((round_index, author))
        return (found[0].received, found[0].size) if found else None

    def refused(self, round_index: int, author: PeerId) -> bool:
        """Tell whether the author's update of this round turned out inadmissible."""
        return (round_index, author) in self._inadmissible

    def settled(self, alive: Collection[PeerId], before: int, me: PeerId, now: float) -> bool:
        """Tell whether we hold all that live neighbours do of rounds before one, and all of ours.

        Each of them has listed what it holds, or lets us wait for that in vain; there is no better
        base to fetch either.
        """
        neighbours = [n for peer, n in self._neighbours.items() if peer in alive]
        listed = all(n.listed or now >= n.list_due for n in neighbours)
        return listed and not self._transfers.any_pending(alive, before, me)

    def has_all(self, peer: PeerId, through: int) -> bool:
        """Tell whether a peer, if a neighbour, has announced all that we hold through a round."""
        return self._announcements.has_all(peer, through)

    def fetching_until(self) -> float:
        """Return until when what was asked for counts as arriving, if nothing more comes."""
        return self._transfers.progress_at + self._stall_s

    def wanted(self, item: Item) -> bool:
        """Tell whether an item is still to come."""
        return item in self._transfers

    @property
    def num_wanted(self) -> int:
        """Number of items still to come; what nobody here holds any more does not count."""
        return self._transfers.num_coming

    # Who is there.

    def connected(self, peer: PeerId, now: float, *, sums_up: bool = False) -> list[Action]:
        """List what we hold to a new neighbour; first sum it up, if it does so too."""
        self._neighbours[peer] = _Neighbour(list_due=now + LIST_PATIENCE * self._stall_s)
        self._transfers.connected(peer)
        return self._announcements.connected(peer, now, sums_up=sums_up)

    def sums(self, peer: PeerId, message: Sums, now: float) -> list[Action]:
        """List what we hold of the rounds of which a neighbour does not hold the same."""
        return self._announcements.sums(peer, message, now)

    def disconnected(self, peer: PeerId, now: float) -> list[Action]:
        """Ask others for what was under way from a lost neighbour."""
        del self._neighbours[peer]
        self._announcements.disconnected(peer)
        self._transfers.disconnected(peer)
        return self._request(now)

    def tick(self, now: float) -> list[Action]:
        """Ask again for what makes no progress; tell again what is not acknowledged."""
        self._transfers.give_up_stalled(now)
        return [*self._announcements.tick(now), *self._request(now)]

    def next_wakeup(self) -> float | None:
        """Return when `tick` is due, if nothing happens before."""
        first = self._announcements.next_wakeup()
        if (stall := self._transfers.next_stall()) is not None:
            first = min(first, stall)
        return None if math.isinf(first) else first

    # What neighbours say.

    def have(self, peer: PeerId, message: Have, now: float) -> list[Action]:
        """Note what a neighbour holds; want what we lack.

        Raises:
            RemoteProtocolError: It announces more than anyone can hold: `MAX_OFFERED` updates
                beyond ours, or `MAX_RIVALS` under one (round, author). Or it has served too much
                that nobody may hold.
        """
        neighbour = self._neighbours[peer]
        _object_to_bad(neighbour)
        neighbour.listed |= message.complete
        actions = self._announcements.acknowledged(peer, message.entries, now)
        for entry in message.entries:
            if not self._is_known(entry):
                self._hold(peer, entry)
        return [*actions, *self._request(now)]

    def base_offered(self, peer: PeerId, base: Base | None, now: float) -> list[Action]:
        """Want the better base that a neighbour has, or none of it any more.

        Raises:
            RemoteProtocolError: What it calls its base is an update.
        """
        neighbour = self._neighbours[peer]
        if neighbour.base == base:
            return []
        if base is not None and base.digest in self._updates:
            raise RemoteProtocolError("offers an update as its base")
        if neighbour.base is not None:
            before = self._transfers.get(_base_item(neighbour.base))
            if before is not None:
                self._transfers.unhold(before, peer)
        neighbour.base = base
        if base is not None:
            self._transfers.hold(peer, _base_item(base), BASE_SLOT, base.size)
        return self._request(now)

    def want(self, peer: PeerId, message: Want, bases: Collection[UpdateId]) -> list[Action]:
        """Serve what a neighbour asks for, if we hold it.

        Args:
            peer: Who asks.
            message: For what, from which byte on.
            bases: Those that we serve.

        Raises:
            RemoteProtocolError: It wants bytes beyond the item's end.
        """
        if message.id in bases:
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

    def absent(self, peer: PeerId, message: Absent, now: float) -> list[Action]:
        """Look elsewhere for what a neighbour does not hold after all, or any more."""
        neighbour = self._neighbours[peer]
        neighbour.may_send -= neighbour.granted.pop(message.id, 0)
        self._announcements.lost(peer, message.id, now)
        for item in self._items_of(peer, message.id):
            self._transfers.not_served(peer, item)
            if (transfer := self._transfers.get(item)) is not None:
                self._transfers.unhold(transfer, peer)
        return self._request(now)

    def asks_for_header(self, peer: PeerId, item: UpdateId) -> bool:
        """Tell whether a neighbour was asked for an update, and its header is to be looked at."""
        transfer = self._transfers.get(Item(item))
        return transfer is not None and transfer.source == peer

    def header(self, peer: PeerId, update: Update, now: float) -> tuple[list[Action], bool]:
        """Take an admitted header, if it was asked for; tell also whether it voided its slot.

        Raises:
            RemoteProtocolError: The neighbour has served too much that nobody may hold.
        """
        _object_to_bad(self._neighbours[peer])
        transfer = self._transfers.get(_item(update))
        if transfer is None or transfer.source != peer:
            return [], False
        if transfer.slot != _slot(update):  # announced under another; the author's word counts
            self._transfers.move(transfer, _slot(update))
        if transfer.size is None:  # until now it could have been of any size
            self._neighbours[peer].may_send += update.payload_bytes - self._max_item_bytes
            self._neighbours[peer].granted[update.id] = update.payload_bytes
        self._transfers.header_arrived(transfer, update, now)
        if not self._has_place(_slot(update)):
            return self._forget([transfer], now), False
        if rivals := self._rivals(update):
            return self._void(update, rivals, now), True
        is_void = self._updates.is_void(update.round, update.author)  # by two others
        if is_void or update.round <= self._updates.frontier:
            return self._forget([transfer], now), False
        return [*self._look_at(transfer), *self._request(now)], False

    def chunk(self, peer: PeerId, chunk: Chunk, now: float) -> list[Action]:
        """Place a chunk if it continues something that the neighbour was asked for.

        Raises:
            RemoteProtocolError: It goes beyond the item's end, is empty, or is one of more than
                the neighbour was asked for; or it has served too much that nobody may hold.
        """
        if not chunk.data:
            raise RemoteProtocolError("an empty chunk")
        neighbour = self._neighbours[peer]
        _object_to_bad(neighbour)
        if neighbour.is_opened:
            neighbour.is_opened = False
        else:
            _spend(neighbour, len(chunk.data))
        for item in self._items_of(peer, chunk.id):
            transfer = self._transfers.get(item)
            if transfer is not None and _goes_on_with(transfer, chunk):
                self._transfers.take_up(transfer, peer, now)
            self._transfers.serves(peer, item, len(chunk.data), now)
            if transfer is not None and transfer.source == peer:
                return [*self._place(transfer, chunk, now), *self._request(now)]
        return self._request(now)  # left over from an earlier request

    def packed_chunk(self, peer: PeerId, part: PackedChunk, now: float) -> list[Action]:
        """Open a compressed part of a base, if the bytes that we lack next may be in it.

        What is cheap to send is not cheap to open, so not every part is.

        Raises:
            RemoteProtocolError: It is one of more than the neighbour was asked for.
        """
        neighbour = self._neighbours[peer]
        _spend(neighbour, len(part.packed))
        items = self._items_of(peer, part.id)
        transfers = (self._transfers.get(item) for item in items if item.base is not None)
        if any(t is not None and peer in t.holders and _may_go_on_with(t, part) for t in transfers):
            neighbour.vain_parts += 1
            if neighbour.vain_parts <= MAX_VAIN_PARTS:
                neighbour.is_opened = True
                return [Open(peer, part)]
        for item in items:
            self._transfers.serves(peer, item, len(part.packed), now)
        return self._request(now)  # left over from an earlier request, or never asked for

    def _place(self, transfer: Transfer, chunk: Chunk, now: float) -> list[Action]:
        if transfer.size is None:
            return []  # left over from an earlier request, whose header was not looked at
        end = chunk.offset + len(chunk.data)
        if end > transfer.size:
            raise RemoteProtocolError("a chunk beyond its item's end")
        if not _goes_on_with(transfer, chunk):
            return []  # left over as well
        data = chunk.data[transfer.received - chunk.offset :]
        write = Write(transfer.item, transfer.size, transfer.received, data)
        assert transfer.source is not None, "only the source's bytes are placed"
        self._neighbours[transfer.source].vain_parts = 0
        self._transfers.bytes_arrived(transfer, len(data), now)
        return [write, *self._look_at(transfer)]

    # What became of it.

    def add(self, update: Update, now: float) -> tuple[list[Action], bool]:
        """Take in an update whose payload is here and admissible, or our own, and announce it.

        Tell also whether it voided its slot.
        """
        if not self._has_place(_slot(update)):
            transfer = self._transfers.get(_item(update))
            return self._forget([] if transfer is None else [transfer], now), False
        if rivals := self._rivals(update):
            return self._void(update, rivals, now), True
        if self._updates.is_void(update.round, update.author):  # by two others
            return [], False
        if not self._updates.add(update):  # the base includes its round by now
            return [], False
        self._announce_soon(update)
        if (transfer := self._transfers.get(_item(update))) is not None:
            self._transfers.drop(transfer)
        return self._request(now), False

    def take_crowded_out(self) -> list[Update]:
        """Return what is not held any more because others came first, since the last call."""
        updates = self._updates.take_crowded_out()
        self._announcements.forget(updates)
        return updates

    def announce(self, now: float) -> list[Action]:
        """Tell all neighbours of what has been taken in since the last call."""
        return self._announcements.announce(now)

    def inadmissible(self, update: Update, now: float) -> list[Action]:
        """Do not want this update again: it has its author's word, and does not decode."""
        self._inadmissible[_slot(update)] = update
        if len(self._inadmissible) > MAX_INADMISSIBLE:
            del self._inadmissible[next(iter(self._inadmissible))]
        transfer = self._transfers.get(_item(update))
        if transfer is not None and transfer.checked_for is not None:
            self._neighbours[transfer.checked_for].num_bad += 1
        return self._forget([] if transfer is None else [transfer], now)

    def corrupt(self, item: Item, now: float) -> tuple[list[Action], PeerId | None]:
        """Start an item anew whose bytes do not match its hash; return who served it, if known."""
        transfer = self._transfers.get(item)
        assert transfer is not None, "only a wanted item is checked"
        culprit = self._transfers.restart(transfer)
        return self._request(now), culprit

    def base_accepted(self, base: UpdateId, now: float) -> list[Action]:
        """Want no base any more: this one is here, and what is better still is offered anew."""
        for neighbour in self._neighbours.values():
            neighbour.base = None
        bases = self._transfers.in_slot(BASE_SLOT)
        # One that is being looked at stays, or the look's end could be taken for that of a later.
        return self._forget([t for t in bases if t.id == base or not t.checking], now)

    def stands_on(self, peer: PeerId, frontier: int, now: float) -> list[Action]:
        """Note a neighbour's frontier: tell it of no round that its base includes."""
        return self._announcements.stands_on(peer, frontier, now)

    def rebased(self, now: float) -> list[Action]:
        """Want and tell nothing more of the rounds that our own base includes by now."""
        frontier = self._updates.frontier
        actions = self._forget(self._transfers.before(frontier + 1), now)
        self._inadmissible = {s: u for s, u in self._inadmissible.items() if s[0] > frontier}
        return [*actions, *self._announcements.rebased(now)]

    # The inside.

    def _items_of(self, peer: PeerId, item: UpdateId) -> list[Item]:
        """Return what a neighbour may mean by an id: an update, or the base that it offers."""
        base = self._neighbours[peer].base
        items = [Item(item)]
        return [*items, _base_item(base)] if base is not None and base.digest == item else items

    def _hold(self, peer: PeerId, entry: HaveEntry) -> None:
        slot = (entry.round, PeerId(entry.author))
        self._transfers.hold(peer, Item(entry.id), slot)
        if self._transfers.num_offered_by(peer) > MAX_OFFERED:
            raise RemoteProtocolError(f"announces more than {MAX_OFFERED} updates")
        if self._transfers.num_offered_by(peer, slot) > MAX_RIVALS:
            raise RemoteProtocolError(f"announces more than {MAX_RIVALS} updates of one slot")

    def _is_known(self, entry: HaveEntry) -> bool:
        author = PeerId(entry.author)
        refused = self._inadmissible.get((entry.round, author))
        return (
            entry.id in self._updates
            or entry.round > self.horizon
            or entry.round <= self._updates.frontier
            or self._updates.is_void(entry.round, author)
            or not self._has_place((entry.round, author))
            or (refused is not None and refused.id == entry.id)
        )

    def _has_place(self, slot: Slot) -> bool:
        number, author = slot
        return author is None or not self._updates.is_crowded_out(number, author)

    def _rivals(self, update: Update) -> list[Update]:
        """Return the other updates that the author signed for this slot, as far as not void."""
        slot = _slot(update)
        if self._updates.is_void(*slot):
            return []
        signed = [*self._updates.slot(*slot)]
        signed += [t.update for t in self._transfers.in_slot(slot) if t.update is not None]
        if slot in self._inadmissible:
            signed.append(self._inadmissible[slot])
        return [rival for rival in signed if rival.id != update.id]

    def _void(self, update: Update, rivals: list[Update], now: float) -> list[Action]:
        """Two signed updates under one slot: keep both headers as evidence, and no payload."""
        slot = _slot(update)
        told = self._updates.slot(*slot)
        for evidence in (*rivals, update):
            self._updates.add(evidence)
        self._inadmissible.pop(slot, None)
        for evidence in self._updates.slot(*slot):
            self._announce_soon(evidence)
            if evidence in told:  # it goes out again beside the other, and nobody has to answer
                self._announcements.repeat(evidence)
        return self._forget(self._transfers.in_slot(slot), now)

    def _announce_soon(self, update: Update) -> None:
        transfer = self._transfers.get(_item(update))
        self._announcements.add(update, () if transfer is None else transfer.holders)

    def _forget(self, transfers: Iterable[Transfer], now: float) -> list[Action]:
        actions: list[Action] = []
        for transfer in transfers:
            self._transfers.drop(transfer)
            actions.append(Discard(transfer.item))
        return [*actions, *self._request(now)]

    def _look_at(self, transfer: Transfer) -> list[Action]:
        actions: list[Action] = []
        if self._transfers.is_whole(transfer):
            self._transfers.check(transfer)
            if (base := transfer.item.base) is not None:
                actions.append(CheckBase(base))
            else:
                assert transfer.update is not None, "the size comes with the header"
                actions.append(Check(transfer.update))
        return actions

    def _request(self, now: float) -> list[Action]:
        wants = []
        for peer, transfer in self._transfers.request(now):
            neighbour = self._neighbours[peer]
            neighbour.vain_parts = 0
            size = self._max_item_bytes if transfer.size is None else transfer.size
            neighbour.may_send += size - transfer.received
            neighbour.granted[transfer.id] = size - transfer.received
            while len(neighbour.granted) > MAX_GRANTS:
                del neighbour.granted[next(iter(neighbour.granted))]
            wants.append(Send((peer,), Want(transfer.id, transfer.received)))
        return [*map(Discard, self._transfers.forgotten()), *wants]


def _slot(update: Update) -> tuple[int, PeerId]:
    return update.round, update.author


def _item(update: Update) -> Item:
    return Item(update.id)


def _object_to_bad(neighbour: _Neighbour) -> None:
    if neighbour.num_bad > MAX_BAD_SERVED:
        raise RemoteProtocolError("serves updates that nobody may hold, again and again")


def _spend(neighbour: _Neighbour, num_bytes: int) -> None:
    neighbour.may_send -= num_bytes
    if neighbour.may_send < 0:
        raise RemoteProtocolError("sends more than it was asked for")


def _goes_on_with(transfer: Transfer, chunk: Chunk) -> bool:
    end = chunk.offset + len(chunk.data)
    return transfer.size is not None and chunk.offset <= transfer.received < end <= transfer.size


def _may_go_on_with(transfer: Transfer, part: PackedChunk) -> bool:
    lacks = transfer.received
    is_whole = lacks == transfer.size
    return not is_whole and part.offset <= lacks < part.offset + MAX_CHUNK_BYTES


def _base_item(base: Base) -> Item:
    return Item(base.digest, base)
