"""Encoders: what is kept, what is lost, and that nothing is lost twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from semantic_support import configs, payload_of, schema_of, schemas, totals, values
from torch import Tensor

from semantic_net.errors import TrainingError
from semantic_net.fixed_point import BLOCK, SCALE, Float32Array
from semantic_net.semantic.codec import LEAST_RATIO, Codec
from semantic_net.semantic.decoder import (
    ParsedDelta,
    densify,
    dequantize_tensor,
    parse_payload,
)
from semantic_net.semantic.deltas import SparseUnits
from semantic_net.semantic.encoder import (
    _ENCODERS,
    EncodedUpdate,
    encode,
    quantize_tensor,
    sparsify_topk,
)
from semantic_net.semantic.schema import ModelSchema, TensorSpec
from semantic_net.semantic.sparsify import _at_least_with_numpy, _at_least_with_torch

tensors = st.lists(values, max_size=40).map(lambda numbers: torch.tensor(numbers))
TOPK = Codec(mode="gradients_topk", topk=0.03)
UNIT = 1 / SCALE


def encoded(total: Float32Array, schema: ModelSchema, cfg: Codec) -> EncodedUpdate:
    return encode(torch.from_numpy(total.copy()), schema, cfg)


def delta_of(update: EncodedUpdate, schema: ModelSchema) -> ParsedDelta:
    return parse_payload(update.codec, update.payload, schema)


# payloads that must not take more than so many bytes


@pytest.mark.parametrize("mode", ["topk_quantize", "entropy_quantize"])
def test_a_payload_that_would_be_too_large_keeps_less(mode: str) -> None:
    total = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    schema = schema_of(50_000)
    for max_bytes in (20_000, 3_000, 300):
        found = encode(total, schema, Codec(mode, topk=0.5), max_bytes=max_bytes)
        assert 0.5 * max_bytes < len(found.payload) <= max_bytes
        assert found.residual is not None
        decoded = delta_of(found, schema)
        assert isinstance(decoded.parameters, SparseUnits)
        assert found.kept_ratio == decoded.parameters.positions.size / 50_000
        lost = torch.from_numpy(decoded.to_float32()) + found.residual - total
        assert lost.abs().max() < 2**-21, "what is not kept is in the residual"


def test_there_is_a_least_that_always_goes() -> None:
    total = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    found = encode(total, schema_of(50_000), Codec("entropy_quantize", topk=0.1), max_bytes=0)
    assert found.kept_ratio == pytest.approx(LEAST_RATIO, rel=0.1)


# sparsify_topk and densify


def test_the_largest_magnitudes_are_kept() -> None:
    update = torch.tensor([[0.1, -3.0], [2.0, 0.0]])
    kept, residual = sparsify_topk(update, ratio=0.5)
    assert kept.indices.tolist() == [1, 2]
    torch.testing.assert_close(densify(kept) + residual, update, rtol=0, atol=0)


def test_of_equal_magnitudes_the_first_are_kept() -> None:
    kept, _ = sparsify_topk(torch.tensor([1.0, -2.0, 1.0, 2.0, -1.0, 1.0]), ratio=4 / 6)
    assert kept.indices.tolist() == [0, 1, 2, 3]


@given(tensors, st.floats(0.01, 1))
def test_a_kept_entry_and_the_residual_are_the_tensor(tensor: Tensor, ratio: float) -> None:
    kept, residual = sparsify_topk(tensor, ratio)
    assert torch.equal(densify(kept) + residual, tensor)
    count = kept.indices.numel()
    assert count == min(max(1, round(ratio * tensor.numel())), tensor.numel())
    assert kept.indices.tolist() == sorted(set(kept.indices.tolist()))
    if 0 < count < tensor.numel():
        dropped = torch.ones(tensor.shape, dtype=torch.bool)
        dropped[kept.indices] = False
        assert kept.values.abs().min() >= tensor[dropped].abs().max()


@given(tensors, st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), st.data())
def test_the_selection_does_not_depend_on_the_device(
    tensor: Tensor, dtype: torch.dtype, data: st.DataObject
) -> None:
    """Torch selects on accelerators and numpy on the CPU; here both do."""
    tensor = tensor.to(dtype)
    if tensor.numel():
        count = data.draw(st.integers(1, tensor.numel()))
        with_numpy, with_torch = (
            [found.tolist() for found in find(tensor, count)]
            for find in (_at_least_with_numpy, _at_least_with_torch)
        )
        assert with_numpy == with_torch
    kept, _ = sparsify_topk(tensor, 0.5)
    order = sorted(range(tensor.numel()), key=lambda i: (-abs(float(tensor[i])), i))
    assert kept.indices.tolist() == sorted(order[: kept.indices.numel()])


def test_views_are_read_in_the_order_of_their_shape() -> None:
    tensor = torch.tensor([[1.0, 5.0], [4.0, 2.0]]).t()
    kept, residual = sparsify_topk(tensor, 0.5)
    assert kept.indices.tolist() == [1, 2]
    assert kept.shape == residual.shape == (2, 2)
    assert torch.equal(densify(kept) + residual, tensor)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.1])
def test_a_ratio_outside_its_range_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"ratio must be in \(0, 1\]"):
        sparsify_topk(torch.ones(3), ratio)


# quantize_tensor and dequantize_tensor


def test_codes_span_the_range_and_zero_stays_zero() -> None:
    quantized = quantize_tensor(torch.tensor([-1.0, 0.0, 2.0]), 2)
    assert quantized.codes.tolist() == [0, 1, 3]
    assert dequantize_tensor(quantized).tolist() == [-1.0, 0.0, 2.0]


def test_one_bit_is_the_sign_and_the_mean_magnitude() -> None:
    quantized = quantize_tensor(torch.tensor([-1.0, 2.0, 3.0]), 1)
    assert quantized.codes.tolist() == [0, 1, 1]
    assert dequantize_tensor(quantized).tolist() == [-2.0, 2.0, 2.0]


@given(tensors, st.integers(2, 8))
def test_an_entry_is_off_by_at_most_half_a_step(tensor: Tensor, bits: int) -> None:
    quantized = quantize_tensor(tensor, bits)
    within = tensor.double().clamp(-32, 32)
    error = (dequantize_tensor(quantized).double() - within).abs()
    half_step = quantized.half_step / SCALE
    # What float32 cannot hold of the result of dequantize_tensor is no error of the codes.
    assert bool((error <= half_step * (1 + 1e-9) + within.abs() * 2.0**-24 + 1e-12).all())
    spread = float(within.max().clamp(min=0) - within.min().clamp(max=0)) if tensor.numel() else 0
    assert quantized.half_step <= spread * SCALE / (2 * (2**bits - 1)) + 1
    assert bool((dequantize_tensor(quantized)[tensor == 0] == 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bits", [1, 4])
def test_quantizing_leaves_its_input_alone(dtype: torch.dtype, bits: int) -> None:
    tensor = torch.tensor([-1.0, 50.0, 3.0], dtype=dtype)
    quantized = quantize_tensor(tensor, bits)
    assert tensor.tolist() == [-1.0, 50.0, 3.0]
    assert quantized.codes.tolist() == quantize_tensor(tensor.float(), bits).codes.tolist()


@given(tensors.filter(lambda t: t.numel() > 0))
def test_one_bit_shortens_what_is_left(tensor: Tensor) -> None:
    """The contraction that error feedback needs, up to the rounding of the step."""
    within = tensor.double().clamp(-32, 32)
    left = within - dequantize_tensor(quantize_tensor(within, 1)).double()
    slack = UNIT * (within.abs().sum() + within.numel() * UNIT)
    assert float(left.square().sum()) <= float(within.square().sum() + slack)


@pytest.mark.parametrize("bits", [0, 9])
def test_a_bit_width_outside_its_range_is_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=r"bit_width must be in \[1, 8\]"):
        quantize_tensor(torch.ones(3), bits)


# encode


@given(st.data(), schemas(), configs)
def test_what_peers_decode_and_the_residual_are_the_update(
    data: st.DataObject, schema: ModelSchema, cfg: Codec
) -> None:
    total = data.draw(totals(schema))
    update = encoded(total, schema, cfg)
    decoded = delta_of(update, schema).to_fixed() / SCALE
    here = slice(0, schema.num_parameters)
    exact = total[here].astype(np.float64) - decoded[here]
    if update.residual is None:
        assert cfg.mode == "none"
        assert (np.abs(exact) <= 2.0**-25).all(), "nothing but the rounding is left"
        return
    residual = update.residual.numpy()
    if cfg.mode == "none":
        assert np.abs(total).max() > 64, "only what saturates is carried along"
    if cfg.mode.endswith("_quantize"):
        assert residual[here].tolist() == exact.astype(np.float32).tolist()
    else:
        moderate = np.abs(total[here]) <= 2.0**28
        # Exactly: the residual is a float32, and adding it to what was decoded gives the update.
        assert residual[here][moderate].astype(np.float64).tolist() == exact[moderate].tolist()
        back = (decoded[here] + residual[here].astype(np.float64)).astype(np.float32)
        assert back.tolist() == total[here].tolist()
    assert not residual[schema.num_parameters :].any()


HAS_COLUMNS = ModelSchema((TensorSpec("weight", (5, 64), "parameter"),))


@given(
    st.data(),
    schemas() | st.just(HAS_COLUMNS),
    st.sampled_from(("topk_quantize", "entropy_quantize")),
    st.sampled_from((0.1, 0.4, 1.0)),
)
def test_what_an_encoder_expects_peers_to_decode_is_what_they_decode(
    data: st.DataObject, schema: ModelSchema, mode: str, share: float
) -> None:
    """It does not decode its payload to find out: what it expects must be all the same."""
    total = torch.from_numpy(data.draw(totals(schema)))
    payload, expected = _ENCODERS[mode](total, schema, Codec(mode, topk=share))
    parsed = parse_payload(mode, payload, schema).parameters
    assert expected is not None
    assert isinstance(parsed, SparseUnits)
    count = expected.positions.size
    assert parsed.positions.tolist() == expected.positions.tolist()
    assert parsed.units(0, count).tolist() == expected.units(0, count).tolist()
    assert (parsed.size, parsed.bound) == (expected.size, expected.bound)


@given(st.data(), schemas(), configs)
def test_buffers_travel_whole_in_every_mode(
    data: st.DataObject, schema: ModelSchema, cfg: Codec
) -> None:
    total = data.draw(totals(schema))
    decoded = delta_of(encoded(total, schema, cfg), schema).to_float32()
    buffers = slice(schema.num_parameters, None)
    expected = np.clip(np.rint(total[buffers] * np.float64(SCALE)) / SCALE, -64, 64)
    assert decoded[buffers].tolist() == expected.astype(np.float32).tolist()


@given(st.data(), schemas())
def test_dense_entries_are_rounded_to_a_unit_and_saturated(
    data: st.DataObject, schema: ModelSchema
) -> None:
    total = data.draw(totals(schema))
    fixed = delta_of(encoded(total, schema, Codec(mode="none")), schema).to_fixed()
    expected = np.clip(np.rint(total.astype(np.float64) * SCALE), -64 * SCALE, 64 * SCALE)
    assert fixed.tolist() == expected.tolist()


@given(st.data(), schemas(), st.integers(2, 8))
def test_quantised_entries_are_off_by_at_most_half_their_tensors_step(
    data: st.DataObject, schema: ModelSchema, bits: int
) -> None:
    total = data.draw(totals(schema))
    cfg = Codec(mode="weights_quantize", bit_width=bits)
    fixed = delta_of(encoded(total, schema, cfg), schema).to_fixed()
    for spec, start in zip(schema.parameters, schema.offsets, strict=False):
        here = slice(start, start + spec.size)
        within = np.clip(total[here].astype(np.float64), -32, 32) * SCALE
        half_step = quantize_tensor(torch.from_numpy(total[here]), bits).half_step
        assert (np.abs(fixed[here] - within) <= half_step + 1).all()


def test_selection_is_over_the_whole_model() -> None:
    schema = schema_of(4, 4)
    total = np.array([1, 2, 3, 4, 50, 60, 70, 80], np.float32)
    update = encoded(total, schema, Codec(mode="gradients_topk", topk=0.5))
    assert update.residual is not None
    assert update.residual.tolist() == [1, 2, 3, 4, 0, 0, 70 - 64, 80 - 64]


def test_buffers_take_no_part_in_the_selection() -> None:
    schema = schema_of(4, buffers=2)
    total = np.array([1, 2, 3, 4, 50, 60], np.float32)
    update = encoded(total, schema, Codec(mode="gradients_topk", topk=0.25))
    assert delta_of(update, schema).to_float32().tolist() == [0, 0, 0, 4, 50, 60]


def test_entries_that_round_to_zero_are_not_sent() -> None:
    schema = schema_of(1000)
    total = np.full(1000, 2.0**-26, np.float32)
    total[7] = 1.0
    update = encoded(total, schema, TOPK)
    assert len(update.payload) < len(encoded(np.ones(1000, np.float32), schema, TOPK).payload)
    assert delta_of(update, schema).to_fixed().nonzero()[0].tolist() == [7]
    assert update.residual is not None
    assert update.residual.tolist() == [2.0**-26] * 7 + [0] + [2.0**-26] * 992


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_error_feedback_stays_bounded_and_delivers_everything(bits: int) -> None:
    """What arrives in 60 rounds is what was sent in, but for the last residual."""
    schema, cfg = schema_of(2000), Codec(mode="weights_quantize", bit_width=bits)
    generator = torch.Generator().manual_seed(0)
    residual = sent = arrived = torch.zeros(2000)
    for _ in range(60):
        delta = torch.randn(2000, generator=generator) ** 3 * 1e-3
        update = encode(delta + residual, schema, cfg)
        assert update.residual is not None
        residual = update.residual
        sent = sent + delta
        arrived = arrived + torch.from_numpy(delta_of(update, schema).to_float32())
        assert float(residual.norm()) < 10 * float(delta.norm())
    torch.testing.assert_close(arrived + residual, sent, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["none", "gradients_topk", "weights_quantize"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", [0, 3, BLOCK + 1])
def test_entries_that_are_not_finite_are_never_published(mode: str, bad: float, where: int) -> None:
    total = np.zeros(BLOCK + 2, np.float32)
    total[where] = bad
    cfg = Codec(mode=mode)
    with pytest.raises(TrainingError, match="not finite"):
        encoded(total, schema_of(BLOCK, buffers=2), cfg)


@pytest.mark.parametrize("total", [torch.zeros(3), torch.zeros(2, 2), torch.zeros(4).double()])
def test_a_vector_of_another_shape_or_type_is_refused(total: Tensor) -> None:
    with pytest.raises(ValueError, match="expected 4 float32 entries"):
        encode(total, schema_of(4), TOPK)


@given(st.data(), schemas(), configs)
def test_the_input_is_kept_unless_it_may_be_overwritten(
    data: st.DataObject, schema: ModelSchema, cfg: Codec
) -> None:
    total = torch.from_numpy(data.draw(totals(schema)))
    before = total.clone()
    kept = encode(total, schema, cfg)
    assert torch.equal(total, before)
    overwritten = encode(total, schema, cfg, overwrite=True)
    assert overwritten.payload == kept.payload
    if kept.residual is None or overwritten.residual is None:
        assert kept.residual is overwritten.residual
        if schema.size:
            assert np.frombuffer(overwritten.payload, "<f4").ctypes.data == total.data_ptr()
    else:
        assert torch.equal(overwritten.residual, kept.residual)
        assert overwritten.residual.data_ptr() == total.data_ptr()


@pytest.mark.parametrize("cfg", [Codec(mode="none"), TOPK])
def test_sizes_are_those_of_the_layout(cfg: Codec) -> None:
    total = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    size = len(payload_of(total, schema_of(10_000), cfg))
    if cfg.mode == "none":
        assert size == 40_000
    else:  # 300 values of 32 bits, at 6.5 to 7.5 bits a position
        assert 8 + 4 * 300 + 300 * 6.5 / 8 < size < 8 + 4 * 300 + 300 * 7.5 / 8


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_size_of_codes_is_their_bits(bits: int) -> None:
    cfg = Codec(mode="weights_quantize", bit_width=bits)
    total = np.ones(1001 + 3, np.float32)
    assert len(payload_of(total, schema_of(1000, 1, buffers=3), cfg)) == 4 + 12 + 2 * 6 + bits * 126
