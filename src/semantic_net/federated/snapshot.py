"""The transfer form of a base: what a late joiner starts from, lossless and the same on all peers.

An origin is its float32 values, parameters then buffers. A base with a later frontier is a
snapshot: a header, its history, and the folded state as it lies, all little-endian. The hash of
the whole is the base's digest.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semantic_net.aggregation.fold import FoldConfig
from semantic_net.aggregation.state import FoldState, start_state
from semantic_net.buffers import forget_pages, new_array
from semantic_net.errors import RemoteProtocolError
from semantic_net.fixed_point import (
    MAX_MOMENTUM,
    MAX_STATE,
    FixedArray,
    Float32Array,
    largest_magnitude,
    magnitude,
    width_for,
)
from semantic_net.protocol.bases import Base
from semantic_net.protocol.history import (
    MAX_HISTORY_BYTES,
    History,
    decode_history,
    encode_history,
    history_of_origin,
)

_HEADER = struct.Struct("<8sQQQQBB")
_MAGIC = b"SNBASE\x01\n"
_WIDTHS = (4, 8)
_COPIED_ENTRIES = 1 << 20


@dataclass(frozen=True, slots=True)
class BaseSizes:
    """What the transfer forms of a run's bases take."""

    origin_bytes: int
    """Each origin."""
    max_bytes: int
    """The largest base."""

    @staticmethod
    def of(cfg: FoldConfig) -> BaseSizes:
        """Return those of a model."""
        num_entries = 2 * cfg.num_parameters + cfg.num_buffers
        return BaseSizes(
            origin_bytes=4 * (cfg.num_parameters + cfg.num_buffers),
            max_bytes=_HEADER.size + MAX_HISTORY_BYTES + max(_WIDTHS) * num_entries,
        )


def encode_snapshot(history: History, state: FoldState) -> list[bytes | memoryview]:
    """Return a snapshot in parts; the arrays are not copied."""
    encoded = encode_history(history)
    arrays = (state.parameters, state.momentum, state.buffers)
    header = _HEADER.pack(
        _MAGIC,
        len(encoded),
        *(array.size for array in arrays),
        state.parameters.itemsize,
        state.buffers.itemsize,
    )
    views = [a.astype(a.dtype.newbyteorder("<"), copy=False).data.cast("B") for a in arrays]
    return [header, encoded, *(view for view in views if view)]


def decode_base(data: memoryview, base: Base, cfg: FoldConfig) -> History:
    """Check that a transfer form, whose hash is the base's, is what its peer said of it.

    Raises:
        RemoteProtocolError: It is not.
    """
    if base.frontier == 0:
        if len(data) != BaseSizes.of(cfg).origin_bytes:
            raise RemoteProtocolError("an origin of another model")
        _origin_values(data)
        if _is_snapshot(data):
            raise RemoteProtocolError("an origin that would be read as a snapshot")
        history = history_of_origin(base.digest)
    else:
        history, parts, widths = _parse(data, cfg)
        largest = [
            magnitude(np.frombuffer(part, f"<i{width}"))
            for part, width in zip(parts, widths, strict=True)
        ]
        for found, limit in zip(largest, (MAX_STATE, MAX_MOMENTUM, MAX_STATE), strict=True):
            if found > limit:
                raise RemoteProtocolError("a snapshot with entries out of range")
        parameters, momentum, buffers = largest
        narrowest = (width_for(max(parameters, momentum)), width_for(buffers))
        if widths[1:] != tuple(np.dtype(each).itemsize for each in narrowest):
            raise RemoteProtocolError("a snapshot with entries of another width than they need")
    if Base.of(base.digest, base.size, history, given=base.given) != base:
        raise RemoteProtocolError("another base than its peer said")
    return history


def read_history(data: memoryview, digest: bytes, cfg: FoldConfig) -> History:
    """Return the history of a base.

    Raises:
        RemoteProtocolError: It is no base of this model.
    """
    if _is_origin(data, cfg):
        return history_of_origin(digest)
    return _parse(data, cfg)[0]


def read_start(data: memoryview, cfg: FoldConfig) -> FoldState:
    """Return the state of a base, that rounds are folded on.

    Raises:
        RemoteProtocolError: It is no base of this model.
    """
    if _is_origin(data, cfg):
        return start_state(_origin_values(data), cfg.num_parameters, momentum=cfg.beta > 0)
    _, parts, widths = _parse(data, cfg)
    parameters, momentum, buffers = (
        _array(part, width) for part, width in zip(parts, widths, strict=True)
    )
    return FoldState(
        parameters=parameters,
        momentum=momentum,
        buffers=buffers,
        parameters_bound=magnitude(parameters),
        momentum_bound=magnitude(momentum),
        buffers_bound=magnitude(buffers),
    )


def _is_origin(data: memoryview, cfg: FoldConfig) -> bool:
    return len(data) == BaseSizes.of(cfg).origin_bytes and not _is_snapshot(data)


def _origin_values(data: memoryview) -> Float32Array:
    values: Float32Array = np.frombuffer(data, "<f4").astype(np.float32, copy=False)
    if not largest_magnitude(values) < np.inf:
        raise RemoteProtocolError("an origin with entries that are not finite")
    forget_pages(data)
    return values


def _is_snapshot(data: memoryview) -> bool:
    return bytes(data[: len(_MAGIC)]) == _MAGIC


def _parse(
    data: memoryview, cfg: FoldConfig
) -> tuple[History, list[memoryview], tuple[int, int, int]]:
    if len(data) < _HEADER.size:
        raise RemoteProtocolError("a snapshot that ends within its header")
    magic, history_bytes, *sizes, width, buffers_width = _HEADER.unpack(data[: _HEADER.size])
    if magic != _MAGIC or width not in _WIDTHS or buffers_width not in _WIDTHS:
        raise RemoteProtocolError("no snapshot of this version")
    expected = [cfg.num_parameters, cfg.num_parameters if cfg.beta > 0 else 0, cfg.num_buffers]
    if sizes != expected or history_bytes > MAX_HISTORY_BYTES:
        raise RemoteProtocolError("a snapshot of another model")
    widths = (width, width, buffers_width)
    ends = np.cumsum([_HEADER.size + history_bytes, *map(int.__mul__, sizes, widths)]).tolist()
    if len(data) != ends[-1]:
        raise RemoteProtocolError("a snapshot of another length than its header says")
    parts = [data[first:last] for first, last in itertools.pairwise(ends)]
    return decode_history(data[_HEADER.size : ends[0]]), parts, widths


def _array(part: memoryview, width: int) -> FixedArray:
    """Return a copy of an array: the fold writes to it."""
    values = np.frombuffer(part, f"<i{width}")
    array: FixedArray = new_array(values.size, np.int32 if width == 4 else np.int64)
    for start in range(0, values.size, _COPIED_ENTRIES):
        here = slice(start, start + _COPIED_ENTRIES)
        array[here] = values[here]
        forget_pages(part)  # a device shares its memory with more than this process
    return array


Parts = Sequence[bytes | memoryview]
"""A transfer form, one part after the other."""
