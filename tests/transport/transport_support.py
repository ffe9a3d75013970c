"""Peers that write down what happens to them, on a real network and on one in memory."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from semantic_net.protocol.address import parse_address
from semantic_net.protocol.frames import HEADER, Frame, Kind, encode_frame, encode_header
from semantic_net.protocol.handshake import HelloContent
from semantic_net.protocol.identity import PeerId, Signer, endorse
from semantic_net.simulation.virtual_time import run_virtual
from semantic_net.transport.ad_hoc import AdHocTransport
from semantic_net.transport.base import Buffer, Received, Transport, TransportEvent
from semantic_net.transport.device import DeviceIdentity
from semantic_net.transport.link import LinkQuality
from semantic_net.transport.memory import MemoryNetwork, MemoryTransport
from semantic_net.transport.settings import TransportSettings
from semantic_net.transport.tls import Pins
from semantic_net.transport.trust import Device, TrustFile

E = TypeVar("E", bound=TransportEvent)
T = TypeVar("T")

FACTS = {"run": "test", "model": "m"}
TEST_LIMIT_S = 30.0
"""Real seconds after which a test counts as hung."""


def signer(key: int) -> Signer:
    """Return a key that is the same in every run."""
    made = Signer(bytes([key]) * 32)
    _PRIVATE_KEYS[made.peer_id] = bytes([key]) * 32
    return made


_PRIVATE_KEYS: dict[PeerId, bytes] = {}


def device(folder: Path, key: Signer) -> DeviceIdentity:
    """Return a test key as a device, in a folder of its own below one."""
    own = folder / key.peer_id
    own.mkdir(exist_ok=True)
    pem = Ed25519PrivateKey.from_private_bytes(_PRIVATE_KEYS[key.peer_id]).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    (own / "key.pem").touch(0o600)
    (own / "key.pem").write_bytes(pem)
    return DeviceIdentity(own)


def control(body: bytes) -> bytes:
    """Return a control frame; what it says is nothing to a transport."""
    return encode_frame(Kind.HAVE, body)


class PayloadSource:
    """A payload, cut as the transport asks."""

    def __init__(self, payload: bytes) -> None:
        self._rest = memoryview(payload)
        self.sizes: list[int] = []
        """Of the frames so far."""

    def next_frame(self, max_bytes: int) -> Sequence[Buffer] | None:
        """Return the next chunk."""
        chunk, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
        if not chunk:
            return None
        self.sizes.append(len(chunk))
        return encode_header(Kind.CHUNK, len(chunk)), chunk


class Probe:
    """A peer whose events are written down, and can be waited for."""

    def __init__(self, name: str, key: Signer, transport: Transport) -> None:
        self.name = name
        self.id: PeerId = key.peer_id
        self.transport = transport
        self.events: list[TransportEvent] = []
        self.on_event: Callable[[TransportEvent], None] = lambda event: None
        self._seen = 0
        self._changed = asyncio.Event()

    def handle(self, event: TransportEvent) -> None:
        """Be the transport's handler."""
        if isinstance(event, Received):
            event = Received(event.peer, Frame(event.frame.kind, bytes(event.frame.body)))
        self.events.append(event)
        self._changed.set()
        self.on_event(event)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until an event makes ``holds`` true."""
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    async def expect(self, kind: type[E]) -> E:
        """Return the next event of a kind; those before it are passed over."""
        while True:
            for index in range(self._seen, len(self.events)):
                event = self.events[index]
                if isinstance(event, kind):
                    self._seen = index + 1
                    return event
            self._seen = len(self.events)
            self._changed.clear()
            await self._changed.wait()

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of a kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    def bodies(self, kind: Kind) -> list[bytes]:
        """Return the bodies of the frames of a kind so far."""
        return [bytes(e.frame.body) for e in self.of(Received) if e.frame.kind is kind]

    def send(self, other: Probe, body: bytes) -> None:
        """Send a control frame."""
        self.transport.send(other.id, control(body))


class World(Protocol):
    """A network to test on."""

    async def peer(
        self,
        name: str,
        key: Signer,
        dial: Sequence[Probe] = (),
        *,
        hello: HelloContent | None = None,
        settings: TransportSettings | None = None,
    ) -> Probe:
        """Start a peer that dials others."""
        ...

    def address_of(self, probe: Probe) -> str:
        """Return where others dial a peer."""
        ...

    def port_in_use(self, probe: Probe) -> int:
        """Return a port on which nobody else can listen."""
        ...

    def reset(self, a: Probe, b: Probe) -> None:
        """Break the connections between two peers; both notice."""
        ...

    def lose(self, dialler: Probe, other: Probe) -> None:
        """Break the connection that ``dialler`` opened; ``other`` does not notice."""
        ...

    async def close(self) -> None:
        """Close all peers."""
        ...


def hello_content(incarnation: int = 1, **facts: str) -> HelloContent:
    """Return what a test peer says of itself."""
    return HelloContent({**FACTS, **facts}, incarnation, "test")


class MemoryWorld:
    """Peers in memory, in virtual time."""

    def __init__(self) -> None:
        self.network = MemoryNetwork(quality=LinkQuality(bandwidth_bytes_s=50e6))
        self.probes: dict[str, Probe] = {}
        """For scenarios that need names."""
        self._probes: list[Probe] = []

    async def peer(
        self,
        name: str,
        key: Signer,
        dial: Sequence[Probe] = (),
        *,
        hello: HelloContent | None = None,
        settings: TransportSettings | None = None,
    ) -> Probe:
        """Start a peer that dials others."""
        settings = replace(
            settings or TransportSettings(), peers=tuple(self.address_of(p) for p in dial)
        )
        transport = MemoryTransport(self.network, name, key, settings, hello or hello_content())
        probe = Probe(name, key, transport)
        await transport.start(probe.handle)
        self._probes.append(probe)
        return probe

    def address_of(self, probe: Probe) -> str:
        """Return where others dial a peer."""
        return f"{probe.name}:5000"

    def port_in_use(self, probe: Probe) -> int:
        """Return a port on which nobody else can listen."""
        return parse_address(probe.transport.address).port

    def reset(self, a: Probe, b: Probe) -> None:
        """Break the connections between two peers; both notice."""
        self.network.reset(a.name, b.name)

    def lose(self, dialler: Probe, other: Probe) -> None:
        """Break the connection that ``dialler`` opened; ``other`` does not notice."""
        self.network.lose(dialler.name, other.name)

    async def close(self) -> None:
        """Close all peers."""
        await asyncio.gather(*(probe.transport.close() for probe in self._probes))
        raise_failures(self._probes)


class TcpWorld:
    """Peers on 127.0.0.1, each reached through a relay that can break connections."""

    def __init__(self) -> None:
        self._probes: list[Probe] = []
        self._relays: dict[str, Relay] = {}

    async def peer(
        self,
        name: str,
        key: Signer,
        dial: Sequence[Probe] = (),
        *,
        hello: HelloContent | None = None,
        settings: TransportSettings | None = None,
    ) -> Probe:
        """Start a peer that dials others."""
        settings = settings or TransportSettings()
        if settings.host == "0.0.0.0":
            settings = replace(settings, host="127.0.0.1")
        settings = replace(settings, peers=tuple(self.address_of(p) for p in dial))
        pins = self.pins_of(key)
        # Here a device and the peer on it have the same key.
        hello = replace(hello or hello_content(), endorsement=endorse(key, key.public_key))
        transport = AdHocTransport(key, settings, hello, pins=pins)
        probe = Probe(name, key, transport)
        await transport.start(probe.handle)
        self._probes.append(probe)
        self._relays[name] = relay = Relay(transport.address)
        await relay.start()
        return probe

    def pins_of(self, key: Signer) -> Pins | None:
        """Return whom a peer lets in: anybody, without TLS."""
        return None

    def address_of(self, probe: Probe) -> str:
        """Return where others dial a peer."""
        return self._relays[probe.name].address

    def port_in_use(self, probe: Probe) -> int:
        """Return a port on which nobody else can listen."""
        return parse_address(probe.transport.address).port

    def reset(self, a: Probe, b: Probe) -> None:
        """Break the connections between two peers; both notice."""
        for relay in (self._relays[a.name], self._relays[b.name]):
            relay.reset(both_ends=True)

    def lose(self, dialler: Probe, other: Probe) -> None:
        """Break the connection that ``dialler`` opened; ``other`` does not notice."""
        self._relays[other.name].reset(both_ends=False)

    async def close(self) -> None:
        """Close all peers."""
        await asyncio.gather(*(probe.transport.close() for probe in self._probes))
        for relay in self._relays.values():
            await relay.close()
        raise_failures(self._probes)


class TlsWorld(TcpWorld):
    """The same over TLS: all peers know each other."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._trust = TrustFile(Path(self._folder.name) / "trust.txt")
        self._pins: list[Pins] = []

    def pins_of(self, key: Signer) -> Pins | None:
        """Return whom a peer lets in: all of this world, those who come later included."""
        own = device(Path(self._folder.name), key)
        self._trust.pair(Device(own.certificate))
        for pins in self._pins:
            pins.refresh()
        self._pins.append(Pins(own.key, own.certificate_file, self._trust))
        return self._pins[-1]

    async def close(self) -> None:
        """Close all peers."""
        try:
            await super().close()
        finally:
            self._folder.cleanup()


