"""Planes and positions: small, exact, and one encoding for each set of numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.errors import RemoteProtocolError
from semantic_net.fixed_point import Int32Array
from semantic_net.semantic.bits import (
    CHUNK_BYTES,
    PackedPositions,
    UInt8Array,
    check_planes,
    max_position_bytes,
    pack_planes,
    pack_positions,
    plane_bytes,
    unpack_codes,
    unpack_positions,
)


def as_array(data: bytes) -> UInt8Array:
    return np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)


def unpack(packed: PackedPositions, count: int, size: int) -> Int32Array:
    return unpack_positions(
        packed.rice, as_array(packed.planes), as_array(packed.unary), count, size
    )


@st.composite
def position_sets(draw: st.DrawFn) -> tuple[list[int], int]:
    size = draw(st.integers(0, 300) | st.integers(0, 1 << 20))
    if not size:
        return [], 0
    return sorted(draw(st.sets(st.integers(0, size - 1), max_size=60))), size


def test_planes_hold_one_bit_of_every_number() -> None:
    assert pack_planes(np.array([1, 2, 3], np.uint8), 2) == bytes([0b101, 0b110])


@given(st.integers(1, 8), st.data())
def test_any_range_of_codes_can_be_read_alone(width: int, data: st.DataObject) -> None:
    codes = data.draw(st.lists(st.integers(0, (1 << width) - 1), max_size=50))
    planes = as_array(pack_planes(np.array(codes, np.uint8), width))
    assert planes.size == width * plane_bytes(len(codes))
    check_planes(planes, width, len(codes))
    start = data.draw(st.integers(0, len(codes)))
    stop = data.draw(st.integers(start, len(codes)))
    assert unpack_codes(planes, width, len(codes), start, stop).tolist() == codes[start:stop]


@given(st.integers(1, 8), st.integers(1, 40), st.data())
def test_padding_must_be_zero(width: int, count: int, data: st.DataObject) -> None:
    planes = bytearray(width * plane_bytes(count))
    padding = 8 * plane_bytes(count) - count
    if padding:
        plane = data.draw(st.integers(0, width - 1))
        bit = data.draw(st.integers(8 - padding, 7))
        planes[(plane + 1) * plane_bytes(count) - 1] |= 1 << bit
        with pytest.raises(RemoteProtocolError, match="padding"):
            check_planes(as_array(bytes(planes)), width, count)
    else:
        check_planes(as_array(bytes(planes)), width, count)


def test_positions_are_gaps_with_their_upper_part_in_unary() -> None:
    packed = pack_positions(np.array([0, 1, 3]), 4)
    assert packed == PackedPositions(rice=0, planes=b"", unary=bytes([0b1011]))  # the bitmap
    far = pack_positions(np.array([100, 300]), 1000)  # gaps 100 and 199, 6 low bits each
    assert far == PackedPositions(6, bytes([2, 2, 3, 0, 0, 1]), unary=bytes([0b100010]))


@given(position_sets())
def test_positions_survive_the_way_there_and_back(given_set: tuple[list[int], int]) -> None:
    positions, size = given_set
    packed = pack_positions(np.array(positions, np.int64), size)
    assert packed.size_bytes <= max_position_bytes(size)
    assert unpack(packed, len(positions), size).tolist() == positions


@pytest.mark.parametrize("share", [0.0003, 0.03, 0.3, 1.0])
def test_large_sets_span_many_chunks_and_stay_near_their_entropy(share: float) -> None:
    size = 16 * CHUNK_BYTES * 8
    count = int(share * size)
    rng = np.random.default_rng(0)
    positions = np.sort(rng.choice(size, count, replace=False))
    packed = pack_positions(positions, size)
    assert unpack(packed, count, size).tolist() == positions.tolist()
    p = count / size
    entropy_bits = -(p * np.log2(p) + (1 - p) * np.log2(max(1 - p, 1e-9))) / p
    assert 8 * packed.size_bytes / count <= max(1.06 * entropy_bits, 1) + 0.5


@given(
    st.integers(0, 33),
    st.binary(max_size=6),
    st.binary(max_size=12),
    st.integers(0, 10),
    st.integers(0, 90),
)
def test_whatever_is_read_is_increasing_and_in_range(
    rice: int, planes: bytes, unary: bytes, count: int, size: int
) -> None:
    planes = planes.ljust(rice * plane_bytes(count), b"\0")[: rice * plane_bytes(count)]
    try:
        positions = unpack_positions(rice, as_array(planes), as_array(unary), count, size).tolist()
    except RemoteProtocolError:
        return
    assert len(positions) == count
    assert positions == sorted(set(positions))
    assert all(0 <= position < size for position in positions)


@pytest.mark.parametrize(
    ("rice", "planes", "unary", "count", "size", "problem"),
    [
        (0, b"", b"", 1, 8, "end with an empty byte"),
        (0, b"", b"\x01\x00", 1, 16, "end with an empty byte"),
        (0, b"", b"\x01", 0, 8, "positions of no entries"),
        (0, b"", b"\x01\x01", 2, 8, "more bytes than a bitmap"),
        (4, b"\x00" * 4, b"\x01", 1, 8, "more bytes than a bitmap"),
        (3, b"\x00" * 3, b"\x01", 1, 8, "more bytes than a bitmap"),
        (0, b"", b"\x01", 2, 8, "out of range"),
        (0, b"", b"\x80", 1, 7, "out of range"),
        (3, b"\x01" * 3, b"\x08", 1, 31, "out of range"),  # 32 entries would do
        (3, b"\x03" * 3, b"\x01", 1, 64, "padding"),
        (0, b"", b"\x03", 1, 8, "more positions than entries"),
        (0, b"", b"\x81", 3, 8, "fewer positions than entries"),
    ],
)
def test_other_encodings_are_refused(
    rice: int, planes: bytes, unary: bytes, count: int, size: int, problem: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=problem):
        unpack(PackedPositions(rice, planes, unary), count, size)


def test_the_last_entry_of_a_tensor_can_be_kept() -> None:
    assert unpack(PackedPositions(3, b"\x01" * 3, b"\x08"), 1, 32).tolist() == [31]


def test_a_gap_may_be_longer_than_a_chunk() -> None:
    size = 3 * 8 * CHUNK_BYTES
    unary = bytes([1]) + bytes(2 * CHUNK_BYTES) + bytes([1])
    positions = unpack(PackedPositions(0, b"", unary), 2, size).tolist()
    assert positions == [0, 8 * (2 * CHUNK_BYTES + 1)]
