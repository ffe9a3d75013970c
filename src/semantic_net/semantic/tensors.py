"""Sparse and quantised tensors: what an encoder makes of a tensor before it becomes bytes.

They hold torch tensors on any device; torch itself is only imported for their types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class SparseTensor:
    """Some entries of a tensor; the others count as zero."""

    indices: Tensor
    """(K,) int64, increasing: positions in the flattened tensor."""
    values: Tensor
    """(K,), the tensor's dtype."""
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedTensor:
    """A tensor as small integers: ``value = (2 * code - zero) * half_step / 2^24``."""

    codes: Tensor
    """uint8, the tensor's shape; each below ``2^bit_width``."""
    zero: int
    """Twice the code that stands for zero. Even, so that zero stays zero; at one bit it is 1, and
    the two codes stand for minus and plus ``half_step``."""
    half_step: int
    """Half the distance of neighbouring codes, in units of 2^-24: whole, so that what a code
    stands for is whole as well and decoding rounds nothing."""
    bit_width: int
