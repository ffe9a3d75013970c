"""Which transport a peer's configuration asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from semantic_net.config import Config, P2PConfig
from semantic_net.extras import needed_for
from semantic_net.federated.dialled import addresses_to_dial
from semantic_net.protocol.handshake import HelloContent
from semantic_net.protocol.identity import Signer
from semantic_net.transport.ad_hoc import AdHocTransport
from semantic_net.transport.base import Transport
from semantic_net.transport.settings import TransportSettings
from semantic_net.transport.tls import Pins
from semantic_net.transport.zenoh_config import ZenohSettings

if TYPE_CHECKING:
    from semantic_net.transport.zenoh import ZenohTransport

MESH_SESSIONS = 64
"""Of a peer in a mesh, with those that come to ask for others; those that it keeps are fewer."""

CORK_S = 0.02
"""In a large fleet much is told of at about the same time, and goes out together."""


def transport_of(
    config: Config, signer: Signer, hello: HelloContent, pins: Pins | None
) -> Transport:
    """Return the transport of a peer.

    Raises:
        ConfigError: An address is none, or what it needs is not installed.
    """
    p2p, settings = config.p2p, transport_settings(config.p2p)
    over_zenoh = load_zenoh(p2p)
    if over_zenoh is None:
        return AdHocTransport(signer, settings, hello, pins=pins)
    zenoh = ZenohSettings(run=p2p.run, routers=p2p.routers, dials_found=p2p.mesh_links is None)
    return over_zenoh(zenoh, signer, settings, hello, pins=pins)


def transport_settings(p2p: P2PConfig) -> TransportSettings:
    """Return the addresses and limits of a peer.

    Raises:
        ConfigError: An address is none.
    """
    links = p2p.mesh_links
    settings = TransportSettings(
        host=p2p.host,
        port=p2p.port,
        peers=addresses_to_dial(p2p),
        liveness_s=p2p.liveness_s,
        max_rate_bytes_s=None if p2p.max_rate is None else 1000 * p2p.max_rate,
        cork_s=CORK_S if p2p.turn_period > 1 else 0.0,
    )
    if links is None:
        return settings
    # Whom a peer of a mesh dials, and for how long, it decides as it goes.
    seeds = settings.peers
    return replace(settings, peers=(), seeds=seeds, max_sessions=max(MESH_SESSIONS, 4 * links))


def load_zenoh(p2p: P2PConfig) -> type[ZenohTransport] | None:
    """Import the transport over Zenoh; None where it is not asked for.

    Raises:
        ConfigError: What it needs is not installed.
    """
    if p2p.transport != "zenoh":
        return None
    with needed_for("p2p.transport: zenoh", "zenoh"):
        from semantic_net.transport.zenoh import ZenohTransport
    return ZenohTransport
