"""Whom a run dials, of those that its configuration names."""

from __future__ import annotations

from semantic_net.aggregation.topology import needs_own_place, neighbours
from semantic_net.config import P2PConfig
from semantic_net.errors import ConfigError
from semantic_net.protocol.address import Address, parse_address
from semantic_net.transport.ad_hoc import is_own


def addresses_to_dial(p2p: P2PConfig) -> tuple[str, ...]:
    """Return the addresses to dial: of the whole list, or of the neighbours in a graph over it.

    Raises:
        ConfigError: The topology needs this peer's place in the list, and it is not there.
    """
    if not needs_own_place(p2p.topology):
        return p2p.peers
    listening = Address(p2p.host, p2p.port)
    own = [i for i, peer in enumerate(p2p.peers) if is_own(parse_address(peer), listening)]
    if len(own) != 1:
        raise ConfigError(
            f"p2p.topology {p2p.topology}: p2p.peers (--peers) must be the list of all peers, the "
            f"same on each, with this one's own numeric address, port {p2p.port}, once"
        )
    places = neighbours(p2p.topology, own[0], len(p2p.peers), seed=p2p.run)
    return tuple(p2p.peers[place] for place in places)
