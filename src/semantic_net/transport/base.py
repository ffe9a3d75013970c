"""What a transport is: it carries frames between peers, and knows nothing of models.

Two lanes lead to each connected peer. `Transport.send` is for control frames: small, never
blocking, always ahead of bulk. `Transport.stream` is for payloads: the transport pulls one frame
at a time whenever the connection can take one, so nothing large ever waits in memory and a
heartbeat is never stuck behind a model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from semantic_net.protocol.frames import Frame
from semantic_net.protocol.handshake import Hello
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.membership import Standing

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Connected:
    """A session with ``peer`` is up; its hello fits ours."""

    peer: PeerId
    hello: Hello
    address: str
    device: PeerId | None = None
    """On which device it runs, where the connection has proven one."""
    dialled: bool = False
    """Whether we have dialled the address; else it is where the call came from."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The session with ``peer`` is over; what was in flight on it is lost."""

    peer: PeerId
    reason: str
    code: str = "lost"
    """lost (the network broke), closed (the peer hung up), replaced (by a newer connection),
    unread (it took nothing for too long), or the code that one side gave for ending it."""
    by_us: bool = False
    """Whether we ended it, and told the peer why."""


class Received(msgspec.Struct, frozen=True):  # of which there are many
    """A frame from ``peer``. Its body is only valid until the handler returns."""

    peer: PeerId
    frame: Frame


@dataclass(frozen=True, slots=True)
class Refused:
    """A connection was refused, by us or by the other side: a one-word code and a sentence."""

    address: str
    """Where the other side listens, if it has said so; else where it came from."""
    code: str
    reason: str
    peer: PeerId | None = None
    """Who it says it is, which may be a lie; None if it did not come to that."""
    by_us: bool = True
    """Whether we refuse it, or it refuses us."""
    device: PeerId | None = None
    """Which device it is, where the connection has proven one."""
    dialled: bool = False
    """Whether we have dialled the address; else anybody may have said so."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """An address that we have dialled is that of a peer with which there is a session already."""

    address: str
    peer: PeerId


@dataclass(frozen=True, slots=True)
class Unreachable:
    """An address that we dial does not answer; the transport goes on trying."""

    address: str
    reason: str
    peer: PeerId | None = None
    """Who answered there last."""


@dataclass(frozen=True, slots=True)
class Found:
    """Somebody of the run is at an address, as the network tells, that nobody has named."""

    address: str


@dataclass(frozen=True, slots=True)
class TrustChanged:
    """The trust file of this device says something else now."""

    standing: Mapping[PeerId, Standing]


TransportEvent = (
    Connected | Disconnected | Received | Refused | Duplicate | Unreachable | Found | TrustChanged
)
TransportHandler = Callable[[TransportEvent], None]


class BulkSource(Protocol):
    """A payload under way to one peer, pulled frame by frame."""

    def next_frame(self, max_bytes: int) -> Sequence[Buffer] | None:
        """Return the buffers of the next encoded frame, or None when there is nothing left.

        Args:
            max_bytes: Most payload bytes that the frame should carry, at least 1.

        The buffers may not change afterwards: the transport does not copy them.
        """
        ...


@dataclass(frozen=True, slots=True)
class Traffic:
    """Socket bytes since the transport started, all connections together."""

    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True, slots=True)
class LinkTotals:
    """What a connection has carried to the other end while payloads were under way."""

    sent_bytes: int
    """That have arrived, as far as the kernel has been told."""
    busy_s: float
    """How long something was under way or waited to be."""
    lost_bytes: int
    """That had to be sent again."""
    session: bytes = b""
    """Counters of different sessions have nothing to do with each other."""


class Transport(Protocol):
    """Moves frames between this peer and those it is connected to.

    Events reach the handler one at a time and in order, always from the event loop and never from
    within a call of the shell's. A handler that raises `RemoteProtocolError` for a `Received`
    ends that session with the code ``protocol``; anything else that it raises is a bug of ours:
    `failed` gets it, and no event follows.
    """

    @property
    def address(self) -> str:
        """Where this peer listens, as ``host:port``; valid once started."""
        ...

    @property
    def failed(self) -> asyncio.Future[None]:
        """Gets the exception that the handler or a payload's source raised; valid once started."""
        ...

    async def start(self, handler: TransportHandler) -> None:
        """Listen and begin to dial.

        Raises:
            StartError: The port is busy or the address is not ours.
        """
        ...

    def add_address(self, address: str) -> None:
        """Dial another ``host:port`` from now on; one that is known already changes nothing.

        Raises:
            ValueError: It is no address.
        """
        ...

    def forget(self, address: str) -> None:
        """Dial an address no more that was added; a session with its peer stays.

        Raises:
            ValueError: It is no address.
        """
        ...

    def unmet_addresses(self) -> tuple[str, ...]:
        """Return the addresses to dial with whose peers there was no session yet."""
        ...

    def refused_addresses(self) -> frozenset[str]:
        """Return the addresses where one end turns the other away until somebody changes that."""
        ...

    def send(self, peer: PeerId, frame: bytes, replaces: bytes | None = None) -> None:
        """Queue one encoded control frame.

        Args:
            peer: To whom.
            frame: It goes ahead of all payloads, unless it has a key.
            replaces: A key, for what is only passed on: it takes turns with payloads, and the
                place of an earlier frame with this key that still waits.

        Raises:
            TransportError: ``peer`` is not connected.
        """
        ...

    def stream(self, peer: PeerId, source: BulkSource) -> None:
        """Queue a payload behind those already queued for ``peer``.

        Raises:
            TransportError: ``peer`` is not connected.
        """
        ...

    def disconnect(self, peer: PeerId, code: str, reason: str) -> None:
        """Drop the session, telling the peer why; either side may dial again later."""
        ...

    def traffic(self) -> Traffic:
        """Return the socket bytes so far."""
        ...

    def links(self) -> dict[PeerId, LinkTotals]:
        """Return what is known of the links to all connected peers; zeros where nothing is."""
        ...

    async def close(self) -> None:
        """Flush the control lane within a bounded time, then close every connection.

        No event follows. Harmless when not started, and when called again.
        """
        ...
