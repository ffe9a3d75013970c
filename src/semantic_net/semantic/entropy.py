"""The payload of mode `entropy_quantize`: a dead-zone quantiser, and an entropy coder behind it.

The entries of largest magnitude are kept, and their magnitudes quantised uniformly: with ``step``
twice the smallest one, so that all below half a step are in the dead zone. Step ``q`` stands for
``base + q * step``, where ``base`` is such that the mean magnitude stays. Where kept entries lie is
told by the number of dropped ones between two of them, counted in each context on its own
(`semantic_net.semantic.contexts`). Most of them are at step 0: where the others are is told in the
same way, by runs of zero steps, and for each of those how far above 1 it is.

    varints: kept entries, base, step, steps above 0, sum of what they are above 1
    float32 x B
    contexts
    varints: for each context with entries, how many are kept
    varints: all escapes; if there are any, each group's with numbers in it
    runs of dropped entries by context, runs of steps at 0, steps above 1 (`..semantic.runs`), with
        the plane of signs, in the order of positions, as cargo
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from semantic_net.fixed_point import BLOCK, MAX_DELTA, SCALE, Float32Array, Int32Array, Int64Array
from semantic_net.semantic.bits import (
    check_planes,
    pack_planes,
    plane_bytes,
    unpack_codes,
)
from semantic_net.semantic.contexts import (
    NUM_CONTEXTS,
    Arrangement,
    choose_contexts,
    pack_contexts,
    take_contexts,
)
from semantic_net.semantic.deltas import DenseFloats, ParsedDelta, SparseUnits
from semantic_net.semantic.rans import LAST_SYMBOL
from semantic_net.semantic.reader import PayloadReader
from semantic_net.semantic.runs import Group, pack_runs, take_runs
from semantic_net.semantic.schema import ModelSchema
from semantic_net.semantic.varints import pack_varints, take_varint

BoolArray = npt.NDArray[np.bool_]

_LEAST_SHARE = 8
"""Of the median kept magnitude is the smallest one at least such a part."""


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Quantised values: a sign, and so many steps above a base."""

    negative: BoolArray
    """(K,)"""
    steps: Int32Array
    """(K,), from 0."""
    base: int
    """In units of 2^-24, as is ``step``."""
    step: int

    def units(self) -> Int32Array:
        """Return what the values have become, in units of 2^-24; at most `MAX_DELTA`."""
        step = min(self.step, MAX_DELTA)  # beyond it all are at step 0
        units: Int32Array = np.multiply(self.steps, step, dtype=np.int32)
        units += np.int32(self.base)
        np.negative(units, out=units, where=self.negative)
        return units


def is_worth_a_step(values: Float32Array) -> BoolArray:
    """Tell which of the values to keep: none that is far smaller than most.

    Where a share asks for more than has changed, the step would follow the last few, and every
    other value take as many bits more. They stay in the residual.
    """
    # Saturated first: the median can be the mean of two, whose sum float32 must hold.
    magnitudes = np.minimum(np.abs(values), MAX_DELTA / SCALE)
    least = np.median(magnitudes) / _LEAST_SHARE if values.size else 0.0
    worth: BoolArray = magnitudes >= least
    return worth


def quantize_to_steps(values: Float32Array) -> Steps:
    """Quantise values uniformly behind a dead zone that ends where the smallest of them lies.

    Each is off by at most one step, which is twice the smallest magnitude (in whole units, and
    saturated at `MAX_DELTA`).

    Args:
        values: (K,), finite, none of which rounds to zero units.
    """
    units = np.rint(np.minimum(np.abs(values.astype(np.float64)) * SCALE, MAX_DELTA))
    if not units.size:
        return Steps(np.empty(0, np.bool_), np.empty(0, np.int32), 0, 0)
    least = int(units.min())
    step = 2 * least
    steps = (units - least) // step
    base = round(float((units - steps * step).mean()))
    # The mean may lie above the largest entry's own place, whose step then must not saturate.
    base = min(base, MAX_DELTA - int(steps.max()) * step)
    return Steps(np.signbit(values), steps.astype(np.int32), base, step)


