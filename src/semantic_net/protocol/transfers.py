"""What is wanted: who holds each item, of whom it is asked, and how much of it has arrived.

    WAITING --asked of a holder--> UNDER WAY --last byte--> CHECKING --sound--> gone
        ^------- stalled, lost, or absent ----'   `-- corrupt --> WAITING, from the start

An item is asked of one holder at a time, from the byte where the last one broke off: of whoever is
least busy, older rounds first, and last of those who let us wait for it in vain. A connection
serves payloads one after the other, so an item waits for those asked before it and has stalled
only when the whole connection has, or when a later one is served first.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.update import Update, UpdateId

Slot = tuple[int, PeerId | None]
"""Round and author; (0, None) for a base."""

BASE_SLOT: Slot = (0, None)

WINDOW = 32
"""Most items asked of one neighbour at a time; 1 after a stall, until something comes."""

MAX_ORPHANS = 16
"""Most items kept that have begun to arrive, and that nobody here holds any more."""


@dataclass(slots=True, eq=False)
class Transfer:
    """An item that we want."""

    id: UpdateId
    slot: Slot
    size: int | None
    """Known from its header, or for a base from the start."""
    update: Update | None = None
    """The header, once it is here; None for a base."""
    holders: dict[PeerId, int] = field(default_factory=dict)
    """Who holds it, and how often each let us wait for it in vain."""
    received: int = 0
    sources: frozenset[PeerId] = frozenset()
    """Whose bytes have arrived."""
    from_one: bool = False
    """The bytes of several sources did not fit together: take them from one."""
    source: PeerId | None = None
    """Of whom it is asked."""
    asked: int = 0
    """The number of that request."""
    progress_at: float = 0.0
    checking: bool = False


@dataclass(slots=True)
class _Holder:
    """A neighbour, as somebody to ask."""

    queue: list[tuple[int, int, UpdateId]] = field(default_factory=list)
    """A heap of (times in vain, round, id); what is no longer to be asked is skipped later."""
    num_offered: int = 0
    num_asked: int = 0
    num_stalls: int = 0
    """Since something came from it last."""
    progress_at: float = float("-inf")

    def has_room(self) -> bool:
        """Tell whether one more item may be asked of it."""
        return self.num_asked < (1 if self.num_stalls else WINDOW)


class Transfers:
    """The items under way and waiting; it asks, and never decides what is wanted."""

    def __init__(self, stall_s: float) -> None:
        """Take the seconds without progress after which an item is asked of another holder."""
        self._stall_s = stall_s
        self._items: dict[UpdateId, Transfer] = {}
        self._slots: dict[Slot, list[Transfer]] = {}
        self._under_way: dict[UpdateId, Transfer] = {}
        self._orphans: dict[UpdateId, Transfer] = {}  # no holders, but some bytes; oldest first
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
        return len(self._items) - len(self._orphans)

    def get(self, item: UpdateId) -> Transfer | None:
        """Return a wanted item."""
        return self._items.get(item)

    def in_slot(self, slot: Slot) -> list[Transfer]:
        """Return the wanted items of a slot."""
        return self._slots.get(slot, [])[:]

    def num_offered_by(self, peer: PeerId) -> int:
        """Return how many wanted items a neighbour holds."""
        return self._holders[peer].num_offered

    def is_pending(self, slot: Slot, peers: Collection[PeerId]) -> bool:
        """Tell whether an item of the slot is here unchecked, or one of these peers serves it."""
        return any(self._can_come(t, peers) for t in self.in_slot(slot))

    def any_pending(self, peers: Collection[PeerId], before: int, author: PeerId) -> bool:
        """Tell whether something older than a round, or an author's, is pending like that."""
        return any(
            (t.slot[0] < before or t.slot[1] == author) and self._can_come(t, peers)
            for t in self._items.values()
        )

    # Who holds what. What returns ids has forgotten these items: their bytes are of no use.

    def connected(self, peer: PeerId) -> None:
        """Take a neighbour in."""
        self._holders[peer] = _Holder()

    def disconnected(self, peer: PeerId) -> list[UpdateId]:
        """Ask a neighbour for nothing more."""
        held = [t for t in self._items.values() if peer in t.holders]
        forgotten = [item for t in held for item in self.unhold(t, peer)]
        del self._holders[peer]
        return forgotten

    def hold(self, peer: PeerId, item: UpdateId, slot: Slot, size: int | None = None) -> None:
        """Note that a neighbour holds an item that we want."""
        transfer = self._items.get(item)
        if transfer is None:
            transfer = self._items[item] = Transfer(item, slot, size)
            self._slots.setdefault(slot, []).append(transfer)
        if peer in transfer.holders:
            return
        self._orphans.pop(item, None)
        transfer.holders[peer] = 0
        self._holders[peer].num_offered += 1
        if transfer.source is None and not transfer.checking:
            self._enqueue(transfer, (peer,))

    def unhold(self, transfer: Transfer, peer: PeerId) -> list[UpdateId]:
        """Note that a neighbour does not hold an item any more."""
        if transfer.holders.pop(peer, None) is None:
            return []
        self._holders[peer].num_offered -= 1
        if transfer.source == peer:
            self._release(transfer)
        if transfer.holders or transfer.checking:
            return []
        if not transfer.received:
            self.drop(transfer)
            return []
        self._orphans[transfer.id] = transfer
        if len(self._orphans) <= MAX_ORPHANS:
            return []
        oldest = next(iter(self._orphans.values()))
        self.drop(oldest)
        return [oldest.id]

    def drop(self, transfer: Transfer) -> None:
        """Want an item no more: it is here, or of no use."""
        if transfer.source is not None:
            self._take_back(transfer)
        for peer in transfer.holders:
            self._holders[peer].num_offered -= 1
        del self._items[transfer.id]
        self._orphans.pop(transfer.id, None)
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
            peer = min(able, key=lambda p: (able[p].num_stalls, able[p].num_asked))
            transfer = self._next_of(peer)
            if transfer is None:
                del able[peer]
                continue
            self._ask(transfer, peer, now)
            requests.append((peer, transfer))
            if not able[peer].has_room():
                del able[peer]
        return requests

    def header_arrived(self, transfer: Transfer, peer: PeerId, update: Update, now: float) -> None:
        """Note an item's header, from whomever it came: it is signed."""
        transfer.update, transfer.size = update, update.payload_bytes
        if peer == transfer.source:
            self._progress(transfer, peer, now)

    def bytes_arrived(self, transfer: Transfer, num_bytes: int, now: float) -> None:
        """Note that the source has sent the next bytes."""
        peer = transfer.source
        assert peer is not None, "only the source's bytes are taken"
        transfer.received += num_bytes
        transfer.sources |= {peer}
        self._progress(transfer, peer, now)
        for other in list(self._under_way.values()):
            if other.source == peer and other.asked < transfer.asked:
                self._fail(other)  # passed over

    def is_whole(self, transfer: Transfer) -> bool:
        """Tell whether all of an item is here."""
        return transfer.received == transfer.size

    def check(self, transfer: Transfer) -> None:
        """Ask nobody for a whole item while it is looked at."""
        transfer.checking = True
        if transfer.source is not None:
            self._take_back(transfer)

    def restart(self, transfer: Transfer) -> PeerId | None:
        """Fetch a whole item anew that turned out corrupt; return whose fault it was, if known."""
        culprit = next(iter(transfer.sources)) if len(transfer.sources) == 1 else None
        transfer.from_one = transfer.from_one or culprit is None
        transfer.received, transfer.checking = 0, False
        transfer.sources = frozenset()
        if not transfer.holders:
            self.drop(transfer)
        elif culprit in transfer.holders:
            self.unhold(transfer, culprit)
        if transfer.id in self._items:
            self._enqueue(transfer, transfer.holders)
        return culprit if culprit in self._holders else None

    def give_up_stalled(self, now: float) -> None:
        """Take what makes no progress from those it was asked of."""
        stalled = [t for t in self._under_way.values() if now >= self._stalls_at(t)]
        for peer in {t.source for t in stalled if t.source is not None}:
            self._holders[peer].num_stalls += 1
        for transfer in stalled:
            self._fail(transfer)

    def next_stall(self) -> float | None:
        """Return when the next item would count as stalled."""
        return min((self._stalls_at(t) for t in self._under_way.values()), default=None)

    # The inside.

    def _can_come(self, transfer: Transfer, peers: Collection[PeerId]) -> bool:
        """Tell whether to wait for an item: who lets us wait in vain may be lying."""
        serving = (p for p in transfer.holders if p in peers and not self._holders[p].num_stalls)
        return transfer.checking or any(True for _ in serving)

    def _stalls_at(self, transfer: Transfer) -> float:
        assert transfer.source is not None, "it is under way"
        heard_at = self._holders[transfer.source].progress_at
        return max(transfer.progress_at, heard_at) + self._stall_s

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
                return transfer
        return None

    def _ask(self, transfer: Transfer, peer: PeerId, now: float) -> None:
        if transfer.from_one and transfer.sources - {peer}:
            transfer.received = 0
            transfer.sources = frozenset()
        self._num_asked += 1
        transfer.source, transfer.asked, transfer.progress_at = peer, self._num_asked, now
        self._under_way[transfer.id] = transfer
        self._holders[peer].num_asked += 1

    def _progress(self, transfer: Transfer, peer: PeerId, now: float) -> None:
        holder = self._holders[peer]
        holder.num_stalls = 0
        holder.progress_at = transfer.progress_at = self.progress_at = now

    def _fail(self, transfer: Transfer) -> None:
        assert transfer.source is not None, "it is under way"
        transfer.holders[transfer.source] += 1
        self._release(transfer)

    def _release(self, transfer: Transfer) -> None:
        self._take_back(transfer)
        self._enqueue(transfer, transfer.holders)

    def _take_back(self, transfer: Transfer) -> None:
        assert transfer.source is not None, "it is under way"
        self._holders[transfer.source].num_asked -= 1
        transfer.source = None
        del self._under_way[transfer.id]

    def _enqueue(self, transfer: Transfer, peers: Iterable[PeerId]) -> None:
        for peer in peers:
            entry = (transfer.holders[peer], transfer.slot[0], transfer.id)
            heapq.heappush(self._holders[peer].queue, entry)

    def _leave_slot(self, transfer: Transfer) -> None:
        items = self._slots[transfer.slot]
        items.remove(transfer)
        if not items:
            del self._slots[transfer.slot]
