"""The task ``netqos``: forecast a link's quality some steps ahead from a window of its past.

Sources: ``synthetic`` (a link simulator, nothing to download) and ``csv`` (traces in a file).
Every round's metrics hold the model's errors in the target's unit beside those of the two
forecasts that it has to beat: no change, and ridge autoregression on the same windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from semantic_net.config import TaskConfig
from semantic_net.errors import ConfigError, DataError
from semantic_net.task.base import MapDataset, Metrics, Task
from semantic_net.task.netqos import csv_source, synthetic
from semantic_net.task.netqos.baselines import fit_ridge, make_metrics
from semantic_net.task.netqos.model import Forecaster, loss
from semantic_net.task.netqos.predict import predict
from semantic_net.task.netqos.preview import preview
from semantic_net.task.netqos.traces import Trace, WindowData, shard_traces
from semantic_net.task.netqos.units import Inputs


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What a source gives: traces to train on, traces held out, and the columns' names."""

    train: list[Trace]
    held_out: list[Trace]
    inputs: Inputs


def load(cfg: TaskConfig) -> Task:
    """Return the forecasting task that ``task.netqos`` and ``data`` describe.

    Raises:
        ConfigError: ``data.source`` is unknown, or the data does not give so many shards.
        DataError: The data is missing, broken or too short.
    """
    if cfg.data.source not in SOURCES:
        raise ConfigError(
            f"data.source: netqos has no source {cfg.data.source!r}; known: {', '.join(SOURCES)}"
        )
    inputs_of, read = SOURCES[cfg.data.source]
    if cfg.observe:
        return _without_data(cfg, inputs_of(cfg))
    return make_task(cfg, read(cfg, inputs_of(cfg)))


def make_task(cfg: TaskConfig, source: Source) -> Task:
    """Return the task of forecasting the traces of ``source``.

    Raises:
        DataError: All training traces, or all held-out ones, are too short.
    """
    train = _windows(cfg, source.train, source.inputs, "training")
    held_out = _windows(cfg, source.held_out, source.inputs, "held-out")
    metrics = make_metrics(source.inputs.target_scale, fit_ridge(train))
    task = _task(cfg, source.inputs, train, held_out, metrics)
    return replace(task, preview=partial(preview, held_out, source.inputs))


def _without_data(cfg: TaskConfig, inputs: Inputs) -> Task:
    return _task(cfg, inputs, (), (), lambda model, batches, device: {})


def _task(
    cfg: TaskConfig, inputs: Inputs, train: MapDataset, held_out: MapDataset, metrics: Metrics
) -> Task:
    net, channels = cfg.netqos, inputs.channels()
    return Task(
        make_model=lambda: Forecaster(len(channels), net.hidden, net.layers),
        train_data=train,
        val_data=held_out,
        loss=loss,
        metrics=metrics,
        predict=partial(predict, net, cfg.data.csv, inputs),
        example=torch.zeros(net.window, len(channels)),
        metric="rmse",
        higher_is_better=False,
        fingerprint={
            "netqos.inputs": ", ".join(channels),
            "netqos.target_max": str(inputs.target_max),
            "netqos.window": str(net.window),
            "netqos.horizon": str(net.horizon),
        },
    )


def _windows(cfg: TaskConfig, traces: list[Trace], inputs: Inputs, purpose: str) -> WindowData:
    net, max_gap_s = cfg.netqos, cfg.data.csv.max_gap_s
    data = WindowData(traces, inputs, window=net.window, horizon=net.horizon, max_gap_s=max_gap_s)
    if len(data) == 0:
        raise DataError(
            f"data: none of the {len(traces)} {purpose} traces has {net.window + net.horizon} "
            f"samples without a gap over {max_gap_s:g} s; lower task.netqos.window or raise "
            "data.csv.max_gap_s"
        )
    return data


def _synthetic_inputs(cfg: TaskConfig) -> Inputs:
    return Inputs(synthetic.FEATURES, synthetic.TARGET, synthetic.MAX_RTT_MS)


def _load_synthetic(cfg: TaskConfig, inputs: Inputs) -> Source:
    data = cfg.data
    region = cfg.peer_seed if data.partition.shard is None else data.partition.shard
    return Source(
        train=synthetic.make_traces(data.seed, region, data.num_train, held_out=False),
        held_out=synthetic.make_traces(data.seed, region, data.num_val, held_out=True),
        inputs=inputs,
    )


def _csv_inputs(cfg: TaskConfig) -> Inputs:
    csv = cfg.data.csv
    return Inputs(csv.features, csv.target, csv.target_max)


def _load_csv(cfg: TaskConfig, inputs: Inputs) -> Source:
    csv = cfg.data.csv
    if not cfg.data.path:
        raise DataError("data.path is not set; name the CSV file (plain or .gz) of data.source=csv")
    traces = csv_source.read_traces(Path(cfg.data.path), csv)
    train, held_out = shard_traces(traces, csv, cfg.data.partition)
    return Source(train, held_out, inputs)


SOURCES: dict[
    str, tuple[Callable[[TaskConfig], Inputs], Callable[[TaskConfig, Inputs], Source]]
] = {
    "synthetic": (_synthetic_inputs, _load_synthetic),
    "csv": (_csv_inputs, _load_csv),
}
"""How a source's columns are known, and how its traces are read."""
