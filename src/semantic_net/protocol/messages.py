"""The messages between peers, as frozen values, and their way into frames and out again.

Each struct is one kind of frame, encoded as a msgpack array. Decoding checks types, lengths and
ranges; what does not fit is a `RemoteProtocolError`. The handshake's messages are its own.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.address import MAX_ADDRESS_CHARS
from semantic_net.protocol.frames import (
    MAX_CHUNK_BYTES,
    Frame,
    Kind,
    decode_body,
    encode_frame,
    encode_header,
)
from semantic_net.protocol.identity import (
    PEER_ID_CHARS,
    PeerId,
    PublicKey,
    Signature,
    SignatureCheck,
    Signer,
    peer_id_of,
    signature_valid,
)
from semantic_net.protocol.membership import DIGEST_BYTES, Binding, Statement
from semantic_net.protocol.update import (
    MALFORMED,
    MAX_ROUND,
    Hash32,
    Round,
    RunDigest,
    UpdateId,
    UpdateMessage,
)
from semantic_net.protocol.update_set import SUM_BYTES
from semantic_net.protocol.vitals import VitalsMessage

Counter = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
RoundOrNone = Annotated[int, msgspec.Meta(ge=0, le=MAX_ROUND + 1)]
"""A round, or 0 for none so far."""

MAX_HAVE_ENTRIES = 2048
"""Most entries in one HAVE; a longer list goes out in several."""

MAX_SUMS = 2048
"""Most rounds that are summed up at the begin of a session, the latest ones; 60 kB."""

MAX_NEIGHBOURS = 256
MAX_ADDRESSES = 2
"""Most addresses of one neighbour that are passed on."""
MAX_HINTS = 16
MAX_HINT_AGE_S = 0xFFFF

_HEARTBEAT_CONTEXT = b"heartbeat 1"


MAX_MARKS = 4
"""Most rounds that a heartbeat signs the set digest of, beside the frontier."""

Mark = tuple[RoundOrNone, Hash32]


class HeartbeatBody(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a peer says of itself, signed, so that others may pass it on."""

    run: RunDigest
    incarnation: Counter
    """Grows with every start of the process."""
    sequence: Counter
    """Grows with every heartbeat of an incarnation."""
    round: RoundOrNone
    """The round that is open at this peer; 0 before the first."""
    next_round: RoundOrNone
    """A promise: nothing new of this author below it."""
    last_round: RoundOrNone
    """The last own update's round; 0 for none."""
    last_id: Annotated[bytes, msgspec.Meta(max_length=32)]
    """Its id; empty for none."""
    ready: bool
    """Holds what it has heard of, and trains or is about to."""
    leaving: bool
    """Goodbye: nothing will follow."""
    closed_round: RoundOrNone
    """The last folded round, with the digests of what was folded and what came out."""
    set_digest: Annotated[bytes, msgspec.Meta(max_length=32)]
    state_digest: Annotated[bytes, msgspec.Meta(max_length=32)]
    held: Hash32
    """Set digest of everything held, whatever its round."""
    base: Hash32
    """Digest of what the rounds are folded on: the hash of its transfer form."""
    base_given: bool
    """The base was given by hand (``--init``); it wins over one from a seed."""
    base_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
    """Size of its transfer form."""
    frontier: RoundOrNone
    """The last round that the base includes."""
    base_set: Annotated[bytes, msgspec.Meta(max_length=32)]
    """Set digest through the frontier."""
    num_included: Counter
    """Number of updates in the base."""
    marks: Annotated[tuple[Mark, ...], msgspec.Meta(max_length=MAX_MARKS)] = ()
    """Rounds up to which nothing more of this author will come, other than the frontier, and the
    set digests of what is held through them."""
    members: Annotated[bytes, msgspec.Meta(max_length=DIGEST_BYTES)] = b""
    """Digest of the membership's records; empty where anyone may join."""
    watches: bool = False
    """A person looks at the run through this peer: it wants to hear everybody's vitals."""

    @property
    def is_due(self) -> bool:
        """Whether this peer's next turn is in the round that it has open, or in the one after."""
        return self.next_round <= self.round + 1

    @property
    def turn(self) -> tuple[int, int, bool, bool, bool]:
        """What it says of its next turn, which all of a large fleet hear when it is near."""
        return self.incarnation, self.next_round, self.ready, self.leaving, self.is_due


