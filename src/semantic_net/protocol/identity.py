"""Who a peer is: an ed25519 key, and the id that is the hash of its public half.

Pure: keys come in as bytes. Reading, making and protecting key files is the transport's.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable
from typing import Annotated, NewType

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PeerId = NewType("PeerId", str)
"""32 letters and digits: base32 of the first 20 bytes of sha256 of the public key."""

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
PEER_ID_CHARS = 32

PublicKey = Annotated[bytes, msgspec.Meta(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]
Signature = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]

_ENDORSEMENT, _CONSENT = b"peer of this device 1", b"device of this peer 1"


@functools.lru_cache(maxsize=1024)  # asked for with every heartbeat that arrives
def peer_id_of(public_key: bytes) -> PeerId:
    """Return the id of the peer that holds the private half of ``public_key``."""
    digest = hashlib.sha256(b"semantic-net peer 1\0" + public_key).digest()[:20]
    return PeerId(base64.b32encode(digest).decode("ascii").lower())


def short_id(peer: str) -> str:
    """Return the first two groups of an id, for people: ``abcd-efgh``."""
    return f"{peer[:4]}-{peer[4:8]}"


class Signer:
    """A private key that signs for one peer."""

    def __init__(self, private_key: bytes) -> None:
        """Take a 32-byte ed25519 private key."""
        self._key = Ed25519PrivateKey.from_private_bytes(private_key)
        self.public_key = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.peer_id = peer_id_of(self.public_key)

    def sign(self, context: bytes, body: bytes) -> bytes:
        """Sign ``body`` for one purpose; a signature never serves another ``context``."""
        return self._key.sign(signed_bytes(context, body))


def signature_valid(public_key: bytes, context: bytes, body: bytes, signature: bytes) -> bool:
    """Tell whether ``signature`` is the key's for this context and body."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(
            signature, signed_bytes(context, body)
        )
    except (InvalidSignature, ValueError):  # ValueError: not a key, or not a signature's length
        return False
    return True


SignatureCheck = Callable[[bytes, bytes, bytes, bytes], bool]
"""Tells whether a signature is valid: of public key, context, body and signature."""


def endorse(device: Signer, public_key: bytes) -> bytes:
    """Return a device's word that a key is that of a peer which runs on it.

    A device has one key for as long as others trust it; a peer has one for a run, and for as long
    as it knows which rounds it has signed.
    """
    return device.sign(_ENDORSEMENT, public_key)


def is_endorsed(device_key: bytes, public_key: bytes, endorsement: bytes) -> bool:
    """Tell whether the device that holds ``device_key`` has endorsed a peer's key."""
    return signature_valid(device_key, _ENDORSEMENT, public_key, endorsement)


def consent(peer: Signer, device_key: bytes) -> bytes:
    """Return a peer's word that it runs on a device."""
    return peer.sign(_CONSENT, device_key)


def is_bound(
    device_key: bytes,
    public_key: bytes,
    endorsement: bytes,
    consent: bytes,
    is_valid: SignatureCheck,
) -> bool:
    """Tell whether a device and a peer have both said that the one runs on the other."""
    return is_valid(device_key, _ENDORSEMENT, public_key, endorsement) and is_valid(
        public_key, _CONSENT, device_key, consent
    )


def signed_bytes(context: bytes, body: bytes) -> bytes:
    """Return what is signed and hashed: the purpose, a zero byte, the body."""
    return b"semantic-net " + context + b"\0" + body
