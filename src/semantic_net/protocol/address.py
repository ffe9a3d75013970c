"""Addresses as people, hellos and lists write them: ``host:port``, with IPv6 in brackets.

Most of those that a peer dials, others have told it, who may write what they like. So there is one
way to write each, and only what leads to one machine, and to the same one for all, is taken up.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from dataclasses import dataclass

MAX_ADDRESS_CHARS = 120
"""Longest address that is passed on; names may have 253 characters, and none that is in use has."""

_HOST_AND_PORT = re.compile(r"(?:\[(?P<ip6>[^\[\]]*)\]|(?P<host>[^\[\]:]*)):(?P<port>[0-9]{1,5})")
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")
_SCOPE = re.compile(r"[A-Za-z0-9._-]{1,15}")  # an interface's name or number
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

MAX_LABEL_CHARS = 63
"""Between two dots of a name, and one at least; a resolver raises `UnicodeError` for others."""

KNOWN = 8192
"""Addresses of which it is remembered whether they are worth telling."""

_NOBODY = (
    ipaddress.IPv4Network("0.0.0.0/8"),
    ipaddress.IPv4Network("240.0.0.0/4"),
    # Where others put IPv4 addresses. Of the rest that the IETF reserves, 200::/7 is in use:
    # by Yggdrasil, a network of the kind that we are for.
    ipaddress.IPv6Network("::/8"),
)

_OWN_IPV6 = ipaddress.IPv6Address("::1")

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Address:
    """A host (IPv4, IPv6 without brackets, or a name) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_wildcard(self) -> bool:
        """Whether the host stands for every address of a machine."""
        return self.host in ("", "0.0.0.0", "::")  # nosec B104  # compared, not bound

    @property
    def ip(self) -> IPAddress | None:
        """The host as an IP address; None where it is a name, or empty."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def is_loopback(self) -> bool:
        """Whether it leads whoever dials it to itself."""
        if (ip := self.ip) is not None:
            return ip.is_loopback
        return self.host.removesuffix(".").rpartition(".")[2] == "localhost"


def parse_address(text: str) -> Address:
    """Read ``host:port`` or ``[IPv6]:port``; the host may be empty.

    Raises:
        ValueError: It is neither.
    """
    match = _HOST_AND_PORT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not an address like host:port or [IPv6]:port")
    port = int(match["port"])
    if port > 65535:
        raise ValueError(f"{text!r}: the port is over 65535")
    if match["ip6"] is not None:
        try:
            ip = ipaddress.IPv6Address(match["ip6"])
        except ValueError:
            raise ValueError(f"{text!r}: no IPv6 address between the brackets") from None
        if ip.scope_id is not None and not _SCOPE.fullmatch(ip.scope_id):
            raise ValueError(f"{text!r}: {ip.scope_id!r} is the name of no interface")
        return Address(str(ip), port)
    host = match["host"].lower()
    if host and not _is_name(host):
        raise ValueError(f"{text!r}: {host!r} is no host name")
    return Address(host, port)


def _is_name(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):  # a resolver takes 1, 0x7f.1 and 2130706433 for IPv4
        try:
            return str(ipaddress.IPv4Address(host)) == host
        except ValueError:
            return False
    fit = all(1 <= len(label) <= MAX_LABEL_CHARS for label in labels)
    return fit and _NAME.fullmatch(host) is not None


def leads_to_one_machine(ip: IPAddress) -> bool:
    """Tell whether there may be one machine at an IP address: not all of them, or none."""
    if ip == _OWN_IPV6:
        return True
    return not (ip.is_multicast or any(ip in network for network in _NOBODY))


@functools.lru_cache(KNOWN)
def means_the_same_to_all(text: str) -> bool:
    """Tell whether an address is worth telling others, and worth a dial if others tell of it.

    IPv6 link-local ones are not: they lead somewhere on one network alone, and each machine counts
    its networks by itself. Neither is what is written otherwise than we would, so that nobody has
    two names for one address, or longer ones than fit.
    """
    try:
        address = parse_address(text)
    except ValueError:
        return False
    if str(address) != text or len(text) > MAX_ADDRESS_CHARS or not address.port:
        return False
    ip = address.ip
    if ip is None:
        return bool(address.host)
    if isinstance(ip, ipaddress.IPv6Address) and (ip.scope_id is not None or ip.is_link_local):
        return False
    return leads_to_one_machine(ip)


def is_worth_a_dial(text: str, *, same_machine: bool) -> bool:
    """Tell whether to dial an address that a neighbour tells of, or says that it is at.

    Args:
        text: The address.
        same_machine: The neighbour is on this machine. From any other an address of the loopback
            interface would lead to whatever else listens here.
    """
    return means_the_same_to_all(text) and (same_machine or not parse_address(text).is_loopback)