class HeartbeatMessage(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A heartbeat as it travels."""

    body: Annotated[bytes, msgspec.Meta(max_length=512)]
    public_key: PublicKey
    signature: Signature


class HaveEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One update that the sender holds and will serve."""

    round: Round
    author: Annotated[str, msgspec.Meta(min_length=PEER_ID_CHARS, max_length=PEER_ID_CHARS)]
    id: Hash32


class Have(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """I hold these."""

    entries: Annotated[tuple[HaveEntry, ...], msgspec.Meta(max_length=MAX_HAVE_ENTRIES)]
    complete: bool
    """With this message the sender has listed everything it holds."""


class Sum(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One round, and the digest of all that the sender holds of it."""

    round: Round
    digest: Annotated[bytes, msgspec.Meta(min_length=SUM_BYTES, max_length=SUM_BYTES)]


class Sums(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What I hold, round by round: list to me, of those that differ, what you hold."""

    rounds: Annotated[tuple[Sum, ...], msgspec.Meta(max_length=MAX_SUMS)]


class Want(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Send me this update or base, its payload from this byte on."""

    id: Hash32
    offset: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class Chunk(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Some bytes of a payload. ``data`` is a view of the frame, valid as long as it."""

    id: Hash32
    offset: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
    data: memoryview


class PackedChunk(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Some bytes of a base, compressed; a view, too."""

    id: Hash32
    offset: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
    packed: memoryview


class Absent(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """I do not hold what you want from me."""

    id: Hash32


class Neighbour(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A peer that the sender hears directly, and where it may be dialled."""

    id: Annotated[str, msgspec.Meta(min_length=PEER_ID_CHARS, max_length=PEER_ID_CHARS)]
    addresses: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=MAX_ADDRESS_CHARS)], ...],
        msgspec.Meta(max_length=MAX_ADDRESSES),
    ]


class Neighbours(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """I hear these without detour: you need not pass their heartbeats on to me."""

    heard: Annotated[tuple[Neighbour, ...], msgspec.Meta(max_length=MAX_NEIGHBOURS)]


class Hint(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An address at which a peer of the run may be."""

    address: Annotated[str, msgspec.Meta(max_length=MAX_ADDRESS_CHARS)]
    age_s: Annotated[int, msgspec.Meta(ge=0, le=MAX_HINT_AGE_S)]
    """Seconds since somebody had a session there, as far as the sender has heard."""


class Hints(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Some of the addresses that I know, in a mesh where nobody knows all."""

    known: Annotated[tuple[Hint, ...], msgspec.Meta(max_length=MAX_HINTS)]


Message = (
    HeartbeatMessage
    | Have
    | Want
    | UpdateMessage
    | Chunk
    | PackedChunk
    | Absent
    | Neighbours
    | Hints
    | Binding
    | Statement
    | VitalsMessage
    | Sums
)

KIND_OF: dict[type, Kind] = {
    HeartbeatMessage: Kind.HEARTBEAT,
    Have: Kind.HAVE,
    Want: Kind.WANT,
    UpdateMessage: Kind.UPDATE,
    Chunk: Kind.CHUNK,
    PackedChunk: Kind.PACKED_CHUNK,
    Absent: Kind.ABSENT,
    Neighbours: Kind.NEIGHBOURS,
    Hints: Kind.HINTS,
    Binding: Kind.BINDING,
    Statement: Kind.STATEMENT,
    VitalsMessage: Kind.VITALS,
    Sums: Kind.SUMS,
}
_DECODERS: dict[Kind, msgspec.msgpack.Decoder[Message]] = {
    kind: msgspec.msgpack.Decoder(cls) for cls, kind in KIND_OF.items()
}
_heartbeat_decoder = msgspec.msgpack.Decoder(HeartbeatBody)


def encode_message(message: Message) -> bytes:
    """Return a message as a whole frame."""
    return encode_frame(KIND_OF[type(message)], msgspec.msgpack.encode(message))


def decode_message(frame: Frame) -> Message:
    """Return the message in a frame; a chunk's data is a view of the frame.

    Raises:
        RemoteProtocolError: The kind has no place after the handshake, or the body does not fit.
    """
    decoder = _DECODERS.get(frame.kind)
    if decoder is None:
        raise RemoteProtocolError(f"a {frame.kind.name} after the handshake")
    return decode_body(decoder, frame)


def chunk_buffers(
    update: UpdateId, offset: int, data: bytes | memoryview, kind: Kind = Kind.CHUNK
) -> tuple[bytes, bytes | memoryview]:
    """Return the frame of a chunk or packed chunk as two buffers: ``data`` is not copied.

    ``data`` is at most `MAX_CHUNK_BYTES` long.
    """
    assert 0 < len(data) <= MAX_CHUNK_BYTES, "the caller cuts payloads into chunks"
    # The msgpack of Chunk, with an explicit 32-bit length for the data that follows.
    head = (
        b"\x93"
        + msgspec.msgpack.encode(update)
        + msgspec.msgpack.encode(offset)
        + b"\xc6"
        + len(data).to_bytes(4, "big")
    )
    return encode_header(kind, len(head) + len(data)) + head, data


def sign_heartbeat(body: HeartbeatBody, signer: Signer) -> HeartbeatMessage:
    """Make a heartbeat of one's own."""
    encoded = msgspec.msgpack.encode(body)
    return HeartbeatMessage(encoded, signer.public_key, signer.sign(_HEARTBEAT_CONTEXT, encoded))


def read_heartbeat(message: HeartbeatMessage, run: bytes) -> tuple[PeerId, HeartbeatBody]:
    """Return whose a heartbeat claims to be, and what it says; `verify_heartbeat` proves it.

    The two are apart because most heartbeats arrive several times, by several ways: what is no
    news needs no proof.

    Raises:
        RemoteProtocolError: Malformed, or of another run.
    """
    try:
        body = _heartbeat_decoder.decode(message.body)
    except MALFORMED as exc:
        raise RemoteProtocolError(f"malformed heartbeat: {exc}") from exc
    if body.run != run:
        raise RemoteProtocolError("a heartbeat of another run")
    return peer_id_of(message.public_key), body


def verify_heartbeat(
    message: HeartbeatMessage, signature_valid: SignatureCheck = signature_valid
) -> None:
    """Check that a heartbeat comes from the peer that it names.

    Raises:
        RemoteProtocolError: It does not.
    """
    if not signature_valid(message.public_key, _HEARTBEAT_CONTEXT, message.body, message.signature):
        raise RemoteProtocolError("a heartbeat that its peer did not sign")
