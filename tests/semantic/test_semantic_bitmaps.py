"""Bitmaps in zstd frames: short where positions cluster, and opened in bounded memory."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.errors import RemoteProtocolError
from semantic_net.fixed_point import Int64Array
from semantic_net.semantic.bitmaps import pack_bitmap, unpack_bitmap
from semantic_net.semantic.bits import pack_positions, plane_bytes
from semantic_net.zstd import compress, decompress

ONE = compress(b"\x01", 3)
NO_LIMIT = 1 << 30


def unpack(frame: bytes, count: int, size: int) -> list[int]:
    positions: list[int] = unpack_bitmap(np.frombuffer(frame, np.uint8), count, size).tolist()
    return positions


def clusters(size: int) -> Int64Array:
    """Two rows in a hundred of 100 entries, kept as a whole."""
    rows = np.random.default_rng(0).choice(size // 100, size // 5000, replace=False)
    positions: Int64Array = (100 * np.sort(rows)[:, None] + np.arange(100)).ravel()
    return positions


# bitmaps


@given(st.sets(st.integers(0, 3000), min_size=1, max_size=60), st.integers(0, 9))
def test_positions_come_back(positions: set[int], beyond: int) -> None:
    size = max(positions) + 1 + beyond
    frame = pack_bitmap(np.array(sorted(positions)), size, NO_LIMIT)
    assert frame is not None
    assert unpack(frame, len(positions), size) == sorted(positions)


@pytest.mark.parametrize("size", [1, 100_000, 1_000_000])
def test_any_size_comes_back(size: int) -> None:
    positions = clusters(size) if size > 1 else np.array([0])
    frame = pack_bitmap(positions, size, NO_LIMIT)
    assert frame is not None
    assert unpack(frame, positions.size, size) == positions.tolist()


def test_a_bitmap_is_for_what_is_shorter_so() -> None:
    size = 100_000
    near = clusters(size)
    scattered = np.sort(np.random.default_rng(0).choice(size, near.size, replace=False))
    for positions, is_shorter in ((near, True), (scattered, False)):
        gaps_bytes = pack_positions(positions, size).size_bytes
        frame = pack_bitmap(positions, size, gaps_bytes)
        assert (frame is not None) == is_shorter
    assert pack_bitmap(np.empty(0, np.int64), size, NO_LIMIT) is None


@pytest.mark.parametrize(
    ("bitmap", "count", "size", "problem"),
    [
        (b"\x01\x00", 1, 16, "a bitmap that ends with an empty byte"),
        (b"\x00", 0, 16, "a bitmap that ends with an empty byte"),
        (b"\x03", 1, 16, "a bitmap of other positions than announced"),
        (b"\x01", 2, 16, "a bitmap of other positions than announced"),
        (b"\x01", 0, 16, "a bitmap of other positions than announced"),
        (b"\x80", 1, 7, "a bitmap of other positions than announced"),
        (b"\x01\x01", 2, 8, "does not declare 1 to 1 bytes of content"),
    ],
)
def test_other_bitmaps_are_refused(bitmap: bytes, count: int, size: int, problem: str) -> None:
    with pytest.raises(RemoteProtocolError, match=problem):
        unpack(compress(bitmap, 3), count, size)


def test_a_bitmap_of_everything_is_counted_before_it_is_listed() -> None:
    """A few bytes that hold every position: eight bytes for each would be two models."""
    size = 1 << 22
    frame = compress(b"\xff" * plane_bytes(size), 3)
    assert len(frame) < 100
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="other positions"):
            unpack(frame, 1, size)
        assert tracemalloc.get_traced_memory()[1] < 2 * size
    finally:
        tracemalloc.stop()


# zstd


def test_a_frame_declares_its_size_and_has_no_checksum() -> None:
    parameters = zstandard.get_frame_parameters(compress(bytes(1000), 3))
    assert (parameters.content_size, parameters.has_checksum) == (1000, False)


@given(st.binary(min_size=1, max_size=300), st.integers(1, 12))
def test_content_comes_back(content: bytes, level: int) -> None:
    assert decompress(compress(content, level), len(content)) == content
    assert decompress(compress(memoryview(content), level), len(content)) == content


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    """A few kB that declare 200 MB, or do not say that they hold them."""
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    silent = compressor.compress(bytes(200_000_000))
    declared = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", 200_000_000) + silent[6:]
    for bomb in (silent, declared):
        assert len(bomb) < 20_000
        tracemalloc.start()
        try:
            with pytest.raises(RemoteProtocolError, match="does not declare 1 to 1000000 bytes"):
                decompress(bomb, 1_000_000)
            # Far below what is allowed; what Python keeps for a traceback counts as well.
            assert tracemalloc.get_traced_memory()[1] < 100_000
        finally:
            tracemalloc.stop()
    assert zstandard.get_frame_parameters(declared).content_size == 200_000_000


SKIPPABLE = struct.pack("<II", 0x184D2A50, 1) + b"\x01"


@pytest.mark.parametrize(
    "frame",
    [
        compress(b"", 3),
        zstandard.ZstdCompressor(write_content_size=False).compress(b"\x01"),
        compress(bytes(9), 3),
        bytes.fromhex("28b52ffd e0 0000000000000040 090000 01"),  # 2^62 bytes, it says
    ],
)
def test_a_frame_declares_as_much_as_there_may_be(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="does not declare 1 to 8 bytes of content"):
        decompress(frame, 8)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"not a frame",
        ONE[:4],
        ONE[:-1],
        ONE + b"\x00",
        ONE + ONE,
        ONE + SKIPPABLE,
        SKIPPABLE,
        SKIPPABLE + ONE,
        # one byte in a raw block: with a dictionary's id, with a window of 2^41, where 8 are
        # declared; and one byte eight times, where one is
        bytes.fromhex("28b52ffd 21 07 01 090000 01"),
        bytes.fromhex("28b52ffd c0ff 0100000000000000 090000 01"),
        bytes.fromhex("28b52ffd 20 08 090000 01"),
        bytes.fromhex("28b52ffd 20 01 430000 01"),
    ],
)
def test_all_but_one_honest_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^zstd: "):
        decompress(frame, 8)
    assert decompress(bytes.fromhex("28b52ffd 20 01 090000 01"), 8) == b"\x01"


@given(st.binary(max_size=40), st.integers(0, 4))
def test_noise_gives_bounded_content_or_the_documented_error(noise: bytes, honest: int) -> None:
    frame = compress(b"abcabcabc", 3)[: 3 * honest] + noise
    try:
        content = decompress(frame, 20)
    except RemoteProtocolError:
        return
    assert 1 <= len(content) <= 20
