"""Addresses that one peer has been told of: a bounded sample of a fleet that may be any size.

Who tells of an address pays for its place: at most a share of the view is one neighbour's word,
and what it tells beyond that takes the place of what it told before. So nobody, however much it
says, fills a view with addresses of its own. Each address has an age, the seconds since somebody
had a session there, which grows on its way from peer to peer; the old are forgotten, so that those
of the dead do not go round for ever (Voulgaris et al. 2005, "CYCLON").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from semantic_net.protocol.identity import PeerId

TELLERS = 4
"""Neighbours that it takes to fill a view."""


@dataclass(frozen=True, slots=True)
class _Entry:
    told_by: PeerId | None
    """None: not a peer, but what finds peers on a network."""
    alive_at: float
    """When somebody had a session there, by what was said."""


class View:
    """Addresses, and who told of each."""

    def __init__(self, size: int, max_age_s: float) -> None:
        """Take the most addresses to remember, and for how long."""
        self._size = size
        self._share = max(size // TELLERS, 1)
        self._max_age_s = max_age_s
        self._entries: dict[str, _Entry] = {}  # the first told first

    def __contains__(self, address: object) -> bool:
        return address in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the addresses."""
        return iter(self._entries)

    def num_told_by(self, teller: PeerId | None) -> int:
        """Return how many places a teller has."""
        return sum(entry.told_by == teller for entry in self._entries.values())

    def add(self, address: str, teller: PeerId | None, age_s: float, now: float) -> None:
        """Take in what a neighbour has told; whoever told of an address first keeps its place."""
        if age_s >= self._max_age_s:
            return
        alive_at = now - max(age_s, 0)
        before = self._entries.get(address)
        if before is not None:
            self._entries[address] = _Entry(before.told_by, max(alive_at, before.alive_at))
            return
        if self.num_told_by(teller) >= self._share:
            self._drop_of(teller)
        elif len(self._entries) >= self._size:
            self._drop_of(self._largest())
        self._entries[address] = _Entry(teller, alive_at)

    def drop(self, address: str) -> None:
        """Forget an address: nobody is there, or we have a session with who is."""
        self._entries.pop(address, None)

    def settle(self, now: float) -> None:
        """Forget what is too old."""
        for address, entry in list(self._entries.items()):
            if now >= entry.alive_at + self._max_age_s:
                del self._entries[address]

    def age_s(self, address: str, now: float) -> float:
        """Return the seconds since somebody had a session at an address of the view."""
        return now - self._entries[address].alive_at

    def sample(self, size: int, rank: Callable[[str], bytes]) -> list[str]:
        """Return the addresses of the lowest ranks."""
        return sorted(self._entries, key=rank)[:size]

    def _largest(self) -> PeerId | None:
        counts: dict[PeerId | None, int] = {}
        for entry in self._entries.values():
            counts[entry.told_by] = counts.get(entry.told_by, 0) + 1
        return max(counts, key=lambda teller: counts[teller])

    def _drop_of(self, teller: PeerId | None) -> None:
        """Forget what a teller has told first of all that is left."""
        first = next(a for a, entry in self._entries.items() if entry.told_by == teller)
        del self._entries[first]
