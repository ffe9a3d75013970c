"""Keys, ids and what a signature is good for."""

from __future__ import annotations

import pytest

from semantic_net.protocol.identity import (
    PEER_ID_CHARS,
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    Signer,
    peer_id_of,
    short_id,
    signature_valid,
    signed_bytes,
)

SIGNER = Signer(bytes(range(32)))


def test_an_id_is_the_hash_of_the_public_key() -> None:
    assert SIGNER.peer_id == peer_id_of(SIGNER.public_key)
    assert len(SIGNER.peer_id) == PEER_ID_CHARS
    assert SIGNER.peer_id.isalnum()
    assert SIGNER.peer_id != Signer(bytes(32)).peer_id
    assert short_id(SIGNER.peer_id) == f"{SIGNER.peer_id[:4]}-{SIGNER.peer_id[4:8]}"


def test_the_same_key_is_the_same_peer_on_every_machine() -> None:
    assert len(SIGNER.public_key) == PUBLIC_KEY_BYTES
    assert SIGNER.public_key.hex() == (
        "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    )


def test_a_signature_holds_for_its_key_context_and_body_only() -> None:
    signature = SIGNER.sign(b"update", b"body")
    assert len(signature) == SIGNATURE_BYTES
    assert signature_valid(SIGNER.public_key, b"update", b"body", signature)
    assert not signature_valid(SIGNER.public_key, b"heartbeat", b"body", signature)
    assert not signature_valid(SIGNER.public_key, b"update", b"bodY", signature)
    assert not signature_valid(Signer(bytes(32)).public_key, b"update", b"body", signature)


@pytest.mark.parametrize("public_key", [b"", bytes(31), b"\xff" * 32])
def test_what_is_no_key_verifies_nothing(public_key: bytes) -> None:
    assert not signature_valid(public_key, b"update", b"body", SIGNER.sign(b"update", b"body"))


@pytest.mark.parametrize("signature", [b"", bytes(64), b"\xff" * 64, bytes(65)])
def test_what_is_no_signature_is_invalid(signature: bytes) -> None:
    assert not signature_valid(SIGNER.public_key, b"update", b"body", signature)


def test_context_and_body_cannot_be_shifted_against_each_other() -> None:
    assert signed_bytes(b"a", b"b") != signed_bytes(b"ab", b"")


def test_a_private_key_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Signer(b"short")
