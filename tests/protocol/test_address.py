"""Addresses: how they are written, and which of those that others tell of are taken up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.protocol.address import (
    MAX_ADDRESS_CHARS,
    Address,
    is_worth_a_dial,
    means_the_same_to_all,
    parse_address,
)


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("192.168.0.2:5000", "192.168.0.2", 5000, "192.168.0.2:5000"),
        (" Jetson-1.Local:80 ", "jetson-1.local", 80, "jetson-1.local:80"),
        ("[::1]:5000", "::1", 5000, "[::1]:5000"),
        ("[FE80:0::1%eth0]:1", "fe80::1%eth0", 1, "[fe80::1%eth0]:1"),
        (":5000", "", 5000, ":5000"),
        ("_a.b_:0", "_a.b_", 0, "_a.b_:0"),
        (f"{'a' * 63}.b.:1", f"{'a' * 63}.b.", 1, f"{'a' * 63}.b.:1"),
    ],
)
def test_addresses_are_read_and_shown(text: str, host: str, port: int, shown: str) -> None:
    assert parse_address(text) == Address(host, port)
    assert str(parse_address(text)) == shown


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", "host:port", "::1:5000", "[::1]", "[nonsense]:1", "h:65536", "h:123456",
     "-h:1", "a b:1", "h/x:1", "http://h:1", "h:1:2", "h\n:1", "h:-1",
     "a..b:1", "a..:1", ".a:1", ".:1", f"{'a' * 64}:1", f"a.{'b' * 64}.c:1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|port|host name"):
        parse_address(text)


@given(st.lists(st.integers(0, 66), min_size=1, max_size=4))
def test_whatever_is_a_name_a_resolver_takes(label_chars: list[int]) -> None:
    host = ".".join("a" * num_chars for num_chars in label_chars)
    try:
        parse_address(f"{host}:1")
    except ValueError:
        return
    host.encode("idna")  # as `socket.getaddrinfo` does


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(("host", "wildcard"), [("", True), ("0.0.0.0", True), ("::", True),
                                                ("10.0.0.1", False), ("h", False)])  # fmt: skip
def test_wildcards_are_known(host: str, wildcard: bool) -> None:
    assert Address(host, 1).is_wildcard is wildcard


def test_a_number_is_no_name_that_a_resolver_could_take_for_an_address() -> None:
    for text in ("0:22", "2130706433:22", "127.1:22", "0x7f.1:22", "10.0.0.1.:22", "10.0.0.01:1"):
        with pytest.raises(ValueError, match="no host name"):
            parse_address(text)


@pytest.mark.parametrize("scope", ["a\nb", "\x1b", "e" * 16, "\N{GREEK SMALL LETTER PSI}"])
def test_a_scope_that_names_no_interface_is_refused(scope: str) -> None:
    with pytest.raises(ValueError, match="name of no interface"):
        parse_address(f"[fe80::1%{scope}]:1")


@pytest.mark.parametrize(
    "text",
    ["10.0.0.1:5000", "169.254.0.7:5000", "[fd00::1]:5000", "jetson-1.local:80", "127.0.0.1:1",
     "[fe8::1]:1", "[200::1]:1"],
)  # fmt: skip
def test_what_leads_to_one_machine_is_worth_telling(text: str) -> None:
    assert means_the_same_to_all(text)


@pytest.mark.parametrize(
    "text",
    ["[fe80::1]:1", "[febf::1]:1", "[fe80::1%2]:1", "[::1%2]:1",  # on one network
     "[ff02::1]:1", "224.0.0.251:1", "255.255.255.255:1", "240.0.0.1:1",  # at nobody's, or all's
     "0.0.0.0:1", "0.0.0.5:1", "[::]:1", ":1", "10.0.0.1:0", "[64:ff9b::7f00:1]:1",
     "[::ffff:10.0.0.1]:1", " 10.0.0.1:1", "A:1", "[FD00::1]:1", "10.0.0.1:01",  # otherwise written
     f"{'a' * 60}.{'b' * 60}:1", "no address", ""],
)  # fmt: skip
def test_what_does_not_is_told_nobody(text: str) -> None:
    assert not means_the_same_to_all(text)


@given(st.text(max_size=MAX_ADDRESS_CHARS + 10) | st.ip_addresses().map(lambda ip: f"[{ip}]:1"))
def test_what_is_told_is_short_and_written_in_one_way(text: str) -> None:
    if means_the_same_to_all(text):
        assert str(parse_address(text)) == text
        assert len(text.encode()) <= MAX_ADDRESS_CHARS


@pytest.mark.parametrize("text", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1",
                                  "a.localhost.:1"])  # fmt: skip
def test_an_own_address_of_another_machine_is_not_dialled(text: str) -> None:
    assert is_worth_a_dial(text, same_machine=True)
    assert not is_worth_a_dial(text, same_machine=False)
