"""The part of `Transport` that is the same however bytes travel."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable

from semantic_net.errors import ConfigError
from semantic_net.protocol.handshake import HelloContent
from semantic_net.protocol.identity import PeerId, Signer
from semantic_net.transport.address import Address, parse_address
from semantic_net.transport.base import BulkSource, LinkTotals, Traffic
from semantic_net.transport.connection import Connection
from semantic_net.transport.dialer import Dialer
from semantic_net.transport.hub import Hub
from semantic_net.transport.settings import TransportSettings

log = logging.getLogger(__name__)


class HubTransport:
    """A hub and a dialer; a subclass listens, opens connections and knows its address."""

    def __init__(
        self,
        signer: Signer,
        settings: TransportSettings,
        hello: HelloContent,
        rng: random.Random | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Prepare; nothing is opened before the start.

        Args:
            signer: Our key.
            settings: Addresses, deadlines, limits.
            hello: What we say of ourselves; without addresses it gets the one we listen at.
            rng: For the jitter of redials; seeded from our peer id by default.
            random_bytes: For nonces; replaced where nobody lies: in a simulation.

        Raises:
            ConfigError: One of ``settings.peers`` is no address.
        """
        for peer in settings.peers:
            try:
                parse_address(peer)
            except ValueError as exc:
                raise ConfigError(f"peers: {exc}") from exc
        self._settings = settings
        self._hub = Hub(signer, hello, settings, random_bytes)
        jitter = rng or random.Random(signer.peer_id)  # nosec B311  # spreads redials, no secret
        self._dialer = Dialer(self._dial, self._hub, jitter)

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

    @property
    def failed(self) -> asyncio.Future[None]:
        """Gets the exception that the handler or a payload's source raised; valid once started."""
        return self._hub.failure

    def add_address(self, address: str) -> None:
        """Dial an address that was learned from other peers; one that is known changes nothing.

        Raises:
            ValueError: It is no address that can be dialled.
        """
        self._dialer.add(address, learned=True)

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
