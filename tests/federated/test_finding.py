"""What p2p.discovery makes of a configuration."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from protocol_support import signer

from semantic_net.config import Config, P2PConfig
from semantic_net.errors import ConfigError
from semantic_net.federated.finding import discovery_of
from semantic_net.federated.security import (
    known_addresses,
    security_mode,
    with_known_addresses,
)
from semantic_net.transport.device import DeviceIdentity
from semantic_net.transport.discovery import Discovery
from semantic_net.transport.trust import Device

ME = signer("me").peer_id
MDNS = P2PConfig(discovery="mdns")


@pytest.mark.parametrize("package", ["zeroconf", "ifaddr"])
def test_without_the_extra_the_error_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.delitem(sys.modules, "semantic_net.transport.discovery")
    monkeypatch.setitem(sys.modules, package, None)  # how an import fails
    assert discovery_of(P2PConfig(), ME) is None, "which needs none"
    with pytest.raises(ConfigError) as failed:
        discovery_of(MDNS, ME)
    assert str(failed.value) == (
        "p2p.discovery: mdns needs the extra mdns: pip install 'semantic-net[mdns]'"
    )


def test_another_module_that_is_missing_is_a_bug_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "semantic_net.transport.discovery")
    monkeypatch.setitem(sys.modules, "semantic_net.transport.announcement", None)
    with pytest.raises(ModuleNotFoundError):
        discovery_of(MDNS, ME)


def test_with_the_extra_there_is_a_discovery() -> None:
    assert isinstance(discovery_of(MDNS, ME), Discovery)


@pytest.mark.parametrize("topology", ["ring", "line", "random-3"])
def test_a_graph_over_the_list_needs_the_list(topology: str) -> None:
    with pytest.raises(ConfigError, match=r"^p2p\.topology must be full, given or mesh-k with"):
        P2PConfig(discovery="mdns", topology=topology)


@pytest.mark.parametrize("topology", ["full", "given", "mesh-2", "mesh-99"])
def test_whoever_needs_no_list_may_look_for_peers(topology: str) -> None:
    assert P2PConfig(discovery="mdns", topology=topology).finds_peers


def test_a_strange_discovery_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^p2p\.discovery must be one of mdns, static"):
        P2PConfig(discovery="bonjour")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "mode"),
    [("0.0.0.0", "pinned"), ("192.168.0.2", "pinned"), ("127.0.0.1", "open"), ("::1", "open")],
)
def test_whoever_may_be_found_from_outside_this_machine_is_pinned(host: str, mode: str) -> None:
    assert security_mode(Config(p2p=P2PConfig(discovery="mdns", host=host))) == mode


def test_with_discovery_nobody_waits_where_an_invite_said_that_a_device_is(tmp_path: Path) -> None:
    mine, theirs = DeviceIdentity(tmp_path / "mine"), DeviceIdentity(tmp_path / "theirs")
    addresses = ("192.168.0.2:5000", "10.0.0.2:5000")
    mine.trust_file.pair(Device.checked(theirs.certificate, addresses, "theirs"))
    assert with_known_addresses(Config(), mine).p2p.peers == ("192.168.0.2:5000",)
    assert with_known_addresses(Config(p2p=MDNS), mine).p2p.peers == ()
    assert known_addresses(mine) == ("192.168.0.2:5000",), "they are dialled all the same"
    assert known_addresses(None) == ()
