"""What is announced, and what is made of announcements, whoever wrote them."""

from __future__ import annotations

import contextlib
import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from protocol_support import signer

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.address import parse_address
from semantic_net.protocol.frames import VERSION
from semantic_net.transport.announcement import (
    MAX_ADDRESSES,
    Announcement,
    IPInterface,
    addresses_to_announce,
    addresses_to_dial,
    read_announcement,
    run_tag,
)

ALICE = Announcement(signer("alice").peer_id, run_tag("field"))

OWN = tuple(
    map(
        ipaddress.ip_interface,
        (
            *("127.0.0.1/8", "::1/128"),
            *("192.168.0.7/24", "fe80::7/64", "2001:db8::7/64"),
            "172.17.0.1/16",  # Docker's bridge, which has this address on every machine
        ),
    )
)


def wire_of(announcement: Announcement) -> dict[bytes, bytes | None]:
    return {key.encode(): value.encode() for key, value in announcement.text().items()}


def test_an_announcement_comes_back_as_it_was() -> None:
    assert read_announcement(wire_of(ALICE)) == ALICE
    assert ALICE.version == VERSION


def test_the_runs_name_is_not_announced() -> None:
    run = "rescue-of-smith-family"
    me = Announcement(signer("alice").peer_id, run_tag(run))
    assert run not in f"{me.text()} {me.instance} {me.host}"
    assert run_tag(run) != run_tag(run + "s")


@pytest.mark.parametrize("key", [b"wire", b"run", b"peer"])
@pytest.mark.parametrize(
    "value", [None, b"", b"x" * 31, b"\xff" * 32, b"A" * 32, b"-1", b"\xd9\xa1", b"1" * 6, b"1\n"]
)
def test_an_announcement_with_a_strange_value_is_refused(key: bytes, value: bytes | None) -> None:
    with pytest.raises(RemoteProtocolError, match=f"without a valid '{key.decode()}'"):
        read_announcement(wire_of(ALICE) | {key: value})


@given(st.dictionaries(st.binary(max_size=8), st.none() | st.binary(max_size=40)))
def test_noise_raises_only_the_documented_error(text: dict[bytes, bytes | None]) -> None:
    with contextlib.suppress(RemoteProtocolError):
        read_announcement(wire_of(ALICE) | text)


@pytest.mark.parametrize(
    ("announced", "dialled"),
    [
        (["192.168.0.9"], ["192.168.0.9:5000"]),
        (["fe80::9%3", "192.168.0.9"], ["192.168.0.9:5000", "[fe80::9%3]:5000"]),
        (["fe80::9"], []),  # on which interface nobody can tell
        (["2001:db8::9"], ["[2001:db8::9]:5000"]),
        (["10.9.9.9", "192.168.0.9"], ["192.168.0.9:5000"]),  # nearer than a foreign network
        (["10.9.9.9"], ["10.9.9.9:5000"]),  # unless it has no other
        (["172.17.0.1", "192.168.0.9"], ["192.168.0.9:5000"]),  # another machine's bridge
        (["172.17.0.1", "192.168.0.7"], ["172.17.0.1:5000", "192.168.0.7:5000"]),  # this machine
        (["127.0.0.1", "::1", "::ffff:127.0.0.1"], []),
        (["0.0.0.0", "::", "224.0.0.251", "ff02::fb"], []),
        (["255.255.255.255", "0.0.0.5", "240.0.0.1", "192.168.0.255", "64:ff9b::7f00:1"], []),
        (["::ffff:192.168.0.9"], ["192.168.0.9:5000"]),
        (["192.168.0.9", "192.168.0.9"], ["192.168.0.9:5000"]),
        (["", "example.org", "192.168.0.9:22", "1.2.3.4/24", "fe80::9%"], []),
        (
            [f"192.168.0.{n}" for n in range(20, 40)],
            [f"192.168.0.{n}:5000" for n in range(20, 20 + MAX_ADDRESSES)],
        ),
    ],
)
def test_what_is_dialled_of_what_is_announced(announced: list[str], dialled: list[str]) -> None:
    assert list(addresses_to_dial(announced, 5000, OWN, is_local=False)) == dialled


def test_a_peer_on_loopback_dials_nothing_else() -> None:
    announced = ["192.168.0.9", "127.0.0.1", "::1", "fe80::9%3"]
    dialled = addresses_to_dial(announced, 5000, OWN, is_local=True)
    assert dialled == ("127.0.0.1:5000", "[::1]:5000")


@pytest.mark.parametrize("port", [None, 0, -1, 65536])
def test_without_a_port_nothing_is_dialled(port: int | None) -> None:
    assert addresses_to_dial(["192.168.0.9"], port, OWN, is_local=False) == ()


addresses = st.ip_addresses().map(str) | st.text(max_size=20)
interfaces = st.ip_addresses().map(lambda ip: ipaddress.ip_interface(ip))


@given(
    st.lists(addresses | addresses.map(lambda a: f"{a}%2"), max_size=8),
    st.none() | st.integers(-1, 70000),
    st.lists(interfaces, max_size=4),
    st.booleans(),
)
@example(["::ffff:127.0.0.1"], 5000, [], False)
def test_whatever_is_announced_only_addresses_that_can_be_dialled_come_of_it(
    announced: list[str], port: int | None, own: list[IPInterface], is_local: bool
) -> None:
    dialled = addresses_to_dial(announced, port, own, is_local=is_local)
    assert len(dialled) <= MAX_ADDRESSES
    for text in dialled:
        address = parse_address(text)
        assert str(address) == text
        assert address.port == port
        assert not address.is_wildcard
        assert ipaddress.ip_address(address.host).is_loopback == is_local


@pytest.mark.parametrize(
    ("host", "announced"),
    [
        ("0.0.0.0", ["192.168.0.7", "172.17.0.1"]),
        ("", ["192.168.0.7", "172.17.0.1"]),
        ("::", ["192.168.0.7", "fe80::7", "2001:db8::7", "172.17.0.1"]),
        ("192.168.0.7", ["192.168.0.7"]),
        ("127.0.0.1", ["127.0.0.1"]),
        ("fe80::7%eth0", ["fe80::7"]),
    ],
)
def test_where_a_peer_says_that_it_is(host: str, announced: list[str]) -> None:
    assert list(map(str, addresses_to_announce(host, OWN))) == announced
