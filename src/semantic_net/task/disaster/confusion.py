"""The arithmetic of segmentation scores, from one confusion matrix over a whole data set.

Rows are the truth, columns the prediction. Pixels whose truth is `IGNORE` never enter a matrix.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from semantic_net.task.disaster.classes import IGNORE

Matrix = npt.NDArray[np.int64]


def confusion_matrix(
    truth: npt.NDArray[np.integer], prediction: npt.NDArray[np.integer], num_classes: int
) -> Matrix:
    """Count the pixels of each pair of true and predicted class.

    Args:
        truth: Any shape; class indices, or `IGNORE`.
        prediction: The same shape; class indices.
        num_classes: Both are below it, but for `IGNORE`.
    """
    counted = truth != IGNORE
    pairs = truth[counted].astype(np.int64) * num_classes + prediction[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_iou(matrix: Matrix) -> npt.NDArray[np.float64]:
    """Return the intersection over union of each class; NaN where it occurs in neither."""
    hits = np.diag(matrix).astype(np.float64)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hits
    iou = np.full_like(hits, np.nan)
    np.divide(hits, union, out=iou, where=union > 0)
    return iou


def pixel_accuracy(matrix: Matrix) -> float:
    """Return the share of pixels whose class is right; 0 where there are none."""
    return float(np.trace(matrix) / max(int(matrix.sum()), 1))
