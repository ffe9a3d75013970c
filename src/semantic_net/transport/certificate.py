"""A device's certificate: its public key, in the form that TLS wants it in.

Self-signed, with the device's id (the hash of the key) as its one name: OpenSSL finds a trusted
certificate by its name, so no two devices may share one. It says nothing of when it is valid, since
a device may wake without a clock: from the first day that a certificate can name to the last.

But for key and signature a certificate is known to the byte. So none that a stranger sends is
parsed here, and no version of any library can make another one of the same key.
"""

from __future__ import annotations

import functools

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from semantic_net.protocol.identity import PEER_ID_CHARS, PeerId, peer_id_of

# DER (RFC 5280, RFC 8410), in the order of the fields.
_OUTER = bytes.fromhex("30820116")  # a certificate of 278 bytes more
_TO_ISSUER = bytes.fromhex(
    "3081c9a003020102"  # what is signed, of 201 bytes more: version 3,
    "020101"  # serial number 1,
    "300506032b6570"  # ed25519,
    "302b3129302706035504030c20"  # and issued by the common name
)
_FIRST_DAY, _FIRST_LINK_DAY = b"500101000000Z", b"700101000000Z"  # of 1950 and 1970
_TO_SUBJECT = (
    bytes.fromhex("3020170d")  # valid from
    + _FIRST_DAY
    + bytes.fromhex("180f")  # to
    + b"99991231235959Z"
    + bytes.fromhex("302b3129302706035504030c20")  # to the common name
)
_TO_KEY = bytes.fromhex("302a300506032b6570032100")
_TO_SIGNATURE = bytes.fromhex(
    "a310300e300c0603551d130101ff04023000"  # no authority, critical
    "300506032b6570034100"
)
_NOT_SIGNED_BYTES = 10  # of the last one: the signature's algorithm and its length

_KEY_BYTES, _SIGNATURE_BYTES = 32, 64
_KEY_AT = len(_OUTER + _TO_ISSUER + _TO_SUBJECT + _TO_KEY) + 2 * PEER_ID_CHARS
CERTIFICATE_BYTES = _KEY_AT + _KEY_BYTES + len(_TO_SIGNATURE) + _SIGNATURE_BYTES


def make_certificate(key: Ed25519PrivateKey) -> bytes:
    """Return a key's certificate in DER; of one key always the same."""
    public_key = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    unsigned = _unsigned(public_key)
    return unsigned + key.sign(_signed_part(unsigned))


def make_link_certificate(key: Ed25519PrivateKey) -> bytes:
    """Return a key's certificate for links of Zenoh, in DER.

    Valid from 1970 on, since its TLS knows no day before; all else is as in the one that others
    pin, which it takes for the anchor of this one.
    """
    public_key = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    unsigned = _unsigned(public_key).replace(_FIRST_DAY, _FIRST_LINK_DAY, 1)
    return unsigned + key.sign(_signed_part(unsigned))


@functools.lru_cache(maxsize=4096)  # asked for again whenever a trust file is read
def device_of(certificate: bytes) -> PeerId:
    """Return the id of the device whose certificate this is; see `key_of`."""
    return peer_id_of(key_of(certificate))


def key_of(certificate: bytes) -> bytes:
    """Return the public key of the device whose certificate this is.

    Args:
        certificate: In DER.

    Raises:
        ValueError: It is none of a device: another kind of key, another name than its key's id, or
            not signed with the key itself.
    """
    if len(certificate) != CERTIFICATE_BYTES:
        raise ValueError("the certificate is not as long as those of devices")
    key = certificate[_KEY_AT : _KEY_AT + _KEY_BYTES]
    unsigned, signature = certificate[:-_SIGNATURE_BYTES], certificate[-_SIGNATURE_BYTES:]
    if unsigned != _unsigned(key):
        raise ValueError(
            "the certificate is not as those of devices are, with its key's id as its one name"
        )
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, _signed_part(unsigned))
    except InvalidSignature:
        raise ValueError("the certificate is not signed with its own key") from None
    return key


def _unsigned(key: bytes) -> bytes:
    """Return a key's certificate without the signature."""
    name = peer_id_of(key).encode("ascii")
    return b"".join((_OUTER, _TO_ISSUER, name, _TO_SUBJECT, name, _TO_KEY, key, _TO_SIGNATURE))


def _signed_part(unsigned: bytes) -> bytes:
    return unsigned[len(_OUTER) : -_NOT_SIGNED_BYTES]
