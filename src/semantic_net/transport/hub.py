"""What is the same for every transport: connections become sessions, and sessions become events.

Owns every connection, the one session per peer, the order in which events reach the handler, and
the byte counters. How connections come about is the business of each transport.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from semantic_net.errors import RemoteProtocolError, TransportError
from semantic_net.protocol.address import parse_address
from semantic_net.protocol.frames import Frame
from semantic_net.protocol.handshake import (
    BUSY,
    DUPLICATE_CONNECTION,
    NONCE_BYTES,
    PROTOCOL,
    SELF,
    TIMEOUT,
    Established,
    Handshake,
    HelloContent,
    Refusal,
)
from semantic_net.protocol.identity import PeerId, Signer, short_id
from semantic_net.transport.address import dialable_addresses
from semantic_net.transport.base import (
    BulkSource,
    Connected,
    Disconnected,
    LinkTotals,
    Received,
    Refused,
    Traffic,
    TransportEvent,
    TransportHandler,
)
from semantic_net.transport.connection import CLOSED, REPLACED, Connection, Wire
from semantic_net.transport.lanes import RateLimit
from semantic_net.transport.sessions import SessionTable
from semantic_net.transport.settings import TransportSettings

log = logging.getLogger(__name__)

UNREAD = "unread"


class CountedWire(Wire, Protocol):
    """A wire that knows how much it has sent."""

    @property
    def bytes_sent(self) -> int:
        """Bytes that have left this process."""
        ...

    def totals(self) -> LinkTotals:
        """Return what the link has carried while payloads were under way."""
        ...


class Hub:
    """All connections of one peer; a connection's `Owner`."""

    def __init__(
        self,
        signer: Signer,
        content: HelloContent,
        settings: TransportSettings,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.settings = settings
        self._random_bytes = random_bytes
        self.bytes_received = 0
        self.frames_received = 0
        """Counted by wires in memory alone."""
        self.session_began: Callable[[PeerId, list[str]], None] = lambda peer, addresses: None
        self.session_ended: Callable[[PeerId], None] = lambda peer: None
        """Whoever dials wants to know of both; the addresses are where the peer says it listens."""
        self.is_named: Callable[[PeerId], bool] = lambda peer: False
        """Whoever dials knows who was named as a peer."""
        self.failure: asyncio.Future[None]
        """Gets the exception that the handler or a payload's source raised."""
        self.table: SessionTable[Connection] = SessionTable(
            settings.max_sessions,
            settings.liveness_s,
            lambda: asyncio.get_running_loop().time(),
            lambda peer: self.is_named(peer),
        )
        self._signer = signer
        self._content = content
        self._handler: TransportHandler | None = None  # None before the start and once closing
        self._events: deque[TransportEvent] = deque()
        self._held = False
        self._pending: dict[Connection, asyncio.TimerHandle] = {}
        self._wires: dict[CountedWire, Connection] = {}
        self._all_gone = asyncio.Event()
        self._sent_by_gone = 0
        self._limit = RateLimit(settings.max_rate_bytes_s)

    def start(self, handler: TransportHandler, addresses: tuple[str, ...]) -> None:
        """Begin to accept wires; ``addresses`` go into a hello that names none."""
        self.failure = asyncio.get_running_loop().create_future()
        if not self._content.addresses:
            self._content = replace(self._content, addresses=addresses)
        self._handshake(dialled=True).start()  # a hello that is too large shows here, not later
        self._handler = handler

    # What the shell asks for. Events that follow reach the handler only after it has returned.

    def send(self, peer: PeerId, frame: bytes, replaces: bytes | None = None) -> None:
        """Queue a control frame; a peer that reads none of them is dropped."""
        connection = self._connection_to(peer)
        connection.send(frame, replaces)
        if connection.control_bytes > self.settings.max_control_bytes:
            with self._events_held():
                connection.abort(UNREAD, "the peer does not read what it is sent")

    def stream(self, peer: PeerId, source: BulkSource) -> None:
        """Queue a payload."""
        self._connection_to(peer).stream(source)

    def disconnect(self, peer: PeerId, code: str, reason: str) -> None:
        """End the session with ``peer``, if there is one, and tell it why."""
        if connection := self.table.get(peer):
            with self._events_held():
                connection.refuse(code, reason)

    def traffic(self) -> Traffic:
        """Return the socket bytes so far, refused connections and handshakes included."""
        sent = self._sent_by_gone + sum(wire.bytes_sent for wire in self._wires)
        return Traffic(sent, self.bytes_received)

    def links(self) -> dict[PeerId, LinkTotals]:
        """Return what is known of the link of each session."""
        return {
            session.peer: replace(wire.totals(), session=session.session_id)
            for wire, connection in self._wires.items()
            if (session := connection.established) is not None and not connection.is_over
        }

    def devices(self) -> dict[PeerId, PeerId]:
        """Return the device of each peer that is connected, where the wire has proven one."""
        sessions = self.table.connections().items()
        return {peer: c.device for peer, c in sessions if c.device is not None}

    async def close(self) -> None:
        """End every connection, within `TransportSettings.flush_s`; no event follows."""
        self.silence()
        self.table.clear()
        for connection in list(self._wires.values()):
            if connection in self._pending:
                connection.abort(CLOSED, "this peer is closing")
            else:
                connection.finish()
        while self._wires:
            self._all_gone.clear()
            await self._all_gone.wait()

    def silence(self) -> None:
        """Let no further event reach the handler, and refuse new wires."""
        self._handler = None
        self._events.clear()

    def _connection_to(self, peer: PeerId) -> Connection:
        if connection := self.table.get(peer):
            return connection
        raise TransportError(f"{short_id(peer)} is not connected")

    # What wires and whoever dials report.

    def adopt(self, wire: CountedWire, address: str, *, dialled: bool) -> Connection:
        """Begin the handshake on a wire that has just opened."""
        handshake = self._handshake(dialled=dialled)
        connection = Connection(
            self,
            wire,
            handshake,
            address,
            dialled=dialled,
            limit=self._limit,
            cork_s=self.settings.cork_s,
        )
        self._wires[wire] = connection
        if self._handler is None:
            connection.abort(CLOSED, "this peer is closing")
            return connection
        self._pending[connection] = asyncio.get_running_loop().call_later(
            self.settings.handshake_timeout_s, self._handshake_late, connection
        )
        connection.start()
        strangers = [c for c in self._pending if not c.dialled]
        if len(strangers) > self.settings.max_pending:
            _least_promising(strangers).abort(BUSY, "too many connections without a handshake")
        refused = [wire for wire, each in self._wires.items() if each.is_over]
        if len(refused) > self.settings.max_pending:  # they have a moment to read why
            refused[0].abort()
        if not dialled and len(self.table) >= self.settings.max_sessions:
            for silent in self.table.silent():  # makes room for who calls next
                silent.abort(TIMEOUT, "silent, and others call")
        return connection

    def _handshake(self, *, dialled: bool) -> Handshake:
        nonce = self._random_bytes(NONCE_BYTES)
        return Handshake(self._signer, self._content, nonce, dialled=dialled, book=self.table)

    def wires(self) -> list[CountedWire]:
        """Return the wires that are not closed for good."""
        return list(self._wires)

    def wire_gone(self, wire: CountedWire) -> None:
        """Forget a wire that is closed for good."""
        if self._wires.pop(wire, None) is not None:
            self._sent_by_gone += wire.bytes_sent
        if not self._wires:
            self._all_gone.set()

    def report(self, event: TransportEvent) -> None:
        """Hand an event to the handler, after those that wait."""
        if self._handler is None:
            return
        self._events.append(event)
        if not self._held:
            self._deliver()

    def report_refusal(
        self,
        address: str,
        refusal: Refusal,
        peer: PeerId | None,
        device: PeerId | None,
        *,
        dialled: bool,
    ) -> None:
        """Tell the handler of a refusal, unless it belongs to ordinary operation."""
        ordinary = refusal.code == DUPLICATE_CONNECTION or (refusal.code == SELF and refusal.by_us)
        if not ordinary:
            by_us, code, reason = refusal.by_us, refusal.code, refusal.reason
            self.report(Refused(address, code, reason, peer, by_us, device, dialled))

    def _handshake_late(self, connection: Connection) -> None:
        late_s = self.settings.handshake_timeout_s
        connection.abort(TIMEOUT, f"no handshake within {late_s:g} s")

    # What connections report.

    def opened(self, connection: Connection, established: Established) -> None:
        """Make the connection the session with its peer."""
        self._no_longer_pending(connection)
        peer = established.peer
        if replaced := self.table.begin(established, connection):
            replaced.finish()
            self.report(Disconnected(peer, "replaced by a newer connection", REPLACED))
        self.session_began(peer, dialable_addresses(established.hello, connection.address))
        address, device = connection.address, connection.device
        self.report(Connected(peer, established.hello, address, device, connection.dialled))

    def received(self, connection: Connection, frame: Frame) -> None:
        """Hand a frame to the handler, at once: its body will not wait."""
        assert connection.established is not None
        assert not self._held, "wires never deliver from within a call of ours"
        self.report(Received(connection.established.peer, frame))

    def refused(self, connection: Connection, refusal: Refusal) -> None:
        """Report a refused stranger; what becomes of a dial, whoever dialled reports."""
        self._no_longer_pending(connection)
        log.debug("%s: %s: %s", connection.address, refusal.code, refusal.reason)
        if not connection.dialled:
            self.report_refusal(
                connection.listening_at,
                refusal,
                connection.peer,
                connection.device,
                dialled=False,
            )

    def ended(self, connection: Connection, code: str, reason: str) -> None:
        """Note the end of a session, or of a connection that never became one."""
        self._no_longer_pending(connection)
        log.debug("%s: %s: %s", connection.address, code, reason)
        if connection.claim is not None:
            is_proven = connection.established is not None
            self.table.note_lost(*connection.claim, is_proven=is_proven)
        if connection.established is None:
            if not connection.dialled and code in (TIMEOUT, BUSY):
                self.report(Refused(connection.address, code, reason))
        elif self.table.end(connection.established.peer, connection):
            if code == PROTOCOL and connection.ended_by_us:
                self.table.broke_protocol(connection.established.peer, connection.device, reason)
            peer = connection.established.peer
            self.report(Disconnected(peer, reason, code, by_us=connection.ended_by_us))
            self.session_ended(connection.established.peer)

    def failed(self, exc: Exception) -> None:
        """Surface a bug of ours: `failure` gets it, and no event follows."""
        self.silence()
        if not self.failure.done():
            self.failure.set_exception(exc)

    def _no_longer_pending(self, connection: Connection) -> None:
        if timer := self._pending.pop(connection, None):
            timer.cancel()

    # Events.

    @contextlib.contextmanager
    def _events_held(self) -> Iterator[None]:
        held, self._held = self._held, True
        try:
            yield
        finally:
            self._held = held
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        if self._held:
            return
        self._held = True
        try:
            while self._events and self._handler is not None:
                event = self._events.popleft()
                try:
                    self._handler(event)
                except RemoteProtocolError as exc:
                    if isinstance(event, Received) and (connection := self.table.get(event.peer)):
                        connection.broke_protocol(exc)
                    else:
                        self.failed(exc)
                except Exception as exc:  # the shell must hear of its own bugs
                    self.failed(exc)
        finally:
            self._held = False


def _least_promising(strangers: Sequence[Connection]) -> Connection:
    """Return who goes first of those without a handshake.

    That is of the host with most of them, of those that have not even said hello, the oldest: a
    flood from one host, or of silent ones, shall not cost an honest caller on a slow link its turn.
    """
    hosts = Counter(parse_address(c.address).host for c in strangers)
    return max(
        reversed(strangers),
        key=lambda c: (hosts[parse_address(c.address).host], c.device is None, c.peer is None),
    )
