"""Admission: the same updates are accepted and refused everywhere."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import ADMISSION, RUN, signer, update

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.update import UpdateBody, UpdateMessage, admit, hash_payload

ALICE, BOB = signer("alice"), signer("bob")


def test_an_update_is_admitted_as_its_author_made_it() -> None:
    made = update(ALICE, 3, "payload", weight=7)
    assert admit(made.message, ADMISSION) == made
    assert (made.author, made.round, made.weight) == (ALICE.peer_id, 3, 7)


def test_ids_differ_where_anything_differs() -> None:
    ids = {
        update(ALICE, 1).id,
        update(ALICE, 2).id,
        update(ALICE, 1, "y").id,
        update(ALICE, 1, weight=2).id,
        update(BOB, 1).id,
    }
    assert len(ids) == 5


def test_another_runs_update_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="another run"):
        admit(update(ALICE, 1, run=b"s" * 16).message, ADMISSION)


def test_a_payload_beyond_the_models_limit_is_refused_from_its_header() -> None:
    with pytest.raises(RemoteProtocolError, match="over the model's limit of 1000"):
        admit(update(ALICE, 1, "x" * 1001).message, ADMISSION)


def test_an_unknown_codec_is_refused() -> None:
    body = UpdateBody(RUN, 1, 1, "zip", 0, hash_payload(b""))
    encoded = msgspec.msgpack.encode(body)
    message = UpdateMessage(encoded, ALICE.public_key, ALICE.sign(b"update 1", encoded))
    with pytest.raises(RemoteProtocolError, match="unknown codec 'zip'"):
        admit(message, ADMISSION)


@pytest.mark.parametrize(
    ("round_index", "weight"), [(0, 1), (1 << 31, 1), (1, 0), (1, (1 << 20) + 1), (-1, 1)]
)
def test_rounds_and_weights_out_of_range_are_refused(round_index: int, weight: int) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed update"):
        admit(update(ALICE, round_index, weight=weight).message, ADMISSION)


def test_an_update_under_a_strangers_name_is_refused() -> None:
    message = update(ALICE, 1).message
    stolen = msgspec.structs.replace(message, public_key=BOB.public_key)
    with pytest.raises(RemoteProtocolError, match="did not sign"):
        admit(stolen, ADMISSION)


@given(st.integers(min_value=0), st.integers(0, 7))
def test_no_bit_of_an_update_can_be_changed(position: int, bit: int) -> None:
    message = update(ALICE, 1, "payload").message
    encoded = bytearray(msgspec.msgpack.encode(message))
    encoded[position % len(encoded)] ^= 1 << bit
    try:
        changed = msgspec.msgpack.decode(encoded, type=UpdateMessage)
    except msgspec.DecodeError:
        return
    with pytest.raises(RemoteProtocolError):
        admit(changed, ADMISSION)
