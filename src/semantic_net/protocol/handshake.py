"""One connection's handshake without I/O: who is at the other end, and do we fit.

    HELLO --their hello fits--> CONFIRM --their proof holds, there is room--> OVER
      `---------------- REFUSE, sent or received ----------------------------^

Both ends send HELLO at once. A CONFIRM signs both hellos and the sender's role, so it proves the
key, for these two nonces, and can be neither replayed nor reflected. Of the two ends the one with
the lower peer id *decides*: it confirms last, and only when there is room for the session. So two
connections between one pair, whoever dialled them, are judged at one place in one order, and both
ends always keep the same one.

Nothing but HELLO, CONFIRM and REFUSE, once each and in this order, is accepted. Nonces come in.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from semantic_net.errors import LocalProtocolError, RemoteProtocolError
from semantic_net.protocol.facts import differing_facts, join_facts, printable
from semantic_net.protocol.frames import Frame, Kind, decode_body, encode_frame
from semantic_net.protocol.identity import (
    SIGNATURE_BYTES,
    PeerId,
    PublicKey,
    Signature,
    Signer,
    is_endorsed,
    peer_id_of,
    signature_valid,
    signed_bytes,
)

NONCE_BYTES = 32
SESSION_ID_BYTES = 16
MAX_LOST_SESSIONS = 8

FACTS = "facts"
SELF = "self"
DUPLICATE_KEY = "duplicate_key"
DUPLICATE_CONNECTION = "duplicate_connection"
PROTOCOL = "protocol"
SIGNATURE = "signature"
BUSY = "busy"
TIMEOUT = "timeout"
UNKNOWN_DEVICE = "unknown_device"
REVOKED = "revoked"
SECURITY = "security"
QUARANTINED = "quarantined"
CROWDED = "crowded"
"""Ends a session that one side has more than enough of: in a mesh that is no refusal."""
REFUSAL_CODES = (
    FACTS,
    SELF,
    DUPLICATE_KEY,
    DUPLICATE_CONNECTION,
    PROTOCOL,
    SIGNATURE,
    BUSY,
    TIMEOUT,
    UNKNOWN_DEVICE,
    REVOKED,
    SECURITY,
    QUARANTINED,
)
"""Those that we give; a stranger may give any."""


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """What each end says first."""

    public_key: PublicKey
    nonce: Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    incarnation: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    """Differs between two starts of one peer."""
    addresses: Annotated[list[Annotated[str, Meta(max_length=260)]], Meta(max_length=16)]
    """Where this peer listens, as ``host:port``. An empty host or a wildcard means: at the
    address you see me at, with this port."""
    facts: Annotated[
        dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=1024)]],
        Meta(max_length=256),
    ]
    """The run digest: what must be equal on all peers of a run."""
    software: Annotated[str, Meta(max_length=128)]
    unpacks: bool = False
    """Whether this peer reads PACKED frames."""
    endorsement: Annotated[bytes, Meta(max_length=SIGNATURE_BYTES)] = b""
    """The word of the device that this peer runs on, where the connection proves a device."""
    sums_up: bool = False
    """Whether this peer begins with SUMS, and lists what it holds when it has read the other's."""

    @property
    def peer_id(self) -> PeerId:
        """The id that belongs to the key; proven only by a CONFIRM."""
        return peer_id_of(self.public_key)


class Confirm(msgspec.Struct, frozen=True, array_like=True):
    """Proof of the key, and which sessions with the receiver this end has lost."""

    signature: Signature
    lost_sessions: Annotated[
        list[Annotated[bytes, Meta(max_length=SESSION_ID_BYTES)]],
        Meta(max_length=MAX_LOST_SESSIONS),
    ]


class Refuse(msgspec.Struct, frozen=True, array_like=True):
    """Why the sender ends this connection."""

    code: Annotated[str, Meta(pattern=r"\A[a-z_]{1,32}\Z")]
    reason: Annotated[str, Meta(max_length=1000)]


@dataclass(frozen=True, slots=True)
class HelloContent:
    """What this peer says of itself in every hello."""

    facts: Mapping[str, str]
    incarnation: int
    software: str
    addresses: tuple[str, ...] = ()
    """Empty: the transport says where it listens."""
    unpacks: bool = True
    """Whether control frames may come packed."""
    endorsement: bytes = b""
    """By the device that this peer runs on, of its key."""
    sums_up: bool = True
    """Whether a session begins with a digest of each round, before anything is listed."""


