"""What a forecaster has to beat: no change (persistence), and ridge autoregression.

Ridge sees exactly what the LSTM sees (same channels, same window, same horizon, same training
traces) and is fitted in closed form. Both are evaluated on whatever the model is evaluated on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from semantic_net.task.base import Batch
from semantic_net.task.metrics import errors
from semantic_net.task.netqos.traces import WindowData
from semantic_net.task.netqos.units import Float64Array, Scale

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Tried for ridge, as shares of the variance of a standardised input."""

_SELECT_EVERY = 5
_BLOCK = 8192


@dataclass(frozen=True, slots=True, eq=False)
class Ridge:
    """A straight line through all of a window's numbers."""

    weights: Float64Array
    bias: float
    penalty: float

    def predict(self, windows: Float64Array) -> Float64Array:
        """Forecast from flattened windows (N, W * C)."""
        return windows @ self.weights + self.bias


@dataclass(frozen=True, slots=True, eq=False)
class _Moments:
    """Sums over examples, all that a least-squares fit and its error need."""

    gram: Float64Array
    """Of the inputs with a leading one, (1 + D, 1 + D)."""
    cross: Float64Array
    squares: float

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(
            self.gram + other.gram, self.cross + other.cross, self.squares + other.squares
        )

    @property
    def count(self) -> float:
        return float(self.gram[0, 0])

    def fit(self, penalty: float) -> Ridge:
        mean, target_mean = self.gram[0, 1:] / self.count, self.cross[0] / self.count
        covariance = self.gram[1:, 1:] / self.count - np.outer(mean, mean)
        scale = np.sqrt(np.maximum(np.diag(covariance), 0))
        scale[scale < 1e-6] = 1.0  # an input that never changes says nothing
        standard = covariance / np.outer(scale, scale) + penalty * np.eye(len(scale))
        slope = (self.cross[1:] / self.count - mean * target_mean) / scale
        weights = np.linalg.solve(standard, slope) / scale
        return Ridge(weights, float(target_mean - mean @ weights), penalty)

    def squared_error(self, ridge: Ridge) -> float:
        line = np.concatenate([[ridge.bias], ridge.weights])
        return float(self.squares - 2 * line @ self.cross + line @ self.gram @ line)


def fit_ridge(data: WindowData) -> Ridge:
    """Fit ridge on all of ``data``; its penalty is the best on every fifth trace left out.

    With a single trace the penalty is the middle one.
    """
    chosen = data.trace_index % _SELECT_EVERY == 0
    if chosen.all() or not chosen.any():
        return _moments(data, np.ones(len(data), dtype=bool)).fit(PENALTIES[len(PENALTIES) // 2])
    fitting, selecting = _moments(data, ~chosen), _moments(data, chosen)
    best = min(PENALTIES, key=lambda penalty: selecting.squared_error(fitting.fit(penalty)))
    return (fitting + selecting).fit(best)


def _moments(data: WindowData, mask: npt.NDArray[np.bool_]) -> _Moments:
    indices = np.flatnonzero(mask)
    parts = []
    for start in range(0, len(indices), _BLOCK):
        windows, targets = data.batch(indices[start : start + _BLOCK])
        x = windows.flatten(1).double().numpy()
        x = np.concatenate([np.ones((len(x), 1)), x], axis=1)
        y = targets.double().numpy()
        parts.append(_Moments(x.T @ x, x.T @ y, float(y @ y)))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def make_metrics(
    scale: Scale, ridge: Ridge
) -> Callable[[nn.Module, Iterable[Batch], torch.device], dict[str, float]]:
    """Return a task's metrics: the model's errors in the target's unit, and the baselines'."""

    def metrics(
        model: nn.Module, batches: Iterable[Batch], device: torch.device
    ) -> dict[str, float]:
        rows: list[tuple[Float64Array, ...]] = []
        for windows, targets in batches:
            flat = windows.flatten(1).double().numpy()
            output = model(windows.to(device)).double().cpu().numpy()
            last = windows[:, -1, 0].double().numpy()
            rows.append((targets.double().numpy(), output, last, ridge.predict(flat)))
        if not rows:
            return {}
        truth, model_, last_, ridge_ = (
            scale.restore(np.concatenate(column)) for column in zip(*rows, strict=True)
        )
        return {
            **errors(model_, truth),
            **errors(last_, truth, "_persistence"),
            **errors(ridge_, truth, "_ridge"),
        }

    return metrics
