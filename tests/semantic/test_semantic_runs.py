"""Small whole numbers in groups: exact both ways, in bounded memory whatever they claim."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from semantic_support import peak_bytes

from semantic_net.errors import RemoteProtocolError
from semantic_net.fixed_point import BLOCK, Int64Array
from semantic_net.semantic.rans import LAST_SYMBOL, encode_symbols
from semantic_net.semantic.reader import PayloadReader
from semantic_net.semantic.runs import Group, pack_runs, take_runs

STATE = b"\0\0\1\0"

groups_of_numbers = st.lists(
    st.lists(
        st.integers(0, 5) | st.integers(0, 200) | st.integers(2**30 - 9, 2**30), max_size=20
    ).map(sorted),
    min_size=1,
    max_size=5,
)


def as_numbers(*numbers: int) -> Int64Array:
    return np.array(numbers, np.int64)


def packed(lists: list[list[int]], cargo: bytes = b"") -> tuple[bytes, list[Group]]:
    parts = [as_numbers(*numbers) for numbers in lists]
    groups = [Group.for_numbers(part, int(part.sum())) for part in parts]
    return pack_runs(parts, groups, cargo), groups


def taken(data: bytes, groups: list[Group], cargo: bytes = b"") -> list[list[int]]:
    """Return the numbers of each group, beside which the cargo must lie."""
    reader = PayloadReader("test", data)
    parts, carried = take_runs(reader, groups, len(cargo))
    reader.end()
    assert carried == cargo
    return [part.tolist() for part in parts]


def test_low_bits_go_as_they_are_and_leave_a_mean_of_four_to_eight() -> None:
    assert Group.of(10, 79).shift == 0
    assert Group.of(10, 80).shift == 1
    assert Group.of(10, 1 << 20).shift == 14
    assert Group.of(0, 5).count == Group.of(0, 5).num_symbols == 0


def test_a_number_is_low_bits_and_symbols() -> None:
    """100 of a mean of 100 is 6 * 16 + 4; the bits lie in the order of the numbers."""
    data, (group,) = packed([[100, 100]])
    assert group == Group(count=2, shift=4, model=group.model, num_escapes=0)
    assert data[0] == 0x44
    symbols = np.array([6, 6], np.uint8)
    assert data[1:] == encode_symbols(symbols, np.full(2, group.model, np.uint8), b"\0\0")


def test_large_numbers_are_last_symbols_and_a_rest() -> None:
    numbers = [0] * 999 + [2 * LAST_SYMBOL + 5]
    data, (group,) = packed([numbers])
    assert (group.shift, group.num_escapes, group.num_symbols) == (0, 2, 1002)
    assert taken(data, [group]) == [numbers]


def test_the_first_bytes_of_the_cargo_begin_the_lanes_and_others_follow() -> None:
    none, _ = packed([[]])
    assert none == STATE
    assert packed([[]], b"\7")[0] == b"\7\0\1\0"
    assert packed([[]], b"\1\2\3")[0] == b"\1\2\1\0\3"


@given(groups_of_numbers, st.binary(max_size=9))
def test_groups_and_cargo_come_back(lists: list[list[int]], cargo: bytes) -> None:
    data, groups = packed(lists, cargo)
    assert taken(data, groups, cargo) == lists


@pytest.mark.parametrize("shift", [0, 3, 28])
def test_groups_may_span_many_blocks(shift: int) -> None:
    rng = np.random.default_rng(0)
    sizes = (3, 2 * BLOCK + 5, 0, 7)
    lists = [rng.integers(0, 12 << shift, size).tolist() for size in sizes]
    cargo = rng.bytes(20_000)
    data, groups = packed(lists, cargo)
    assert groups[1].shift == shift
    assert taken(data, groups, cargo) == lists


# from outside


@given(
    st.binary(max_size=60),
    st.lists(
        st.builds(
            Group, st.integers(1, 9), st.integers(0, 28), st.integers(0, 39), st.integers(0, 3)
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 9),
)
def test_noise_gives_as_many_numbers_or_the_documented_error(
    noise: bytes, groups: list[Group], cargo_bytes: int
) -> None:
    try:
        parts, _ = take_runs(PayloadReader("test", noise), groups, cargo_bytes)
    except RemoteProtocolError:
        return
    assert [part.size for part in parts] == [group.count for group in groups]
    assert min(part.min() for part in parts) >= 0


def swapped_escapes() -> tuple[bytes, list[Group]]:
    """Two groups of one model, of which the first has the symbol that the second announces."""
    first, second = Group(2, 0, 20, 1), Group(2, 0, 20, 0)
    symbols = np.array([1, 2, 3, LAST_SYMBOL, 7], np.uint8)
    return encode_symbols(symbols, np.full(5, 20, np.uint8), b"\0\0"), [first, second]


def unfinished_number() -> tuple[bytes, list[Group]]:
    """A group that ends with a last symbol, so that its number goes on in the next one."""
    first, second = Group(1, 0, 20, 1), Group(1, 0, 20, 0)
    symbols = np.array([2, LAST_SYMBOL, 3], np.uint8)
    return encode_symbols(symbols, np.full(3, 20, np.uint8), b"\0\0"), [first, second]


def test_a_number_never_crosses_into_another_group() -> None:
    for data, groups in (swapped_escapes(), unfinished_number()):
        with pytest.raises(RemoteProtocolError, match="a group of numbers with more or fewer"):
            taken(data, groups)


def test_padding_of_the_low_bits_must_be_zero() -> None:
    group = Group(1, 3, 20, 0)
    data = pack_runs([as_numbers(7)], [group], b"")
    assert data[0] == 7
    with pytest.raises(RemoteProtocolError, match="padding bits are not zero"):
        taken(b"\x0f" + data[1:], [group])


@pytest.mark.parametrize(
    ("data", "cargo_bytes", "problem"),
    [
        (b"\1\2\1\0", 1, "padding bytes are not zero"),
        (STATE, 3, "ends 1 bytes early"),
        (STATE, 5, "ends within its cargo"),
    ],
)
def test_cargo_is_as_long_as_it_should_be(data: bytes, cargo_bytes: int, problem: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"payload test: {problem}"):
        take_runs(PayloadReader("test", data), [Group.of(0, 0)], cargo_bytes)


@pytest.mark.parametrize("shift", [0, 28])
def test_what_is_not_there_is_refused_before_it_is_made_room_for(shift: int) -> None:
    group = Group(1 << 30, shift, 0, 1 << 27)

    def take() -> None:
        with pytest.raises(RemoteProtocolError, match=r"bytes early|within its cargo"):
            take_runs(PayloadReader("test", STATE), [group], 1 << 27)

    assert peak_bytes(take) < 100_000


def test_wide_numbers_take_little_memory_beside_themselves() -> None:
    """Of 28 low bits each: a byte and more for every bit would be hundreds a number."""
    count = 1 << 18
    numbers = np.random.default_rng(0).integers(0, 12 << 28, count)
    group = Group.for_numbers(numbers, int(numbers.sum()))
    data = pack_runs([numbers], [group], b"")
    ((found,), _) = take_runs(PayloadReader("test", data), [group], 0)
    assert (found == numbers).all()
    assert peak_bytes(lambda: take_runs(PayloadReader("test", data), [group], 0)) < 40 * count
