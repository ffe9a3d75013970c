"""Who connects to whom, among peers that all know one list of addresses.

Updates and heartbeats are passed on by whoever has them, so any connected graph will do. Fewer
connections send less and take longer; every peer works out the same graph from the same list.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re

FULL, GIVEN, RING, LINE = "full", "given", "ring", "line"
MESH = "mesh-"
"""How the names of those begin that are no graph over a list: `protocol.mesh` makes them."""
_RANDOM = re.compile(r"random-([0-9]+)")

Link = tuple[int, int]
"""Two places in the list, the lower first."""


def needs_own_place(name: str) -> bool:
    """Tell whether a peer must know its own place in the list."""
    return name not in (FULL, GIVEN) and not name.startswith(MESH)


def links(name: str, num_peers: int, seed: str = "") -> list[Link]:
    """Return the links of a graph over ``num_peers`` peers, sorted; it is connected.

    Args:
        name: ``full``, ``ring``, ``line``, or ``random-k``: a ring in random order, and further
            random links until every peer has k at least.
        num_peers: Length of the list.
        seed: Of what is drawn; the same on all peers.
    """
    if (drawn := _RANDOM.fullmatch(name)) is not None:
        return _random_links(min(int(drawn[1]), num_peers - 1), num_peers, seed)
    places = range(num_peers)
    if name == FULL:
        return list(itertools.combinations(places, 2))
    found = set(itertools.pairwise(places))
    if name == RING and num_peers > 2:
        found.add((0, num_peers - 1))
    return sorted(found)


def _random_links(least: int, num_peers: int, seed: str) -> list[Link]:
    order = _shuffled(range(num_peers), seed)
    found: set[Link] = set()
    degree = [0] * num_peers

    def connect(a: int, b: int) -> None:
        if a != b and _link(a, b) not in found:
            found.add(_link(a, b))
            degree[a] += 1
            degree[b] += 1

    for a, b in itertools.pairwise([*order, *order[:1]]):
        connect(a, b)
    for place in range(num_peers):
        if degree[place] >= least:
            continue
        for other in _shuffled(range(num_peers), f"{seed}/{place}"):
            connect(place, other)
            if degree[place] >= least:
                break
    return sorted(found)


def _shuffled(places: range, seed: str) -> list[int]:
    # By hash: no library's generator, which another version may change.
    return sorted(places, key=lambda place: hashlib.sha256(f"{seed}/{place}".encode()).digest())


def _link(a: int, b: int) -> Link:
    return min(a, b), max(a, b)


def neighbours(name: str, place: int, num_peers: int, seed: str = "") -> list[int]:
    """Return the places of the peers that one connects to."""
    return list(_adjacent(name, num_peers, seed)[place])


@functools.lru_cache(maxsize=8)
def _adjacent(name: str, num_peers: int, seed: str) -> tuple[tuple[int, ...], ...]:
    found: list[list[int]] = [[] for _ in range(num_peers)]
    for a, b in links(name, num_peers, seed):
        found[a].append(b)
        found[b].append(a)
    return tuple(tuple(sorted(others)) for others in found)
