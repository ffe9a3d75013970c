"""Where kept entries are likely: rows and columns of a tensor that change more than others.

Each entry of a model belongs to one of `NUM_CONTEXTS` contexts, an octave of its chance to be kept
each. A tensor has a context of its own; each row (first dimension) and each column (all others
together) of it may lie some octaves above or below, and the two add up. What a receiver needs for
that travels in the payload, so that an update can be read without any other.

    uint8 x T: context of the tensor, + 32 where its rows differ, + 64 where its columns do
    if any do: uint8 model, coded symbols: of each such row and column in turn the octaves above
        (2n - 1) or below (2n)

Which rows and columns are worth telling is the encoder's choice, by an estimate of the bits: a
reader follows whatever it is told.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from semantic_net.fixed_point import Float64Array, Int64Array
from semantic_net.semantic.bits import UInt8Array
from semantic_net.semantic.rans import NUM_MODELS, encode_symbols, model_of, take_symbols
from semantic_net.semantic.reader import PayloadReader
from semantic_net.semantic.schema import ModelSchema, TensorSpec

Int8Array = npt.NDArray[np.int8]

NUM_CONTEXTS = 32
_CERTAIN = NUM_CONTEXTS - 1
"""The context of what is always kept; each one below is half as likely."""

_ROWS, _COLUMNS = NUM_CONTEXTS, 2 * NUM_CONTEXTS
_MAX_OCTAVES = 7
_CONTEXT_BITS = 10
"""About what one more context costs in the payload."""

_MIN_KEPT = 16
"""Of a tensor's entries; with fewer nothing is gained by telling rows apart."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorContexts:
    """One tensor's contexts."""

    base: int
    rows: Int8Array | None = None
    """Octaves above the base, for each row."""
    columns: Int8Array | None = None


def choose_contexts(positions: Int64Array, schema: ModelSchema) -> list[TensorContexts]:
    """Return the contexts that make sorted positions among the parameters cheap to tell."""
    bounds = np.searchsorted(positions, schema.offsets[: len(schema.parameters) + 1])
    return [
        _choose(positions[first:last] - start, spec)
        for spec, start, first, last in zip(
            schema.parameters, schema.offsets, bounds, bounds[1:], strict=False
        )
    ]


def pack_contexts(tensors: list[TensorContexts]) -> bytes:
    """Return what a receiver needs to know of them."""
    heads = bytes(
        t.base + (_ROWS if t.rows is not None else 0) + (_COLUMNS if t.columns is not None else 0)
        for t in tensors
    )
    parts = [part for t in tensors for part in (t.rows, t.columns) if part is not None]
    if not parts:
        return heads
    octaves = np.concatenate(parts).astype(np.int64)
    symbols = np.where(octaves > 0, 2 * octaves - 1, -2 * octaves).astype(np.uint8)
    model = model_of(int(symbols.sum()), symbols.size)
    return heads + bytes([model]) + encode_symbols(symbols, np.full(symbols.size, model, np.uint8))


def take_contexts(reader: PayloadReader, schema: ModelSchema) -> list[TensorContexts]:
    """Take what `pack_contexts` has written.

    Raises:
        RemoteProtocolError: It is something else.
    """
    specs = schema.parameters
    heads = reader.take(len(specs)).tolist()
    if any(head >= 2 * _COLUMNS for head in heads):
        raise reader.error("a tensor's context is out of range")
    lengths = [
        (num_rows if head & _ROWS else 0, num_columns if head & _COLUMNS else 0)
        for head, (num_rows, num_columns) in zip(heads, map(_as_matrix, specs), strict=True)
    ]
    total = sum(map(sum, lengths))
    octaves = np.empty(0, np.int8)
    if total:
        (model,) = reader.take(1).tolist()
        if model >= NUM_MODELS:
            raise reader.error("a model that there is not")
        symbols = take_symbols(reader, np.full(total, model, np.uint8))
        if symbols.max() > 2 * _MAX_OCTAVES:
            raise reader.error("a row's or column's context is out of range")
        halves = (symbols >> 1).view(np.int8)
        octaves = np.where(symbols & 1, halves + np.int8(1), -halves)
    contexts = []
    done = 0
    for head, (num_rows, num_columns) in zip(heads, lengths, strict=True):
        rows = octaves[done : done + num_rows] if head & _ROWS else None
        done += num_rows
        columns = octaves[done : done + num_columns] if head & _COLUMNS else None
        done += num_columns
        contexts.append(TensorContexts(head % NUM_CONTEXTS, rows, columns))
    return contexts


