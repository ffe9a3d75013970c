"""The entropy coder: exact both ways, near the entropy, and at no stranger's mercy."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.errors import RemoteProtocolError
from semantic_net.semantic.bits import UInt8Array
from semantic_net.semantic.rans import (
    CARGO_BYTES,
    LAST_SYMBOL,
    NUM_MODELS,
    NUM_SYMBOLS,
    _geometric,
    encode_symbols,
    model_of,
    num_lanes,
    take_symbols,
)
from semantic_net.semantic.reader import PayloadReader

TOTAL = 1 << 12


def take(data: bytes, models: UInt8Array) -> tuple[UInt8Array, int]:
    """Return the symbols, and how many bytes are left."""
    reader = PayloadReader("test", data)
    symbols, cargo = take_symbols(reader, models)
    assert cargo == b""
    return symbols, reader.left


def as_bytes(numbers: list[int]) -> UInt8Array:
    return np.array(numbers, np.uint8)


# the models


def test_the_tables_are_the_same_forever() -> None:
    """Both ends compute them: another rounding anywhere would garble every payload."""
    rows = [_geometric(model) for model in range(NUM_MODELS)]
    assert all(sum(row) == TOTAL and min(row) >= 1 for row in rows)
    assert [row[:4] for row in (rows[0], rows[24])] == [[3972, 62, 1, 1], [2023, 1009, 505, 253]]
    digest = hashlib.sha256(np.array(rows, "<u2").tobytes()).hexdigest()[:32]
    assert digest == "07a843307ccf7e3ff952c69b09b4efa1"


def test_a_model_is_chosen_by_the_mean_nearest_below() -> None:
    for model in range(NUM_MODELS):
        mean = 2.0 ** (model / 4 - 6)
        assert model_of(round(mean * 1.01 * (1 << 30)), 1 << 30) == model
        assert model_of(round(mean * 0.99 * (1 << 30)), 1 << 30) == max(model - 1, 0)
    assert model_of(0, 5) == 0
    assert model_of(1 << 61, 1) == model_of(0, 0) == NUM_MODELS - 1


# there and back


@given(
    st.lists(st.tuples(st.integers(0, LAST_SYMBOL), st.integers(0, NUM_MODELS - 1)), max_size=60)
)
def test_any_symbols_come_back_under_any_models(pairs: list[tuple[int, int]]) -> None:
    symbols, models = (as_bytes([pair[i] for pair in pairs]) for i in range(2))
    coded = encode_symbols(symbols, models)
    found, left = take(coded + b"rest", models)
    assert found.tolist() == symbols.tolist()
    assert left == 4


@given(
    st.lists(st.tuples(st.integers(0, LAST_SYMBOL), st.integers(0, NUM_MODELS - 1)), max_size=600),
    st.data(),
)
def test_any_cargo_comes_back_beside_them(
    pairs: list[tuple[int, int]], data: st.DataObject
) -> None:
    symbols, models = (as_bytes([pair[i] for pair in pairs]) for i in range(2))
    size = CARGO_BYTES * num_lanes(len(pairs), cargo=True)
    cargo = data.draw(st.binary(min_size=size, max_size=size))
    reader = PayloadReader("test", encode_symbols(symbols, models, cargo) + b"rest")
    found, carried = take_symbols(reader, models, cargo=True)
    assert (found.tolist(), carried, reader.left) == (symbols.tolist(), cargo, 4)


@pytest.mark.parametrize("count", [0, 1, 127, 128, 255, 256, 257, 1024, 70_001, (1 << 21) + 1])
def test_lanes_of_any_number_come_back(count: int) -> None:
    rng = np.random.default_rng(count)
    symbols = rng.integers(0, NUM_SYMBOLS, count).astype(np.uint8)
    models = rng.integers(0, NUM_MODELS, count).astype(np.uint8)
    found, left = take(encode_symbols(symbols, models), models)
    assert (found == symbols).all()
    assert left == 0
    cargo = rng.bytes(CARGO_BYTES * num_lanes(count, cargo=True))
    reader = PayloadReader("test", encode_symbols(symbols, models, cargo))
    found, carried = take_symbols(reader, models, cargo=True)
    assert (found == symbols).all()
    assert (carried, reader.left) == (cargo, 0)


def test_a_lane_has_as_many_symbols_as_make_its_state_cheap() -> None:
    assert [num_lanes(count, cargo=False) for count in (0, 255, 256, 512)] == [1, 1, 2, 4]
    assert [num_lanes(count, cargo=True) for count in (0, 127, 128, 256)] == [1, 1, 2, 4]
    assert num_lanes(1 << 30, cargo=False) == num_lanes(1 << 30, cargo=True) == 1 << 12


@pytest.mark.parametrize("model", [0, 10, 24, 39])
def test_symbols_of_a_model_take_about_their_entropy(model: int) -> None:
    count = 100_000
    share = np.array(_geometric(model)) / TOTAL
    symbols = np.random.default_rng(model).choice(NUM_SYMBOLS, count, p=share).astype(np.uint8)
    coded = encode_symbols(symbols, np.full(count, model, np.uint8))
    entropy_bits = -float((share * np.log2(share)).sum())
    assert 8 * len(coded) < 1.01 * count * entropy_bits + 32 * num_lanes(count, cargo=False)


@pytest.mark.parametrize("model", [0, 24])
def test_cargo_costs_what_it_holds(model: int) -> None:
    """Which is half a state: the other half is what a lane without cargo costs as well."""
    symbols, models = np.zeros(70_000, np.uint8), np.full(70_000, model, np.uint8)
    lanes = num_lanes(symbols.size, cargo=True)
    cargo = np.random.default_rng(0).bytes(CARGO_BYTES * lanes)
    share = _geometric(model)[0] / TOTAL
    entropy_bits = -symbols.size * float(np.log2(share))
    coded = encode_symbols(symbols, models, cargo)
    assert 8 * (len(coded) - len(cargo)) < 1.01 * entropy_bits + 17 * lanes


# from outside


@given(st.binary(max_size=200), st.lists(st.integers(0, NUM_MODELS - 1), max_size=700))
def test_noise_gives_symbols_or_the_documented_error(noise: bytes, models: list[int]) -> None:
    try:
        symbols, left = take(noise, as_bytes(models))
    except RemoteProtocolError:
        return
    assert symbols.size == len(models)
    assert symbols.max(initial=0) <= LAST_SYMBOL
    assert 4 * num_lanes(len(models), cargo=False) <= len(noise) - left <= len(noise)


@pytest.mark.parametrize(
    ("coded", "problem"),
    [
        (b"\0\0\1", "ends 1 bytes early"),
        (b"\0\0\1\0", "ends within its symbols"),
        (b"\0\0\1\0\7", "ends within its symbols"),  # half a word is none
        (b"\xff\xff\xff\xff", "symbols that nobody has coded"),
        (b"\xff\xff\0\0", "a state that no encoder ends with"),
    ],
)
def test_what_the_coder_never_writes_is_refused(coded: bytes, problem: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"payload test: {problem}"):
        take(coded, as_bytes([0]))


def test_no_symbols_are_one_state() -> None:
    assert encode_symbols(as_bytes([]), as_bytes([])) == b"\0\0\1\0"
    with pytest.raises(RemoteProtocolError, match="nobody has coded"):
        take(b"\1\0\1\0", as_bytes([]))


def test_a_lane_cannot_end_with_more_than_its_cargo() -> None:
    assert encode_symbols(as_bytes([]), as_bytes([]), b"\1\2") == b"\1\2\1\0"
    with pytest.raises(RemoteProtocolError, match="nobody has coded"):
        take_symbols(PayloadReader("test", b"\0\0\2\0"), as_bytes([]), cargo=True)