def raise_failures(probes: Sequence[Probe]) -> None:
    """Let a bug in a handler or a source be the test's failure."""
    for probe in probes:
        if probe.transport.failed.done():
            probe.transport.failed.result()


class _RelayEnd(asyncio.Protocol):
    """One of the two connections that a relay joins."""

    def __init__(self) -> None:
        self.other: _RelayEnd | None = None
        self.early = b""
        """What arrived before there was another end."""
        self.transport: asyncio.Transport
        self.gone = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)
        else:
            self.early += data

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()

    def eof_received(self) -> bool:
        if self.other is not None and self.other.transport.can_write_eof():
            self.other.transport.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set_result(None)
        if self.other is not None:
            self.other.transport.close()


class Relay:
    """A TCP relay in front of one peer."""

    def __init__(self, target: str) -> None:
        self._target = parse_address(target)
        self._accepted: list[_RelayEnd] = []
        self._dialled: list[_RelayEnd] = []
        self._joining: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def start(self) -> None:
        """Listen."""
        relay = self

        class Accepted(_RelayEnd):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                relay._accepted.append(self)
                task = asyncio.get_running_loop().create_task(relay._join(self))
                relay._joining.add(task)
                task.add_done_callback(relay._joining.discard)

        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(Accepted, "127.0.0.1", 0)

    async def _join(self, accepted: _RelayEnd) -> None:
        dialled = _RelayEnd()
        dialled.other = accepted
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: dialled, self._target.host, self._target.port
            )
        except OSError:
            accepted.transport.abort()
            return
        accepted.other = dialled
        self._dialled.append(dialled)
        dialled.transport.write(accepted.early)

    def reset(self, *, both_ends: bool) -> None:
        """Break every connection, at the dialling end or at both."""
        for end in self._accepted + self._dialled:
            end.other = None
        for end in self._accepted + (self._dialled if both_ends else []):
            if not end.gone.done():
                sock = end.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.transport.abort()

    async def close(self) -> None:
        """Close everything."""
        self._server.close()
        for _ in range(3):  # until what asyncio has accepted is handed over
            await asyncio.sleep(0)
        while self._joining:
            await asyncio.wait(self._joining)
        for end in self._accepted + self._dialled:
            end.transport.abort()
            await end.gone
        await self._server.wait_closed()


