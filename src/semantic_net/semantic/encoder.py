"""From a tensor of changes to a payload, and what was lost on the way.

Selection and quantisation run where the tensor lies; bytes are made on the CPU. The residual of
an update is measured against the very decoder that peers run, so it is what they did not get:
nothing is lost between rounds, and no rounding is counted twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semantic_net.buffers import new_array
from semantic_net.config import SemanticConfig
from semantic_net.errors import TrainingError
from semantic_net.fixed_point import (
    BLOCK,
    MAX_DELTA,
    SCALE,
    Float32Array,
    delta_to_units,
    largest_magnitude,
)
from semantic_net.semantic.deltas import ParsedDelta
from semantic_net.semantic.payloads import (
    parse_payload,
    write_none,
    write_quantized,
    write_topk,
)
from semantic_net.semantic.schema import ModelSchema
from semantic_net.semantic.tensors import QuantizedTensor, SparseTensor

_LIMIT = MAX_DELTA / SCALE / 2
"""Of what is quantised: steps over twice this range never reach beyond `MAX_DELTA`."""

_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class EncodedUpdate:
    """An update's payload, and what it leaves for the next one."""

    codec: str
    payload: bytes | memoryview
    residual: Tensor | None
    """Shape, dtype and device of the encoded vector: its parameters minus what peers decode; zero
    for buffers, which are sent anew each round. None: nothing is left over."""


def sparsify_topk(tensor: Tensor, ratio: float) -> tuple[SparseTensor, Tensor]:
    """Keep the largest entries by magnitude.

    Args:
        tensor: Any shape, floating point, finite. Not modified.
        ratio: Share of entries to keep, in (0, 1]. At least one entry is kept, if there is any.

    Returns:
        The kept entries, and the residual ``tensor - kept`` for error feedback.

    Raises:
        ValueError: ``ratio`` is outside (0, 1].
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be in (0, 1], got {ratio}")
    flat = tensor.detach().reshape(-1)
    indices = _largest_entries(flat, _num_kept(flat, ratio))
    residual = flat.clone()
    residual[indices] = 0
    kept = SparseTensor(indices, flat[indices], tuple(tensor.shape))
    return kept, residual.view(tensor.shape)


def quantize_tensor(tensor: Tensor, bit_width: int) -> QuantizedTensor:
    """Round every entry to one of ``2^bit_width`` evenly spaced values.

    From two bits on they span the range of the entries, zero is one of them, and an entry of at
    most 2^5 is off by at most half a step (which is at least one unit of 2^-24, and rounded up to
    a whole one). At one bit they are minus and plus the mean magnitude: ends of the range would
    be off by more than most entries are long, so that residuals would grow round by round; this
    always shortens what is left (Karimireddy et al., "Error Feedback Fixes SignSGD", 2019).

    Args:
        tensor: Any shape, floating point, finite; saturated at 2^5. Not modified.
        bit_width: 1 to 8.

    Raises:
        ValueError: ``bit_width`` is outside 1 to 8.
    """
    if not 1 <= bit_width <= 8:
        raise ValueError(f"bit_width must be in [1, 8], got {bit_width}")
    flat = tensor.detach().reshape(-1)
    codes = torch.empty(flat.shape, dtype=torch.uint8, device=flat.device)
    top = (1 << bit_width) - 1
    zero, half_step = 0, 0
    if flat.numel():
        zero, half_step = _one_bit_step(flat) if top == 1 else _step(flat, top)
    # In chunks: float64 keeps the promised error, and would be eight times the codes' size.
    for values, part in zip(torch.split(flat, _CHUNK), torch.split(codes, _CHUNK), strict=True):
        scaled = values.clamp(-_LIMIT, _LIMIT).double()  # copies: the rest may be in place
        scaled.mul_(SCALE / (2 * half_step) if half_step else 0.0).add_(zero / 2)
        part.copy_(scaled.round_().clamp_(0, top))
    return QuantizedTensor(codes.view(tensor.shape), zero, half_step, bit_width)


def encode(
    total: Tensor, schema: ModelSchema, cfg: SemanticConfig, *, overwrite: bool = False
) -> EncodedUpdate:
    """Return the payload of an update, and its residual.

    ``total - residual`` is what peers decode. In mode `gradients_topk` this is exact in float32
    for magnitudes up to 2^28: rounding to 2^-24 and saturating at 2^6 leave residuals that float32
    can hold. So it is in mode `none` where an entry saturates; where none does, what is left is
    the rounding, at most 2^-25 an entry, and is not carried along: a pass over a dense model and
    its memory cost more than they save. In `weights_quantize` it holds to float32's own rounding.

    Args:
        total: (schema.size,) float32, any device: what local training changed, plus the residual
            of the author's last update. Not modified, unless ``overwrite``.
        schema: The model that all peers agreed upon.
        cfg: The mode and its settings.
        overwrite: Let the residual, or a payload that is the vector itself, take the place of
            ``total``, where that lies on the CPU: saves the memory of a model. The caller must
            not write to it any more.

    Raises:
        TrainingError: An entry is not finite.
    """
    flat: Float32Array = total.detach().cpu().numpy()
    if flat.shape != (schema.size,) or flat.dtype != np.float32:
        raise ValueError(f"expected {schema.size} float32 entries, got {flat.dtype} {flat.shape}")
    largest = largest_magnitude(flat)
    if not largest < np.inf:
        raise TrainingError("the update has entries that are not finite; it is not published")
    if cfg.mode == "none" and largest <= MAX_DELTA / SCALE:
        whole = flat if overwrite else flat.copy()
        return EncodedUpdate(cfg.mode, whole.astype("<f4", copy=False).data.cast("B"), None)
    payload = _ENCODERS[cfg.mode](total.detach(), schema, cfg)
    residual = flat if overwrite else np.empty_like(flat)
    delta = parse_payload(cfg.mode, payload, schema)
    _subtract(flat, delta, schema.num_parameters, out=residual)
    return EncodedUpdate(cfg.mode, payload, torch.from_numpy(residual).to(total.device))


def _none(total: Tensor, schema: ModelSchema, cfg: SemanticConfig) -> bytes:
    return write_none(total.cpu().numpy())


def _gradients_topk(total: Tensor, schema: ModelSchema, cfg: SemanticConfig) -> bytes:
    parameters, buffers = torch.split(total, [schema.num_parameters, schema.num_buffers])
    indices = _largest_entries(parameters, _num_kept(parameters, cfg.topk))
    positions, values = indices.cpu().numpy(), parameters[indices].cpu().numpy()
    # What rounds to zero would cost bytes and change nothing; frozen layers are full of it.
    counts = delta_to_units(values, np.inf) != 0
    return write_topk(
        positions[counts], values[counts], buffers.cpu().numpy(), schema.num_parameters
    )


def _weights_quantize(total: Tensor, schema: ModelSchema, cfg: SemanticConfig) -> bytes:
    sizes = [spec.size for spec in schema.parameters]
    *parameters, buffers = torch.split(total, [*sizes, schema.num_buffers])
    quantized = [quantize_tensor(part, cfg.bit_width) for part in parameters]
    codes = torch.cat([total.new_empty(0, dtype=torch.uint8), *(q.codes for q in quantized)])
    return write_quantized(
        codes.cpu().numpy(),
        cfg.bit_width,
        [q.half_step for q in quantized],
        [q.zero for q in quantized],
        buffers.cpu().numpy(),
    )


_ENCODERS: dict[str, Callable[[Tensor, ModelSchema, SemanticConfig], bytes]] = {
    "none": _none,
    "gradients_topk": _gradients_topk,
    "weights_quantize": _weights_quantize,
}


def _subtract(
    total: Float32Array, delta: ParsedDelta, num_parameters: int, out: Float32Array
) -> None:
    """Write what is left of the parameters into ``out``, which may be ``total``; zero the rest."""
    size = min(BLOCK, num_parameters)
    units = np.empty(size, np.int32)
    # Float32 holds what a float payload decodes to; codes and steps can have more digits.
    values = np.empty(size, np.float32 if delta.fits_float32 else np.float64)
    for start in range(0, num_parameters, BLOCK):
        here = slice(start, min(start + BLOCK, num_parameters))
        block = slice(0, here.stop - start)
        units.fill(0)
        delta.accumulate(units[block], start, 1)
        np.multiply(units, 1 / SCALE, out=values, dtype=values.dtype, casting="unsafe")
        np.subtract(total[here], values[block], out=out[here], casting="same_kind")
    out[num_parameters:] = 0


def _num_kept(tensor: Tensor, ratio: float) -> int:
    return min(max(1, round(ratio * tensor.numel())), tensor.numel())


def _largest_entries(flat: Tensor, count: int) -> Tensor:
    """Return the positions of the largest magnitudes, increasing; among equals the first ones.

    Neither the device nor its order of work shows in the result.
    """
    if count == flat.numel():
        return torch.arange(count, device=flat.device)
    find = _at_least_with_numpy if flat.device.type == "cpu" else _at_least_with_torch
    candidates, ties = find(flat, count)
    surplus = candidates.numel() - count
    if surplus:
        dropped = ties.nonzero().view(-1)[-surplus:]
        ties.zero_()[dropped] = True
        candidates = candidates[~ties]
    return candidates


def _at_least_with_torch(flat: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return where entries are at least as large as the ``count``-th, and which equal it."""
    magnitudes = flat.abs()
    least = magnitudes.topk(count, sorted=False).values.min()
    candidates = (magnitudes >= least).nonzero().view(-1)
    return candidates, magnitudes[candidates] == least


