"""Frames survive any cut of the stream; what is no frame is refused from its header."""

from __future__ import annotations

import contextlib
from itertools import pairwise
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_net.errors import LocalProtocolError, RemoteProtocolError
from semantic_net.protocol.frames import (
    HEADER,
    MAGIC,
    MAX_BODY_BYTES,
    MAX_CHUNK_BYTES,
    MAX_FRAME_BYTES,
    VERSION,
    Frame,
    FrameDecoder,
    Kind,
    WholeFrames,
    decode_body,
    decode_header,
    encode_frame,
    encode_header,
)

frames = st.lists(st.builds(Frame, st.sampled_from(Kind), st.binary(max_size=200)), max_size=8)


@given(frames, st.data())
def test_frames_survive_any_cut_of_the_stream(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(encode_frame(frame.kind, bytes(frame.body)) for frame in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder = FrameDecoder()
    got = []
    for start, end in pairwise([0, *cuts, len(stream)]):
        got += decoder.feed(stream[start:end])
    assert got == sent


@settings(max_examples=25)
@given(st.lists(st.integers(0, MAX_CHUNK_BYTES), min_size=1, max_size=12), st.randoms())
def test_large_frames_survive_any_sizes_of_reads(sizes: list[int], dice: Random) -> None:
    bodies = [bytes([index + 1]) * size for index, size in enumerate(sizes)]
    stream = memoryview(b"".join(encode_frame(Kind.CHUNK, body) for body in bodies))
    decoder, got = FrameDecoder(), []
    while stream:
        free = decoder.writable()
        assert len(free) > 0
        num_bytes = min(len(free), len(stream), dice.randint(1, 2 * MAX_CHUNK_BYTES))
        free[:num_bytes] = stream[:num_bytes]
        stream = stream[num_bytes:]
        got += [bytes(frame.body) for frame in decoder.received(num_bytes)]
    assert got == bodies


@given(st.binary(max_size=200))
def test_noise_raises_only_the_documented_error(noise: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        FrameDecoder().feed(noise)


@given(frames, st.data())
def test_whole_frames_and_the_decoder_together_lose_none(
    sent: list[Frame], data: st.DataObject
) -> None:
    stream = b"".join(encode_frame(frame.kind, bytes(frame.body)) for frame in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder, got = FrameDecoder(), []
    for start, end in pairwise([0, *cuts, len(stream)]):
        rest = memoryview(stream)[start:end]
        while rest:
            if not decoder.missing_bytes:
                whole = WholeFrames(rest)
                got += [Frame(frame.kind, bytes(frame.body)) for frame in whole]
                rest = rest[whole.num_bytes :]
            part = rest[: decoder.missing_bytes or len(rest)]
            rest = rest[len(part) :]
            got += decoder.feed(bytes(part))
    assert got == sent
    assert not decoder.missing_bytes


def test_feeding_takes_any_amount_at_once() -> None:
    frame = encode_frame(Kind.CHUNK, bytes(MAX_CHUNK_BYTES))
    assert len(FrameDecoder().feed(frame * 5)) == 5


def test_the_largest_frame_fits_the_buffer() -> None:
    largest = max(MAX_BODY_BYTES, key=lambda kind: MAX_BODY_BYTES[kind])
    frame = encode_frame(largest, bytes(MAX_BODY_BYTES[largest]))
    assert len(frame) == MAX_FRAME_BYTES
    assert [got.kind for got in FrameDecoder().feed(frame)] == [largest]


def test_the_header_is_sixteen_bytes_and_readable() -> None:
    header = encode_header(Kind.HAVE, 5)
    assert header == b"SNET" + bytes([1, 5, 0, 0]) + (5).to_bytes(8, "big")
    assert decode_header(header) == (Kind.HAVE, 5)


@pytest.mark.parametrize("kind", list(Kind))
def test_a_body_over_its_kinds_limit_is_refused_from_the_header(kind: Kind) -> None:
    limit = MAX_BODY_BYTES[kind]
    assert decode_header(encode_header(kind, limit)) == (kind, limit)
    header = HEADER.pack(MAGIC, VERSION, kind, 0, limit + 1)
    with pytest.raises(RemoteProtocolError, match=f"a {kind.name} of {limit + 1} bytes is over"):
        FrameDecoder().feed(header)
    with pytest.raises(LocalProtocolError, match="over the limit"):
        encode_header(kind, limit + 1)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (HEADER.pack(b"HTTP", VERSION, 1, 0, 0), "not a semantic-net frame"),
        (HEADER.pack(MAGIC, 2, 1, 0, 0), "wire version 2, this peer speaks 1"),
        (HEADER.pack(MAGIC, VERSION, 99, 0, 0), "unknown frame kind 99"),
        (HEADER.pack(MAGIC, VERSION, 1, 4, 0), "unknown flags 0x0004 in a HELLO"),
        (HEADER.pack(MAGIC, VERSION, 8, 0, 2**64 - 1), "over the limit"),
    ],
)
def test_what_is_no_header_of_ours_is_refused(header: bytes, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        FrameDecoder().feed(header)


def test_a_body_is_a_view_until_more_is_written() -> None:
    decoder = FrameDecoder()
    frame = encode_frame(Kind.WANT, b"abc")
    decoder.writable()[: len(frame)] = frame
    (got,) = decoder.received(len(frame))
    assert isinstance(got.body, memoryview)
    assert bytes(got.body) == b"abc"


def test_the_buffer_grows_with_what_is_sent_and_no_further() -> None:
    decoder = FrameDecoder()
    assert len(decoder.writable()) < MAX_FRAME_BYTES / 4
    decoder.feed(encode_frame(Kind.CHUNK, bytes(MAX_BODY_BYTES[Kind.CHUNK])) * 20)
    assert MAX_FRAME_BYTES <= len(decoder.writable()) <= 4 * MAX_FRAME_BYTES


class Pair(msgspec.Struct, array_like=True):
    """A body for these tests."""

    name: str
    size: int


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x92\xa1a\xa1b",  # text where a number belongs
        b"\x91\xa1a",  # too short
        b"\x92\xa1\xff\x01",  # no UTF-8
        b"\x93\xa1a\x01" + b"\x91" * 200,  # nested beyond the type's end, then cut
        b"\x93\xa1a\x01" + b"\x91" * 60_000,
        b"\x92\xdb\xff\xff\xff\xff",  # 4 GB of text announced
    ],
)
def test_a_malformed_body_is_the_peers_fault(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="a malformed HAVE"):
        decode_body(msgspec.msgpack.Decoder(Pair), Frame(Kind.HAVE, body))


def test_a_body_becomes_its_type() -> None:
    body = memoryview(msgspec.msgpack.encode(("a", 1)))
    assert decode_body(msgspec.msgpack.Decoder(Pair), Frame(Kind.HAVE, body)) == Pair("a", 1)
