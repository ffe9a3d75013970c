"""The loss that training minimises and the scores that a person reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from semantic_net.task.base import Batch
from semantic_net.task.disaster.classes import IGNORE, ClassSet
from semantic_net.task.disaster.confusion import class_iou, confusion_matrix, pixel_accuracy

_BALANCE: Final = 0.5
"""0 weighs every pixel alike, 1 every class; in between, roads do not drown vehicles."""


def balanced_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Return the cross entropy as a weighted mean over the pixels that count.

    A pixel weighs (pixels of its class in the batch)^-1/2: a batch of one class gives the plain
    mean, and no pass over the data is needed to learn how often each class occurs.

    Args:
        output: (N, C, H, W) scores.
        target: (N, H, W) class indices, or `IGNORE`. Where nothing counts, the loss is 0.
    """
    counted = target != IGNORE
    pixels = torch.bincount(target[counted], minlength=output.shape[1]).to(torch.float32)
    weights = torch.where(pixels > 0, pixels.clamp(min=1) ** -_BALANCE, torch.zeros_like(pixels))
    total = nn.functional.cross_entropy(
        output.float(), target, weight=weights, ignore_index=IGNORE, reduction="sum"
    )
    # At least one pixel weighs pixels^-1/2 or more, so this only guards against 0 / 0.
    return total / (weights * pixels).sum().clamp(min=1e-6)


def evaluate(
    classes: ClassSet, model: nn.Module, loader: Iterable[Batch], device: torch.device
) -> dict[str, float]:
    """Return ``miou``, ``pixel_accuracy`` and ``iou_<class>`` over all batches together.

    The mean is over the classes that occur in truth or prediction; the others have no key.
    """
    num_classes = len(classes.names)
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for images, targets in loader:
                predicted = model(images.to(device)).argmax(dim=1).cpu().numpy()
                matrix += confusion_matrix(targets.cpu().numpy(), predicted, num_classes)
    finally:
        model.train(training)
    iou = class_iou(matrix)
    if classes.ignore_index is not None and classes.ignore_index < num_classes:
        iou[classes.ignore_index] = np.nan
    present = np.flatnonzero(~np.isnan(iou))
    scores = {
        "miou": float(iou[present].mean()) if len(present) else 0.0,
        "pixel_accuracy": pixel_accuracy(matrix),
    }
    scores.update({f"iou_{classes.names[index]}": float(iou[index]) for index in present})
    return scores
