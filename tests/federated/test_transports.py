"""What p2p.transport makes of a configuration."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from federated_support import FACTS
from protocol_support import signer

from semantic_net.config import Config, P2PConfig
from semantic_net.errors import ConfigError
from semantic_net.federated.security import OPEN, PINNED, security_mode
from semantic_net.federated.transports import load_zenoh, transport_of, transport_settings
from semantic_net.protocol.handshake import HelloContent
from semantic_net.transport.ad_hoc import AdHocTransport

HELLO = HelloContent(FACTS, 1, "test")
ZENOH = P2PConfig(transport="zenoh", routers=("127.0.0.1:7447",))


def test_each_transport_has_its_class() -> None:
    assert isinstance(transport_of(Config(), signer("me"), HELLO, None), AdHocTransport)
    pytest.importorskip("zenoh")
    made = transport_of(Config(p2p=ZENOH), signer("me"), HELLO, None)
    assert type(made).__name__ == "ZenohTransport"


def test_a_mesh_decides_itself_whom_it_dials_and_takes_many_for_a_while() -> None:
    given = P2PConfig(peers=("10.0.0.1:5000",))
    assert transport_settings(given).peers == given.peers
    for name, most in (("mesh-4", 64), ("mesh-20", 80)):
        settings = transport_settings(replace(given, topology=name))
        assert (settings.peers, settings.max_sessions) == ((), most)
        assert settings.seeds == given.peers, "though they wait for no learned ones"


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("semantic_net.transport.zenoh")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "zenoh", None)  # how an import fails
    assert load_zenoh(P2PConfig()) is None, "which needs none"
    with pytest.raises(ConfigError) as failed:
        load_zenoh(ZENOH)
    assert str(failed.value) == (
        "p2p.transport: zenoh needs the extra zenoh: pip install 'semantic-net[zenoh]'"
    )


def test_the_routers_say_whether_anything_leaves_this_machine() -> None:
    assert security_mode(Config(p2p=ZENOH)) == OPEN
    far = replace(ZENOH, routers=("127.0.0.1:7447", "10.0.0.1:7447"))
    assert security_mode(Config(p2p=far)) == PINNED
    assert security_mode(Config(p2p=replace(ZENOH, routers=()))) == PINNED, "it listens"
