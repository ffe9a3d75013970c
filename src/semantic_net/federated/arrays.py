"""Models as the lists of arrays that Flower's clients and servers hand each other.

The arrays come from strangers in numpy's file format. Its reader evaluates their headers and makes
room for whatever they announce; here a header is one of a fixed form, and says what has come.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from semantic_net.errors import RemoteProtocolError
from semantic_net.fixed_point import Float32Array
from semantic_net.semantic.flat import load_flat
from semantic_net.semantic.schema import ModelSchema, is_kept_local

NDArrays = list[npt.NDArray[Any]]

_MAGIC = b"\x93NUMPY"
_PRELUDE_BYTES = {1: 10, 2: 12, 3: 12}
"""By version of the format: magic, version, and the header's length in 2 or 4 bytes."""
_HEADER = re.compile(
    rb"\{'descr': '([<>|][fiub](?:1|2|4|8))', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,10}, ?)*(?:\d{1,10})?)\), \}[ ]*\n?"
)
_MAX_HEADER_BYTES = 1024


def read_array(data: bytes) -> npt.NDArray[Any]:
    """Return the array of numbers that a file of numpy's holds; it may not be written to.

    Raises:
        RemoteProtocolError: It is none, or longer or shorter than it says.
    """
    start = _PRELUDE_BYTES.get(data[6]) if len(data) > 12 and data[:6] == _MAGIC else None
    if start is None:
        raise RemoteProtocolError("what should be an array is none")
    body = start + int.from_bytes(data[8:start], "little")
    header = _HEADER.fullmatch(data[start:body]) if body - start <= _MAX_HEADER_BYTES else None
    if header is None:
        raise RemoteProtocolError("an array of another kind than numbers")
    shape = tuple(map(int, re.findall(rb"\d+", header[3])))
    try:
        dtype = np.dtype(header[1].decode("ascii"))
    except TypeError as exc:
        raise RemoteProtocolError("an array of another kind than numbers") from exc
    if len(data) - body != math.prod(shape) * dtype.itemsize:
        raise RemoteProtocolError("an array of another length than it says")
    flat = np.frombuffer(data, dtype, offset=body)
    return flat.reshape(shape, order="F" if header[2] == b"True" else "C")


def arrays_of(model: nn.Module) -> NDArrays:
    """Return a model as Flower's examples have it: the values of its ``state_dict``, copied.

    What is kept local is not in it. Half precision goes as float32, since numpy does not know all
    of its kinds.
    """
    found = []
    for value in _shared(model).values():
        whole = value.detach()
        if whole.dtype in (torch.float16, torch.bfloat16):
            whole = whole.float()
        found.append(whole.cpu().numpy().copy())
    return found


def arrays_from(flat: Float32Array, schema: ModelSchema, model: nn.Module) -> NDArrays:
    """Return what a flat vector is as a model.

    Args:
        flat: (schema.size,). What the model's own precision would round goes as it is.
        schema: Of the model.
        model: Says the order, and has what does not travel; loaded with the vector.
    """
    load_flat(model, flat)
    named = {
        spec.name: flat[start : start + spec.size].reshape(spec.shape)
        for spec, start in zip(schema.tensors, schema.offsets, strict=False)
    }
    return [
        named.get(name, array) for name, array in zip(_shared(model), arrays_of(model), strict=True)
    ]


def flat_of(
    arrays: Sequence[npt.NDArray[Any]], schema: ModelSchema, model: nn.Module
) -> Float32Array:
    """Return the float entries of a model that came as `arrays_of` has it.

    Raises:
        RemoteProtocolError: The arrays are those of another model, or not all finite as float32.
    """
    own = _shared(model)
    if [array.shape for array in arrays] != [tuple(value.shape) for value in own.values()]:
        raise RemoteProtocolError("the arrays are those of another model")
    named = dict(zip(own, arrays, strict=True))
    flat: Float32Array = np.empty(schema.size, np.float32)
    for spec, start in zip(schema.tensors, schema.offsets, strict=False):
        with np.errstate(over="ignore", invalid="ignore"):  # it is told below
            flat[start : start + spec.size] = named[spec.name].reshape(-1)
    if not np.isfinite(flat).all():
        raise RemoteProtocolError("entries that are no finite numbers")
    return flat


def load_integers(arrays: Sequence[npt.NDArray[Any]], model: nn.Module) -> None:
    """Load what does not travel among peers, such as a count of batches, where it is whole."""
    for value, array in zip(_shared(model).values(), arrays, strict=True):
        if not value.is_floating_point() and array.dtype.kind in "iub":
            value.copy_(torch.from_numpy(array.astype(array.dtype.newbyteorder("="))))


def _shared(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    return {name: value for name, value in state.items() if not is_kept_local(model, name)}
