"""Evenly spaced steps over a tensor's range: the quantiser of mode `weights_quantize`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semantic_net.fixed_point import MAX_DELTA, SCALE
from semantic_net.semantic.tensors import QuantizedTensor

_LIMIT = MAX_DELTA / SCALE / 2
"""Of what is quantised: steps over twice this range never reach beyond `MAX_DELTA`."""

_CHUNK = 1 << 18


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
