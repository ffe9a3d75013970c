"""A few stretches of held-out traces: what came, and what the model had forecast."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from semantic_net.status import Sample
from semantic_net.task.netqos.traces import WindowData
from semantic_net.task.netqos.units import Inputs

NUM_SAMPLES = 3
MAX_STEPS = 96
"""Samples of a stretch that is shown."""


def preview(
    data: WindowData, inputs: Inputs, model: nn.Module, device: torch.device
) -> list[Sample]:
    """Return the first stretches of a few traces from all over the held-out ones."""
    traces = np.unique(data.trace_index)
    picked = traces[np.linspace(0, len(traces) - 1, min(NUM_SAMPLES, len(traces))).astype(int)]
    return [_sample(data, inputs, model, device, int(trace)) for trace in picked]


def _sample(
    data: WindowData, inputs: Inputs, model: nn.Module, device: torch.device, trace: int
) -> Sample:
    windows, targets = data.batch(np.flatnonzero(data.trace_index == trace)[:MAX_STEPS])
    with torch.inference_mode():
        forecasts = model(windows.to(device)).double().cpu().numpy()
    restore = inputs.target_scale.restore
    lines = {"truth": restore(targets.double().numpy()), "forecast": restore(forecasts)}
    return Sample(
        f"trace {trace + 1}, {inputs.target}",
        lines={name: [float(f"{value:.5g}") for value in line] for name, line in lines.items()},
    )