@dataclass(frozen=True, slots=True)
class Established:
    """The other end holds its key, fits, and there is room: a session may begin."""

    peer: PeerId
    hello: Hello
    session_id: bytes
    lost_sessions: frozenset[bytes]
    """Sessions with us that the other end has lost."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The connection ends here: a one-word code and a sentence for people."""

    code: str
    reason: str
    by_us: bool = True


Outcome = Established | Refusal


class SessionBook(Protocol):
    """What one connection's handshake must know of this peer's other connections."""

    def lost_sessions(self, peer: PeerId) -> Sequence[bytes]:
        """Return ids of sessions lost since the last one with ``peer`` that held."""
        ...

    def objection(
        self, peer: PeerId, incarnation: int, *, dialled: bool, device: PeerId | None = None
    ) -> Refusal | None:
        """Refuse another instance of a peer whose session is alive, or one caller too many.

        Args:
            peer: Who says hello.
            incarnation: Of which process.
            dialled: Whether we opened the connection.
            device: On which device, where the wire has proven one.
        """
        ...

    def no_room(self, candidate: Established) -> Refusal | None:
        """Refuse a second connection to a peer whose session is alive; asked of one end only."""
        ...


class _Phase(enum.Enum):
    HELLO = enum.auto()
    CONFIRM = enum.auto()
    OVER = enum.auto()


_EXPECTED = {_Phase.HELLO: Kind.HELLO, _Phase.CONFIRM: Kind.CONFIRM}

_HELLO = msgspec.msgpack.Decoder(Hello)
_CONFIRM = msgspec.msgpack.Decoder(Confirm)
_REFUSE = msgspec.msgpack.Decoder(Refuse)


