"""The payload of mode `entropy_quantize`: a dead-zone quantiser, and an entropy coder behind it.

The entries of largest magnitude are kept, and their magnitudes quantised uniformly: with ``step``
twice the smallest one, so that all below half a step are in the dead zone. Step ``q`` stands for
``base + q * step``, where ``base`` is such that the mean magnitude stays. Where kept entries lie is
told by the number of dropped ones between two of them, counted in each context on its own
(`semantic_net.semantic.contexts`); runs and steps are coded together, by
`semantic_net.semantic.runs`.

    varints: count, base, step, sum of steps, escapes of steps
    float32 x B
    contexts
    varints: for each context with entries, how many are kept
    varints: all escapes of runs; if there are any, for each context with kept entries its own
    plane of ``count`` signs, in the order of positions
    runs by context, steps in the order of positions
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semantic_net.fixed_point import MAX_DELTA, SCALE, Float32Array, Int32Array, Int64Array
from semantic_net.semantic.bits import (
    UInt8Array,
    check_planes,
    pack_planes,
    plane_bytes,
    unpack_codes,
)
from semantic_net.semantic.contexts import (
    NUM_CONTEXTS,
    choose_contexts,
    pack_contexts,
    spread_contexts,
    take_contexts,
)
from semantic_net.semantic.deltas import DenseFloats, ParsedDelta, SparseUnits
from semantic_net.semantic.rans import LAST_SYMBOL
from semantic_net.semantic.reader import PayloadReader
from semantic_net.semantic.runs import Group, pack_runs, take_runs
from semantic_net.semantic.schema import ModelSchema
from semantic_net.semantic.varints import pack_varints, take_varint


def write_entropy_quantized(
    positions: Int64Array, values: Float32Array, buffers: Float32Array, schema: ModelSchema
) -> bytes:
    """Return the payload of some parameters, the largest ones.

    Args:
        positions: (K,), strictly increasing.
        values: (K,), none of which rounds to zero units.
        buffers: The float buffers.
        schema: The model that all peers agreed upon.
    """
    base, step, steps = _quantize(values)
    tensors = choose_contexts(positions, schema)
    places = _Places.of(spread_contexts(tensors, schema))
    runs, counts = places.runs_between(positions)
    groups = _groups_of(runs, counts, places.sizes)
    escapes = [group.num_escapes for group in groups if group.count]
    step_group = Group.for_numbers(steps, int(steps.sum()))
    head = (positions.size, base, step, int(steps.sum()), step_group.num_escapes)
    used = counts[places.sizes > 0].tolist()
    return b"".join(
        (
            pack_varints(head),
            buffers.astype("<f4", copy=False).tobytes(),
            pack_contexts(tensors),
            pack_varints([*used, sum(escapes), *(escapes if sum(escapes) else ())]),
            pack_planes(np.signbit(values).view(np.uint8), 1),
            pack_runs(np.concatenate((runs, steps)), [*groups, step_group]),
        )
    )


def parse_entropy_quantized(reader: PayloadReader, schema: ModelSchema) -> ParsedDelta:
    """Return the delta in a payload.

    Raises:
        RemoteProtocolError: Not what `write_entropy_quantized` writes for this schema.
    """
    count = take_varint(reader, schema.num_parameters)
    base, step = (take_varint(reader, 2 * MAX_DELTA) for _ in range(2))
    step_sum = take_varint(reader, count * MAX_DELTA)
    step_group = Group.of(count, step_sum)
    step_group = _with_escapes(reader, step_group, step_sum)
    buffers = DenseFloats(*reader.floats(schema.num_buffers))
    tensors = take_contexts(reader, schema)
    if plane_bytes(count) > reader.left:
        raise reader.error("more entries than bytes")
    places = _Places.of(spread_contexts(tensors, schema))
    groups = _take_groups(reader, places.sizes.tolist())
    if sum(group.count for group in groups) != count:
        raise reader.error("contexts keep more or fewer entries than there are")
    planes = reader.take(plane_bytes(count))
    check_planes(planes, 1, count)
    negative = unpack_codes(planes, 1, count, 0, count)
    numbers = take_runs(reader, [*groups, step_group])
    reader.end()
    counts = np.array([group.count for group in groups])
    ranks = _ranks_after(numbers[:count], counts)
    if (ranks >= np.repeat(places.sizes, counts)).any():
        raise reader.error("positions are out of range")
    positions = np.sort(places.at(ranks, counts))
    steps = numbers[count:]
    if count and int(steps.max()) * step + base > MAX_DELTA:
        raise reader.error("a step is out of range")
    if int(steps.sum()) != step_sum:
        raise reader.error("steps with another sum than announced")
    units = (base + steps * step).astype(np.int32)
    np.negative(units, out=units, where=negative.view(np.bool_))
    return ParsedDelta(SparseUnits(positions, units, schema.num_parameters), buffers)


def max_entropy_bytes(schema: ModelSchema) -> int:
    """Return a size that no payload of this schema reaches."""
    # Of each entry at most a run and a step, in two symbols of at most 12 bits and their escapes,
    # the low bits and a sign; of rows and columns, which are fewer than entries, a symbol each.
    return 8 * schema.num_parameters + 4 * schema.num_buffers + (1 << 16)


@dataclass(frozen=True, slots=True, eq=False)
class _Places:
    """All parameters, sorted by their contexts."""

    contexts: UInt8Array
    """(P,) of each parameter."""
    order: Int64Array
    """(P,) positions, context by context, increasing in each."""
    sizes: Int64Array
    """(NUM_CONTEXTS,) parameters in each context."""

    @classmethod
    def of(cls, contexts: UInt8Array) -> _Places:
        sizes = np.bincount(contexts, minlength=NUM_CONTEXTS)
        return cls(contexts, np.argsort(contexts, kind="stable"), sizes)

    def runs_between(self, positions: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return how many are dropped before each kept one, and how many each context keeps."""
        contexts = self.contexts[positions]
        counts = np.bincount(contexts, minlength=NUM_CONTEXTS)
        kept = positions[np.argsort(contexts, kind="stable")]
        runs = np.empty(kept.size, np.int64)
        ends, stops = np.cumsum(counts), np.cumsum(self.sizes)
        for context in np.flatnonzero(counts):
            here = slice(ends[context] - counts[context], ends[context])
            start = stops[context] - self.sizes[context]
            ranks = np.searchsorted(self.order[start : stops[context]], kept[here])
            runs[here] = np.diff(ranks, prepend=-1) - 1
        return runs, counts

    def at(self, ranks: Int64Array, counts: Int64Array) -> Int32Array:
        """Return the positions of parameters given by their ranks in their contexts."""
        starts = np.cumsum(self.sizes) - self.sizes
        return self.order[ranks + np.repeat(starts, counts)].astype(np.int32)


