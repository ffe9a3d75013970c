"""Metrics that a task can take as they are: each one fits ``Task.metrics``."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from semantic_net.task.base import Batch

Float64Array = npt.NDArray[np.float64]


def accuracy(model: nn.Module, batches: Iterable[Batch], device: torch.device) -> dict[str, float]:
    """Return ``accuracy``, the share of targets whose class has the largest output.

    Args:
        model: Gives one output a class, along dimension 1.
        batches: Targets are class indices.
        device: Where the model lies.
    """
    correct = total = 0
    for inputs, targets in batches:
        predicted = model(inputs.to(device)).argmax(dim=1)
        correct += int((predicted == targets.to(device)).sum())
        total += targets.numel()
    return {"accuracy": correct / total} if total else {}


def regression(
    model: nn.Module, batches: Iterable[Batch], device: torch.device
) -> dict[str, float]:
    """Return ``rmse``, ``mae`` and ``r2`` over all outputs together, in the targets' unit."""
    outputs, truths = [], []
    for inputs, targets in batches:
        outputs.append(model(inputs.to(device)).double().cpu().numpy().ravel())
        truths.append(targets.double().cpu().numpy().ravel())
    if not outputs:
        return {}
    return errors(np.concatenate(outputs), np.concatenate(truths))


def errors(predicted: Float64Array, truth: Float64Array, suffix: str = "") -> dict[str, float]:
    """Return ``rmse``, ``mae`` and ``r2``, each name with ``suffix``.

    ``r2`` compares with the mean of ``truth`` and is left out where ``truth`` never changes.
    """
    difference = predicted - truth
    found = {
        f"rmse{suffix}": float(np.sqrt(np.mean(difference**2))),
        f"mae{suffix}": float(np.mean(np.abs(difference))),
    }
    spread = float(np.sum((truth - truth.mean()) ** 2))
    if spread > 0:
        found[f"r2{suffix}"] = 1 - float(np.sum(difference**2)) / spread
    return found
