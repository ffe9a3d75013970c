"""What is wanted: who holds each item, of whom it is asked, and how much of it has arrived.

    WAITING --asked of a holder--> UNDER WAY --last byte--> CHECKING --sound--> gone
        ^------- stalled, lost, or absent ----'   `-- corrupt --> WAITING, from the start

An item is asked of one holder at a time, from the byte where the last one broke off: of whoever is
least busy, older rounds first, and last of those who let us wait for it in vain. A connection
serves payloads one after the other, so what was asked of a holder forms a *line*: an item waits for
those asked before it, and has stalled only when the whole connection has, or when a later one is
served first. A holder that has nothing to do takes over what has waited for long.

What a neighbour says may be a lie: nothing here takes longer the more it has announced, its claims
are counted against itself alone, and what has begun to arrive takes bounded memory. An update and
a base are different items, whatever their ids.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sized
from dataclasses import dataclass, field
from typing import Any, TypeVar

from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.item import Item
from semantic_net.protocol.update import Update, UpdateId

Slot = tuple[int, PeerId | None]
"""Round and author; (0, None) for a base."""

BASE_SLOT: Slot = (0, None)

T = TypeVar("T")

WINDOW = 32
"""Most items that a neighbour has to serve or we to check; 1 after a stall, until it serves."""

MAX_PARKED = 16
"""Most items that have begun to arrive and are asked of nobody, of which the bytes are kept."""

MAX_PARKED_BYTES = 1 << 26
"""Most bytes that these take together, whole; one that takes more is kept alone."""

PROGRESS_BYTES = 16 * 1024
"""Bytes that count as progress, if an item's end does not come first: no more than the smallest
chunk that an honest peer sends, so that a liar cannot keep us waiting with a byte now and then."""

PATIENCE = 3
"""Times the stall after which an idle holder may take over an item that has not begun to arrive."""


@dataclass(slots=True)
class _Claim:
    """What a holder has said of an item."""

    slot: Slot
    num_vain: int = 0
    """How often it let us wait for the item in vain."""


@dataclass(slots=True, eq=False)
class Transfer:
    """An item that we want."""

    item: Item
    slot: Slot
    size: int | None
    """Known from its header, or for a base from the start."""
    update: Update | None = None
    """The header, once it is here; None for a base."""
    holders: dict[PeerId, _Claim] = field(default_factory=dict)
    received: int = 0
    sources: frozenset[PeerId] = frozenset()
    """Whose bytes have arrived."""
    from_one: bool = False
    """The bytes of several sources did not fit together: take them from one."""
    source: PeerId | None = None
    """Of whom it is asked."""
    asked: int = 0
    """The number of that request."""
    asked_at: float = 0.0
    has_begun: bool = False
    """Bytes have come since."""
    progress_at: float = 0.0
    checking: bool = False
    checked_for: PeerId | None = None
    """Who has sent what is being checked."""

    @property
    def id(self) -> UpdateId:
        """The update's or the base's id."""
        return self.item.id


class _RoundCounts:
    """How many items there are of each round; the lowest round is at hand."""

    def __init__(self) -> None:
        self._counts: defaultdict[int, int] = defaultdict(int)
        self._heap: list[int] = []  # each of them, and some that have gone

    def add(self, number: int) -> None:
        self._counts[number] += 1
        if self._counts[number] == 1:
            heapq.heappush(self._heap, number)
        if _is_mostly_stale(self._heap, len(self._counts)):
            self._heap = sorted(self._counts)

    def remove(self, number: int) -> None:
        _count_down(self._counts, number)

    def lowest(self) -> int | None:
        while self._heap and self._heap[0] not in self._counts:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None


def _counts() -> defaultdict[Any, int]:
    return defaultdict(int)  # a `Counter` does all this in Python


@dataclass(slots=True)
class _Holder:
    """A neighbour, as somebody to ask."""

    queue: list[tuple[int, int, Item]] = field(default_factory=list)
    """A heap of (times in vain, round, item); what is no longer to be asked is skipped later."""
    rounds: _RoundCounts = field(default_factory=_RoundCounts)
    """The rounds of the items that it offers, as it says."""
    authors: defaultdict[PeerId | None, int] = field(default_factory=_counts)
    """Their authors."""
    slots: defaultdict[Slot, int] = field(default_factory=_counts)
    """Both."""
    items: set[Item] = field(default_factory=set)
    """What it offers."""
    line: dict[Item, None] = field(default_factory=dict)
    """What it was asked for and has not served or passed over, in order; wanted still or not."""
    under_way: dict[Item, Transfer] = field(default_factory=dict)
    """What of that is wanted of it."""
    num_checking: int = 0
    """Items that have come from it and are looked at."""
    num_stalls: int = 0
    """Since it made progress last."""
    asked_at: float = float("-inf")
    progress_at: float = float("-inf")
    num_bytes: int = 0
    """Since then."""

    def has_room(self) -> bool:
        """Tell whether one more item may be asked of it."""
        return len(self.line) + self.num_checking < (1 if self.num_stalls else WINDOW)

    def is_idle(self) -> bool:
        """Tell whether it has nothing to do, and would do it."""
        return not (self.line or self.queue or self.num_checking or self.num_stalls)

    def offers(self, item: Item, slot: Slot) -> None:
        """Count an item that it offers."""
        self.items.add(item)
        self.rounds.add(slot[0])
        self.authors[slot[1]] += 1
        self.slots[slot] += 1

    def offers_no_more(self, item: Item, slot: Slot) -> None:
        """Count no longer what was counted."""
        self.items.discard(item)
        self.rounds.remove(slot[0])
        _count_down(self.authors, slot[1])
        _count_down(self.slots, slot)


class Transfers:
    """The items under way and waiting; it asks, and never decides what is wanted."""

    def __init__(
        self,
        stall_s: float,
        progress_bytes: int = PROGRESS_BYTES,
        is_of_use: Callable[[Slot], bool] = lambda slot: True,
    ) -> None:
        """Prepare to want nothing.

        Args:
            stall_s: Seconds without progress after which an item is asked of another holder.
            progress_bytes: What counts as progress.
            is_of_use: Tells, before an item of a slot is asked for, whether it is wanted still.
        """
        self._is_of_use = is_of_use
        self._stall_s = stall_s
        self._progress_bytes = progress_bytes
        self._items: dict[Item, Transfer] = {}
        self._slots: dict[Slot, list[Transfer]] = {}
        self._checking: dict[Item, Transfer] = {}
        self._parked: dict[Item, Transfer] = {}  # some bytes, asked of nobody; oldest first
        self._forgotten: list[Item] = []
        self._holders: dict[PeerId, _Holder] = {}
        self._num_asked = 0
        self.progress_at = float("-inf")
        """When something that was asked for came last."""

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __len__(self) -> int:
        return len(self._items)

    @property
    def num_coming(self) -> int:
        """Number of items without those that nobody here holds any more."""
        return len(self._items) - sum(not t.holders for t in self._parked.values())

    def progress(self) -> tuple[int, int]:
        """Return how many bytes of all that is wanted are here, and of how many that are known."""
        known = [t for t in self._items.values() if t.size is not None]
        return sum(t.received for t in known), sum(t.size or 0 for t in known)

    def get(self, item: Item) -> Transfer | None:
        """Return a wanted item."""
        return self._items.get(item)

    def in_slot(self, slot: Slot) -> list[Transfer]:
        """Return the wanted items of a slot."""
        return self._slots.get(slot, [])[:]

    def before(self, round_index: int) -> list[Transfer]:
        """Return the wanted updates of earlier rounds."""
        return [t for t in self._items.values() if t.item.base is None and t.slot[0] < round_index]

    def num_offered_by(self, peer: PeerId, slot: Slot | None = None) -> int:
        """Return how many wanted items a neighbour says that it holds, of a slot or of all."""
        holder = self._holders[peer]
        return len(holder.items) if slot is None else holder.slots.get(slot, 0)

    def is_pending(self, slot: Slot, peers: Collection[PeerId]) -> bool:
        """Tell whether an item of the slot is here unchecked, or one of these peers serves it."""
        return any(self._can_come(t, peers) for t in self.in_slot(slot))

    def any_pending(self, peers: Collection[PeerId], before: int, author: PeerId) -> bool:
        """Tell whether something older than a round, or an author's, is pending like that."""
        if any(t.slot[0] < before or t.slot[1] == author for t in self._checking.values()):
            return True
        for peer in peers:
            if (holder := self._holders.get(peer)) is not None and not holder.num_stalls:
                lowest = holder.rounds.lowest()
                if (lowest is not None and lowest < before) or author in holder.authors:
                    return True
        return False

    def forgotten(self) -> list[Item]:
        """Return the items whose bytes are of no use any more, since the last call."""
        items, self._forgotten = self._forgotten, []
        return items

    # Who holds what.

    def connected(self, peer: PeerId) -> None:
        """Take a neighbour in."""
        self._holders[peer] = _Holder()

    def disconnected(self, peer: PeerId) -> None:
        """Ask a neighbour for nothing more."""
        for item in list(self._holders[peer].items):
            self.unhold(self._items[item], peer)
        for transfer in self._checking.values():
            if transfer.checked_for == peer:
                transfer.checked_for = None
        del self._holders[peer]

    def hold(self, peer: PeerId, item: Item, slot: Slot, size: int | None = None) -> None:
        """Note that a neighbour says that it holds an item that we want."""
        transfer = self._items.get(item)
        if transfer is None:
            transfer = self._items[item] = Transfer(item, slot, size)
            self._slots.setdefault(slot, []).append(transfer)
        if peer in transfer.holders:
            return
        transfer.holders[peer] = _Claim(slot)
        self._holders[peer].offers(item, slot)
        if transfer.source is None and not transfer.checking:
            self._enqueue(transfer, (peer,))

    def unhold(self, transfer: Transfer, peer: PeerId) -> None:
        """Note that a neighbour does not hold an item any more."""
        claim = transfer.holders.pop(peer, None)
        if claim is None:
            return
        holder = self._holders[peer]
        holder.offers_no_more(transfer.item, claim.slot)
        holder.line.pop(transfer.item, None)
        if transfer.source == peer:
            self._release(transfer)
        if not (transfer.holders or transfer.checking or transfer.received):
            self.drop(transfer)

    def not_served(self, peer: PeerId, item: Item) -> None:
        """Note that a neighbour will not serve what it was asked for, wanted still or not."""
        self._holders[peer].line.pop(item, None)

    def drop(self, transfer: Transfer) -> None:
        """Want an item no more: it is here, or of no use."""
        if transfer.source is not None:
            self._take_back(transfer)
        for peer, claim in transfer.holders.items():
            self._holders[peer].offers_no_more(transfer.item, claim.slot)
        del self._items[transfer.item]
        self._parked.pop(transfer.item, None)
        self._end_check(transfer)
        self._leave_slot(transfer)

    def move(self, transfer: Transfer, slot: Slot) -> None:
        """File an item under its true slot; it was announced under another."""
        self._leave_slot(transfer)
        transfer.slot = slot
        self._slots.setdefault(slot, []).append(transfer)

    # The bytes.

    def request(self, now: float) -> list[tuple[PeerId, Transfer]]:
        """Ask for what can be asked for: return of whom, and what."""
        requests = []
        able = {p: h for p, h in self._holders.items() if h.queue and h.has_room()}
        while able:
            peer = min(able, key=lambda p: (able[p].num_stalls, len(able[p].line)))
            transfer = self._next_of(peer)
            if transfer is None:
                del able[peer]
                continue
            self._ask(transfer, peer, now)
            requests.append((peer, transfer))
            if not able[peer].has_room():
                del able[peer]
        return requests

    def header_arrived(self, transfer: Transfer, update: Update, now: float) -> None:
        """Note an item's header, from its source."""
        assert transfer.source is not None, "only the source's header is taken"
        is_news = transfer.update is None
        transfer.update, transfer.size = update, update.payload_bytes
        if is_news:
            self._progress(transfer.source, now)
            transfer.progress_at = now

    def serves(self, peer: PeerId, item: Item, num_bytes: int, now: float) -> None:
        """Note bytes of something that a neighbour was asked for, whether still wanted or not.

        What was asked of it before has been served by then, or passed over.
        """
        holder = self._holders[peer]
        if item not in holder.line:
            return
        while (first := next(iter(holder.line))) != item:
            del holder.line[first]
            if (passed_over := holder.under_way.get(first)) is not None:
                self._fail(passed_over)
                self._forget(passed_over)
        holder.num_bytes += num_bytes
        if holder.num_bytes >= self._progress_bytes:
            self._progress(peer, now)

    def take_up(self, transfer: Transfer, peer: PeerId, now: float) -> None:
        """Take from a neighbour what it was asked for and sends after all.

        It was given up as stalled, and is served all the same: on a slow link what was asked for
        since then lies behind it, so that passing it over would go on for ever.
        """
        claim = transfer.holders.get(peer)
        if transfer.source is not None or transfer.checking or claim is None or not claim.num_vain:
            return
        if transfer.from_one and transfer.sources - {peer}:
            return
        self._parked.pop(transfer.item, None)
        holder = self._holders[peer]
        holder.line.pop(transfer.item, None)
        holder.line = {transfer.item: None, **holder.line}
        self._ask(transfer, peer, now)

    def bytes_arrived(self, transfer: Transfer, num_bytes: int, now: float) -> None:
        """Note that the source has sent the next bytes; `serves` comes first."""
        peer = transfer.source
        assert peer is not None, "only the source's bytes are taken"
        transfer.received += num_bytes
        transfer.sources |= {peer}
        transfer.has_begun = True
        if self.is_whole(transfer):
            self._progress(peer, now)

    def is_whole(self, transfer: Transfer) -> bool:
        """Tell whether all of an item is here."""
        return transfer.received == transfer.size

    def check(self, transfer: Transfer) -> None:
        """Ask nobody for a whole item while it is looked at."""
        transfer.checking = True
        self._checking[transfer.item] = transfer
        self._parked.pop(transfer.item, None)
        if (peer := transfer.source) is not None:
            self._take_back(transfer)
            self._holders[peer].line.pop(transfer.item, None)
            self._holders[peer].num_checking += 1
            transfer.checked_for = peer

    def restart(self, transfer: Transfer) -> PeerId | None:
        """Fetch a whole item anew that turned out corrupt; return whose fault it was, if known."""
        culprit = next(iter(transfer.sources)) if len(transfer.sources) == 1 else None
        transfer.from_one = transfer.from_one or culprit is None
        self._end_check(transfer)
        self._forget(transfer)
        if culprit in transfer.holders:
            self.unhold(transfer, culprit)
        elif not transfer.holders:
            self.drop(transfer)
        if transfer.item in self._items:
            self._enqueue(transfer, transfer.holders)
        return culprit if culprit in self._holders else None

    def give_up_stalled(self, now: float) -> None:
        """Take what makes no progress from those it was asked of."""
        for holder in self._holders.values():
            if holder.line and now >= self._line_stalls_at(holder):
                holder.line.clear()
            stalled = [t for t in holder.under_way.values() if now >= self._stalls_at(t)]
            holder.num_stalls += bool(stalled)
            for transfer in stalled:
                holder.line.pop(transfer.item, None)
                self._fail(transfer)
        self._relieve(now)

    def next_stall(self) -> float | None:
        """Return when the next item would count as stalled."""
        holders = self._holders.values()
        times = [self._stalls_at(t) for h in holders for t in h.under_way.values()]
        times += [self._line_stalls_at(h) for h in holders if h.line]
        return min(times, default=None)

    # The inside.

    def _can_come(self, transfer: Transfer, peers: Collection[PeerId]) -> bool:
        """Tell whether to wait for an item: who lets us wait in vain may be lying."""
        serving = (p for p in transfer.holders if p in peers and not self._holders[p].num_stalls)
        return transfer.checking or any(True for _ in serving)

    def _stalls_at(self, transfer: Transfer) -> float:
        assert transfer.source is not None, "it is under way"
        heard_at = self._holders[transfer.source].progress_at
        return max(transfer.progress_at, heard_at) + self._stall_s

    def _line_stalls_at(self, holder: _Holder) -> float:
        return max(holder.asked_at, holder.progress_at) + self._stall_s

    def _relieve(self, now: float) -> None:
        """Let each idle holder take over one item that has waited for long behind others.

        The last in a line, since a slow but honest holder will send the others sooner; and one at
        a time, since what was asked of it is sent all the same, and then of no use.
        """
        idle = {peer for peer, holder in self._holders.items() if holder.is_idle()}
        if not idle:
            return
        under_way = [t for holder in self._holders.values() for t in holder.under_way.values()]
        for transfer in sorted(under_way, key=lambda t: t.asked, reverse=True):
            has_waited = now >= transfer.asked_at + PATIENCE * self._stall_s
            takers = idle & transfer.holders.keys()
            if takers and has_waited and not transfer.has_begun:
                idle.discard(min(takers))
                self._fail(transfer)

    def _next_of(self, peer: PeerId) -> Transfer | None:
        queue = self._holders[peer].queue
        while queue:
            transfer = self._items.get(heapq.heappop(queue)[2])
            if (
                transfer is not None
                and transfer.source is None
                and not transfer.checking
                and peer in transfer.holders
            ):
                if self._is_wanted(transfer):
                    return transfer
                self._forget(transfer)
                self.drop(transfer)
        return None

    def _is_wanted(self, transfer: Transfer) -> bool:
        """Tell whether an item is of use; until its header says of which slot, any may be true."""
        if transfer.update is not None:
            return self._is_of_use(transfer.slot)
        return any(self._is_of_use(claim.slot) for claim in transfer.holders.values())

    def _ask(self, transfer: Transfer, peer: PeerId, now: float) -> None:
        if transfer.from_one and transfer.sources - {peer}:
            self._forget(transfer)
        self._parked.pop(transfer.item, None)
        self._num_asked += 1
        transfer.source, transfer.asked, transfer.has_begun = peer, self._num_asked, False
        transfer.asked_at = transfer.progress_at = now
        holder = self._holders[peer]
        holder.asked_at = now
        holder.under_way[transfer.item] = transfer
        if transfer.item != next(iter(holder.line), None):  # what is being sent keeps its place
            holder.line.pop(transfer.item, None)
            holder.line[transfer.item] = None

    def _progress(self, peer: PeerId, now: float) -> None:
        holder = self._holders[peer]
        holder.num_stalls = holder.num_bytes = 0
        holder.progress_at = self.progress_at = now

    def _fail(self, transfer: Transfer) -> None:
        assert transfer.source is not None, "it is under way"
        transfer.holders[transfer.source].num_vain += 1
        self._release(transfer)

    def _release(self, transfer: Transfer) -> None:
        self._take_back(transfer)
        self._enqueue(transfer, transfer.holders)
        if transfer.received:
            self._park(transfer)

    def _take_back(self, transfer: Transfer) -> None:
        assert transfer.source is not None, "it is under way"
        del self._holders[transfer.source].under_way[transfer.item]
        transfer.source = None

    def _park(self, transfer: Transfer) -> None:
        """Keep the bytes of an item that nobody is asked for, if there are not too many such."""
        self._parked[transfer.item] = transfer
        while len(self._parked) > MAX_PARKED or (
            len(self._parked) > 1
            and sum(t.size or 0 for t in self._parked.values()) > MAX_PARKED_BYTES
        ):
            oldest = next(iter(self._parked.values()))
            self._forget(oldest)
            if not oldest.holders:
                self.drop(oldest)

    def _forget(self, transfer: Transfer) -> None:
        """Count nothing that has arrived of an item."""
        if transfer.received:
            self._forgotten.append(transfer.item)
        transfer.received, transfer.sources = 0, frozenset()
        self._parked.pop(transfer.item, None)

    def _end_check(self, transfer: Transfer) -> None:
        if not transfer.checking:
            return
        transfer.checking = False
        del self._checking[transfer.item]
        if transfer.checked_for is not None:
            self._holders[transfer.checked_for].num_checking -= 1
            transfer.checked_for = None

    def _enqueue(self, transfer: Transfer, peers: Iterable[PeerId]) -> None:
        for peer in peers:
            holder = self._holders[peer]
            num_vain = transfer.holders[peer].num_vain
            heapq.heappush(holder.queue, (num_vain, transfer.slot[0], transfer.item))
            if _is_mostly_stale(holder.queue, len(holder.items)):
                holder.queue = sorted({e for e in holder.queue if self._is_queued(peer, e)})

    def _is_queued(self, peer: PeerId, entry: tuple[int, int, Item]) -> bool:
        transfer = self._items.get(entry[2])
        claim = transfer.holders.get(peer) if transfer is not None else None
        return claim is not None and claim.num_vain == entry[0]

    def _leave_slot(self, transfer: Transfer) -> None:
        items = self._slots[transfer.slot]
        items.remove(transfer)
        if not items:
            del self._slots[transfer.slot]


def _count_down(counts: defaultdict[T, int], key: T) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


def _is_mostly_stale(heap: Sized, num_valid: int) -> bool:
    """Tell whether it is time to make a heap anew whose dead entries are skipped lazily."""
    return len(heap) > 2 * num_valid + 64
