"""A device's certificate: its public key, in the form that TLS wants it in.

Self-signed, with the device's id (the hash of the key) as its one name: OpenSSL finds a trusted
certificate by its name, so no two devices may share one. It says nothing of when it is valid, since
a device may wake without a clock: from the first day that a certificate can name to the last.
"""

from __future__ import annotations

import datetime
import functools

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from semantic_net.protocol.identity import PeerId, peer_id_of

MAX_CERTIFICATE_BYTES = 1024
"""Of one in DER; ours have 282."""

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

    Args:
        certificate: In DER.

    Raises:
        ValueError: It is none of a device: another kind of key, another name than its key's id, or
            not signed with the key itself.
    """
    if len(certificate) > MAX_CERTIFICATE_BYTES:
        raise ValueError("the certificate is too long")
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        key = parsed.public_key()
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError("the certificate's key is not an ed25519 key")
        public_key = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        if not parsed.subject == parsed.issuer == _name_of(peer_id_of(public_key)):
            raise ValueError("the certificate does not bear its key's id as its one name")
        parsed.verify_directly_issued_by(parsed)
    except InvalidSignature:
        raise ValueError("the certificate is not signed with its own key") from None
    except (UnsupportedAlgorithm, x509.InvalidVersion, TypeError) as exc:
        raise ValueError(f"the certificate cannot be read: {exc}") from exc
    return public_key


def _name_of(peer: PeerId) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, peer)])
