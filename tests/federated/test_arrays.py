"""Arrays from strangers are numbers of the announced shape, or a documented error."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_strategies
from torch import nn

from semantic_net.errors import RemoteProtocolError
from semantic_net.federated.arrays import (
    arrays_from,
    arrays_of,
    flat_of,
    load_integers,
    read_array,
)
from semantic_net.semantic.flat import flatten
from semantic_net.semantic.schema import ModelSchema

numbers = (
    arrays_strategies.floating_dtypes(sizes=(16, 32, 64))
    | arrays_strategies.integer_dtypes()
    | arrays_strategies.unsigned_integer_dtypes()
    | arrays_strategies.boolean_dtypes()
)


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@given(
    arrays_strategies.arrays(numbers, arrays_strategies.array_shapes(min_dims=0, min_side=0)),
    st.booleans(),
)
def test_what_numpy_writes_is_read_as_it_was(array: Any, is_transposed: bool) -> None:
    array = array.T if is_transposed else array
    found = read_array(saved(array))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 a zip archive",
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00\x10\x00" + b" " * 16,
        saved(np.array([1.0, 2.0]))[:-1],
        saved(np.array([1.0, 2.0])) + b"\0",
        saved(np.array([None], dtype=object)),
        saved(np.array(["text"])),
        saved(np.zeros(2, np.complex64)),
        saved(np.zeros(2, np.longdouble)),
        saved(np.zeros(2, [("a", "f4")])),
        saved(np.zeros(2)).replace(b"(2,)", b"(9" + b"9" * 9 + b",)"),
        saved(np.zeros(2)).replace(b"(2,)", b"(-2,)"),
        saved(np.zeros(2)).replace(b"{'descr'", b"{'d' + 'x'"),
        b"\x93NUMPY\x01\x00\x10\x27" + b"-" * 10_000,
    ],
)
def test_what_is_no_array_of_numbers_is_refused(data: bytes) -> None:
    """Some of these ended a server: numpy's own reader raises what it likes."""
    with pytest.raises(RemoteProtocolError):
        read_array(data)


@given(st.binary(max_size=200), st.integers(0, 130), st.binary(min_size=1, max_size=4))
def test_noise_raises_only_the_documented_error(noise: bytes, at: int, other: bytes) -> None:
    whole = saved(np.arange(4.0))
    for data in (noise, whole[:at] + other + whole[at + len(other) :]):
        with contextlib.suppress(RemoteProtocolError):
            read_array(data)


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    made = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to(dtype)
    made.get_buffer("1.num_batches_tracked").fill_(7)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_model_goes_there_and_back_in_any_precision(dtype: torch.dtype) -> None:
    made = model(dtype)
    schema = ModelSchema.of(made)
    flat = flatten(made).numpy() + np.float32(2**-20)  # more than half precision holds
    arrays = arrays_from(flat, schema, made)
    assert [array.shape for array in arrays] == [tuple(v.shape) for v in made.state_dict().values()]
    np.testing.assert_array_equal(flat_of(arrays, schema, made), flat)
    assert int(arrays[-1]) == 7
    assert [array.shape for array in arrays_of(made)] == [array.shape for array in arrays]


def test_byte_order_and_kind_are_the_senders() -> None:
    made = model()
    schema = ModelSchema.of(made)
    sent = [array.astype(array.dtype.newbyteorder(">")) for array in arrays_of(made)]
    np.testing.assert_array_equal(flat_of(sent, schema, made), flatten(made).numpy())
    other = model()
    other.get_buffer("1.num_batches_tracked").zero_()
    load_integers(sent, other)
    assert int(other.get_buffer("1.num_batches_tracked")) == 7
    load_integers([array.astype(np.float64) for array in sent], other)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_entries_that_float32_cannot_hold_are_refused(value: float) -> None:
    made = model()
    arrays = [array.astype(np.float64) for array in arrays_of(made)]
    arrays[0][0, 0] = value
    with pytest.raises(RemoteProtocolError, match="no finite numbers"):
        flat_of(arrays, ModelSchema.of(made), made)


def test_arrays_of_another_model_are_refused() -> None:
    made = model()
    for arrays in ([], arrays_of(made)[:-1], arrays_of(nn.Linear(3, 2))):
        with pytest.raises(RemoteProtocolError, match="another model"):
            flat_of(arrays, ModelSchema.of(made), made)
