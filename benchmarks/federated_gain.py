"""What federation is worth on a task: together, against alone, against all data in one place.

    .venv/bin/python benchmarks/federated_gain.py --config configs/disaster_dubai.yaml \
        --set data.path=/data/dubai_aerial --seeds 0 1 2

For each seed: real peers, one process each, over sockets on loopback, in each mode; each shard's
model trained alone, and one model trained on all shards' data, from the same first weights and for
as many local steps as a peer takes. Everything is evaluated on the validation data of all shards
together. Prints a Markdown table: mean and, in brackets, the lowest and the highest seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import statistics
from pathlib import Path

import torch
from rich.console import Console

from semantic_net.config import Config, DataConfig, load_config
from semantic_net.federated.demo import MODEL_FILE, DemoOptions, configuration, run_peers
from semantic_net.federated.demo_local import train_alone
from semantic_net.federated.shards import Joined, load_shard
from semantic_net.federated.weights import load_into, load_state_dict
from semantic_net.task import load_task
from semantic_net.training import Trainer, make_initial_model

MODES = ("none", "gradients_topk", "weights_quantize")
BASELINES = ("persistence", "ridge")
"""What a task may report beside its main metric, as ``<metric>_<name>``."""

Row = dict[str, float]


def in_one_place(config: Config) -> DataConfig:
    """Return where all shards' data is."""
    partition = dataclasses.replace(config.data.partition, num_shards=1, shard=None)
    return dataclasses.replace(config.data, partition=partition)


def run_seed(options: DemoOptions, modes: list[str], console: Console) -> tuple[Row, Row]:
    """Return each model's main metric, and the megabytes that a peer sent in each mode."""
    config = configuration(options)
    # The baselines run one after the other and may use all cores; peers share them.
    alone = dataclasses.replace(
        config, training=dataclasses.replace(config.training, num_threads=os.cpu_count())
    )
    tasks = [load_shard(alone, shard) for shard in range(config.data.partition.num_shards)]
    common = Joined([task.val_data for task in tasks])
    metric = tasks[0].metric
    found: Row = {}
    sent: Row = {}
    for mode in modes:
        used = dataclasses.replace(options, overrides=(*options.overrides, f"semantic.mode={mode}"))
        folder = options.out / f"seed{options.seed}-{mode}"
        histories = run_peers(used, configuration(used), folder, console)
        digests = {tuple(record.state_digest for record in history) for history in histories}
        assert len(digests) == 1, f"{mode}: the peers' digests differ"
        model = make_initial_model(tasks[0], config.task.seed)
        weights = folder / "peer1" / MODEL_FILE
        load_into(model, load_state_dict(weights), str(weights))
        metrics = Trainer(tasks[0], alone.training, seed=0, model=model).evaluate_on(common)
        found[f"federated, {mode}"] = metrics[metric]
        sent[f"federated, {mode}"] = sum(r.bytes_sent for h in histories for r in h) / (
            len(histories) * 1e6
        )
    for shard, task in enumerate(tasks):
        trainer, _ = train_alone(alone, task, shard)
        found[f"alone, shard {shard}"] = trainer.evaluate_on(common)[metric]
    pooled = load_task(dataclasses.replace(alone.task, data=in_one_place(alone)))
    trainer, _ = train_alone(alone, pooled, 0)
    metrics = trainer.evaluate_on(common)
    found["pooled"] = metrics[metric]
    for name in BASELINES:
        if f"{metric}_{name}" in metrics:
            found[f"pooled, {name}"] = metrics[f"{metric}_{name}"]
    return found, sent


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--out", type=Path, default=Path("runs/federated_gain"))
    arguments = parser.parse_args()
    shards = load_config(arguments.config, arguments.set).data.partition.num_shards
    console = Console(stderr=True, highlight=False)
    found, sent = [], []
    for seed in arguments.seeds:
        options = DemoOptions(
            peers=shards,
            seed=seed,
            out=arguments.out,
            config=arguments.config,
            overrides=tuple(arguments.set),
        )
        row, traffic = run_seed(options, arguments.modes, console)
        found.append(row)
        sent.append(traffic)
        console.print(f"seed {seed}: {row}")
    print(
        f"{arguments.config}, {shards} peers, seeds {arguments.seeds}; {os.cpu_count()} cores, "
        f"{platform.machine()}, torch {torch.__version__}, Python {platform.python_version()}\n"
    )
    print("| model | mean | lowest, highest seed | MB sent a peer |\n|---|---|---|---|")
    for name in found[0]:
        values = [row[name] for row in found]
        megabytes = [row[name] for row in sent if name in row]
        traffic_text = f"{statistics.mean(megabytes):.2f}" if megabytes else ""
        print(
            f"| {name} | {statistics.mean(values):.4f} | {min(values):.4f}, {max(values):.4f} "
            f"| {traffic_text} |"
        )


if __name__ == "__main__":
    main()