def write_entropy_quantized(
    positions: Int64Array, quantized: Steps, buffers: Float32Array, schema: ModelSchema
) -> bytes:
    """Return the payload of some parameters.

    Args:
        positions: (K,), strictly increasing.
        quantized: What is there.
        buffers: The float buffers.
        schema: The model that all peers agreed upon.
    """
    steps = quantized.steps
    tensors = choose_contexts(positions, schema)
    ranks = _Ranks(Arrangement(tensors, schema))
    runs = ranks.runs_between(positions)
    counts = [part.size for part in runs]
    above = np.flatnonzero(steps)
    parts = [*runs, np.diff(above, prepend=-1) - 1, steps[above].astype(np.int64) - 1]
    totals = [size - count for size, count in zip(ranks.sizes, counts, strict=True)]
    totals += [positions.size - above.size, int(parts[-1].sum())]
    groups = [Group.for_numbers(part, total) for part, total in zip(parts, totals, strict=True)]
    escapes = [group.num_escapes for group in groups if group.count]
    signs = pack_planes(quantized.negative.view(np.uint8), 1)
    head = (positions.size, quantized.base, quantized.step, above.size, totals[-1])
    return b"".join(
        (
            pack_varints(head),
            buffers.astype("<f4", copy=False).tobytes(),
            pack_contexts(tensors),
            pack_varints(count for count, size in zip(counts, ranks.sizes, strict=True) if size),
            pack_varints([sum(escapes), *(escapes if sum(escapes) else ())]),
            pack_runs(parts, groups, signs),
        )
    )


def parse_entropy_quantized(reader: PayloadReader, schema: ModelSchema) -> ParsedDelta:
    """Return the delta in a payload.

    Raises:
        RemoteProtocolError: Not what `write_entropy_quantized` writes for this schema.
    """
    count = take_varint(reader, schema.num_parameters)
    base, step = take_varint(reader, MAX_DELTA), take_varint(reader, 2 * MAX_DELTA)
    if count and not min(base, step):
        raise reader.error("a magnitude of zero")
    num_above = take_varint(reader, count)
    sum_above = take_varint(reader, num_above * MAX_DELTA)
    buffers = DenseFloats(*reader.floats(schema.num_buffers))
    tensors = take_contexts(reader, schema)
    ranks = _Ranks(Arrangement(tensors, schema))
    counts = [take_varint(reader, size) if size else 0 for size in ranks.sizes]
    if sum(counts) != count:
        raise reader.error("contexts keep more or fewer entries than there are")
    totals = [size - kept for size, kept in zip(ranks.sizes, counts, strict=True)]
    groups = _take_groups(
        reader, [*counts, num_above, num_above], [*totals, count - num_above, sum_above]
    )
    parts, signs = take_runs(reader, groups, plane_bytes(count))
    reader.end()
    # Every entry may be kept: arrays go as soon as they have served, the largest first.
    above_one, step_runs = parts.pop(), parts.pop()
    if int(above_one.sum()) != sum_above:
        raise reader.error("steps with another sum than announced")
    if base + (int(above_one.max()) + 1 if num_above else 0) * step > MAX_DELTA:
        raise reader.error("a step is out of range")
    above = _ends_of(step_runs)
    if num_above and above[-1] >= count:
        raise reader.error("steps of more entries than there are")
    steps = np.zeros(count, np.int32)
    steps[above] = above_one
    steps[above] += 1
    del above_one, step_runs, above
    positions = ranks.positions_after(parts, reader)
    plane = np.frombuffer(signs, np.uint8)
    check_planes(plane, 1, count)
    negative = unpack_codes(plane, 1, count, 0, count).view(np.bool_)
    units = Steps(negative, steps, base, step).units()
    return ParsedDelta(SparseUnits(positions, units, schema.num_parameters), buffers)


