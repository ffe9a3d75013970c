"""Addresses as people and hellos write them: ``host:port``, with IPv6 in brackets."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semantic_net.protocol.handshake import Hello

_HOST_AND_PORT = re.compile(r"(?:\[(?P<ip6>[^\[\]]*)\]|(?P<host>[^\[\]:]*)):(?P<port>[0-9]{1,5})")
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")

MAX_LABEL_CHARS = 63
"""Between two dots of a name, and one at least; a resolver raises `UnicodeError` for others."""


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


def seen_address(peername: Sequence[Any]) -> Address:
    """Return where a socket's other end is, as ``getpeername`` says it.

    A link-local address of IPv6 has its scope beside it, without which it leads nowhere.
    """
    host, port = peername[:2]
    if len(peername) == 4 and peername[3] and "%" not in host:
        host = f"{host}%{peername[3]}"
    return Address(host, port)


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
            host = str(ipaddress.IPv6Address(match["ip6"]))
        except ValueError:
            raise ValueError(f"{text!r}: no IPv6 address between the brackets") from None
        return Address(host, port)
    host = match["host"].lower()
    if host and not _is_name(host):
        raise ValueError(f"{text!r}: {host!r} is no host name")
    return Address(host, port)


def _is_name(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    fit = all(1 <= len(label) <= MAX_LABEL_CHARS for label in labels)
    return fit and _NAME.fullmatch(host) is not None


def dialable_addresses(hello: Hello, seen_at: str) -> list[str]:
    """Return where the sender of ``hello`` can be dialled, in its order, without duplicates.

    Args:
        hello: A peer's hello; entries that are no addresses are left out.
        seen_at: The address in `Connected`: stands in for an empty or wildcard host.
    """
    seen_host = parse_address(seen_at).host
    found: dict[str, None] = {}
    for text in hello.addresses:
        try:
            address = parse_address(text)
        except ValueError:
            continue  # a peer may write what it likes; what cannot be dialled is of no use
        if address.is_wildcard:
            address = Address(seen_host, address.port)
        if address.port:
            found[str(address)] = None
    return list(found)
