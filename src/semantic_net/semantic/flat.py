"""A module's float tensors as one flat float32 vector, and back.

The order is `ModelSchema`'s. Nothing is allocated beside the vector itself; devices and dtypes of
the module's tensors stay as they are.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from semantic_net.buffers import new_array
from semantic_net.fixed_point import Float32Array
from semantic_net.semantic.schema import float_tensors


@torch.no_grad()
def flatten(module: nn.Module) -> Tensor:
    """Copy a module's float tensors into one 1-D float32 tensor, on the module's device."""
    tensors = [tensor for _, tensor, _ in float_tensors(module)]
    size = sum(t.numel() for t in tensors)
    device = tensors[0].device if tensors else None
    flat = _new_vector(size, device)
    offset = 0
    for tensor in tensors:
        flat[offset : offset + tensor.numel()].view(tensor.shape).copy_(tensor)
        offset += tensor.numel()
    return flat


@torch.no_grad()
def load_flat(module: nn.Module, flat: Float32Array) -> None:
    """Copy a flat vector into a module's float tensors.

    Args:
        module: Modified in place; optimisers that hold its tensors stay valid.
        flat: As long as the module's schema is. Not modified, may be read-only.

    Raises:
        ValueError: ``flat`` has another length than the module's schema.
    """
    tensors = [tensor for _, tensor, _ in float_tensors(module)]
    size = sum(t.numel() for t in tensors)
    if flat.shape != (size,):
        raise ValueError(f"expected {size} entries for this model, got shape {flat.shape}")
    offset = 0
    for tensor in tensors:
        part = flat[offset : offset + tensor.numel()]
        if not part.flags.writeable:
            part = np.array(part)  # torch warns of arrays that it could write to by mistake
        tensor.copy_(torch.from_numpy(part).view(tensor.shape))
        offset += tensor.numel()


def _new_vector(size: int, device: torch.device | None) -> Tensor:
    if device is None or device.type == "cpu":
        return torch.from_numpy(new_array(size, np.float32))
    return torch.empty(size, dtype=torch.float32, device=device)
