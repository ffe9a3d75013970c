"""Whom a run lets in: what its configuration and its addresses make of it."""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

from semantic_net.config import Config, P2PConfig
from semantic_net.errors import ConfigError
from semantic_net.protocol.address import parse_address
from semantic_net.transport.device import DeviceIdentity

log = logging.getLogger(__name__)

Mode = Literal["pinned", "open"]

OPEN: Mode = "open"
PINNED: Mode = "pinned"


def security_mode(config: Config) -> Mode:
    """Return which mode holds: as configured, else open where nothing leaves this machine."""
    return config.security.mode or (OPEN if _is_loopback(config.p2p) else PINNED)


def device_of_run(config: Config, folder: Path | None) -> DeviceIdentity | None:
    """Return the device that a run is on, where the others have to know it.

    Args:
        config: Of the run.
        folder: Where the device's key lies.

    Raises:
        ConfigError: Nobody has said where.
        StartError: The key cannot be read or written.
    """
    if security_mode(config) == OPEN:
        return None
    if folder is None:
        raise ConfigError("security.mode pinned needs the folder of this device's key")
    return DeviceIdentity(folder)


def with_known_addresses(config: Config, device: DeviceIdentity) -> Config:
    """Dial the devices that invites told of, where nobody is named and no others are found.

    Where they are it is better not to wait for where they once were: see `known_addresses`.
    """
    if config.p2p.peers or config.p2p.finds_peers:
        return config
    return replace(config, p2p=replace(config.p2p, peers=known_addresses(device)))


def known_addresses(device: DeviceIdentity | None) -> tuple[str, ...]:
    """Return where invites told that trusted devices are."""
    if device is None:
        return ()
    trusted = device.trust_file.read().trusted.values()
    # One each: a run's start waits for every address that is named.
    return tuple(dict.fromkeys(known.addresses[0] for known in trusted if known.addresses))


def tell_who_may_join(config: Config, device: DeviceIdentity | None) -> None:
    """Say to a person what the mode means here."""
    if device is not None:
        trusted = device.trust_file.read().trusted
        if not trusted:
            log.warning(
                "no other device is let in: pair with `semantic-net id` there and `semantic-net "
                "pair` here, and the other way round; or, on a network that you trust, --set "
                "security.mode=open on all"
            )
        else:
            log.info("TLS with paired devices: %d", len(trusted))
    elif _is_loopback(config.p2p):
        log.info("among addresses of this machine only: no TLS, no pairing (security.mode open)")
    else:
        log.warning(
            "security.mode is open: updates are signed, but anyone on this network may join "
            "run %r, and nothing is encrypted; use it on a network that you trust",
            config.p2p.run,
        )


def _is_loopback(p2p: P2PConfig) -> bool:
    """Tell whether nobody outside this machine is listened to or dialled."""
    named = (*p2p.peers, *p2p.routers)
    hosts = [parse_address(address).host for address in named]
    if not p2p.routers:  # else it does not listen
        hosts.append(p2p.host)
    for host in hosts:
        try:
            if not ipaddress.ip_address(host).is_loopback:
                return False
        except ValueError:
            if host != "localhost":
                return False
    return True
