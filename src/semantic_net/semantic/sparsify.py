"""Which entries of a tensor are the largest: exactly, on any device, and fast on a CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from semantic_net.buffers import new_array
from semantic_net.fixed_point import FloatArray
from semantic_net.semantic.tensors import SparseTensor

_SAMPLE = 1 << 15
"""Entries by which a CPU guesses where the largest ones begin."""


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
    indices = largest_entries(flat, num_kept(flat, ratio))
    residual = flat.clone()
    residual[indices] = 0
    kept = SparseTensor(indices, flat[indices], tuple(tensor.shape))
    return kept, residual.view(tensor.shape)


def num_kept(tensor: Tensor, ratio: float) -> int:
    """Return how many entries a share of a tensor is: at least one, if there is any."""
    return min(max(1, round(ratio * tensor.numel())), tensor.numel())


def largest_entries(flat: Tensor, count: int) -> Tensor:
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
    """Return what `_at_least_with_torch` does, faster on a CPU."""
    values = flat.numpy() if flat.dtype == torch.float32 else flat.double().numpy()
    magnitudes = np.abs(values, out=new_array(values.size, values.dtype))
    candidates = np.flatnonzero(magnitudes >= _guess(magnitudes, count))
    if candidates.size < count:  # the sample was not like the rest
        candidates = np.arange(values.size)
    found = magnitudes[candidates]
    ordered = found.copy()
    ordered.partition(ordered.size - count)
    least = ordered[ordered.size - count]
    at_least = found >= least
    return torch.from_numpy(candidates[at_least]), torch.from_numpy(found[at_least] == least)


def _guess(magnitudes: FloatArray, count: int) -> float:
    """Return a bound that the largest entries most likely reach, and few others."""
    sample = magnitudes[:: max(magnitudes.size // _SAMPLE, 1)].copy()
    # Ahead of the sample's own count by more than chance makes it err.
    share = count / magnitudes.size
    rank = int(share * sample.size + 4 * (share * sample.size) ** 0.5) + 4
    if rank >= sample.size:
        return 0.0
    sample.partition(sample.size - rank)
    return float(sample[sample.size - rank])
