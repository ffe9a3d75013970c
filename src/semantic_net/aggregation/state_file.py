"""A folded state as a file: a header, then the arrays as they lie, little-endian.

Nothing is trusted on reading: sizes must be the expected ones before anything is allocated, and
the digest in the header must be that of what was read.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from semantic_net.aggregation.state import FoldState
from semantic_net.buffers import new_array
from semantic_net.errors import CheckpointError
from semantic_net.fixed_point import FixedArray, magnitude

_HEADER = struct.Struct("<8sQQQBB32s")
_MAGIC = b"SNFOLD\x01\n"
_WIDTHS = (4, 8)


def write_state(path: Path, state: FoldState) -> None:
    """Write a state; a file of that name is only replaced by a complete one.

    Raises:
        OSError: The file cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(
                _HEADER.pack(
                    _MAGIC,
                    state.parameters.size,
                    state.momentum.size,
                    state.buffers.size,
                    state.parameters.itemsize,
                    state.buffers.itemsize,
                    bytes.fromhex(state.digest),
                )
            )
            for array in (state.parameters, state.momentum, state.buffers):
                file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def read_state(path: Path, *, num_parameters: int, num_buffers: int, momentum: bool) -> FoldState:
    """Read a state that `write_state` wrote.

    Args:
        path: The file.
        num_parameters: How many the model has.
        num_buffers: How many the model has.
        momentum: Whether the fold has any (beta above 0).

    Raises:
        CheckpointError: The file cannot be read, is damaged, or belongs to another model.
    """
    expected = (num_parameters, num_parameters if momentum else 0, num_buffers)
    try:
        with path.open("rb") as file:
            return _read(file, path, expected)
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be read: {exc.strerror or exc}") from exc


def _read(file: BinaryIO, path: Path, expected: tuple[int, int, int]) -> FoldState:
    header = file.read(_HEADER.size)
    if len(header) != _HEADER.size:
        raise CheckpointError(f"{path}: ends within its header")
    magic, parameters, momentum, buffers, width, buffers_width, digest = _HEADER.unpack(header)
    if magic != _MAGIC or width not in _WIDTHS or buffers_width not in _WIDTHS:
        raise CheckpointError(f"{path}: not a folded state of this version")
    if (parameters, momentum, buffers) != expected:
        raise CheckpointError(
            f"{path}: belongs to another model: {parameters} parameters, {momentum} of momentum, "
            f"{buffers} buffer entries, expected {expected[0]}, {expected[1]}, {expected[2]}"
        )
    arrays = [
        _read_array(file, path, size, itemsize)
        for size, itemsize in zip(expected, (width, width, buffers_width), strict=True)
    ]
    state = FoldState(
        parameters=arrays[0],
        momentum=arrays[1],
        buffers=arrays[2],
        parameters_bound=magnitude(arrays[0]),
        momentum_bound=magnitude(arrays[1]),
        buffers_bound=magnitude(arrays[2]),
    )
    if file.read(1) or bytes.fromhex(state.digest) != digest:
        raise CheckpointError(f"{path}: damaged: its contents are not what was written")
    return state


def _read_array(file: BinaryIO, path: Path, size: int, itemsize: int) -> FixedArray:
    array = new_array(size, f"<i{itemsize}")
    if size and file.readinto(array.data.cast("B")) != array.nbytes:  # type: ignore[attr-defined]
        raise CheckpointError(f"{path}: ends early")
    native: FixedArray = array.astype(np.int32 if itemsize == 4 else np.int64, copy=False)
    return native