def max_entropy_bytes(schema: ModelSchema) -> int:
    """Return a size that no payload of this schema reaches."""
    # Of each entry at most a run and a step, in symbols of at most 12 bits and their escapes, the
    # low bits and a sign; of rows and columns, which are fewer than entries, a symbol each.
    entries = schema.num_parameters + len(schema.parameters)
    return 10 * entries + 4 * schema.num_buffers + (1 << 16)


class _Ranks:
    """All parameters, numbered context by context."""

    def __init__(self, arrangement: Arrangement) -> None:
        self._arrangement = arrangement
        contexts, lengths = arrangement.contexts, arrangement.lengths
        self._by_rank = np.argsort(contexts, kind="stable")
        """(S,) the segments in the order of their ranks."""
        ends = np.cumsum(lengths[self._by_rank])
        self._firsts = ends - lengths[self._by_rank]
        """(S,) the first rank of each of them."""
        self._shifts = arrangement.starts[self._by_rank] - self._firsts
        """(S,) from a rank to its place in the arrangement."""
        sizes = np.bincount(contexts, lengths, NUM_CONTEXTS).astype(np.int64)
        self.sizes: list[int] = sizes.tolist()
        """Parameters in each context."""
        self._ends = np.cumsum(sizes)
        """(NUM_CONTEXTS,) the rank after the last of each."""

    def runs_between(self, positions: Int64Array) -> list[Int64Array]:
        """Return, for each context, how many are dropped before each kept one."""
        starts = self._arrangement.starts
        places = self._arrangement.arrange(positions)
        own = np.searchsorted(starts, places, side="right") - 1
        firsts = np.empty_like(self._firsts)
        firsts[self._by_rank] = self._firsts
        ranks = np.sort(firsts[own] + places - starts[own])
        kept = np.split(ranks, np.searchsorted(ranks, self._ends[:-1]))
        begins = self._ends - self.sizes
        return [
            np.diff(part, prepend=begin - 1) - 1 for part, begin in zip(kept, begins, strict=True)
        ]

    def positions_after(self, runs: list[Int64Array], reader: PayloadReader) -> Int32Array:
        """Return the kept positions, in order: the inverse of `runs_between`.

        The runs are overwritten.

        Raises:
            RemoteProtocolError: A context ends before its runs do.
        """
        places = np.empty(sum(part.size for part in runs), np.int32)
        done = 0
        for part, begin, end in zip(runs, self._ends - self.sizes, self._ends, strict=True):
            ranks = _ends_of(part)
            ranks += begin
            if ranks.size and ranks[-1] >= end:
                raise reader.error("positions are out of range")
            for first in range(0, ranks.size, BLOCK):
                here = ranks[first : first + BLOCK]
                own = np.searchsorted(self._firsts, here, side="right") - 1
                here += self._shifts[own]
                places[done : done + here.size] = here
                done += here.size
        places.sort()
        return self._arrangement.restore(places)


def _ends_of(runs: Int64Array) -> Int64Array:
    """Return where runs end, each with one more after it; in the place of the runs."""
    runs += 1
    np.cumsum(runs, out=runs)
    runs -= 1
    return runs


def _take_groups(reader: PayloadReader, counts: list[int], totals: list[int]) -> list[Group]:
    groups = [Group.of(count, total) for count, total in zip(counts, totals, strict=True)]
    # No more escapes than the numbers' sum has room for.
    most = [
        (total >> group.shift) // LAST_SYMBOL if group.count else 0
        for group, total in zip(groups, totals, strict=True)
    ]
    num_escapes = take_varint(reader, sum(most))
    if not num_escapes:
        return groups
    groups = [
        replace(group, num_escapes=take_varint(reader, limit)) if group.count else group
        for group, limit in zip(groups, most, strict=True)
    ]
    if sum(group.num_escapes for group in groups) != num_escapes:
        raise reader.error("groups with other escapes than announced")
    return groups
