"""What a Zenoh session is told: whom to connect to, what to wait for, and whom to trust.

Zenoh finds nobody by itself here, neither by multicast nor by gossip, and shares no memory. A link
is given up late: what is under way on it is lost with it, and streams would have to notice.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from semantic_net.errors import StartError
from semantic_net.protocol.identity import PeerId, peer_id_of
from semantic_net.transport.certificate import make_link_certificate
from semantic_net.transport.trust import Trust

LEASE_S = 30.0
"""Seconds of silence after which a link counts as gone. TCP itself may need half as long again to
notice that an outage is over: it doubles its waits."""

BLOCK_S = 60.0
"""Seconds that a full queue may wait before Zenoh closes the link; its default, 5, is what loses
messages in a longer outage."""

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""More than a segment has; Zenoh would put together up to 1 GiB."""

RETRY_S = (0.5, 4.0)
"""Seconds between two tries to connect again to a router, at first and at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZenohSettings:
    """Which run, and by which routers its peers reach each other."""

    run: str
    """Name of the run."""
    routers: tuple[str, ...] = ()
    """``host:port`` of routers, of which one at a time is used. Empty: this peer is one itself, and
    listens for others."""
    dials_found: bool = True
    """Dial whoever of the run is there; else each is reported, as `Found`."""


class LinkIdentity:
    """This device, and those that it lets in, as Zenoh's TLS wants them.

    To trust a certificate means there: to trust its key for that name. So each pinned one is an
    anchor, and our own as well, for a router and a peer on one device.
    """

    def __init__(self, key: Path) -> None:
        """Read our private key, in PEM.

        Raises:
            StartError: It cannot be read.
        """
        try:
            self._key_pem = key.read_bytes()
            private_key = load_pem_private_key(self._key_pem, password=None)
        except (OSError, ValueError) as exc:
            raise StartError(f"the key {key} cannot be read: {exc}") from exc
        if not isinstance(private_key, Ed25519PrivateKey):
            raise StartError(f"the key {key} is none of a device: not ed25519")
        public_key = private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._own = peer_id_of(public_key)
        self._certificate = make_link_certificate(private_key)

    def trusted(self, trust: Trust) -> frozenset[PeerId]:
        """Return who may be at the other end of a link."""
        return frozenset((*trust.trusted, self._own))

    def section(self, trust: Trust) -> dict[str, Any]:
        """Return Zenoh's ``transport/link/tls``."""
        anchors = [device.certificate for device in trust.trusted.values()]
        section: dict[str, Any] = {
            "root_ca_certificate_base64": _base64(
                b"".join(map(_pem, (*anchors, self._certificate)))
            ),
            "enable_mtls": True,
            "verify_name_on_connect": False,  # a device has no fixed name
            "close_link_on_expiration": False,  # it may have no clock
        }
        for side in ("listen", "connect"):
            section[f"{side}_private_key_base64"] = _base64(self._key_pem)
            section[f"{side}_certificate_base64"] = _base64(_pem(self._certificate))
        return section


def zenoh_config(
    *,
    connect: Sequence[str] = (),
    listen: Sequence[str] = (),
    tls: Mapping[str, Any] | None = None,
) -> str:
    """Return a session's configuration as JSON.

    Args:
        connect: ``host:port`` of routers.
        listen: ``host:port`` to listen on; who does is a router itself.
        tls: See `LinkIdentity.section`; None for plain TCP.
    """
    protocol = "tcp" if tls is None else "tls"
    first_s, most_s = RETRY_S
    waits: dict[str, Any] = (
        {"timeout_ms": -1, "exit_on_failure": False}  # another router may start later
        if listen
        else {"timeout_ms": 0, "exit_on_failure": True}
    )
    link: dict[str, Any] = {
        "protocols": [protocol],
        "tx": {
            "lease": int(1000 * LEASE_S),
            "queue": {"congestion_control": {"block": {"wait_before_close": int(1e6 * BLOCK_S)}}},
        },
        "rx": {"max_message_size": MAX_MESSAGE_BYTES},
    }
    if tls is not None:
        link["tls"] = dict(tls)
    config = {
        "mode": "router" if listen else "client",
        "connect": {
            "endpoints": [f"{protocol}/{address}" for address in connect],
            "retry": {
                "period_init_ms": int(1000 * first_s),
                "period_max_ms": int(1000 * most_s),
                "period_increase_factor": 2,
            },
            **waits,
        },
        "listen": {"endpoints": [f"{protocol}/{address}" for address in listen]},
        "scouting": {
            "delay": 0,
            "multicast": {"enabled": False},
            "gossip": {"enabled": False},
        },
        "timestamping": {"enabled": False},
        "adminspace": {"enabled": False},
        "transport": {"link": link, "shared_memory": {"enabled": False}},
    }
    return json.dumps(config)


def _pem(certificate: bytes) -> bytes:
    body = base64.encodebytes(certificate)
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
