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

from semantic_net.fixed_point import BLOCK, Float64Array, Int32Array, Int64Array
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

_MIN_ROW = 8
_MIN_ROW_WITH_COLUMNS = 64
"""Shortest rows that are told apart, and of which columns are: bounds the segments of a model."""


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
    for head, spec in zip(heads, specs, strict=True):
        if head >= 2 * _COLUMNS:
            raise reader.error("a tensor's context is out of range")
        if (head & _ROWS and not _has_rows(spec)) or (head & _COLUMNS and not _has_columns(spec)):
            raise reader.error("contexts of rows or columns that are too short")
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
        symbols, _ = take_symbols(reader, np.full(total, model, np.uint8))
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


class Arrangement:
    """All parameters of a model, arranged so that equal contexts lie together.

    Tensors and rows stay in their order; in a tensor whose columns differ, the columns are sorted
    by their contexts. So a model is a few *segments* of one context each, however large it is.
    """

    def __init__(self, tensors: list[TensorContexts], schema: ModelSchema) -> None:
        self._size = schema.num_parameters
        self._sorted: list[tuple[int, int, Int64Array]] = []  # start, end, order of the columns
        starts, contexts = [np.empty(0, np.int64)], [np.empty(0, np.uint8)]
        for tensor, spec, start in zip(tensors, schema.parameters, schema.offsets, strict=False):
            if not spec.size:
                continue
            num_rows, num_columns = _as_matrix(spec)
            firsts = np.zeros(1, np.int64)
            own = np.full((1, 1), tensor.base, np.int8)
            if tensor.rows is not None:
                own = own + tensor.rows[:, None]
            if tensor.columns is not None:
                order = np.argsort(tensor.columns, kind="stable")
                self._sorted.append((start, start + spec.size, order))
                octaves = tensor.columns[order]
                firsts = np.flatnonzero(np.diff(octaves, prepend=octaves[0] ^ 1))
                own = np.broadcast_to(own, (num_rows, 1)) + octaves[firsts]
            rows = np.arange(own.shape[0]) * num_columns
            starts.append((start + np.add.outer(rows, firsts)).ravel())
            contexts.append(np.clip(own, 0, _CERTAIN).ravel().view(np.uint8))
        first, context = np.concatenate(starts), np.concatenate(contexts)
        new = np.flatnonzero(np.diff(context, prepend=context[:1] ^ 1))
        self.starts: Int64Array = first[new]
        """(S,) where each segment begins in this arrangement."""
        self.contexts: UInt8Array = context[new]
        """(S,)"""

    @property
    def lengths(self) -> Int64Array:
        """(S,), at least one each."""
        lengths: Int64Array = np.diff(self.starts, append=self._size)
        return lengths

    def arrange(self, positions: Int64Array) -> Int64Array:
        """Return where sorted positions of the model are in this arrangement."""
        arranged: Int64Array = positions.copy()
        self._move(arranged, [np.argsort(order) for _, _, order in self._sorted])
        return arranged

    def restore(self, arranged: Int32Array) -> Int32Array:
        """Return the sorted positions of what lies at sorted places; those are overwritten."""
        self._move(arranged, [order for _, _, order in self._sorted])
        arranged.sort()
        return arranged

    def _move(self, places: Int64Array | Int32Array, columns_of: list[Int64Array]) -> None:
        """Put what lies in one column of a tensor into another; places stay in their tensor."""
        for (start, end, _), columns in zip(self._sorted, columns_of, strict=True):
            first, last = np.searchsorted(places, (start, end))
            shifts = columns - np.arange(columns.size)
            for block in range(first, last, BLOCK):
                here = places[block : min(block + BLOCK, last)]
                here += shifts[(here - start) % columns.size]


def _as_matrix(spec: TensorSpec) -> tuple[int, int]:
    if not spec.size:
        return 0, 0  # nothing to tell, whatever the other dimensions are
    num_rows = spec.shape[0] if spec.shape else 1
    return num_rows, spec.size // num_rows


def _has_rows(spec: TensorSpec) -> bool:
    num_rows, num_columns = _as_matrix(spec)
    return num_rows > 1 and num_columns >= _MIN_ROW


def _has_columns(spec: TensorSpec) -> bool:
    return _has_rows(spec) and _as_matrix(spec)[1] >= _MIN_ROW_WITH_COLUMNS


def _choose(positions: Int64Array, spec: TensorSpec) -> TensorContexts:
    kept, size = positions.size, spec.size
    base = _CERTAIN + round(np.log2(kept / size)) if kept else 0
    num_rows, num_columns = _as_matrix(spec)
    if kept < _MIN_KEPT or not _has_rows(spec):
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
    options: list[tuple[float, Int64Array | None, Int64Array | None]] = [
        (_bits(num_kept.sum(), num_all.sum()), None, None),
        (_bits(num_kept.sum(1), num_all.sum(1)) + row_bits, row_octaves, None),
    ]
    if _has_columns(spec):
        both = _bits(*(np.bincount(sums.ravel(), n.ravel()) for n in (num_kept, num_all)))
        options += [
            (_bits(num_kept.sum(0), num_all.sum(0)) + column_bits, None, column_octaves),
            (both + row_bits + column_bits, row_octaves, column_octaves),
        ]
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
