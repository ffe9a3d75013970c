"""Messages: what is sent arrives, and nothing else gets in."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import RUN, heartbeat, heartbeat_body, signer, update

from semantic_net.errors import LocalProtocolError, RemoteProtocolError
from semantic_net.protocol.address import MAX_ADDRESS_CHARS, means_the_same_to_all
from semantic_net.protocol.frames import Frame, FrameDecoder, Kind
from semantic_net.protocol.messages import (
    MAX_ADDRESSES,
    MAX_HAVE_ENTRIES,
    MAX_HINT_AGE_S,
    MAX_HINTS,
    MAX_NEIGHBOURS,
    Absent,
    Chunk,
    Have,
    HaveEntry,
    Hint,
    Hints,
    Message,
    Neighbour,
    Neighbours,
    Want,
    chunk_buffers,
    decode_message,
    encode_message,
    read_heartbeat,
    verify_heartbeat,
)

ALICE, BOB = signer("alice"), signer("bob")
ID = b"i" * 32

ids = st.binary(min_size=32, max_size=32)
entries = st.builds(HaveEntry, st.integers(1, 1 << 30), st.just(ALICE.peer_id), ids)
messages = st.one_of(
    st.builds(Have, st.lists(entries, max_size=5).map(tuple), st.booleans()),
    st.builds(Want, ids, st.integers(0, 1 << 40)),
    st.builds(Absent, ids),
    st.just(Neighbours((Neighbour(ALICE.peer_id, ("10.0.0.2:5000",)),))),
    st.just(Hints((Hint("10.0.0.2:5000", 0), Hint("[fe80::1]:5000", MAX_HINT_AGE_S)))),
    st.just(update(ALICE, 3).message),
    st.just(heartbeat(ALICE, heartbeat_body())),
)


@given(messages)
def test_messages_survive_the_wire(message: Message) -> None:
    [frame] = FrameDecoder().feed(encode_message(message))
    assert decode_message(frame) == message


@given(ids, st.integers(0, 1 << 40), st.binary(min_size=1, max_size=1000))
def test_chunks_survive_the_wire(item: bytes, offset: int, data: bytes) -> None:
    stream = b"".join(chunk_buffers(item, offset, memoryview(data)))
    [frame] = FrameDecoder().feed(stream)
    chunk = decode_message(frame)
    assert isinstance(chunk, Chunk)
    assert (chunk.id, chunk.offset, bytes(chunk.data)) == (item, offset, data)


def test_a_chunks_data_is_not_copied() -> None:
    data = memoryview(b"payload")
    assert chunk_buffers(ID, 0, data)[1] is data


@given(st.sampled_from(Kind), st.binary(max_size=300))
def test_noise_raises_only_the_documented_error(kind: Kind, noise: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode_message(Frame(kind, noise))


def test_a_hello_has_no_place_after_the_handshake() -> None:
    with pytest.raises(RemoteProtocolError, match="HELLO after the handshake"):
        decode_message(Frame(Kind.HELLO, b""))


def test_a_have_with_too_many_entries_is_refused() -> None:
    entry = HaveEntry(1, ALICE.peer_id, ID)
    body = msgspec.msgpack.encode(((entry,) * (MAX_HAVE_ENTRIES + 1), True))
    with pytest.raises(RemoteProtocolError, match="malformed HAVE"):
        decode_message(Frame(Kind.HAVE, body))


def test_the_longest_have_fits_its_frame() -> None:
    entry = HaveEntry((1 << 31) - 1, ALICE.peer_id, ID)
    encode_message(Have((entry,) * MAX_HAVE_ENTRIES, True))


LONGEST = f"{'a' * 59}.{'b' * (MAX_ADDRESS_CHARS - 66)}:50000"
"""No address that is told takes more bytes: it has no letters but those of ASCII."""


def test_the_longest_list_of_neighbours_fits_its_frame() -> None:
    assert means_the_same_to_all(LONGEST)
    neighbour = Neighbour(ALICE.peer_id, (LONGEST,) * MAX_ADDRESSES)
    encode_message(Neighbours((neighbour,) * MAX_NEIGHBOURS))


def test_the_longest_hints_fit_their_frame_and_longer_ones_are_refused() -> None:
    hint = Hint(LONGEST, MAX_HINT_AGE_S)
    encode_message(Hints((hint,) * MAX_HINTS))
    for known in ((hint,) * (MAX_HINTS + 1), (Hint("a" * (MAX_ADDRESS_CHARS + 1), 0),)):
        body = msgspec.msgpack.encode((known,))
        with pytest.raises(RemoteProtocolError, match="malformed HINTS"):
            decode_message(Frame(Kind.HINTS, body))


def test_an_oversized_message_of_ours_is_our_bug() -> None:
    with pytest.raises(LocalProtocolError, match="over the limit"):
        encode_message(Absent(b"x" * 1000))


def test_heartbeats_open_for_everyone_in_the_run_and_nobody_else() -> None:
    body = heartbeat_body(round_index=4, next_round=5, last=update(ALICE, 4))
    message = heartbeat(ALICE, body)
    assert read_heartbeat(message, RUN) == (ALICE.peer_id, body)
    verify_heartbeat(message)
    with pytest.raises(RemoteProtocolError, match="another run"):
        read_heartbeat(message, b"o" * 16)
    with pytest.raises(RemoteProtocolError, match="did not sign"):
        verify_heartbeat(msgspec.structs.replace(message, public_key=BOB.public_key))
    with pytest.raises(RemoteProtocolError, match="malformed heartbeat"):
        read_heartbeat(msgspec.structs.replace(message, body=b"\xc1"), RUN)