def _at_least_with_numpy(flat: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return what `_at_least_with_torch` does; on a CPU it takes a tenth of the time."""
    values = flat.numpy() if flat.dtype == torch.float32 else flat.double().numpy()
    magnitudes = np.abs(values, out=new_array(values.size, values.dtype))
    magnitudes.partition(values.size - count)
    least = magnitudes[values.size - count]
    np.abs(values, out=magnitudes)
    candidates = np.flatnonzero(magnitudes >= least)
    return torch.from_numpy(candidates), torch.from_numpy(magnitudes[candidates] == least)


def _step(flat: Tensor, top: int) -> tuple[int, int]:
    """Return zero and half step of codes up to ``top`` over the range of ``flat`` and zero."""
    low = max(min(float(flat.min()), 0.0), -_LIMIT)
    high = min(max(float(flat.max()), 0.0), _LIMIT)
    half_step = math.ceil((high - low) * SCALE / (2 * top))
    if not half_step:
        return 0, 0
    return 2 * min(round(-low * SCALE / (2 * half_step)), top), half_step


def _one_bit_step(flat: Tensor) -> tuple[int, int]:
    """Return zero and half step of codes that stand for minus and plus the mean magnitude."""
    sums = [chunk.abs().clamp_(max=_LIMIT).double().sum() for chunk in torch.split(flat, _CHUNK)]
    half_step = round(float(torch.stack(sums).sum()) * SCALE / flat.numel())
    return (1, half_step) if half_step else (0, 0)
