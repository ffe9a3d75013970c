"""Peers that reach each other over Zenoh, by one router on 127.0.0.1."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from transport_support import Probe, device, hello_content, raise_failures

from semantic_net.protocol.handshake import HelloContent
from semantic_net.protocol.identity import Signer, endorse
from semantic_net.transport.device import DeviceIdentity
from semantic_net.transport.settings import TransportSettings
from semantic_net.transport.tls import Pins
from semantic_net.transport.trust import Device, TrustFile
from semantic_net.transport.zenoh import ZenohTransport
from semantic_net.transport.zenoh_config import ZenohSettings
from semantic_net.transport.zenoh_router import Router

SEEN_S = 0.001
"""Seconds between two looks whether a peer has been seen."""


class ZenohWorld:
    """Peers that reach nothing but one router, without TLS."""

    def __init__(self) -> None:
        self.router_port = free_port()
        self.router = Router(f"127.0.0.1:{self.router_port}", folder=self.router_folder())
        self.router.start()
        self._probes: list[Probe] = []
        self._transports: dict[str, ZenohTransport] = {}

    def router_folder(self) -> Path | None:
        """Return the router's folder, where it is a device."""
        return None

    def pins_of(self, key: Signer) -> Pins | None:
        """Return whom a peer lets in: anybody, without TLS."""
        return None

    async def peer(
        self,
        name: str,
        key: Signer,
        dial: Sequence[Probe] = (),
        *,
        hello: HelloContent | None = None,
        settings: TransportSettings | None = None,
    ) -> Probe:
        """Start a peer that dials others; one that is to have a port is a router itself."""
        settings = settings or TransportSettings()
        routers = () if settings.port else (f"127.0.0.1:{self.router_port}",)
        # Here a device and the peer on it have the same key.
        hello = replace(hello or hello_content(), endorsement=endorse(key, key.public_key))
        transport = ZenohTransport(
            ZenohSettings(run="test", routers=routers, dials_found=False),
            key,
            replace(
                settings, host="127.0.0.1", peers=tuple(self.address_of(probe) for probe in dial)
            ),
            hello,
            pins=self.pins_of(key),
        )
        probe = Probe(name, key, transport)
        await transport.start(probe.handle)
        for other in self._transports.values():
            await _until_seen(transport, other)
            await _until_seen(other, transport)
        self._probes.append(probe)
        self._transports[name] = transport
        return probe

    def address_of(self, probe: Probe) -> str:
        """Return where others dial a peer."""
        return probe.transport.address

    def port_in_use(self, probe: Probe) -> int:
        """Return a port on which nobody else can listen."""
        return self.router_port

    def reset(self, a: Probe, b: Probe) -> None:
        """Break the connections between two peers; both notice."""
        self.lose(a, b)
        self.lose(b, a)

    def lose(self, dialler: Probe, other: Probe) -> None:
        """Break the connection that ``dialler`` opened; ``other`` does not notice."""
        instance = self._transports[other.name]._place.instance
        streams = self._transports[dialler.name]._streams
        for route, stream in list(streams.items()):
            if route.source == instance and not stream.is_closing():
                stream.lose(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))
                streams[route] = stream  # gone, it answers nothing any more

    async def close(self) -> None:
        """Close all peers."""
        await asyncio.gather(*(probe.transport.close() for probe in self._probes))
        self.router.close()
        raise_failures(self._probes)


class ZenohTlsWorld(ZenohWorld):
    """The same over TLS, to the router and from peer to peer: all know each other."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.root = Path(self._folder.name)
        self.trust = TrustFile(self.root / "trust.txt")
        self._pins: list[Pins] = []
        super().__init__()

    def router_folder(self) -> Path | None:
        """Return the router's folder."""
        own = DeviceIdentity(self.root / "router")
        self.trust.pair(Device(own.certificate))
        self._share_trust()
        return own.folder

    def _share_trust(self) -> None:
        """Give the router the trust file of all others."""
        text = self.trust.path.read_bytes()
        (self.root / "router" / "trust.txt").write_bytes(text)

    def pins_of(self, key: Signer) -> Pins | None:
        """Return whom a peer lets in: all of this world, those who come later included."""
        own = device(self.root, key)
        self.trust.pair(Device(own.certificate))
        self._share_trust()
        self.router.look_at_trust()
        for pins in self._pins:
            pins.refresh()
        self._pins.append(Pins(own.key, own.certificate_file, self.trust))
        return self._pins[-1]

    async def close(self) -> None:
        """Close all peers."""
        try:
            await super().close()
        finally:
            self._folder.cleanup()


async def _until_seen(one: ZenohTransport, other: ZenohTransport) -> None:
    """Wait until one knows that the other is there, so that a dial finds it."""
    while not (one._is_closed or other._is_closed):
        if other._place in one._directory:
            break
        await asyncio.sleep(SEEN_S)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
