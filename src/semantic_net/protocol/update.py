"""An update: the small signed record that peers exchange, and its admission.

Admission is a pure function of the update and the run: every peer accepts and
refuses the same updates, whatever its mood. The signed body travels and is hashed as the very
bytes that its author made, so no re-encoding can change an id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.identity import (
    PeerId,
    PublicKey,
    Signature,
    SignatureCheck,
    Signer,
    peer_id_of,
    signature_valid,
    signed_bytes,
)
from semantic_net.protocol.turns import Turns

UpdateId = bytes
"""sha256 of the signed body and its context: 32 bytes."""

MAX_ROUND = (1 << 31) - 1
MAX_WEIGHT = 1 << 20
MAX_AUTHORS = 1 << 10
"""Most authors in one round; with `MAX_WEIGHT` it keeps the fold's sums below 2^60."""

MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding a stranger's bytes may raise; the last two are no errors of msgspec's own."""

_CONTEXT = b"update 1"

Hash32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
RunDigest = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Round = Annotated[int, msgspec.Meta(ge=1, le=MAX_ROUND)]


class UpdateBody(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What an author signs."""

    run: RunDigest
    round: Round
    weight: Annotated[int, msgspec.Meta(ge=1, le=MAX_WEIGHT)]
    """Number of examples behind the delta."""
    codec: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    payload_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
    payload_hash: Hash32


class UpdateMessage(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An update as it travels, ahead of its payload."""

    body: Annotated[bytes, msgspec.Meta(max_length=512)]
    public_key: PublicKey
    signature: Signature


@dataclass(frozen=True, slots=True)
class Update:
    """An admitted update without its payload."""

    id: UpdateId
    author: PeerId
    round: int
    weight: int
    codec: str
    payload_bytes: int
    payload_hash: bytes
    message: UpdateMessage
    """The signed form, for relaying."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What this run admits."""

    run: bytes
    max_payload_bytes: Callable[[str], int | None]
    """Largest payload of a codec under the agreed model schema; None for an unknown codec."""
    signature_valid: SignatureCheck = signature_valid
    """Replaced where nobody lies: in a simulation."""
    turns: Turns = field(default_factory=Turns)
    """Who may publish in which round."""
    known: MutableMapping[UpdateMessage, Update] | None = None
    """What another peer of this process has admitted already, in a simulation: it is the same."""


_body_decoder = msgspec.msgpack.Decoder(UpdateBody)


def hash_payload(payload: bytes | bytearray | memoryview) -> bytes:
    """Return the hash that an update's body carries."""
    return hashlib.sha256(payload).digest()


def sign_update(body: UpdateBody, signer: Signer) -> Update:
    """Make an update of one's own."""
    encoded = msgspec.msgpack.encode(body)
    signature = signer.sign(_CONTEXT, encoded)
    return _update(body, UpdateMessage(encoded, signer.public_key, signature))


def admit(message: UpdateMessage, admission: Admission) -> Update:
    """Check a stranger's update, all but its payload.

    Raises:
        RemoteProtocolError: Another run's, malformed, out of limits, or not the author's.
    """
    if admission.known is not None and (known := admission.known.get(message)) is not None:
        return known
    try:
        body = _body_decoder.decode(message.body)
    except MALFORMED as exc:
        raise RemoteProtocolError(f"malformed update: {exc}") from exc
    if body.run != admission.run:
        raise RemoteProtocolError("an update of another run")
    limit = admission.max_payload_bytes(body.codec)
    if limit is None:
        raise RemoteProtocolError(f"an update with the unknown codec {body.codec!r}")
    if body.payload_bytes > limit:
        raise RemoteProtocolError(
            f"an update of {body.payload_bytes} bytes, over the model's limit of {limit}"
        )
    if not admission.turns.has(peer_id_of(message.public_key), body.round):
        raise RemoteProtocolError(f"an update for round {body.round}, not its author's turn")
    if not admission.signature_valid(message.public_key, _CONTEXT, message.body, message.signature):
        raise RemoteProtocolError("an update that its author did not sign")
    update = _update(body, message)
    if admission.known is not None:
        admission.known[message] = update
    return update


def id_of(message: UpdateMessage) -> UpdateId:
    """Return an update's id, whether or not it may be admitted."""
    return hashlib.sha256(signed_bytes(_CONTEXT, message.body + message.public_key)).digest()


def _update(body: UpdateBody, message: UpdateMessage) -> Update:
    return Update(
        id=id_of(message),
        author=peer_id_of(message.public_key),
        round=body.round,
        weight=body.weight,
        codec=body.codec,
        payload_bytes=body.payload_bytes,
        payload_hash=body.payload_hash,
        message=message,
    )
