"""What a peer announces on its network, and which addresses others' announcements give.

Pure. Anyone on the network can announce anything, so nothing here is believed: an address is worth
a dial, and who answers there is proven by its key.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.address import Address, IPAddress, leads_to_one_machine
from semantic_net.protocol.frames import VERSION
from semantic_net.protocol.identity import PEER_ID_CHARS, PeerId, short_id, signed_bytes

SERVICE = "_semantic-net._tcp.local."

MAX_ADDRESSES = 4
"""Most addresses of one peer that are dialled: a device has few networks in common with us."""

IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_TAG_CHARS = 32
_PEER = re.compile(rf"[a-z2-7]{{{PEER_ID_CHARS}}}")
_TAG = re.compile(rf"[0-9a-f]{{{_TAG_CHARS}}}")
_VERSION = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Announcement:
    """Who is there, as the text of a service says it."""

    peer: PeerId
    run: str
    """See `run_tag`."""
    version: int = VERSION
    """Of the wire."""

    @property
    def instance(self) -> str:
        """Its name among those of the service."""
        return f"{short_id(self.peer)}.{SERVICE}"

    @property
    def host(self) -> str:
        """A host name that is nobody else's, and tells nothing of the device."""
        return f"{self.peer}.local."

    def text(self) -> dict[str, str]:
        """Return the keys and values of the service's TXT record."""
        return {"wire": str(self.version), "run": self.run, "peer": self.peer}


def run_tag(run: str) -> str:
    """Return what is announced for a run's name.

    Not the name: announcements go to everyone on the network unasked, and it may tell what is
    learned, where and for whom; peers only need to see whether theirs is the same. Who can guess
    the name finds that out as well. It is no secret, and opens nothing.
    """
    return hashlib.sha256(signed_bytes(b"announced run 1", run.encode())).hexdigest()[:_TAG_CHARS]


def read_announcement(text: Mapping[bytes, bytes | None]) -> Announcement:
    """Read a TXT record.

    Raises:
        RemoteProtocolError: A key is missing, or no such value.
    """
    return Announcement(
        PeerId(_value(text, "peer", _PEER)),
        _value(text, "run", _TAG),
        int(_value(text, "wire", _VERSION)),
    )


def _value(text: Mapping[bytes, bytes | None], key: str, allowed: re.Pattern[str]) -> str:
    value = (text.get(key.encode()) or b"").decode("ascii", "replace")
    if allowed.fullmatch(value) is None:
        raise RemoteProtocolError(f"an announcement without a valid {key!r}")
    return value


def addresses_to_announce(host: str, own: Iterable[IPInterface]) -> tuple[IPAddress, ...]:
    """Return where a peer can be dialled that listens on a numeric host, or on a wildcard.

    Args:
        host: Where it listens.
        own: The interfaces of this machine.
    """
    if not Address(host, 0).is_wildcard:
        return (_without_scope(ipaddress.ip_address(host)),)
    versions = (4, 6) if host == "::" else (4,)
    ips = (interface.ip for interface in own if interface.version in versions)
    return tuple(dict.fromkeys(ip for ip in ips if not ip.is_loopback))


def addresses_to_dial(
    announced: Iterable[str], port: int | None, own: Collection[IPInterface], *, is_local: bool
) -> tuple[str, ...]:
    """Return what is worth a dial, IPv4 first.

    Args:
        announced: Addresses, those of IPv6 with ``%scope`` where that is known.
        port: To dial there.
        own: The interfaces of this machine.
        is_local: This peer listens on loopback. Then it dials nothing else, since nothing of it is
            to leave this machine; and otherwise no loopback, where programs of this machine listen
            that nobody else is to have dialled.
    """
    if port is None or not 0 < port <= 65535:
        return ()
    usable = (ip for ip in map(_usable, announced) if ip is not None)
    ips = [ip for ip in dict.fromkeys(usable) if ip.is_loopback == is_local]
    if not is_local:
        # One of ours beside others is of another machine's bridge, numbered like ours (Docker's).
        ours = {interface.ip for interface in own}
        ips = [ip for ip in ips if _without_scope(ip) not in ours] or ips
        # A network of two has no address of all.
        networks = [each.network for each in own if each.version == 4]
        all_of_one = {each.broadcast_address for each in networks if each.prefixlen < 31}
        ips = [ip for ip in ips if ip not in all_of_one]
        # The others are of networks that we are not on; unless none is, and a router knows better.
        ips = [ip for ip in ips if any(ip in interface.network for interface in own)] or ips
    ips.sort(key=lambda ip: ip.version)
    return tuple(str(Address(str(ip), port)) for ip in ips[:MAX_ADDRESSES])


def _usable(text: str) -> IPAddress | None:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip.is_link_local and ip.scope_id is None:
            return None  # on which of our networks?
    return ip if leads_to_one_machine(ip) else None


def _without_scope(ip: IPAddress) -> IPAddress:
    return ip if isinstance(ip, ipaddress.IPv4Address) else ipaddress.IPv6Address(int(ip))