class Handshake:
    """Our end of one connection's handshake: frames in, frames and at last an outcome out."""

    def __init__(
        self,
        signer: Signer,
        content: HelloContent,
        nonce: bytes,
        *,
        dialled: bool,
        book: SessionBook,
    ) -> None:
        """Prepare our hello.

        Args:
            signer: Our key.
            content: What our hello says.
            nonce: 32 bytes that were never used before.
            dialled: Whether this end opened the connection.
            book: Our other connections.

        Raises:
            LocalProtocolError: The content breaks the limits that others hold it to.
        """
        self._signer = signer
        self._dialled = dialled
        self._book = book
        self._phase = _Phase.HELLO
        self._ours = Hello(
            public_key=signer.public_key,
            nonce=nonce,
            incarnation=content.incarnation,
            addresses=list(content.addresses),
            facts=dict(content.facts),
            software=content.software,
            unpacks=content.unpacks,
            sums_up=content.sums_up,
            endorsement=content.endorsement,
        )
        self._our_body = msgspec.msgpack.encode(self._ours)
        try:
            decode_body(_HELLO, Frame(Kind.HELLO, self._our_body))  # encoding checks nothing
        except RemoteProtocolError as exc:
            raise LocalProtocolError(f"our own hello would be refused: {exc}") from exc
        self._transcript = b""
        self._theirs: Hello | None = None
        self.device_key: bytes | None = None
        """Of the device at the other end, where the wire has proven one."""
        self.is_proven = False
        """Whether the other end has proven to hold the key that it says hello under."""
        self.claim: tuple[PeerId, bytes] | None = None
        """Peer and session id once our CONFIRM is out: the other end may believe in it."""

    @property
    def hello(self) -> Hello | None:
        """What the other end says of itself; proven only by `Established`."""
        return self._theirs

    @property
    def peer(self) -> PeerId | None:
        """Who the other end says it is; as unproven."""
        return self._theirs.peer_id if self._theirs else None

    def start(self) -> bytes:
        """Return our HELLO, to be sent at once."""
        return encode_frame(Kind.HELLO, self._our_body)

    def receive(self, frame: Frame) -> tuple[bytes, Outcome | None]:
        """Take the next frame; return what to send and, at the end, the outcome.

        Raises:
            RemoteProtocolError: A frame that is malformed, early, repeated or out of place.
        """
        if frame.kind is Kind.REFUSE and self._phase is not _Phase.OVER:
            self._phase = _Phase.OVER
            return b"", decode_refusal(frame)
        if frame.kind is not _EXPECTED.get(self._phase):
            raise RemoteProtocolError(f"a {frame.kind.name} is out of place in the handshake")
        if frame.kind is Kind.HELLO:
            return self._hello_received(bytes(frame.body))
        return self._confirm_received(decode_body(_CONFIRM, frame))

    def _hello_received(self, body: bytes) -> tuple[bytes, Outcome | None]:
        theirs = self._theirs = decode_body(_HELLO, Frame(Kind.HELLO, body))
        if refusal := self._misfit(theirs):
            return self._refuse(refusal)
        dialler, listener = (self._our_body, body) if self._dialled else (body, self._our_body)
        self._transcript = hashlib.sha256(
            signed_bytes(b"handshake 1", b"%d:" % len(dialler) + dialler + listener)
        ).digest()
        self._phase = _Phase.CONFIRM
        return (b"" if self._we_decide(theirs) else self._confirm(theirs.peer_id)), None

    def _misfit(self, theirs: Hello) -> Refusal | None:
        device = self.device_key
        if device is not None and not is_endorsed(device, theirs.public_key, theirs.endorsement):
            return Refusal(SIGNATURE, "its device has not endorsed the key that says hello")
        if theirs.public_key == self._ours.public_key:
            if theirs.incarnation == self._ours.incarnation:
                return Refusal(SELF, "this is our own address")
            return Refusal(DUPLICATE_KEY, "another running peer holds the same key")
        if differing := differing_facts(self._ours.facts, theirs.facts):
            return Refusal(FACTS, join_facts(differing, max_chars=900))
        return self._objection(theirs)

    def _objection(self, theirs: Hello) -> Refusal | None:
        device = None if self.device_key is None else peer_id_of(self.device_key)
        return self._book.objection(
            theirs.peer_id, theirs.incarnation, dialled=self._dialled, device=device
        )

    def _we_decide(self, theirs: Hello) -> bool:
        return self._signer.peer_id < theirs.peer_id

    def _confirm_received(self, confirm: Confirm) -> tuple[bytes, Outcome | None]:
        theirs = self._theirs
        assert theirs is not None
        lost = confirm.lost_sessions
        proof = _proof_body(not self._dialled, self._transcript, lost)
        if not signature_valid(theirs.public_key, b"confirm 1", proof, confirm.signature):
            return self._refuse(Refusal(SIGNATURE, "the peer does not hold the key it claims"))
        self.is_proven = True
        established = Established(
            theirs.peer_id, theirs, self._transcript[:SESSION_ID_BYTES], frozenset(lost)
        )
        # Asked again: another session of theirs may have come up since their hello.
        refusal = self._objection(theirs)
        if refusal is None and self._we_decide(theirs):
            refusal = self._book.no_room(established)
        if refusal:
            return self._refuse(refusal)
        self._phase = _Phase.OVER
        return (self._confirm(theirs.peer_id) if self._we_decide(theirs) else b""), established

    def _confirm(self, peer: PeerId) -> bytes:
        lost = list(self._book.lost_sessions(peer))[-MAX_LOST_SESSIONS:]
        proof = _proof_body(self._dialled, self._transcript, lost)
        self.claim = (peer, self._transcript[:SESSION_ID_BYTES])
        confirm = Confirm(self._signer.sign(b"confirm 1", proof), lost)
        return encode_frame(Kind.CONFIRM, msgspec.msgpack.encode(confirm))

    def _refuse(self, refusal: Refusal) -> tuple[bytes, Refusal]:
        self._phase = _Phase.OVER
        return encode_refusal(refusal), refusal


def _proof_body(dialled: bool, transcript: bytes, lost_sessions: Sequence[bytes]) -> bytes:
    return msgspec.msgpack.encode((dialled, transcript, lost_sessions))


def encode_refusal(refusal: Refusal) -> bytes:
    """Return the REFUSE frame of a refusal; an over-long reason is cut."""
    body = msgspec.msgpack.encode(Refuse(refusal.code, printable(refusal.reason, 1000)))
    return encode_frame(Kind.REFUSE, body)


def decode_refusal(frame: Frame) -> Refusal:
    """Read a REFUSE frame of the other end.

    Raises:
        RemoteProtocolError: It is malformed.
    """
    refuse = decode_body(_REFUSE, frame)
    return Refusal(refuse.code, printable(refuse.reason, 1000), by_us=False)


def encode_hello(hello: Hello) -> bytes:
    """Return the HELLO frame of one who begins no session.

    Raises:
        LocalProtocolError: It breaks the limits that others hold it to.
    """
    body = msgspec.msgpack.encode(hello)
    frame = encode_frame(Kind.HELLO, body)
    try:
        decode_hello(Frame(Kind.HELLO, body))  # encoding checks nothing
    except RemoteProtocolError as exc:
        raise LocalProtocolError(f"our own hello would be refused: {exc}") from exc
    return frame


def decode_hello(frame: Frame) -> Hello:
    """Read a HELLO frame of the other end.

    Raises:
        RemoteProtocolError: It is malformed.
    """
    return decode_body(_HELLO, frame)
