"""The file that holds a peer's private key: made once, readable by its owner only.

A key is PEM (PKCS8, as ``openssl genpkey -algorithm ed25519`` writes it) or the 32 raw bytes. It
appears under its name whole or not at all, and a key that exists is never overwritten.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from semantic_net.disk import sync_folder
from semantic_net.errors import StartError
from semantic_net.protocol.identity import Signer

log = logging.getLogger(__name__)

RAW_KEY_BYTES = 32
MAX_FILE_BYTES = 64 * 1024


def load_or_create_key(path: Path) -> Signer:
    """Return the signer whose key is in ``path``; a new one if there is no such file.

    Raises:
        StartError: The file cannot be read or written, or holds no ed25519 key.
    """
    return Signer(load_or_create_private_key(path))


def load_or_create_private_key(path: Path) -> bytes:
    """Return the 32 bytes of the key in ``path``; a new one's if there is no such file.

    Raises:
        StartError: The file cannot be read or written, or holds no ed25519 key.
    """
    try:
        if not path.exists():
            _create(path)
        _protect(path)
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES)
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise StartError(
            f"cannot use the key {path}: {reason}; check the path and its rights"
        ) from exc
    return _private_bytes(path, data)


def _private_bytes(path: Path, data: bytes) -> bytes:
    if len(data) == RAW_KEY_BYTES:
        return data
    hint = "give another file, or remove it and a new key is made"
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:  # how the library says that it wants a password
        raise StartError(f"the key {path} is encrypted, which is not supported; {hint}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise StartError(f"{path} holds no private key; {hint}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise StartError(f"the key {path} is not an ed25519 key; {hint}")
    return key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        _publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _publish(temporary: Path, path: Path) -> None:
    try:
        # A link, unlike a rename, does not replace the key that another process made meanwhile.
        os.link(temporary, path)
    except FileExistsError:
        log.debug("%s was made by another process meanwhile", path)
    except OSError:  # a file system without links, such as FAT on a memory card
        temporary.rename(path)


def _protect(path: Path) -> None:
    """Take a key's readers away, and say so: it may have been copied while it lay open."""
    if not stat.S_IMODE(path.stat().st_mode) & 0o077:
        return
    log.warning("the key %s could be read by other users; use a new one if that matters", path)
    try:
        path.chmod(0o600)
    except OSError as exc:  # not our file, or a file system without rights
        log.warning("the key %s stays readable: %s", path, exc.strerror)
