"""From payloads and compact tensors back to entries. Runs without torch.

Payloads decode in whole numbers, block by block (`parse_payload`); the tensor functions undo
`semantic_net.semantic.encoder`'s and work on whatever device their input lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from semantic_net.fixed_point import SCALE
from semantic_net.semantic.deltas import ParsedDelta
from semantic_net.semantic.payloads import max_payload_bytes, parse_payload
from semantic_net.semantic.reader import Buffer
from semantic_net.semantic.tensors import QuantizedTensor, SparseTensor

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Buffer",
    "ParsedDelta",
    "densify",
    "dequantize_tensor",
    "max_payload_bytes",
    "parse_payload",
]


def densify(sparse: SparseTensor) -> Tensor:
    """Return the whole tensor: the kept entries, and zeros in all other places."""
    dense = sparse.values.new_zeros(sparse.shape)
    dense.view(-1)[sparse.indices] = sparse.values
    return dense


def dequantize_tensor(quantized: QuantizedTensor) -> Tensor:
    """Return the values that the codes stand for, as float32.

    In whole numbers, so that every device gives the same.
    """
    units = (2 * quantized.codes.long() - quantized.zero) * quantized.half_step
    return (units.double() / SCALE).float()
