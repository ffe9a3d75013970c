"""Packed control frames: they arrive as sent, take less, and cannot be made to take much more."""

from __future__ import annotations

import contextlib
import os
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.frames import Frame, FrameDecoder, Kind, encode_frame
from semantic_net.protocol.packing import MAX_PACKED_BYTES, Packer, Unpacker

KINDS = (Kind.HEARTBEAT, Kind.HAVE, Kind.WANT, Kind.UPDATE, Kind.ABSENT, Kind.NEIGHBOURS)

batches = st.lists(
    st.lists(st.tuples(st.sampled_from(KINDS), st.binary(max_size=256)), min_size=1, max_size=5),
    max_size=6,
)


def opened(unpacker: Unpacker, wire: bytes) -> list[Frame]:
    return [
        Frame(each.kind, bytes(each.body))
        for frame in FrameDecoder().feed(wire)
        for each in unpacker.unpack(frame)
    ]


def deflated(content: bytes) -> bytes:
    """A part of a fresh stream, as an attacker makes it."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -13)
    part = deflate.compress(content) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return part.removesuffix(b"\0\0\xff\xff")


@given(batches)
def test_frames_arrive_as_they_were_sent(sent: list[list[tuple[Kind, bytes]]]) -> None:
    packer, unpacker = Packer(), Unpacker()
    for batch in sent:
        wire = packer.pack(b"".join(encode_frame(kind, body) for kind, body in batch))
        assert opened(unpacker, wire) == [Frame(kind, body) for kind, body in batch]


def test_what_is_said_again_takes_a_fraction() -> None:
    """A heartbeat that differs in a counter and its signature."""
    packer, sizes = Packer(), []
    same = os.urandom(300)
    for number in range(20):
        body = same[:200] + bytes([number]) + same[200:] + os.urandom(64)
        sizes.append(len(packer.pack(encode_frame(Kind.HEARTBEAT, body))))
    assert max(sizes[1:]) < 120 < sizes[0]


def test_a_long_batch_goes_as_it_is_and_leaves_the_stream_alone() -> None:
    packer, unpacker = Packer(), Unpacker()
    short, long = encode_frame(Kind.WANT, b"a" * 50), encode_frame(Kind.HAVE, b"b" * 10_000)
    for frames in (short, long, short):
        packed = packer.pack(frames)
        assert (packed == frames) is (frames is long)
        assert b"".join(encode_frame(f.kind, bytes(f.body)) for f in opened(unpacker, packed)) == (
            frames
        )


def test_the_largest_batch_fits_whatever_it_holds() -> None:
    packer, unpacker = Packer(), Unpacker()
    for body in (bytes(MAX_PACKED_BYTES - 16), os.urandom(MAX_PACKED_BYTES - 16)):
        wire = packer.pack(encode_frame(Kind.HAVE, body))
        assert opened(unpacker, wire) == [Frame(Kind.HAVE, body)]


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_noise_raises_only_the_documented_error(parts: list[bytes]) -> None:
    unpacker = Unpacker()
    with contextlib.suppress(RemoteProtocolError):
        for part in parts:
            list(unpacker.unpack(Frame(Kind.PACKED, part)))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (encode_frame(Kind.WANT, b"x")[:10], "ends within a frame"),
        (encode_frame(Kind.WANT, b"xyz")[:-1], "a PACKED with a WANT that does not belong there"),
        (encode_frame(Kind.HELLO, b"x"), "a PACKED with a HELLO that does not belong there"),
        (encode_frame(Kind.CHUNK, b"x"), "a PACKED with a CHUNK that does not belong there"),
        (encode_frame(Kind.PACKED, b"x"), "a PACKED with a PACKED that does not belong there"),
        (b"?" * 16, "not a semantic-net frame"),
        (b"", "a PACKED without frames"),
        (bytes(MAX_PACKED_BYTES + 1), "a PACKED of more than 8192 bytes"),
    ],
)
def test_what_does_not_belong_there_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(RemoteProtocolError, match=problem):
        list(Unpacker().unpack(Frame(Kind.PACKED, deflated(content))))


def test_a_stream_that_ends_is_refused() -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -13)
    ended = deflate.compress(encode_frame(Kind.WANT, b"x")) + deflate.flush(zlib.Z_FINISH)
    with pytest.raises(RemoteProtocolError, match="ends its stream"):
        list(Unpacker().unpack(Frame(Kind.PACKED, ended)))


def test_a_bomb_is_opened_in_bounded_memory() -> None:
    bomb = Frame(Kind.PACKED, deflated(bytes(10_000_000)))
    unpacker = Unpacker()
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="more than 8192 bytes"):
            list(unpacker.unpack(bomb))
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()
