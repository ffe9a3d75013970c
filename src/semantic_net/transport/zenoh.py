"""The transport for peers that reach each other only by routers: frames over Eclipse Zenoh.

A router sees who talks with whom and how much, and nothing of what is said: what keeps strangers
out is the same TLS as on TCP, from peer to peer, on a stream that `ZenohStream` keeps whole. So a
router that lies can hold messages up or lose them, and no more.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import secrets
import socket
from collections.abc import Sequence
from functools import partial

from semantic_net.errors import ConfigError, RemoteProtocolError, StartError
from semantic_net.protocol.address import Address, parse_address
from semantic_net.protocol.handshake import Established, HelloContent, Outcome
from semantic_net.protocol.identity import PeerId, Signer
from semantic_net.transport.base import Buffer, Found, TransportHandler
from semantic_net.transport.common import HubTransport
from semantic_net.transport.connection import Connection
from semantic_net.transport.segment import (
    ID_BYTES,
    Flags,
    Route,
    Segment,
    decode_segment,
    encode_segment,
)
from semantic_net.transport.settings import TransportSettings
from semantic_net.transport.tls import Pins
from semantic_net.transport.zenoh_config import LinkIdentity, ZenohSettings, zenoh_config
from semantic_net.transport.zenoh_directory import MAX_ADDRESSES, MAX_INSTANCES, Directory
from semantic_net.transport.zenoh_place import Keys, Place, read_place
from semantic_net.transport.zenoh_session import ZenohSession
from semantic_net.transport.zenoh_stream import ZenohStream, ZenohWire

log = logging.getLogger(__name__)

_RANDOM = random.SystemRandom()

LOOK_S = 5.0
"""Seconds until the router is asked again who is there, after somebody had to make room."""

LOOK_S_EACH = 0.001
"""Seconds to wait for each token that there was, so that to read them stays a small share of the
work, however many a stranger makes up."""


class ZenohTransport(HubTransport):
    """Moves frames over Zenoh; a `Transport`."""

    def __init__(
        self,
        zenoh: ZenohSettings,
        signer: Signer,
        settings: TransportSettings,
        hello: HelloContent,
        rng: random.Random | None = None,
        pins: Pins | None = None,
    ) -> None:
        """Prepare; the rest is as in `HubTransport`.

        Args:
            zenoh: Which run, and which routers.
            signer: Our key.
            settings: ``host`` and ``port`` are listened on if there are no routers.
            hello: What we say of ourselves.
            rng: For the jitter of redials.
            pins: The devices that TLS lets in, of peers and of routers.

        Raises:
            ConfigError: The address of a router is none.
            StartError: The key is of no use for TLS.
        """
        super().__init__(signer, settings, hello, rng, pins)
        for router in zenoh.routers:
            _check_router(router, is_tls=pins is not None)
        self._zenoh = zenoh
        self._identity = None if pins is None else LinkIdentity(pins.key)
        self._peer: PeerId = signer.peer_id
        self._place: Place
        self._session: ZenohSession | None = None
        self._directory = Directory(_RANDOM)
        self._is_crowded = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._streams: dict[Route, ZenohStream] = {}
        self._leaving: dict[bytes, asyncio.TimerHandle] = {}
        self._is_closed = False

    @property
    def address(self) -> str:
        """What others dial, as ``host:port``; valid once started."""
        return str(self._place.address)

    async def start(self, handler: TransportHandler) -> None:
        """Connect to a router, or be one, and begin to dial; a router may also come later.

        Raises:
            StartError: We are to listen, and the port is busy or the address is not ours.
        """
        listens = not self._zenoh.routers
        port = self._settings.port or (_free_port() if listens else 1 + secrets.randbelow(65535))
        self._place = Place(self._peer, port, secrets.token_bytes(ID_BYTES))
        self._hub.start(handler, (self.address,))
        listen = (str(Address(self._settings.host, port)),) if listens else ()
        self._session = ZenohSession(
            Keys(self._zenoh.run),
            self._place,
            partial(self._configure, listen),
            self._trusted,
            self._taken,
            self._seen,
        )
        try:
            await self._session.start(self._settings.connect_timeout_s, must_open=listens)
        except StartError:
            await self.close()
            raise
        self._dial_peers()
        self._watch_trust()
        self._looking = asyncio.get_running_loop().create_task(self._look_again(self._session))

    def _configure(self, listen: tuple[str, ...]) -> str:
        tls = None
        if self._identity is not None and self._pins is not None:
            tls = self._identity.section(self._pins.trust)
        return zenoh_config(connect=self._zenoh.routers, listen=listen, tls=tls)

    def _trusted(self) -> frozenset[PeerId] | None:
        if self._identity is None or self._pins is None:
            return None
        return self._identity.trusted(self._pins.trust)

    def _look_at_trust(self) -> None:
        super()._look_at_trust()
        if self._session is not None:
            self._session.look()

    def _is_own(self, address: Address) -> bool:
        return address == self._place.address

    async def _dial(self, address: Address) -> Connection:
        instances = self._directory.to_call(address)
        failure: OSError = ConnectionRefusedError(
            errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)
        )
        for instance in instances:
            # Where only one is known it has all the time that there is. Of several most may be made
            # up: each gets its share, and more the next time, for those that are on slow links.
            share = 1.0 if len(instances) == 1 else 2.0 ** min(instance.tries, 2) / MAX_INSTANCES
            self._directory.called(instance)
            try:
                return await self._call(address, instance.place, share)
            except OSError as exc:
                failure = exc
        raise failure

    async def _call(self, address: Address, place: Place, share: float) -> Connection:
        """Call a process; it may use a share of the time that a dial and a handshake may take.

        Raises:
            OSError: It does not answer.
        """
        call_later = asyncio.get_running_loop().call_later
        stream = self._stream(place, secrets.token_bytes(ID_BYTES))
        late = call_later(share * self._settings.connect_timeout_s, _give_up, stream)
        try:
            await stream.call(str(self._place).encode())
        finally:
            late.cancel()
        wire = self._speak(stream, place, str(address))
        late = call_later(share * self._settings.handshake_timeout_s, _give_up, stream)
        wire.connection.outcome.add_done_callback(lambda _: late.cancel())
        return wire.connection

    def _speak(self, stream: ZenohStream, place: Place, dialled: str | None) -> ZenohWire:
        """Begin a handshake, and note once that has proven who is there."""
        wire = ZenohWire(self._hub, dialled, self._pins)
        stream.start(wire)

        def settled(outcome: asyncio.Future[Outcome | str]) -> None:
            result = None if outcome.cancelled() else outcome.result()
            if isinstance(result, Established) and result.peer == place.peer:
                self._directory.meet(place)

        wire.connection.outcome.add_done_callback(settled)
        return wire

    def _stream(self, place: Place, number: bytes) -> ZenohStream:
        theirs = Route(place.instance, number)
        stream = self._streams[theirs] = ZenohStream(
            Route(self._place.instance, number),
            place.address,
            partial(self._put, place.instance),
            lambda _: self._forget(theirs),
        )
        return stream

    def _forget(self, theirs: Route) -> None:
        self._streams.pop(theirs, None)

    def _put(self, instance: bytes, message: Sequence[Buffer], is_answer: bool) -> None:
        if self._session is not None:
            self._session.put(instance, message, is_answer=is_answer)

    # What the session reports, in the event loop.

    def _taken(self, message: bytes) -> None:
        try:
            route, segment = decode_segment(message)
            if (stream := self._streams.get(route)) is not None:
                stream.received(segment)
            elif segment.flags & Flags.OPEN:
                self._called(route, read_place(_text(segment)))
            elif segment.number and not segment.flags & Flags.RESET:
                self._refuse(route)
        except RemoteProtocolError as exc:
            log.debug("a message is ignored: %s", exc)

    def _called(self, route: Route, place: Place) -> None:
        if place.instance != route.source:
            raise RemoteProtocolError("who calls gives another instance than the one to answer")
        if self._is_closed:
            self._refuse(route)
            return
        stream = self._stream(place, route.stream)
        stream.received(Segment(Flags.OPEN))
        self._speak(stream, place, None)

    def _refuse(self, route: Route) -> None:
        """Tell who speaks of a stream that there is none."""
        ours = Route(self._place.instance, route.stream)
        self._put(route.source, encode_segment(ours, Segment(Flags.RESET)), False)

    def _seen(self, place: Place, is_there: bool) -> None:
        if place.instance == self._place.instance or self._is_closed:
            return
        if (leaving := self._leaving.pop(place.instance, None)) is not None:
            leaving.cancel()
        if not is_there:
            self._missed(place)
            return
        if self._directory.add(place):
            self._is_crowded.set()
        if place.peer == self._peer:
            return
        if not self._zenoh.dials_found:
            self._hub.report(Found(str(place.address)))
        elif not self._dialer.add(str(place.address), learned=True):
            self._is_crowded.set()

    def _missed(self, place: Place) -> None:
        """Wait whether a process comes back: perhaps only a router has gone."""
        self._directory.remove(place)
        if not any(route.source == place.instance for route in self._streams):
            return
        loop = asyncio.get_running_loop()
        self._leaving[place.instance] = loop.call_later(
            self._settings.dead_after_s, self._lose, place.instance
        )

    async def _look_again(self, session: ZenohSession) -> None:
        """Give those that had to make room another chance, again and again.

        What is kept then is a sample: who was pushed out by made up ones is in one of the next.
        """
        try:
            while True:
                await self._is_crowded.wait()
                self._is_crowded.clear()
                await asyncio.sleep(LOOK_S)
                places = await session.who_is_there()
                if not places or len(places) > MAX_ADDRESSES:  # some are not looked at this time
                    self._is_crowded.set()
                for place in _RANDOM.sample(places, min(len(places), MAX_ADDRESSES)):
                    if place not in self._directory or self._zenoh.dials_found:
                        self._seen(place, True)
                    await asyncio.sleep(0)  # there may be thousands, and others have their turn
                await asyncio.sleep(len(places) * LOOK_S_EACH)
        except Exception as exc:  # a bug of ours must not end as a task that nobody looks at
            self._hub.failed(exc)

    def _lose(self, instance: bytes) -> None:
        """Take the streams with a process for broken."""
        self._leaving.pop(instance, None)
        for route, stream in list(self._streams.items()):
            if route.source == instance:
                _give_up(stream)

    async def close(self) -> None:
        """Flush the control lane within a bounded time, then close every connection."""
        self._stop_watching_trust()
        self._is_closed = True
        for leaving in self._leaving.values():
            leaving.cancel()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._dialer.close()
        await self._hub.close()
        if self._session is not None:
            await self._session.close()


def _give_up(stream: ZenohStream) -> None:
    stream.lose(TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))


def _check_router(text: str, *, is_tls: bool) -> None:
    try:
        address = parse_address(text)
    except ValueError as exc:
        raise ConfigError(f"p2p.routers: {exc}") from exc
    if address.is_wildcard or not address.port:
        raise ConfigError(f"p2p.routers: {text!r} names no host and port to connect to")
    if is_tls and ":" in address.host:
        raise ConfigError(
            f"p2p.routers: {text!r}: Zenoh's TLS cannot read an IPv6 address; give it a name"
        )


def _text(segment: Segment) -> str:
    return bytes(segment.data[0]).decode("ascii", "replace") if segment.data else ""


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("", 0))
        port: int = sock.getsockname()[1]
        return port
