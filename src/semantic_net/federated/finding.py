"""How the peers of a run find each other, beyond the addresses that they are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from semantic_net.config import P2PConfig
from semantic_net.extras import needed_for
from semantic_net.protocol.identity import PeerId

if TYPE_CHECKING:
    from semantic_net.transport.discovery import Discovery


def discovery_of(p2p: P2PConfig, peer: PeerId) -> Discovery | None:
    """Return what finds the others of a run for a peer; None where nothing does.

    Raises:
        ConfigError: What it needs is not installed.
    """
    found = load_discovery(p2p)
    return None if found is None else found(p2p.run, peer)


def load_discovery(p2p: P2PConfig) -> type[Discovery] | None:
    """Import what finds the others of a run; None where nothing does.

    Raises:
        ConfigError: What it needs is not installed.
    """
    if p2p.discovery == "static":
        return None
    with needed_for("p2p.discovery: mdns", "mdns"):
        from semantic_net.transport.discovery import Discovery
    return Discovery
