"""Whole numbers of any size: one encoding each, and none without an end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.errors import RemoteProtocolError
from semantic_net.semantic.reader import PayloadReader
from semantic_net.semantic.varints import pack_varints, take_varint

LARGEST = (1 << 63) - 1


def test_seven_bits_a_byte_the_lowest_first() -> None:
    assert pack_varints([0, 127, 128, 300]) == bytes([0, 127, 0x80, 1, 0xAC, 2])
    assert pack_varints([LARGEST]) == b"\xff" * 8 + b"\x7f"


@given(st.lists(st.integers(0, LARGEST) | st.integers(0, 300)))
def test_numbers_come_back(numbers: list[int]) -> None:
    reader = PayloadReader("test", pack_varints(numbers))
    assert [take_varint(reader, LARGEST) for _ in numbers] == numbers
    reader.end()


@given(st.binary(max_size=12))
def test_whatever_is_read_is_written_alike(noise: bytes) -> None:
    reader = PayloadReader("test", noise)
    try:
        number = take_varint(reader, LARGEST)
    except RemoteProtocolError:
        return
    assert pack_varints([number]) == noise[: len(noise) - reader.left]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "ends 1 bytes early"),
        (b"\x80", "ends 1 bytes early"),
        (b"\x80\x00", "a number with a byte too many"),
        (b"\x08", "the number 8, where 7 is the most"),
        (b"\xff" * 8 + b"\x7f", "where 7 is the most"),
        (b"\xff" * 9 + b"\x01", "a number without an end"),
    ],
)
def test_other_numbers_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"payload test: .*{problem}"):
        take_varint(PayloadReader("test", data), 7)
