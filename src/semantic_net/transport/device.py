"""What makes a machine this device: its key, its certificate, and whom it trusts, in one folder."""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate

from semantic_net.errors import StartError
from semantic_net.protocol.identity import PeerId, Signer, endorse
from semantic_net.transport.certificate import make_certificate
from semantic_net.transport.identity import RAW_KEY_BYTES, load_or_create_private_key
from semantic_net.transport.tls import Pins
from semantic_net.transport.trust import TrustFile, make_private_folder


class Profile(msgspec.Struct, frozen=True):
    """What the owner of a device has said of it."""

    name: str = ""
    addresses: tuple[str, ...] = ()
    """Where others can dial it."""


class DeviceIdentity:
    """This device, as others know it; made on first use."""

    def __init__(self, folder: Path) -> None:
        """Read the key and the certificate, or make them.

        Raises:
            StartError: They cannot be read or written.
        """
        self.folder = folder
        self.key = folder / "key.pem"
        self.certificate_file = folder / "certificate.pem"
        self.trust_file = TrustFile(folder / "trust.txt")
        self._profile_file = folder / "device.json"
        try:
            make_private_folder(folder)
        except OSError as exc:
            raise StartError(f"{folder} cannot be made: {exc.strerror}") from exc
        private_key = load_or_create_private_key(self.key)
        if self.key.stat().st_size == RAW_KEY_BYTES:
            raise StartError(f"the key {self.key} is 32 raw bytes: a device's has to be PEM")
        self.signer = Signer(private_key)
        self.certificate = make_certificate(Ed25519PrivateKey.from_private_bytes(private_key))
        """In DER."""
        self.id: PeerId = self.signer.peer_id
        self._write_certificate()

    def profile(self) -> Profile:
        """Return what its owner has said of it; nothing where nobody has.

        Raises:
            StartError: The file cannot be read.
        """
        try:
            return msgspec.json.decode(self._profile_file.read_bytes(), type=Profile)
        except FileNotFoundError:
            return Profile()
        except OSError as exc:
            raise StartError(f"{self._profile_file} cannot be read: {exc.strerror}") from exc
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise StartError(f"{self._profile_file}: {exc}; remove it to begin anew") from exc

    def keep_profile(self, profile: Profile) -> None:
        """Write down what its owner says of it.

        Raises:
            StartError: It cannot be written.
        """
        self._replace(self._profile_file, msgspec.json.encode(profile) + b"\n")

    def endorse(self, public_key: bytes) -> bytes:
        """Return this device's word that a key is that of a peer which runs on it."""
        return endorse(self.signer, public_key)

    def pins(self) -> Pins:
        """Return whom a transport is to let in.

        Raises:
            StartError: The key, the certificate or the trust file cannot be used.
        """
        return Pins(self.key, self.certificate_file, self.trust_file)

    def _write_certificate(self) -> None:
        """Write what follows from the key, where it is not written yet."""
        pem = load_der_x509_certificate(self.certificate).public_bytes(Encoding.PEM)
        self._replace(self.certificate_file, pem)

    def _replace(self, path: Path, content: bytes) -> None:
        """Put a file in place as a whole, unless it is there as it should be."""
        try:
            if path.exists() and path.read_bytes() == content:
                return
            part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
            try:
                part.write_bytes(content)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as exc:
            raise StartError(f"{path} cannot be written: {exc.strerror}") from exc
