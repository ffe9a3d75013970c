"""The network: our port, this device's key, and who answers at each address that a run dials."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from semantic_net.config import Config, P2PConfig
from semantic_net.errors import ConfigError, StartError
from semantic_net.federated.doctor.finding import FAIL, OK, WARN, Finding
from semantic_net.federated.page import page_address
from semantic_net.federated.security import OPEN, security_mode
from semantic_net.monitoring.text import format_bytes
from semantic_net.protocol.address import Address, parse_address
from semantic_net.protocol.facts import differing_facts, printable
from semantic_net.protocol.handshake import (
    BUSY,
    QUARANTINED,
    REVOKED,
    SECURITY,
    SIGNATURE,
    TIMEOUT,
    UNKNOWN_DEVICE,
)
from semantic_net.protocol.identity import PeerId, short_id
from semantic_net.transport.ad_hoc import bound_socket, is_own
from semantic_net.transport.device import DeviceIdentity
from semantic_net.transport.probe import (
    NO_ROUTE,
    NOT_LISTENING,
    SILENT,
    UNKNOWN_NAME,
    Answer,
    ProbeSettings,
    probe,
    reach,
)
from semantic_net.transport.tls import Pins

MAX_AT_ONCE = 16
"""Peers that are looked at together; one that waits to measure is looked at alone."""

PAIR = (
    "`semantic-net id` there and `semantic-net pair` here, and the other way round; or, on a "
    "network that you trust, security.mode=open on all"
)

_HINTS = {
    UNKNOWN_NAME: "give its IP address, or enter the name in /etc/hosts",
    NO_ROUTE: "is this device on the network of that address (ip addr, ip route)?",
    TIMEOUT: "is the device on, and does a firewall there let its port in?",
    NOT_LISTENING: "the device is there: start the peer on it, or see to its port",
    UNKNOWN_DEVICE: "",
    REVOKED: "`semantic-net pair ... --again` where it is revoked, if it is to come back",
    SECURITY: "",
    SIGNATURE: "start that peer with the device's own security.folder",
    SILENT: "is that port a semantic-net peer's? Is it very busy?",
    QUARANTINED: "it passes by itself; see the log there",
    BUSY: "it passes by itself",
}
"""What to do; empty where the reason says it."""

_PASSING = (UNKNOWN_NAME, NO_ROUTE, TIMEOUT, NOT_LISTENING, SILENT, QUARANTINED, BUSY)
"""What the run goes on trying, and what may be otherwise once all devices are up."""

_KNOWN = frozenset(_HINTS)


async def check_port(p2p: P2PConfig) -> Finding:
    """Tell whether this peer could listen."""
    return await _check_listening("port", "p2p.port", p2p.host, p2p.port)


async def check_page(where: str) -> Finding:
    """Tell whether the live page could be served.

    Args:
        where: ``monitoring.dashboard``.
    """
    try:
        address = page_address(where)
    except ConfigError as exc:
        return Finding("page", FAIL, str(exc))
    return await _check_listening("page", "monitoring.dashboard", address.host, address.port)


async def _check_listening(name: str, key: str, host: str, port: int) -> Finding:
    try:
        sock = await bound_socket(host, port)
    except StartError as exc:
        text, _, hint = str(exc).partition(": ")
        return Finding(name, FAIL, text, hint)
    with sock:
        found = Address(*sock.getsockname()[:2])
    taken = " is free" if port else f" was free ({key} with port 0: another each time)"
    return Finding(name, OK, f"{found}{taken}")


def find_device(config: Config, folder: Path) -> tuple[Finding, DeviceIdentity | None]:
    """Tell whom this device would let in, and as whom it would show itself; no key is made.

    Args:
        config: Of the run.
        folder: Where the device's key lies.
    """
    mode = security_mode(config)
    if mode == OPEN:
        return _open_finding(config), None
    if not os.path.exists(folder / "key.pem"):  # Path.exists() raises where we may not look
        return _nobody(config, f"this device has no key yet in {folder}"), None
    try:
        device = DeviceIdentity(folder)
        trust = device.trust_file.read()
        device.pins()
    except StartError as exc:
        return Finding("security", FAIL, str(exc)), None
    if not trust.trusted:
        return _nobody(config, "pinned, and no other device is let in"), device
    text = f"pinned: paired with {len(trust.trusted)}"
    if revoked := len(trust.devices) - len(trust.trusted):
        text += f", {revoked} revoked"
    return Finding("security", OK, text), device


def _open_finding(config: Config) -> Finding:
    if config.security.mode is None:
        return Finding("security", OK, "open: all addresses are this machine's own")
    text = "open: anyone who reaches the port may join, and nothing is encrypted"
    return Finding("security", WARN, text, "for a network that you trust; else pair the devices")


def _nobody(config: Config, text: str) -> Finding:
    return Finding("security", FAIL if config.p2p.peers else WARN, text, PAIR)


async def look_at_peers(
    addresses: Sequence[str], listening: Address, pins: Pins | None, settings: ProbeSettings
) -> dict[str, Answer]:
    """Return who answers at each address, this device's own left out.

    Args:
        addresses: To dial.
        listening: Where this device's peer would listen.
        pins: Whom TLS lets in; None for no TLS.
        settings: How long each step may take.
    """
    turns = asyncio.Semaphore(MAX_AT_ONCE)
    quick = replace(settings, measures=False)

    async def look(address: str) -> Answer | None:
        async with turns:
            answer = await probe(address, pins, quick)
            is_this = answer.code == NOT_LISTENING and await _is_own_name(address, listening)
            return None if is_this else answer

    found = zip(addresses, await asyncio.gather(*map(look, addresses)), strict=True)
    answers = {address: answer for address, answer in found if answer is not None}
    if settings.measures:
        for address, answer in answers.items():
            if answer.is_doctor:  # one by one: they would share this device's link
                answers[address] = await probe(address, pins, settings)
    return answers


async def reach_all(addresses: Sequence[str], settings: ProbeSettings) -> dict[str, Answer]:
    """Return which addresses can be reached, whoever is there."""
    turns = asyncio.Semaphore(MAX_AT_ONCE)

    async def look(address: str) -> Answer:
        async with turns:
            return await reach(address, settings)

    answers = await asyncio.gather(*map(look, addresses))
    return dict(zip(addresses, answers, strict=True))


def describe_reached(address: str, answer: Answer) -> Finding:
    """Say whether an address can be reached, to a device that has no key to be known by."""
    if answer.code is not None:
        return _without_hello(f"peer {address}", answer)
    text = f"something listens there{_link(answer)}"
    return Finding(f"peer {address}", WARN, text, "who it is, it says to paired devices only")


def describe_router(address: str, answer: Answer) -> Finding:
    """Say whether a router can be reached."""
    if answer.code is not None:
        return _without_hello(f"router {address}", answer)
    return Finding(f"router {address}", OK, f"something listens there{_link(answer)}")


async def _is_own_name(address: str, listening: Address) -> bool:
    """Tell whether a name, behind which nobody listens yet, stands for this device."""
    host, port = parse_address(address).host, parse_address(address).port
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(is_own(Address(str(where[0]), port), listening) for *_, where in found)


def describe(
    address: str,
    answer: Answer,
    facts: Mapping[str, str] | None,
    *,
    own_key: bytes | None = None,
    names: Mapping[PeerId, str] | None = None,
) -> Finding:
    """Say what one look has found.

    Args:
        address: That was dialled.
        answer: What became of it.
        facts: What must be equal on all peers, as it is here; None where it is not known.
        own_key: Of the peer in --out, if there is one.
        names: What people call each device.
    """
    name = f"peer {address}"
    if answer.code is not None or answer.hello is None:
        return _without_hello(name, answer)
    hello = answer.hello
    known = None if names is None or answer.device is None else names.get(answer.device)
    who = known or short_id(hello.peer_id)
    text = f"{who}, {printable(hello.software, 60)}{_link(answer)}"
    if own_key is not None and hello.public_key == own_key:
        return Finding(name, OK, "this device's own peer, which runs already: left out")
    if facts is not None and (differing := differing_facts(facts, hello.facts)):
        text = f"{who} is set otherwise: {'; '.join(differing)}"
        return Finding(name, FAIL, text, "set it the same on both")
    if facts is None:
        text += "; whether its run is the same is not known without the task"
    if answer.is_doctor and answer.throughput is None:
        return Finding(name, WARN, text, "measure it again" if answer.not_measured else "")
    if answer.throughput is None:
        return Finding(
            name, OK, text, "to measure the link, run `semantic-net doctor --wait` there instead"
        )
    return Finding(name, OK, text)


def _link(answer: Answer) -> str:
    text = (
        "" if answer.round_trip_s is None else f"; round trip {1000 * answer.round_trip_s:.3g} ms"
    )
    if answer.throughput is not None:
        up, down = answer.throughput.up.bytes_s, answer.throughput.down.bytes_s
        text += f"; {format_bytes(up)}/s to it, {format_bytes(down)}/s from it"
    elif answer.not_measured:
        text += f"; its link was not measured: {printable(answer.not_measured, 200)}"
    return text


def _without_hello(name: str, answer: Answer) -> Finding:
    reason = printable(answer.reason, 400)
    code = answer.code or ""
    if code not in _KNOWN:
        return Finding(name, FAIL, reason, "is that a semantic-net peer, of the same version?")
    if answer.code == REVOKED:
        reason += " here" if answer.by_us else " there"
    return Finding(name, WARN if code in _PASSING else FAIL, reason, _HINTS[code])


def slowest_link(answers: Mapping[str, Answer]) -> float | None:
    """Return the bytes a second of the slowest link that was measured, on the way out."""
    rates = [a.throughput.up.bytes_s for a in answers.values() if a.throughput is not None]
    return min((rate for rate in rates if rate), default=None)