def _quantize(values: Float32Array) -> tuple[int, int, Int64Array]:
    """Return base and step in units of 2^-24, and the steps of all magnitudes."""
    units = np.rint(np.minimum(np.abs(values.astype(np.float64)) * SCALE, MAX_DELTA))
    if not units.size:
        return 0, 0, np.empty(0, np.int64)
    least = int(units.min())
    step = 2 * least
    steps = ((units - least) // step).astype(np.int64)
    base = round(float((units - steps * step).mean()))
    # The mean may lie above the largest entry's own place, whose step then must not saturate.
    return min(base, MAX_DELTA - int(steps.max()) * step), step, steps


def _groups_of(runs: Int64Array, counts: Int64Array, sizes: Int64Array) -> list[Group]:
    parts = np.split(runs, np.cumsum(counts)[:-1])
    return [
        Group.for_numbers(part, size - part.size)
        for part, size in zip(parts, sizes.tolist(), strict=True)
    ]


def _take_groups(reader: PayloadReader, sizes: list[int]) -> list[Group]:
    counts = [take_varint(reader, size) if size else 0 for size in sizes]
    groups = [Group.of(count, size - count) for count, size in zip(counts, sizes, strict=True)]
    if not take_varint(reader, sum(sizes)):
        return groups
    return [
        _with_escapes(reader, group, size - group.count) if group.count else group
        for group, size in zip(groups, sizes, strict=True)
    ]


def _with_escapes(reader: PayloadReader, group: Group, total: int) -> Group:
    """Take how many escapes a group has: no more than the sum of its numbers has room for."""
    most = (total >> group.shift) // LAST_SYMBOL
    return Group(group.count, group.shift, group.model, take_varint(reader, most))


def _ranks_after(runs: Int64Array, counts: Int64Array) -> Int64Array:
    """Return the rank in its context of each kept entry."""
    ends = np.cumsum(runs + 1)
    firsts = np.cumsum(counts) - counts
    before = np.where(firsts > 0, ends[firsts - 1], 0) if ends.size else firsts
    ranks: Int64Array = ends - np.repeat(before, counts) - 1
    return ranks
