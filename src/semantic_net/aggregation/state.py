"""The folded state: parameters, momentum and float buffers as whole numbers of 2^-24.

Arrays are int32 where every magnitude is at most `NARROW_LIMIT` and int64 otherwise, parameters
and momentum alike. The width follows from the values alone, so the digest may hash the arrays as
they lie. A fold without momentum (beta 0) keeps none: nothing would ever read it.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from semantic_net.buffers import new_array
from semantic_net.fixed_point import (
    BLOCK,
    MAX_STATE,
    SCALE,
    FixedArray,
    Float32Array,
    state_to_fixed,
    to_float32,
    width_for,
)

_ARRAY = struct.Struct("<BQ")


@dataclass(frozen=True, eq=False)
class FoldState:
    """What a fold has arrived at; made by `start_state` and `fold_round`.

    The bounds say no more than the arrays do: they save looking for the largest magnitude.
    """

    parameters: FixedArray
    momentum: FixedArray
    """As long as the parameters, or empty where beta is 0."""
    buffers: FixedArray
    parameters_bound: int
    momentum_bound: int
    buffers_bound: int

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.parameters.nbytes + self.momentum.nbytes + self.buffers.nbytes

    @cached_property
    def digest(self) -> str:
        """`state_digest`, computed once."""
        return state_digest(self)

    def to_float32(self, out: Float32Array | None = None) -> Float32Array:
        """Return the flat float32 vector that a model is loaded with, buffers after parameters."""
        split = self.parameters.size
        out = np.empty(split + self.buffers.size, np.float32) if out is None else out
        to_float32(self.parameters, out=out[:split])
        to_float32(self.buffers, out=out[split:])
        return out


def start_state(values: Float32Array, num_parameters: int, *, momentum: bool) -> FoldState:
    """Return the state before any round: rounded to units, and at rest.

    Args:
        values: Flat, finite: parameters, then buffers. Not modified.
        num_parameters: How many of them are parameters.
        momentum: Whether the fold has any (beta above 0).
    """
    parameters, parameters_bound = _to_state(values[:num_parameters])
    buffers, buffers_bound = _to_state(values[num_parameters:])
    at_rest = new_array(num_parameters if momentum else 0, parameters.dtype)
    at_rest.fill(0)
    return FoldState(
        parameters=parameters,
        momentum=at_rest,
        buffers=buffers,
        parameters_bound=parameters_bound,
        momentum_bound=0,
        buffers_bound=buffers_bound,
    )


def state_digest(state: FoldState) -> str:
    """Return the hash of a state, as 64 hex digits: equal if and only if all entries are."""
    hasher = hashlib.sha256(b"semantic-net fold state 1\n")
    for array in (state.parameters, state.momentum, state.buffers):
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        hasher.update(_ARRAY.pack(little.itemsize, little.size))
        hasher.update(little.data)
    return hasher.hexdigest()


def _to_state(values: Float32Array) -> tuple[FixedArray, int]:
    largest = max(-float(values.min()), float(values.max())) if values.size else 0.0
    bound = int(min(np.rint(largest * SCALE), MAX_STATE))
    fixed: FixedArray = new_array(values.size, width_for(bound))
    for start in range(0, values.size, BLOCK):
        here = slice(start, start + BLOCK)
        fixed[here] = state_to_fixed(values[here])
    return fixed, bound
