"""What p2p.transport and p2p.routers may say."""

from __future__ import annotations

from typing import Any

import pytest

from semantic_net.config import P2PConfig
from semantic_net.errors import ConfigError

ROUTERS = ("10.0.0.1:7447",)


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("p2p.transport", {"transport": "carrier_pigeon"}),
        ("p2p.routers", {"routers": ROUTERS}),
        ("p2p.peers", {"transport": "zenoh", "routers": ROUTERS, "peers": ("10.0.0.2:5000",)}),
        ("p2p.discovery", {"transport": "zenoh", "routers": ROUTERS, "discovery": "mdns"}),
        ("p2p.topology", {"transport": "zenoh", "routers": ROUTERS, "topology": "ring"}),
        ("p2p.port", {"transport": "zenoh", "port": 0}),
    ],
)
def test_what_makes_no_sense_is_told_by_its_key(key: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} must be "):
        P2PConfig(**settings)


def test_a_mesh_may_be_over_zenoh() -> None:
    assert P2PConfig(transport="zenoh", topology="mesh-4").mesh_links == 4
    assert P2PConfig(topology="random-4").mesh_links is None


@pytest.mark.parametrize("topology", ["mesh", "mesh-", "mesh-0", "mesh-1", "mesh-100", "mesh-04"])
def test_a_mesh_has_from_2_to_99_links(topology: str) -> None:
    with pytest.raises(ConfigError, match=r"^p2p\.topology must be full, .* mesh-k with k in \[2,"):
        P2PConfig(topology=topology)


def test_peers_may_turn_up_over_zenoh() -> None:
    assert not P2PConfig().finds_peers
    assert P2PConfig(discovery="mdns").finds_peers
    assert P2PConfig(transport="zenoh", routers=ROUTERS).finds_peers
    assert P2PConfig(transport="zenoh").finds_peers, "it listens for others"
