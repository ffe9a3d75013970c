"""What of a model travels, in which order, and how it moves in and out of one vector."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from semantic_net.semantic.flat import flatten, load_flat
from semantic_net.semantic.schema import MAX_SIZE, ModelSchema, TensorSpec


class Small(nn.Module):
    """Everything that a module can hold: a norm's counters, ties, and local buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.linear = nn.Linear(2, 3)
        self.tied = nn.Linear(2, 3, bias=False)
        self.tied.weight = self.linear.weight
        self.register_buffer("positions", torch.arange(4.0), persistent=False)
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("scale", torch.tensor(2.0))


def test_parameters_come_first_then_float_buffers() -> None:
    schema = ModelSchema.of(Small())
    assert [(s.name, s.shape, s.kind) for s in schema.tensors] == [
        ("norm.weight", (2,), "parameter"),
        ("norm.bias", (2,), "parameter"),
        ("linear.weight", (3, 2), "parameter"),
        ("linear.bias", (3,), "parameter"),
        ("scale", (), "buffer"),
        ("norm.running_mean", (2,), "buffer"),
        ("norm.running_var", (2,), "buffer"),
    ]
    assert (schema.num_parameters, schema.num_buffers, schema.size) == (13, 5, 18)
    assert schema.dense_bytes == 72
    assert schema.offsets == (0, 2, 4, 10, 13, 14, 16, 18)
    assert [spec.name for spec in schema.parameters][-1] == "linear.bias"


def test_the_digest_tells_names_shapes_and_kinds_apart() -> None:
    spec = TensorSpec("a", (2, 3), "parameter")
    others = [
        dataclasses.replace(spec, name="b"),
        dataclasses.replace(spec, shape=(3, 2)),
        dataclasses.replace(spec, kind="buffer"),
    ]
    digests = {ModelSchema((s,)).digest() for s in (spec, *others)} | {ModelSchema(()).digest()}
    assert len(digests) == 5
    assert ModelSchema.of(Small()).digest() == ModelSchema.of(Small()).digest()
    assert (
        ModelSchema((spec,)).digest()
        == "66cc07dfb1f6a7c6f3051e416131e8a6b3ffa3abebbbeab96f39deb6ac4c8250"
    )


def test_a_buffer_before_a_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match="parameters first"):
        ModelSchema((TensorSpec("b", (1,), "buffer"), TensorSpec("p", (1,), "parameter")))


def test_a_model_too_large_for_32_bit_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 2147483647 float entries"):
        ModelSchema((TensorSpec("p", (MAX_SIZE, 2), "parameter"),))


def test_complex_tensors_are_refused_by_name() -> None:
    module = nn.Module()
    module.register_parameter("spin", nn.Parameter(torch.zeros(2, dtype=torch.complex64)))
    with pytest.raises(ValueError, match="spin: complex tensors cannot be federated"):
        ModelSchema.of(module)


def test_whole_numbers_stay_local_as_parameters_too() -> None:
    module = nn.Module()
    module.register_parameter("codes", nn.Parameter(torch.zeros(2).int(), requires_grad=False))
    assert ModelSchema.of(module).tensors == ()


def test_variances_are_kept_at_or_above_zero() -> None:
    flat = np.full(18, -1.0, np.float32)
    ModelSchema.of(Small()).keep_bounds(flat)
    assert flat.tolist() == [-1.0] * 16 + [0.0] * 2


def test_a_parameter_called_like_a_variance_is_not_bounded() -> None:
    schema = ModelSchema((TensorSpec("running_var", (2,), "parameter"),))
    assert schema.nonnegative == ()


def test_flatten_and_load_are_inverse() -> None:
    source, target = Small(), Small()
    with torch.no_grad():
        source.norm.get_buffer("running_var").fill_(3.0)
    flat = flatten(source)
    assert (flat.dtype, tuple(flat.shape)) == (torch.float32, (18,))
    load_flat(target, flat.numpy())
    assert torch.equal(flatten(target), flat)
    assert target.tied.weight is target.linear.weight
    assert target.state_dict()["steps"] == 7


def test_the_order_is_that_of_the_schema() -> None:
    module = Small()
    load_flat(module, np.arange(18, dtype=np.float32))
    assert module.linear.weight.tolist() == [[4.0, 5.0], [6.0, 7.0], [8.0, 9.0]]
    assert float(module.get_buffer("scale")) == 13.0


def test_layouts_and_types_of_the_module_stay() -> None:
    module = nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module.bias = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    numbers = np.arange(27, dtype=np.float32)
    load_flat(module, numbers)
    assert module.bias.dtype == torch.bfloat16
    assert module.weight.is_contiguous(memory_format=torch.channels_last)
    assert module.weight[0].flatten().tolist() == list(range(8))
    assert flatten(module).tolist() == numbers.tolist()


def test_loading_keeps_the_tensors_that_optimisers_hold() -> None:
    module = Small()
    held = module.linear.weight
    load_flat(module, np.ones(18, np.float32))
    assert held is module.linear.weight
    assert held.requires_grad
    assert held.tolist() == [[1.0, 1.0]] * 3


def test_a_read_only_vector_can_be_loaded() -> None:
    module, numbers = Small(), np.ones(18, np.float32)
    numbers.flags.writeable = False
    load_flat(module, numbers)
    assert flatten(module).tolist() == [1.0] * 18


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 18 entries for this model, got shape \(17,\)"):
        load_flat(Small(), np.ones(17, np.float32))


def test_a_module_without_tensors_is_an_empty_vector() -> None:
    module = nn.ReLU()
    assert ModelSchema.of(module).size == 0
    flat = flatten(module)
    assert flat.shape == (0,)
    load_flat(module, flat.numpy())
