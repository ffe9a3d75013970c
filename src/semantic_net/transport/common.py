"""The part of `Transport` that is the same however bytes travel."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable

from semantic_net.errors import ConfigError
from semantic_net.protocol.address import Address, parse_address
from semantic_net.protocol.handshake import HelloContent
from semantic_net.protocol.identity import PeerId, Signer
from semantic_net.transport.base import (
    BulkSource,
    LinkTotals,
    Traffic,
    TransportHandler,
    TrustChanged,
)
from semantic_net.transport.connection import Connection
from semantic_net.transport.dialer import Dialer
from semantic_net.transport.hub import Hub
from semantic_net.transport.settings import TransportSettings
from semantic_net.transport.tls import Pins

log = logging.getLogger(__name__)

TRUST_LOOK_S = 2.0
"""Seconds between two looks at the trust file: a device that is revoked meanwhile has to go."""


class HubTransport:
    """A hub and a dialer; a subclass listens, opens connections and knows its address."""

    def __init__(
        self,
        signer: Signer,
        settings: TransportSettings,
        hello: HelloContent,
        rng: random.Random | None = None,
        pins: Pins | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Prepare; nothing is opened before the start.

        Args:
            signer: Our key.
            settings: Addresses, deadlines, limits.
            hello: What we say of ourselves; without addresses it gets the one we listen at.
            rng: For the jitter of redials; seeded from our peer id by default.
            pins: The devices that TLS lets in; without them there is no TLS, and anybody may call.
            random_bytes: For nonces; replaced where nobody lies: in a simulation.

        Raises:
            ConfigError: One of ``settings.peers`` or ``settings.seeds`` is no address.
        """
        for peer in (*settings.peers, *settings.seeds):
            try:
                parse_address(peer)
            except ValueError as exc:
                raise ConfigError(f"peers: {exc}") from exc
        self._settings = settings
        self._hub = Hub(signer, hello, settings, random_bytes)
        jitter = rng or random.Random(signer.peer_id)  # nosec B311  # spreads redials, no secret
        self._dialer = Dialer(self._dial, self._hub, jitter)
        self._pins = pins
        self._trust_look: asyncio.TimerHandle | None = None

    async def start(self, handler: TransportHandler) -> None:
        """Listen and begin to dial; see `Transport.start`."""
        raise NotImplementedError

    async def _dial(self, address: Address) -> Connection:
        """Open a connection and begin its handshake.

        Raises:
            OSError: Nobody answers.
        """
        raise NotImplementedError

    def _dial_peers(self) -> None:
        for peer in self._settings.peers:
            if self._is_own(parse_address(peer)):
                log.info("%s is this peer's own address", peer)
            else:
                self._dialer.add(peer, learned=False)

    def _is_own(self, address: Address) -> bool:
        """Tell whether an address is known to be ours; if not, the first hello shows it."""
        return False

    def _look_at_trust(self) -> None:
        """End the sessions with devices that have been revoked, and look again soon."""
        assert self._pins is not None, "without TLS there is nobody to trust"
        self._watch_trust()
        if self._pins.refresh():
            self._hub.report(TrustChanged(self._pins.trust.standing()))
            self._dialer.look_again()
        for peer, device in self._hub.devices().items():
            if (refusal := self._pins.objection(device)) is not None:
                self._hub.disconnect(peer, refusal.code, refusal.reason)

    def _watch_trust(self) -> None:
        """Look at the trust file from now on, if there is one."""
        if self._pins is not None:
            loop = asyncio.get_running_loop()
            self._trust_look = loop.call_later(TRUST_LOOK_S, self._look_at_trust)

    def _stop_watching_trust(self) -> None:
        if self._trust_look is not None:
            self._trust_look.cancel()

    @property
    def failed(self) -> asyncio.Future[None]:
        """Gets the exception that the handler or a payload's source raised; valid once started."""
        return self._hub.failure

    def add_address(self, address: str) -> None:
        """Dial an address that was learned from other peers; one that is known changes nothing.

        Raises:
            ValueError: It is no address that can be dialled.
        """
        if not self._is_own(parse_address(address)):
            self._dialer.add(address, learned=True)

    def forget(self, address: str) -> None:
        """Dial an address no more that was added; a session with its peer stays.

        Raises:
            ValueError: It is no address.
        """
        self._dialer.forget(address)

    def unmet_addresses(self) -> tuple[str, ...]:
        """Return those of ``settings.peers`` with whom there was no session yet."""
        return self._dialer.unmet()

    def refused_addresses(self) -> frozenset[str]:
        """Return addresses where one end turns the other away; see `Transport`."""
        return self._dialer.refused()

    def send(self, peer: PeerId, frame: bytes, replaces: bytes | None = None) -> None:
        """Queue one encoded control frame; see `Transport.send`.

        Raises:
            TransportError: ``peer`` is not connected.
        """
        self._hub.send(peer, frame, replaces)

    def stream(self, peer: PeerId, source: BulkSource) -> None:
        """Queue a payload behind those already queued for ``peer``.

        Raises:
            TransportError: ``peer`` is not connected.
        """
        self._hub.stream(peer, source)

    def disconnect(self, peer: PeerId, code: str, reason: str) -> None:
        """Drop the session, telling the peer why; either side may dial again later."""
        self._hub.disconnect(peer, code, reason)

    def traffic(self) -> Traffic:
        """Return the socket bytes so far."""
        return self._hub.traffic()

    def links(self) -> dict[PeerId, LinkTotals]:
        """Return what is known of the links to all connected peers; zeros where nothing is."""
        return self._hub.links()
