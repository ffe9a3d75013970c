"""The key file: made once, whole, for its owner only; what is no key is a one-line error."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from semantic_net.errors import StartError
from semantic_net.protocol.identity import Signer
from semantic_net.transport.identity import load_or_create_key


def pem(encryption: KeySerializationEncryption | None = None) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def write_key(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_a_new_key_is_made_once_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "in" / "peer.key"
    made = load_or_create_key(path)
    assert load_or_create_key(path).peer_id == made.peer_id
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["peer.key"], "no temporary file"
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert load_or_create_key(tmp_path / "other.key").peer_id != made.peer_id


@pytest.mark.parametrize("data", [pem(), bytes(range(32))], ids=["pem", "raw"])
def test_pem_and_raw_hold_the_same_key(tmp_path: Path, data: bytes) -> None:
    signer = load_or_create_key(write_key(tmp_path / "key", data))
    assert signer.peer_id == Signer(bytes(range(32))).peer_id


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no private key"),
        (b"hello", "holds no private key"),
        (bytes(31), "holds no private key"),
        (pem(BestAvailableEncryption(b"secret")), "is encrypted, which is not supported"),
        (
            generate_private_key(SECP256R1()).private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            ),
            "is not an ed25519 key",
        ),
    ],
    ids=["empty", "text", "short", "encrypted", "another kind"],
)
def test_what_is_no_key_is_an_error_that_names_the_file(
    tmp_path: Path, data: bytes, message: str
) -> None:
    path = write_key(tmp_path / "key", data)
    with pytest.raises(StartError, match=message) as caught:
        load_or_create_key(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == data, "what is there is never overwritten"


def test_a_key_that_others_can_read_is_closed_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_key(tmp_path / "key", pem(), mode=0o644)
    with caplog.at_level(logging.WARNING):
        load_or_create_key(path)
    assert "could be read by other users" in caplog.text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    caplog.clear()
    load_or_create_key(path)
    assert not caplog.text


def test_a_key_that_cannot_be_closed_still_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_key(tmp_path / "key", pem(), mode=0o644)

    def no_rights(self: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", no_rights)
    assert load_or_create_key(path).peer_id == Signer(bytes(range(32))).peer_id
    assert "stays readable: Operation not permitted" in caplog.text


def test_a_path_that_cannot_be_used_is_an_error_that_names_it(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_bytes(b"")
    for path in (tmp_path, blocker / "key"):
        with pytest.raises(StartError, match="cannot use the key") as caught:
            load_or_create_key(path)
        assert str(path) in str(caught.value)


def test_of_two_processes_that_make_a_key_at_once_both_use_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real_link = tmp_path / "key", os.link

    def beaten(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", real_link)
        load_or_create_key(path)
        real_link(source, target)

    monkeypatch.setattr(os, "link", beaten)
    signer = load_or_create_key(path)
    assert load_or_create_key(path).peer_id == signer.peer_id
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "key"
    assert load_or_create_key(path).peer_id == load_or_create_key(path).peer_id
    assert list(tmp_path.iterdir()) == [path]


def test_openssls_key_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "key"
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs the openssl command")
    path.chmod(0o600)
    assert load_or_create_key(path).peer_id
