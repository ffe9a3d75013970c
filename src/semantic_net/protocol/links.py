"""How many links a peer of a mesh keeps, and which of them it lets go. Pure.

How many others a neighbour has is what it says, and callers can be made up. So links of a peer's
own choice stay whatever others say, and what a caller says protects a bounded number of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from semantic_net.protocol.identity import PeerId

VIEW_PER_LINK = 6
MIN_VIEW = 32

CROWD = 2
"""Times the most links, from which on a peer has become the beginning of many others."""

GUEST_LIVES = 6.0
"""Livenesses in which whoever calls a peer that has enough such callers has to find others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig:
    """How many neighbours a peer wants, and where it begins."""

    links: int
    """k, at least 2: there are more, up to twice as many."""
    seeds: tuple[str, ...] = ()
    """Addresses that it is told of at the start."""

    @property
    def max_links(self) -> int:
        """Links beyond which neighbours are let go."""
        return 2 * self.links

    @property
    def own_links(self) -> int:
        """Links of one's own choice: whoever calls cannot take their place."""
        return (self.links + 1) // 2

    @property
    def view_size(self) -> int:
        """Most addresses that are remembered."""
        return max(VIEW_PER_LINK * self.links, MIN_VIEW)


@dataclass(slots=True)
class Link:
    """A session that is to last."""

    claimed: tuple[str, ...]
    """Where it says that it can be dialled. Anybody may write anything: others are told."""
    since: float
    tell_at: float
    addresses: tuple[str, ...] = ()
    """Where we have dialled it."""
    chosen_at: float = math.inf
    """When we had: how long it has called us before is its own doing."""

    @property
    def is_chosen(self) -> bool:
        """Whether it is of our own choice."""
        return bool(self.addresses)

    @property
    def known_at(self) -> tuple[str, ...]:
        """Where others may find it: it knows best by what address they can."""
        return (*self.claimed, *self.addresses)


Links = Mapping[PeerId, Link]
"""The oldest first."""
OthersOf = Callable[[PeerId], int]
"""How many links a neighbour has beside that with us."""
Rank = Callable[[str], bytes]


def surplus(
    cfg: MeshConfig, links: Links, since: float, others_of: OthersOf, rank: Rank
) -> list[PeerId]:
    """Return who goes where there are more links than wanted.

    Those with few others stay, as many as there are links wanted, the first that came. Any number
    more are guests, who do not take the places of those who were there before the time of a guest
    began. They were told of others, and have this time to find them. Then the youngest go, whatever
    they claim.

    Args:
        cfg: How many links are wanted.
        links: All of them.
        since: When the time of a guest began that is over now.
        others_of: How many others a neighbour has.
        rank: What stands in for chance.
    """
    # Of a crowd, whoever has met another is on its way: it was told of more than it needs.
    least = cfg.links - 1 if len(links) <= CROWD * cfg.max_links else 1
    others = {peer: others_of(peer) for peer in _replaceable(cfg, links)}
    guests = [peer for peer in others if others[peer] < least][cfg.links :]
    enough = [peer for peer in others if others[peer] >= least]
    too_many = len(links) - cfg.max_links
    going: list[PeerId] = []
    for peer in _leaving_order(cfg, links, enough, others, rank):
        num_guests = len(guests) if links[peer].since <= since else 0
        if len(going) < too_many - num_guests:
            going.append(peer)
    late = [peer for peer in reversed(guests) if links[peer].since <= since]
    return going + late[: max(too_many - len(going), 0)]


def exchanged(
    cfg: MeshConfig, links: Links, swaps: int, since: float, others_of: OthersOf, rank: Rank
) -> list[PeerId]:
    """Return who goes for links that were looked for, and is not missed.

    Args:
        cfg: How many links are wanted.
        links: All of them, at most as many as may be.
        swaps: How many were looked for.
        since: When a link must have been there.
        others_of: How many others a neighbour has.
        rank: What stands in for chance.
    """
    num_going = min(swaps, len(links) - cfg.links - cfg.own_links)
    if num_going <= 0:
        return []
    lasting = [peer for peer in _replaceable(cfg, links) if links[peer].since <= since]
    others = {peer: others_of(peer) for peer in lasting}
    enough = [peer for peer in others if others[peer] >= cfg.links]
    return _leaving_order(cfg, links, enough, others, rank)[:num_going]


def _replaceable(cfg: MeshConfig, links: Links) -> list[PeerId]:
    """Return all but those first chosen, as many as we want of our own choice."""
    chosen = [peer for peer, link in links.items() if link.is_chosen]
    kept = sorted(chosen, key=lambda peer: links[peer].chosen_at)[: cfg.own_links]
    return [peer for peer in links if peer not in kept]


def _leaving_order(
    cfg: MeshConfig, links: Links, peers: list[PeerId], others: Mapping[PeerId, int], rank: Rank
) -> list[PeerId]:
    return sorted(
        peers,
        key=lambda peer: (
            others[peer] < cfg.links,
            links[peer].is_chosen,
            -others[peer],
            rank(peer),
        ),
    )
