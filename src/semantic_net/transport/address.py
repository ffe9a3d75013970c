"""Where connections lead, and where those at their other ends can be dialled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from semantic_net.protocol.address import Address, is_worth_a_dial, parse_address
from semantic_net.protocol.handshake import Hello


def seen_address(peername: Sequence[Any]) -> Address:
    """Return where a socket's other end is, as ``getpeername`` says it.

    A link-local address of IPv6 has its scope beside it, without which it leads nowhere.
    """
    host, port = peername[:2]
    if len(peername) == 4 and peername[3] and "%" not in host:
        host = f"{host}%{peername[3]}"
    return Address(host, port)


def dialable_addresses(hello: Hello, seen_at: str) -> list[str]:
    """Return where the sender of ``hello`` can be dialled, in its order, without duplicates.

    Args:
        hello: A peer's hello; entries that are no addresses, or lead somewhere else for us than
            for the sender, are left out.
        seen_at: The address in `Connected`: stands in for an empty or wildcard host.
    """
    seen = parse_address(seen_at)
    found: dict[str, None] = {}
    for text in hello.addresses:
        try:
            address = parse_address(text)
        except ValueError:
            continue  # a peer may write what it likes; what cannot be dialled is of no use
        if address.is_wildcard:
            address = Address(seen.host, address.port)
        elif not is_worth_a_dial(str(address), same_machine=seen.is_loopback):
            continue
        if address.port:
            found[str(address)] = None
    return list(found)
