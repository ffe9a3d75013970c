"""How many links a peer of a mesh keeps, and which of them it lets go. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from semantic_net.protocol.identity import PeerId

VIEW_PER_LINK = 6
MIN_VIEW = 32

CROWD = 2
"""Times the most links, from which on a peer has become the beginning of many others."""


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

    addresses: tuple[str, ...]
    since: float
    is_chosen: bool
    tell_at: float


Links = Mapping[PeerId, Link]
"""The oldest first."""
OthersOf = Callable[[PeerId], int]
"""How many links a neighbour has beside that with us."""
Rank = Callable[[str], bytes]


def surplus(cfg: MeshConfig, links: Links, others_of: OthersOf, rank: Rank) -> list[PeerId]:
    """Return who goes where there are more links than wanted; it is never anybody's only one."""
    # Of a crowd, whoever has met another is on its way: it was told of more than it needs.
    least = cfg.links - 1 if len(links) <= CROWD * cfg.max_links else 1
    others = {peer: others_of(peer) for peer in links}
    enough = [peer for peer in links if others[peer] >= least]
    return _leaving_order(cfg, links, enough, others, rank)[: len(links) - cfg.max_links]


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
    others = {peer: others_of(peer) for peer, link in links.items() if link.since <= since}
    enough = [peer for peer in others if others[peer] >= cfg.links]
    return _leaving_order(cfg, links, enough, others, rank)[:num_going]


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
