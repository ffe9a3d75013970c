"""Contexts of rows and columns: chosen where they pay, told exactly, refused where forged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from semantic_support import schema_of

from semantic_net.errors import RemoteProtocolError
from semantic_net.fixed_point import Float64Array, Int64Array
from semantic_net.semantic.contexts import (
    NUM_CONTEXTS,
    Arrangement,
    Int8Array,
    TensorContexts,
    choose_contexts,
    pack_contexts,
    take_contexts,
)
from semantic_net.semantic.rans import encode_symbols
from semantic_net.semantic.reader import PayloadReader
from semantic_net.semantic.schema import ModelSchema, TensorSpec

ROWS, COLUMNS = 32, 64  # in a tensor's head


def matrices(*shapes: tuple[int, ...]) -> ModelSchema:
    return ModelSchema(
        tuple(TensorSpec(f"p{i}", shape, "parameter") for i, shape in enumerate(shapes))
    )


def matrix(*shape: int) -> ModelSchema:
    return matrices(shape)


def as_list(octaves: Int8Array | None) -> list[int] | None:
    return None if octaves is None else octaves.tolist()


def plain(tensors: list[TensorContexts]) -> list[tuple[int, list[int] | None, list[int] | None]]:
    return [(t.base, as_list(t.rows), as_list(t.columns)) for t in tensors]


def taken(data: bytes, schema: ModelSchema) -> list[TensorContexts]:
    reader = PayloadReader("test", data)
    contexts = take_contexts(reader, schema)
    reader.end()
    return contexts


# scalars, empty tensors, rows too short to tell apart, and those of which columns are told too
some_shapes = st.sampled_from(
    [(), (0,), (3, 0), (1 << 40, 0), (5,), (70,), (4, 7), (3, 2, 4), (2, 64), (3, 5, 13), (1, 64)]
)
some_schemas = st.lists(some_shapes, max_size=4).map(lambda shapes: matrices(*shapes))


def some_octaves(count: int) -> st.SearchStrategy[Int8Array | None]:
    octaves = st.lists(st.integers(-7, 7), min_size=count, max_size=count)
    return st.none() | octaves.map(lambda numbers: np.array(numbers, np.int8))


def rows_and_columns(spec: TensorSpec) -> tuple[int, int]:
    num_rows = spec.shape[0] if spec.shape else 1
    return num_rows, spec.size // num_rows if num_rows else 0


@st.composite
def contexts_of(draw: st.DrawFn, schema: ModelSchema) -> list[TensorContexts]:
    tensors = []
    for spec in schema.parameters:
        num_rows, num_columns = rows_and_columns(spec)
        rows, columns = None, None
        if num_rows > 1 and num_columns >= 8:
            rows = draw(some_octaves(num_rows))
        if num_rows > 1 and num_columns >= 64:
            columns = draw(some_octaves(num_columns))
        tensors.append(TensorContexts(draw(st.integers(0, NUM_CONTEXTS - 1)), rows, columns))
    return tensors


def contexts_by_entry(tensors: list[TensorContexts], schema: ModelSchema) -> list[int]:
    """Return what the module says, for each parameter in turn."""
    found = []
    for tensor, spec in zip(tensors, schema.parameters, strict=True):
        for entry in range(spec.size):
            row, column = divmod(entry, rows_and_columns(spec)[1])
            octaves = tensor.base
            octaves += 0 if tensor.rows is None else int(tensor.rows[row])
            octaves += 0 if tensor.columns is None else int(tensor.columns[column])
            found.append(min(max(octaves, 0), NUM_CONTEXTS - 1))
    return found


def arranged_contexts(arrangement: Arrangement, positions: Int64Array) -> list[int]:
    """Return the context of the place that each position is moved to."""
    places = arrangement.arrange(positions)
    contexts: list[int] = np.repeat(arrangement.contexts, arrangement.lengths)[places].tolist()
    return contexts


# told and arranged


@given(st.data(), some_schemas)
def test_contexts_come_back(data: st.DataObject, schema: ModelSchema) -> None:
    tensors = data.draw(contexts_of(schema))
    assert plain(taken(pack_contexts(tensors), schema)) == plain(tensors)


@given(st.data(), some_schemas)
def test_every_entry_is_moved_to_a_segment_of_its_context(
    data: st.DataObject, schema: ModelSchema
) -> None:
    tensors = data.draw(contexts_of(schema))
    arrangement = Arrangement(tensors, schema)
    assert arrangement.lengths.sum() == schema.num_parameters
    assert arrangement.lengths.min(initial=1) > 0
    everything = np.arange(schema.num_parameters)
    places = arrangement.arrange(everything)
    assert np.sort(places).tolist() == everything.tolist()
    assert arranged_contexts(arrangement, everything) == contexts_by_entry(tensors, schema)


@given(st.data(), some_schemas)
def test_what_is_arranged_is_restored(data: st.DataObject, schema: ModelSchema) -> None:
    arrangement = Arrangement(data.draw(contexts_of(schema)), schema)
    kept = data.draw(st.sets(st.integers(0, 500)))
    positions = np.array(
        [entry for entry in sorted(kept) if entry < schema.num_parameters], np.int64
    )
    places = arrangement.arrange(positions)
    assert arrangement.restore(np.sort(places)).tolist() == positions.tolist()


def test_columns_are_sorted_within_their_tensor_and_rows_stay() -> None:
    columns = np.tile(np.array([1, 0], np.int8), 32)
    tensors = [TensorContexts(5, np.array([1, -3], np.int8), columns), TensorContexts(3)]
    arrangement = Arrangement(tensors, matrices((2, 64), ()))
    assert arrangement.starts.tolist() == [0, 32, 64, 96]
    assert arrangement.contexts.tolist() == [6, 7, 2, 3]
    assert arrangement.lengths.tolist() == [32, 32, 32, 33]  # the scalar has the last one's
    assert arrangement.arrange(np.array([0, 1, 2, 64, 128])).tolist() == [32, 0, 33, 96, 128]
    assert arrangement.restore(np.array([0, 32, 33, 96, 128])).tolist() == [0, 1, 2, 64, 128]


def test_rows_and_columns_add_up_within_what_there_is() -> None:
    rows, columns = np.array([1, -3], np.int8), np.array([0, 7, -7] + [0] * 61, np.int8)
    here = np.array([0, 1, 2, 64, 65, 66])
    schema = matrices((2, 64))
    low = Arrangement([TensorContexts(5, rows, columns)], schema)
    assert arranged_contexts(low, here) == [6, 13, 0, 2, 9, 0]
    high = Arrangement([TensorContexts(30, rows, columns)], schema)
    assert arranged_contexts(high, here) == [31, 31, 24, 27, 31, 20]


def test_a_row_is_the_first_dimension_and_a_column_all_others() -> None:
    rows = TensorContexts(9, rows=np.array([1, 2], np.int8))
    arrangement = Arrangement([rows], matrices((2, 4, 2)))
    assert (arrangement.contexts.tolist(), arrangement.lengths.tolist()) == ([10, 11], [8, 8])


# chosen


def kept_in(chances: Float64Array) -> Int64Array:
    """Return positions in a matrix, kept at random with these chances."""
    flags = np.random.default_rng(0).random(chances.shape) < chances
    positions: Int64Array = np.flatnonzero(flags)
    return positions


def test_the_context_of_a_tensor_is_the_octave_of_its_share() -> None:
    schema = schema_of(64, 64, 64)
    positions = np.concatenate((np.arange(64), [64, 100]))  # all, two, none
    assert plain(choose_contexts(positions, schema)) == [
        (31, None, None),
        (26, None, None),
        (0, None, None),
    ]


def test_rows_are_told_apart_where_some_keep_far_more() -> None:
    hot = np.where(np.arange(256) < 32, 0.8, 0.08)
    flat = np.full(256, 0.1)
    schema = matrix(256, 256)
    (rows,) = choose_contexts(kept_in(np.outer(hot, flat)), schema)
    assert rows.columns is None
    assert rows.rows is not None
    assert rows.rows[:32].min() > rows.rows[32:].max()
    (columns,) = choose_contexts(kept_in(np.outer(flat, hot)), schema)
    assert columns.rows is None
    assert columns.columns is not None
    (both,) = choose_contexts(kept_in(np.outer(hot, hot)), schema)
    assert both.rows is not None
    assert both.columns is not None


def test_chance_alone_is_not_worth_telling() -> None:
    assert plain(choose_contexts(kept_in(np.full((64, 64), 0.05)), matrix(64, 64))) == [
        (27, None, None)
    ]
    positions = np.arange(15)  # all in one row, but too few to tell
    assert plain(choose_contexts(positions, matrix(64, 64))) == [(23, None, None)]
    assert plain(choose_contexts(np.arange(64), matrix(4096, 1))) == [(25, None, None)]


@pytest.mark.parametrize(
    ("num_columns", "has_rows", "has_columns"),
    [(7, False, False), (8, True, False), (64, True, True)],
)
def test_short_rows_are_not_told_apart_and_columns_only_of_long_ones(
    num_columns: int, has_rows: bool, has_columns: bool
) -> None:
    row_chances = np.where(np.arange(256) < 64, 1, 0.01)
    column_chances = np.where(np.arange(num_columns) < num_columns // 2, 1, 0.1)
    positions = kept_in(np.outer(row_chances, column_chances))
    (tensor,) = choose_contexts(positions, matrix(256, num_columns))
    assert (tensor.rows is not None, tensor.columns is not None) == (has_rows, has_columns)


# from outside


def forged(symbols: list[int], model: int = 20) -> bytes:
    models = np.full(len(symbols), model, np.uint8)
    return bytes([ROWS, model]) + encode_symbols(np.array(symbols, np.uint8), models)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "ends 1 bytes early"),
        (bytes([2 * COLUMNS]), "a tensor's context is out of range"),
        (bytes([ROWS]), "ends 1 bytes early"),
        (bytes([COLUMNS]), "contexts of rows or columns that are too short"),
        (bytes([ROWS, 40]) + forged([0, 0])[2:], "a model that there is not"),
        (forged([0, 15]), "a row's or column's context is out of range"),
        (forged([0, 14])[:-1], "ends 1 bytes early"),
    ],
)
def test_what_nobody_would_write_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"payload test: {problem}"):
        taken(data, matrix(2, 8))
    assert plain(taken(forged([0, 14]), matrix(2, 8))) == [(0, [0, -7], None)]


@pytest.mark.parametrize("shape", [(), (64,), (1, 64), (2, 7)])
def test_rows_that_are_too_short_are_not_told_apart(shape: tuple[int, ...]) -> None:
    """They would be more segments than a model has room for."""
    with pytest.raises(RemoteProtocolError, match="too short"):
        taken(bytes([ROWS]), matrix(*shape))


def test_a_tensor_without_entries_has_nothing_to_tell() -> None:
    """However many rows it claims to have: they would be allocated."""
    schema = matrix(1 << 40, 0)
    with pytest.raises(RemoteProtocolError, match="too short"):
        taken(bytes([ROWS]), schema)
    assert plain(choose_contexts(np.empty(0, np.int64), schema)) == [(0, None, None)]
