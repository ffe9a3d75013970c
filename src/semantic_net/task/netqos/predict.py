"""Traces of a user's through a forecaster: a row for each sample that has enough of a past."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from semantic_net.config import CsvConfig, NetqosConfig
from semantic_net.errors import DataError
from semantic_net.task.base import Prediction
from semantic_net.task.netqos import csv_source
from semantic_net.task.netqos.traces import Trace, window_starts
from semantic_net.task.netqos.units import Float64Array, Inputs

_BATCH = 1024


def predict(
    cfg: NetqosConfig,
    columns: CsvConfig,
    inputs: Inputs,
    model: nn.Module,
    path: Path,
    out: Path,
    device: torch.device,
) -> Prediction:
    """Write ``<stem>_forecast.csv``: what the target will be, ``horizon`` samples on.

    Args:
        cfg: The model's window and horizon.
        columns: How the file names its columns; no groups are needed.
        inputs: What the model sees.
        model: In eval mode.
        path: A CSV of traces, plain or gzip-compressed.
        out: Folder to write into.
        device: The model's.

    Returns:
        The file: trace, time and value of the last sample that is known, the forecast, and what
        came then, where the file tells it.

    Raises:
        DataError: The file cannot be read, has no trace that is long enough, or the forecasts
            cannot be written.
    """
    named = replace(columns, features=inputs.features, target=inputs.target, group=())
    traces = csv_source.read_traces(path, named)
    rows = [row for trace in traces for row in _rows(cfg, columns, inputs, model, trace, device)]
    if not rows:
        raise DataError(
            f"{path}: no trace has {cfg.window} samples without a gap over "
            f"{columns.max_gap_s:g} s (data.csv.max_gap_s), as the model needs"
        )
    target = out / f"{path.name.partition('.')[0]}_forecast.csv"
    head = (columns.trace, columns.time, inputs.target, f"{inputs.target}_forecast", "truth")
    try:
        with target.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(head)
            writer.writerows(rows)
    except OSError as exc:
        raise DataError(f"{target}: cannot be written: {exc.strerror or exc}") from exc
    return Prediction((target,), f"{len(rows)} forecasts, {cfg.horizon} samples ahead")


def _rows(
    cfg: NetqosConfig,
    columns: CsvConfig,
    inputs: Inputs,
    model: nn.Module,
    trace: Trace,
    device: torch.device,
) -> Iterator[tuple[str, str, str, str, str]]:
    starts = window_starts(trace.time_s, cfg.window - 1, columns.max_gap_s)
    ahead = cfg.window - 1 + cfg.horizon
    told = set(window_starts(trace.time_s, ahead, columns.max_gap_s).tolist())
    forecasts = _forecasts(cfg, inputs, model, trace, starts, device)
    for start, forecast in zip(starts.tolist(), forecasts, strict=True):
        last = start + cfg.window - 1
        truth = f"{trace.target[start + ahead]:.6g}" if start in told else ""
        known = f"{trace.time_s[last]:.15g}", f"{trace.target[last]:.6g}"
        yield trace.name, *known, f"{forecast:.6g}", truth


def _forecasts(
    cfg: NetqosConfig,
    inputs: Inputs,
    model: nn.Module,
    trace: Trace,
    starts: np.ndarray[tuple[int], np.dtype[np.int64]],
    device: torch.device,
) -> Float64Array:
    encoded = torch.from_numpy(inputs.encode(trace.values, trace.target)[0])
    outputs = [np.empty(0)]
    for begin in range(0, len(starts), _BATCH):
        first = torch.from_numpy(starts[begin : begin + _BATCH])
        windows = encoded[first[:, None] + torch.arange(cfg.window)]
        with torch.inference_mode():
            outputs.append(model(windows.to(device)).double().cpu().numpy())
    return inputs.target_scale.restore(np.concatenate(outputs))
