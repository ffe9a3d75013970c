"""The transport for tests and simulations: the same sessions, over a network in memory."""

from __future__ import annotations

import random

from semantic_net.errors import StartError
from semantic_net.protocol.address import Address
from semantic_net.protocol.handshake import HelloContent
from semantic_net.protocol.identity import Signer
from semantic_net.transport.base import TransportHandler
from semantic_net.transport.common import HubTransport
from semantic_net.transport.connection import Connection
from semantic_net.transport.link import LinkQuality
from semantic_net.transport.memory_network import MemoryNetwork
from semantic_net.transport.memory_wire import MemoryWire
from semantic_net.transport.settings import TransportSettings

__all__ = ["DEFAULT_PORT", "LinkQuality", "MemoryNetwork", "MemoryTransport"]

DEFAULT_PORT = 5000


class MemoryTransport(HubTransport):
    """Moves frames over a `MemoryNetwork`; a `Transport`."""

    def __init__(
        self,
        network: MemoryNetwork,
        name: str,
        signer: Signer,
        settings: TransportSettings,
        hello: HelloContent,
        rng: random.Random | None = None,
    ) -> None:
        """Prepare; the rest is as in `HubTransport`.

        Args:
            network: Where the machine is.
            name: Of the machine: others dial ``name:5000``, or ``settings.port`` unless it is 0.
            signer: Our key.
            settings: ``host`` is of no meaning here.
            hello: What we say of ourselves.
            rng: For the jitter of redials and for nonces, so that all can be played again.
        """
        if rng is None:
            super().__init__(signer, settings, hello)
        else:
            super().__init__(signer, settings, hello, rng, random_bytes=rng.randbytes)
        self._network = network
        self._name = name
        self._address = Address(name, settings.port or DEFAULT_PORT)

    @property
    def address(self) -> str:
        """Where this peer listens, as ``host:port``."""
        return str(self._address)

    @property
    def frames_received(self) -> int:
        """Frames so far, handshakes included."""
        return self._hub.frames_received

    async def start(self, handler: TransportHandler) -> None:
        """Listen and begin to dial.

        Raises:
            StartError: Another transport has this address.
        """
        try:
            self._network.listen(self._address, self._hub)
        except OSError as exc:
            raise StartError(f"cannot listen on {self._address}: the port is in use") from exc
        self._hub.start(handler, (self.address,))
        self._dial_peers()

    def _is_own(self, address: Address) -> bool:
        return address == self._address

    async def _dial(self, address: Address) -> Connection:
        return await self._network.connect(self._name, self._hub, address)

    def crash(self, detect_s: float = 0.0) -> None:
        """Stop at once and in silence, as a machine without power; peers notice later."""
        self._network.stop_listening(self._address, self._hub)
        self._dialer.stop()
        self._hub.silence()
        for wire in self._hub.wires():
            assert isinstance(wire, MemoryWire)
            wire.vanish(detect_s)

    async def close(self) -> None:
        """Flush the control lane within a bounded time, then close every connection."""
        self._network.stop_listening(self._address, self._hub)
        await self._dialer.close()
        await self._hub.close()
