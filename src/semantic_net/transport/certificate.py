"""A device's certificate: its public key, in the form that TLS wants it in.

Self-signed, with the device's id (the hash of the key) as its one name: OpenSSL finds a trusted
certificate by its name, so no two devices may share one. It says nothing of when it is valid, since
a device may wake without a clock: from the first day that a certificate can name to the last.
"""

from __future__ import annotations

import datetime
import functools
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from semantic_net.protocol.identity import PeerId, peer_id_of

_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_OUTER_BYTES = 4
"""Of DER, before what is signed."""

_FIRST_DAY = datetime.datetime(1950, 1, 1)
_LAST_DAY = datetime.datetime(9999, 12, 31, 23, 59, 59)


def make_certificate(key: Ed25519PrivateKey) -> bytes:
    """Return a key's certificate in DER; of one key always the same."""
    public_key = key.public_key()
    name = _name_of(peer_id_of(public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)))
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public_key)
        .serial_number(1)
        .not_valid_before(_FIRST_DAY)
        .not_valid_after(_LAST_DAY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    return builder.sign(key, algorithm=None).public_bytes(Encoding.DER)


@functools.lru_cache(maxsize=4096)  # asked for again whenever a trust file is read
def device_of(certificate: bytes) -> PeerId:
    """Return the id of the device whose certificate this is; see `key_of`."""
    return peer_id_of(key_of(certificate))


def key_of(certificate: bytes) -> bytes:
    """Return the public key of the device whose certificate this is.

    It comes from a stranger, and no parser sees it: but for key and signature it is known.

    Args:
        certificate: In DER.

    Raises:
        ValueError: It is none of a device: another kind of key, another name than its key's id, or
            not signed with the key itself.
    """
    form = _form()
    if len(certificate) != form.size:
        raise ValueError("the certificate is not as long as those of devices")
    key = certificate[form.key_at : form.key_at + _KEY_BYTES]
    body, signature = certificate[:-_SIGNATURE_BYTES], certificate[-_SIGNATURE_BYTES:]
    if body != form.filled_in(key):
        raise ValueError(
            "the certificate is not as those of devices are, with its key's id as its one name"
        )
    try:
        signed = body[_OUTER_BYTES : form.signed_to]
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
    except InvalidSignature:
        raise ValueError("the certificate is not signed with its own key") from None
    return key


@dataclass(frozen=True, slots=True)
class _Form:
    """All of a certificate that does not depend on its key."""

    pieces: tuple[bytes, bytes, bytes, bytes]
    """Before the id as the issuer's, and as the subject's; before and after the key."""
    size: int
    key_at: int
    signed_to: int

    def filled_in(self, key: bytes) -> bytes:
        """Return a key's certificate up to the signature."""
        name = peer_id_of(key).encode("ascii")
        to_issuer, to_subject, to_key, to_signature = self.pieces
        return b"".join((to_issuer, name, to_subject, name, to_key, key, to_signature))


@functools.cache
def _form() -> _Form:
    example = Ed25519PrivateKey.from_private_bytes(bytes(_KEY_BYTES))
    key = example.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    made = make_certificate(example)
    to_issuer, to_subject, rest = made.split(peer_id_of(key).encode("ascii"))
    to_key, rest = rest.split(key)
    signed = x509.load_der_x509_certificate(made).tbs_certificate_bytes
    return _Form(
        (to_issuer, to_subject, to_key, rest[:-_SIGNATURE_BYTES]),
        len(made),
        made.index(key),
        _OUTER_BYTES + len(signed),
    )


def _name_of(peer: PeerId) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, peer)])