class RawClient:
    """A stranger on a TCP connection, who may say anything."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def frame(self) -> Frame:
        """Return the next frame that the peer says."""
        header = await self.reader.readexactly(HEADER.size)
        _, _, kind, _, length = HEADER.unpack(header)
        return Frame(Kind(kind), await self.reader.readexactly(length))

    async def rest(self) -> bytes:
        """Return what the peer says until it hangs up; a reset counts as the end."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while part := await self.reader.read(65536):
                data += part
        return data


@contextlib.asynccontextmanager
async def raw_client(probe: Probe) -> AsyncIterator[RawClient]:
    """Connect to a peer's port as a stranger."""
    address = parse_address(probe.transport.address)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


Scenario = Callable[[World], Coroutine[Any, Any, None]]


def run_tcp(main: Coroutine[Any, Any, T]) -> T:
    """Run on the real event loop; a hang is a failure, and so is what only the loop hears of."""
    unheard: list[dict[str, Any]] = []

    async def limited() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: unheard.append(context))
        return await asyncio.wait_for(main, TEST_LIMIT_S)

    result = asyncio.run(limited())
    assert not unheard
    return result


def play_in_memory(scenario: Scenario) -> None:
    """Play a scenario in memory, in virtual time."""
    run_virtual(_play(scenario, MemoryWorld))


def play_over_tcp(scenario: Scenario) -> None:
    """Play a scenario on 127.0.0.1."""
    run_tcp(_play(scenario, TcpWorld))


def play_over_zenoh(scenario: Scenario) -> None:
    """Play a scenario on 127.0.0.1, over Zenoh."""
    pytest.importorskip("zenoh")
    from zenoh_world import ZenohWorld

    run_tcp(_play(scenario, ZenohWorld))


def play_over_zenoh_tls(scenario: Scenario) -> None:
    """Play a scenario on 127.0.0.1, over Zenoh and TLS."""
    pytest.importorskip("zenoh")
    from zenoh_world import ZenohTlsWorld

    run_tcp(_play(scenario, ZenohTlsWorld))


def play_over_tls(scenario: Scenario) -> None:
    """Play a scenario on 127.0.0.1, over TLS."""
    run_tcp(_play(scenario, TlsWorld))


async def _play(scenario: Scenario, make_world: Callable[[], World]) -> None:
    tasks = asyncio.all_tasks()
    world = make_world()
    try:
        await scenario(world)
    finally:
        await world.close()
    assert asyncio.all_tasks() == tasks, "a task is left behind"
