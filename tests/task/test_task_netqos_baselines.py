from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from semantic_net.task.netqos.baselines import PENALTIES, Ridge, fit_ridge, make_metrics
from semantic_net.task.netqos.traces import Trace, WindowData
from semantic_net.task.netqos.units import Float64Array, Inputs, Scale


def windows(series: list[Float64Array]) -> WindowData:
    traces = [
        Trace(str(i), "", np.arange(len(s), dtype=np.float64), s[:, None], s)
        for i, s in enumerate(series)
    ]
    return WindowData(traces, Inputs(("load",), "load"), window=3, horizon=2, max_gap_s=1)


def random_series(
    rng: np.random.Generator, make: Callable[[Float64Array], Float64Array]
) -> WindowData:
    return windows([make(rng.normal(size=60)) for _ in range(8)])


def as_arrays(data: WindowData) -> tuple[Float64Array, Float64Array]:
    x, y = data.batch(np.arange(len(data)))
    return x.flatten(1).double().numpy(), y.double().numpy()


def test_ridge_finds_a_line_that_is_there() -> None:
    """A sine's value two steps on is a linear function of its last two values."""
    rng = np.random.default_rng(0)
    series = [5 + 3 * np.sin(0.3 * np.arange(80) + rng.uniform(0, 6)) for _ in range(6)]
    data = windows(series)
    ridge = fit_ridge(data)
    x, y = as_arrays(data)
    assert ridge.penalty == PENALTIES[0]
    assert np.sqrt(np.mean((ridge.predict(x) - y) ** 2)) < 0.02


def test_ridge_equals_the_textbooks_solution() -> None:
    data = random_series(np.random.default_rng(1), lambda noise: np.cumsum(noise))
    ridge = fit_ridge(data)
    x, y = as_arrays(data)
    scale = x.std(axis=0)
    z = (x - x.mean(axis=0)) / scale
    normal = z.T @ z / len(z) + ridge.penalty * np.eye(z.shape[1])
    beta = np.linalg.solve(normal, z.T @ (y - y.mean()) / len(z))
    np.testing.assert_allclose(ridge.predict(x), z @ beta + y.mean(), rtol=1e-6)


def test_noise_is_answered_with_the_largest_penalty() -> None:
    ridge = fit_ridge(random_series(np.random.default_rng(2), lambda noise: noise))
    assert ridge.penalty == PENALTIES[-1]
    assert np.abs(ridge.weights).max() < 0.1


def test_one_trace_and_an_input_that_never_changes() -> None:
    ridge = fit_ridge(windows([np.full(20, 3.0)]))
    assert ridge.penalty == PENALTIES[3]
    assert ridge.predict(np.full((1, 6), 3.0)) == pytest.approx([3.0])


class Constant(nn.Module):
    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.full((len(windows),), 0.5)


def test_metrics_are_in_the_targets_unit_and_name_the_baselines() -> None:
    window = torch.tensor([[[0.1], [0.2]], [[0.3], [0.4]]])
    ridge = Ridge(np.array([1.0, 0.0]), 0.0, 0.1)  # says the window's first value
    metrics = make_metrics(Scale(10.0, 100.0), ridge)
    found = metrics(Constant(), [(window, torch.tensor([0.5, 0.7]))], torch.device("cpu"))
    expected = {"mae": 10.0, "mae_persistence": 30.0, "mae_ridge": 40.0}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5)
    assert list(found) == [
        f"{metric}{of}" for of in ("", "_persistence", "_ridge") for metric in ("rmse", "mae", "r2")
    ]
    assert metrics(Constant(), [], torch.device("cpu")) == {}