def spread_contexts(tensors: list[TensorContexts], schema: ModelSchema) -> UInt8Array:
    """Return the context of every parameter."""
    contexts = np.empty(schema.num_parameters, np.uint8)
    for tensor, spec, start in zip(tensors, schema.parameters, schema.offsets, strict=False):
        here = contexts[start : start + spec.size]
        if tensor.rows is None and tensor.columns is None:
            here.fill(tensor.base)
            continue
        num_rows, num_columns = _as_matrix(spec)
        matrix = here.view(np.int8).reshape(num_rows, num_columns)
        matrix.fill(tensor.base)
        if tensor.rows is not None:
            matrix += tensor.rows[:, None]
        if tensor.columns is not None:
            matrix += tensor.columns
        np.clip(matrix, 0, _CERTAIN, out=matrix)
    return contexts


def _as_matrix(spec: TensorSpec) -> tuple[int, int]:
    num_rows = spec.shape[0] if spec.shape else 1
    return num_rows, spec.size // num_rows if num_rows else 0


def _choose(positions: Int64Array, spec: TensorSpec) -> TensorContexts:
    kept, size = positions.size, spec.size
    base = _CERTAIN + round(np.log2(kept / size)) if kept else 0
    num_rows, num_columns = _as_matrix(spec)
    if kept < _MIN_KEPT or min(num_rows, num_columns) < 2:
        return TensorContexts(base)
    rows, columns = np.divmod(positions, num_columns)
    row_octaves = _octaves(np.bincount(rows, minlength=num_rows))
    column_octaves = _octaves(np.bincount(columns, minlength=num_columns))
    # How many of the kept, and of all entries, are in a row and a column of each octave.
    span = 2 * _MAX_OCTAVES + 1
    pairs = (row_octaves[rows] + _MAX_OCTAVES) * span + column_octaves[columns] + _MAX_OCTAVES
    num_kept = np.bincount(pairs, minlength=span * span).reshape(span, span)
    num_all = np.outer(_histogram(row_octaves), _histogram(column_octaves))
    row_bits, column_bits = _bits_to_tell(row_octaves), _bits_to_tell(column_octaves)
    sums = np.add.outer(np.arange(span), np.arange(span))
    options = (
        (_bits(num_kept.sum(), num_all.sum()), None, None),
        (_bits(num_kept.sum(1), num_all.sum(1)) + row_bits, row_octaves, None),
        (_bits(num_kept.sum(0), num_all.sum(0)) + column_bits, None, column_octaves),
        (
            _bits(*(np.bincount(sums.ravel(), n.ravel()) for n in (num_kept, num_all)))
            + row_bits
            + column_bits,
            row_octaves,
            column_octaves,
        ),
    )
    _, best_rows, best_columns = min(options, key=lambda option: option[0])
    return TensorContexts(
        base,
        None if best_rows is None else best_rows.astype(np.int8),
        None if best_columns is None else best_columns.astype(np.int8),
    )


def _octaves(counts: Int64Array) -> Int64Array:
    """Return how far each count is above the mean; one more of each keeps chance at bay."""
    octaves = np.rint(np.log2((counts + 1) / (counts.mean() + 1)))
    clipped: Int64Array = np.clip(octaves, -_MAX_OCTAVES, _MAX_OCTAVES).astype(np.int64)
    return clipped


def _histogram(octaves: Int64Array) -> Int64Array:
    counts: Int64Array = np.bincount(octaves + _MAX_OCTAVES, minlength=2 * _MAX_OCTAVES + 1)
    return counts


def _bits_to_tell(octaves: Int64Array) -> float:
    share = _histogram(octaves) / octaves.size
    return float(-octaves.size * (share * np.log2(share, where=share > 0, out=share * 0)).sum())


def _bits(num_kept: Int64Array | Float64Array, num_all: Int64Array | Float64Array) -> float:
    """Return about the bits of positions in contexts of these sizes."""
    sizes = np.atleast_1d(num_all)
    used = sizes > 0
    share = np.atleast_1d(num_kept)[used] / sizes[used]
    entropy = np.zeros(share.size)
    for p in (share, 1 - share):
        entropy -= p * np.log2(p, where=p > 0, out=np.zeros(share.size))
    return float((sizes[used] * entropy).sum()) + _CONTEXT_BITS * int(used.sum())
