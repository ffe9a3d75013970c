"""The LSTM of ``netqos`` on pooled real traces, against persistence and ridge autoregression.

    SEMANTIC_NET_DATA=DIR python benchmarks/netqos_baselines.py [--seeds 3] [--folds 1]

DIR holds ``cicv5g/cicv5g_rtt_5hz.csv.gz``. Columns, window, horizon, clip and model are those of
``configs/netqos_cicv5g.yaml``; all forecasts are made from the same windows and judged on the same
held-out traces. One fold holds out every fifth trace of each group; ``--folds 5`` holds out each
trace once and pools the errors (R2 is then against each fold's own mean). One thread.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from semantic_net.config import Config, TaskConfig, TrainingConfig, load_config
from semantic_net.errors import SemanticNetError
from semantic_net.task import Task
from semantic_net.task.netqos import Source, make_task
from semantic_net.task.netqos.csv_source import read_traces
from semantic_net.task.netqos.traces import Trace, hold_out
from semantic_net.task.netqos.units import Inputs
from semantic_net.training import Trainer, make_initial_model

CONFIG = Path(__file__).parents[1] / "configs" / "netqos_cicv5g.yaml"
FORECASTS = {"persistence": "_persistence", "ridge": "_ridge", "LSTM": ""}
"""By name: what its metrics end in."""

TRAINING = TrainingConfig(
    rounds=6,  # passes over the pooled traces
    batch_size=64,
    learning_rate=0.001,
    weight_decay=3e-5,
    schedule="cosine",
    max_grad_norm=1.0,
    device="cpu",
    num_threads=1,
)

Errors = dict[str, tuple[float, float, float]]
"""By forecast: sums over windows of squared error, absolute error and squared deviation."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each fold")
    parser.add_argument("--folds", type=int, default=1, help="1 to data.csv.holdout_every")
    args = parser.parse_args()
    folder = os.environ.get("SEMANTIC_NET_DATA")
    if folder is None:
        print("set SEMANTIC_NET_DATA to the folder that holds cicv5g", file=sys.stderr)
        return 2
    config = load_config(CONFIG)
    try:
        traces = read_traces(Path(folder) / "cicv5g" / "cicv5g_rtt_5hz.csv.gz", config.data.csv)
    except SemanticNetError as exc:
        print(exc, file=sys.stderr)
        return 3
    tasks = [make_fold(config, traces, fold) for fold in range(args.folds)]
    train, held_out = (
        sum(len(data) for data in part)
        for part in ([t.train_data for t in tasks], [t.val_data for t in tasks])
    )
    print(
        f"{len(traces)} traces, {args.folds} fold(s), {train} training and {held_out} held-out "
        f"windows of {config.task.netqos.window}, {config.task.netqos.horizon} steps ahead, "
        f"{config.data.csv.target} clipped at {config.data.csv.target_max:g}"
    )
    runs = [run(tasks, seed) for seed in range(args.seeds)]
    summarise(runs, held_out)
    return 0


def make_fold(config: Config, traces: Sequence[Trace], fold: int) -> Task:
    """Hold out every n-th trace of each group, from the one at ``fold`` in its group."""
    csv = config.data.csv
    cfg: TaskConfig = replace(config.task, data=config.data)
    train, held_out = hold_out(traces, csv.holdout_every, fold)
    return make_task(cfg, Source(train, held_out, Inputs(csv.features, csv.target, csv.target_max)))


def run(tasks: Sequence[Task], seed: int) -> Errors:
    """Train on each fold, print and return all forecasts' errors on the held-out windows."""
    started = time.monotonic()
    total: Errors = dict.fromkeys(FORECASTS, (0.0, 0.0, 0.0))
    for task in tasks:
        trainer = Trainer(task, TRAINING, seed=seed, model=make_initial_model(task, seed))
        for round_index in range(1, TRAINING.rounds + 1):
            trainer.train_round(round_index, threading.Event())
        found, count = trainer.evaluate(), len(task.val_data)
        for name, end in FORECASTS.items():
            squared = count * found[f"rmse{end}"] ** 2
            deviation = squared / (1 - found[f"r2{end}"])
            sums = (squared, count * found[f"mae{end}"], deviation)
            total[name] = tuple(a + b for a, b in zip(total[name], sums, strict=True))  # type: ignore[assignment]  # three again
    windows = sum(len(task.val_data) for task in tasks)
    rmse = math.sqrt(total["LSTM"][0] / windows)
    print(f"seed {seed}: LSTM RMSE {rmse:.2f} ms ({time.monotonic() - started:.0f} s)", flush=True)
    return total


def summarise(runs: Sequence[Errors], windows: int) -> None:
    """Print each forecast's figures; those that depend on the seed with their spread."""
    print(f"\n{'forecast':<12}{'RMSE, ms':>18}{'MAE, ms':>18}{'R2':>18}")
    rmses: dict[str, list[float]] = {}
    for name in FORECASTS:
        columns: list[list[float]] = [[], [], []]
        for errors in runs:
            squared, absolute, deviation = errors[name]
            columns[0].append(math.sqrt(squared / windows))
            columns[1].append(absolute / windows)
            columns[2].append(1 - squared / deviation)
        rmses[name] = columns[0]
        print(
            f"{name:<12}"
            + "".join(f"{with_spread(c, d):>18}" for c, d in zip(columns, (2, 2, 3), strict=True))
        )
    worst, ridge = max(rmses["LSTM"]), rmses["ridge"][0]
    gain = 100 * (1 - statistics.fmean(rmses["LSTM"]) / ridge)
    verdict = "better in every seed" if worst < ridge else "not better in every seed"
    print(
        f"\nLSTM against ridge: {gain:+.1f}% RMSE, {verdict} (worst {worst:.2f}, ridge {ridge:.2f})"
    )


def with_spread(values: Sequence[float], digits: int) -> str:
    """Return the mean, and the standard deviation where there is one."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{mean} +- {spread:.{digits}f}" if spread > 1e-9 else mean


if __name__ == "__main__":
    sys.exit(main())
