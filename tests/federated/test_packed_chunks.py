"""Compressed parts of a base: lossless at any cut, shorter, and harmless whoever sends them."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.errors import RemoteProtocolError
from semantic_net.federated.outbound import PayloadSource
from semantic_net.federated.packed_chunks import pack_part, unpack_part
from semantic_net.protocol.frames import MAX_CHUNK_BYTES, FrameDecoder
from semantic_net.protocol.messages import Chunk, PackedChunk, decode_message
from semantic_net.zstd import compress

ID = b"i" * 32


@given(st.binary(max_size=50), st.integers(1, 40))
def test_a_part_of_any_length_comes_back_as_it_was(seed: bytes, repeats: int) -> None:
    data = seed * repeats
    packed = pack_part(memoryview(data))
    if packed is not None:
        assert len(packed) < len(data)
        assert bytes(unpack_part(memoryview(packed))) == data


def test_a_state_takes_two_thirds_and_noise_goes_as_it_is() -> None:
    rng = np.random.default_rng(0)
    state = np.rint(rng.standard_normal(50_000) * 0.05 * 2**24).astype("<i4").tobytes()
    packed = pack_part(memoryview(state))
    assert packed is not None
    assert len(packed) < 0.8 * len(state)
    assert bytes(unpack_part(memoryview(packed))) == state
    assert pack_part(memoryview(rng.bytes(50_000))) is None


def test_a_served_base_arrives_whole_from_any_offset_in_fewer_bytes() -> None:
    rng = np.random.default_rng(0)
    state = np.rint(rng.standard_normal(200_000) * 0.05 * 2**24).astype("<i4").tobytes()
    base = rng.bytes(1_001) + state  # the history before it keeps no alignment
    for offset in (0, 777, len(base) - 1):
        source = PayloadSource(ID, lambda: memoryview(base), offset, packs=True)
        wire = bytearray()
        while (buffers := source.next_frame(MAX_CHUNK_BYTES)) is not None:
            for buffer in buffers:
                wire += buffer
        received = bytearray()
        for frame in FrameDecoder().feed(bytes(wire)):
            message = decode_message(frame)
            if isinstance(message, PackedChunk):
                data = unpack_part(message.packed)
            else:
                assert isinstance(message, Chunk)
                data = message.data
            assert message.offset == offset + len(received)
            received += data
        assert bytes(received) == base[offset:]
        assert len(wire) < 0.85 * (len(base) - offset) or offset > 777


@given(st.binary(max_size=200))
def test_noise_raises_only_the_documented_error(noise: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        unpack_part(memoryview(noise))


def test_a_part_that_holds_more_than_a_chunk_is_refused() -> None:
    bomb = memoryview(compress(bytes(MAX_CHUNK_BYTES + 1), 3))
    assert len(bomb) < 100
    with pytest.raises(RemoteProtocolError, match="does not declare 1 to 262144 bytes"):
        unpack_part(bomb)
