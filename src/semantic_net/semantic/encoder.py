"""From a tensor of changes to a payload, and what was lost on the way.

Selection and quantisation run where the tensor lies; bytes are made on the CPU. The residual of
an update is measured against what peers decode, so it is what they did not get: nothing is lost
between rounds, and no rounding is counted twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from semantic_net.errors import TrainingError
from semantic_net.fixed_point import (
    MAX_DELTA,
    SCALE,
    Float32Array,
    Int64Array,
    delta_to_units,
    largest_magnitude,
)
from semantic_net.semantic.codec import LEAST_RATIO, Codec
from semantic_net.semantic.deltas import SparseUnits, subtract
from semantic_net.semantic.entropy import (
    is_worth_a_step,
    quantize_to_steps,
    write_entropy_quantized,
)
from semantic_net.semantic.levels import level_units, quantize_to_levels
from semantic_net.semantic.payloads import (
    parse_payload,
    write_none,
    write_quantized,
    write_topk,
    write_topk_quantized,
)
from semantic_net.semantic.quantize import quantize_tensor
from semantic_net.semantic.schema import ModelSchema
from semantic_net.semantic.sparsify import largest_entries, num_kept, sparsify_topk

__all__ = ["EncodedUpdate", "encode", "quantize_tensor", "sparsify_topk"]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedUpdate:
    """An update's payload, and what it leaves for the next one."""

    codec: str
    payload: bytes | memoryview
    residual: Tensor | None
    """Shape, dtype and device of the encoded vector: its parameters minus what peers decode; zero
    for buffers, which are sent anew each round. None: nothing is left over."""
    kept_ratio: float | None = None
    """Share of the parameters that were kept, in [0, 1]; None where only decoding tells."""


def encode(
    total: Tensor,
    schema: ModelSchema,
    cfg: Codec,
    *,
    max_bytes: int | None = None,
    overwrite: bool = False,
) -> EncodedUpdate:
    """Return the payload of an update, and its residual.

    ``total - residual`` is what peers decode. In mode `gradients_topk` this is exact in float32
    for magnitudes up to 2^28: rounding to 2^-24 and saturating at 2^6 leave residuals that float32
    can hold. So it is in mode `none` where an entry saturates; where none does, what is left is
    the rounding, at most 2^-25 an entry, and is not carried along: a pass over a dense model and
    its memory cost more than they save. In the modes that quantise it holds to float32's own
    rounding.

    Args:
        total: (schema.size,) float32, any device: what local training changed, plus the residual
            of the author's last update. Not modified, unless ``overwrite``.
        schema: The model that all peers agreed upon.
        cfg: The mode and its settings.
        max_bytes: Most that the payload should take: where it takes more, a mode that keeps some
            entries keeps fewer, down to `LEAST_RATIO` of them.
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
    payload, known = _fitting(total.detach(), schema, cfg, max_bytes)
    decoded = parse_payload(cfg.mode, payload, schema).parameters if known is None else known
    residual = flat if overwrite else flat.copy()
    subtract(decoded, residual[: schema.num_parameters])
    residual[schema.num_parameters :] = 0
    kept_ratio = None if known is None else _kept_ratio(known)
    residual_there = torch.from_numpy(residual).to(total.device)
    return EncodedUpdate(cfg.mode, payload, residual_there, kept_ratio)


_MAX_TRIES = 6
_AIM = 0.9
"""Of the room, that the next try is to take: fewer entries take more bits each."""
_MOST_AT_ONCE = 16

Written = tuple[bytes, SparseUnits | None]
"""A payload, and what its parameters decode to; None where only decoding it tells."""


def _fitting(total: Tensor, schema: ModelSchema, cfg: Codec, max_bytes: int | None) -> Written:
    """Encode; keep fewer entries as long as that takes more bytes than it may."""
    payload, known = _ENCODERS[cfg.mode](total, schema, cfg)
    for _ in range(_MAX_TRIES):
        if max_bytes is None or len(payload) <= max_bytes or known is None:
            break
        # What was asked for may be more than there is: then less of what there is, not of that.
        kept = _kept_ratio(known)
        fewer = max(_AIM * kept * max_bytes / len(payload), kept / _MOST_AT_ONCE, LEAST_RATIO)
        if fewer >= min(kept, cfg.topk):
            break
        cfg = replace(cfg, topk=fewer)
        payload, known = _ENCODERS[cfg.mode](total, schema, cfg)
    return payload, known


def _kept_ratio(kept: SparseUnits) -> float:
    return kept.positions.size / kept.size if kept.size else 0.0


def _none(total: Tensor, schema: ModelSchema, cfg: Codec) -> Written:
    return write_none(total.cpu().numpy()), None


def _gradients_topk(total: Tensor, schema: ModelSchema, cfg: Codec) -> Written:
    parameters, buffers = torch.split(total, [schema.num_parameters, schema.num_buffers])
    positions, values = _largest(parameters, cfg.topk)
    payload = write_topk(positions, values, buffers.cpu().numpy(), schema.num_parameters)
    return payload, None


def _topk_quantize(total: Tensor, schema: ModelSchema, cfg: Codec) -> Written:
    parameters, buffers = torch.split(total, [schema.num_parameters, schema.num_buffers])
    positions, values = _largest(parameters, cfg.topk)
    codes, levels = quantize_to_levels(values)
    size = schema.num_parameters
    payload = write_topk_quantized(positions, codes, levels, buffers.cpu().numpy(), size)
    return payload, SparseUnits(positions.astype(np.int32), level_units(codes, levels), size)


def _entropy_quantize(total: Tensor, schema: ModelSchema, cfg: Codec) -> Written:
    parameters, buffers = torch.split(total, [schema.num_parameters, schema.num_buffers])
    positions, values = _largest(parameters, cfg.topk)
    counts = is_worth_a_step(values)
    positions, values = positions[counts], values[counts]
    quantized = quantize_to_steps(values)
    payload = write_entropy_quantized(positions, quantized, buffers.cpu().numpy(), schema)
    size = schema.num_parameters
    return payload, SparseUnits(positions.astype(np.int32), quantized.units(), size)


def _weights_quantize(total: Tensor, schema: ModelSchema, cfg: Codec) -> Written:
    sizes = [spec.size for spec in schema.parameters]
    *parameters, buffers = torch.split(total, [*sizes, schema.num_buffers])
    quantized = [quantize_tensor(part, cfg.bit_width) for part in parameters]
    codes = torch.cat([total.new_empty(0, dtype=torch.uint8), *(q.codes for q in quantized)])
    payload = write_quantized(
        codes.cpu().numpy(),
        cfg.bit_width,
        [q.half_step for q in quantized],
        [q.zero for q in quantized],
        buffers.cpu().numpy(),
    )
    return payload, None


def _largest(parameters: Tensor, share: float) -> tuple[Int64Array, Float32Array]:
    """Return where the entries of largest magnitude are, in order, and what they are."""
    indices = largest_entries(parameters, num_kept(parameters, share))
    positions, values = indices.cpu().numpy(), parameters[indices].cpu().numpy()
    # What rounds to zero would cost bytes and change nothing; frozen layers are full of it.
    counts = delta_to_units(values, np.inf) != 0
    return (positions, values) if counts.all() else (positions[counts], values[counts])


_ENCODERS: dict[str, Callable[[Tensor, ModelSchema, Codec], Written]] = {
    "none": _none,
    "gradients_topk": _gradients_topk,
    "topk_quantize": _topk_quantize,
    "entropy_quantize": _entropy_quantize,
    "weights_quantize": _weights_quantize,
}
