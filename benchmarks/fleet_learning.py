"""A hundred peers of which twenty train in a round, against federated averaging of the same twenty.

    python benchmarks/fleet_learning.py [--methods lossless balanced] [--seeds 3]

A cell is one method with one seed: `semantic-net simulate` with real training, and then federated
averaging (McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", 2017, algorithm 1) of whole float32 models, with those who trained in each round, the same
first weights, batches and rates. The averaging is written out here and knows nothing of our fold.
What a peer does in its round (`Trainer`) is the same on both sides. The seed decides split, first
weights, batches and whose turn it is; intervals are Student's t over the differences, at 95%.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import fashion_mnist
import numpy as np
import torch
from cells import Result, machine, run_cells
from paired import interval

from semantic_net.federated.shards import load_shard
from semantic_net.semantic.flat import flatten, load_flat
from semantic_net.simulation.engines import local_engine
from semantic_net.simulation.progress import RoundOfAll
from semantic_net.simulation.scenario import Scenario, scenario
from semantic_net.simulation.simulate import simulate
from semantic_net.training import Trainer, make_initial_model

TASK = Path(__file__).with_name("fashion_task.py")
NETWORK = Path(__file__).with_name("fleet_network.yaml")
JUDGED_ROUNDS = 5
"""The result of a run is the mean over so many last rounds, and beside it that of the last."""

SETTINGS = (
    f"task.name={TASK}",
    "data.partition.alpha=0.5",
    "data.partition.validation=all",
    "training.rounds=30",
    "training.steps=20",
    "training.batch_size=32",
    "training.optimizer=sgd",
    "training.momentum=0",
    "training.learning_rate=0.1",
    "training.schedule=cosine",
    "p2p.memory_budget_mb=16",
)

Accuracies = dict[int, float]
"""In per cent, by round."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to run the peers."""

    text: str
    overrides: tuple[str, ...] = ()


METHODS = {
    "plain": Method(
        "lossless, no outer momentum", ("semantic.preset=lossless", "aggregation.outer_momentum=0")
    ),
    "lossless": Method("lossless, outer momentum 0.5", ("semantic.preset=lossless",)),
    "balanced": Method("preset balanced (the default: 5 rounds of warm-up)"),
    "balanced_plain": Method(
        "preset balanced, no outer momentum", ("aggregation.outer_momentum=0",)
    ),
    "balanced_cold": Method("preset balanced, no warm-up", ("semantic.warmup_rounds=0",)),
    "extreme": Method("preset extreme", ("semantic.preset=extreme",)),
}
"""By name, as in the commands."""


def run_cell(cell: tuple[str, str, int, int, int]) -> Result:
    """Run one cell and return its result."""
    _, name, num_peers, participants, seed = cell
    torch.set_num_threads(1)
    found = scenario(
        None,
        [*SETTINGS, f"p2p.participants={participants}", *METHODS[name].overrides],
        num_peers=num_peers,
        network=str(NETWORK),
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as out:
        began = time.monotonic()
        engine = functools.partial(local_engine, num_workers=1)
        outcome = simulate(found, Path(out) / "run", engine)
        simulated_s = time.monotonic() - began
    last = outcome.rounds[-1].records.values()
    if len(last) < num_peers:
        raise RuntimeError(f"{len(last)} of {num_peers} peers have come to the end")
    turns = {of_all.number: trained_in(of_all) for of_all in outcome.rounds}
    began = time.monotonic()
    plain = average(found, turns, outer_momentum=0)
    averaged_s = time.monotonic() - began
    momentum = found.config.aggregation.outer_momentum
    records = [record for of_all in outcome.rounds for record in of_all.records.values()]
    payloads = [record.payload_bytes for record in records if record.payload_bytes]
    return {
        "method": name,
        "seed": seed,
        "peers": num_peers,
        "participants": statistics.mean(map(len, turns.values())),
        "rounds": len(turns),
        "ours": {of_all.number: seen(of_all) for of_all in outcome.rounds},
        "fedavg": plain,
        "fedavg_momentum": average(found, turns, outer_momentum=momentum) if momentum else plain,
        "models": len({record.state_digest for record in last}),
        "late": late(outcome.rounds, found),
        "bytes_sent": statistics.mean(r.bytes_sent for r in records),
        "payload_bytes": statistics.mean(payloads),
        "dense_bytes": max(record.dense_bytes for record in records),
        "simulated_s": round(simulated_s, 1),
        "averaged_s": round(averaged_s, 1),
    }


def trained_in(of_all: RoundOfAll) -> list[int]:
    """Return the numbers of the peers that published in a round."""
    return sorted(index for index, record in of_all.records.items() if record.payload_bytes)


def seen(of_all: RoundOfAll) -> float:
    """Return the accuracy after a round, as a mean over the peers: not all may hold one model."""
    return 100 * statistics.mean(r.metrics["accuracy"] for r in of_all.records.values())


def late(rounds: Sequence[RoundOfAll], found: Scenario) -> int:
    """Return how many updates some peers folded only after they had closed the round."""
    ids = [str(found.signer_of(index).peer_id) for index in range(found.num_peers)]
    number = 0
    for of_all in rounds:
        trained = {ids[index] for index in trained_in(of_all)}
        in_time = trained.intersection(*(r.updates_in for r in of_all.records.values()))
        number += len(trained - in_time)
    return number


def average(
    found: Scenario, turns: Mapping[int, Sequence[int]], *, outer_momentum: float
) -> Accuracies:
    """Return the accuracy of federated averaging after each of the last rounds.

    Args:
        found: Says what peers train on, and how.
        turns: Who trains, by round.
        outer_momentum: Of Nesterov's momentum on what a round has changed; 0: plain averaging.
    """
    config = found.config
    clients: dict[int, Trainer] = {}

    def client(index: int) -> Trainer:
        if index not in clients:
            task = load_shard(config, index)
            model = make_initial_model(task, config.task.seed)
            clients[index] = Trainer(task, config.training, seed=index, model=model)
        return clients[index]

    judge = client(0)
    shared = flatten(judge.model).numpy()
    momentum = np.zeros_like(shared)
    accuracies: Accuracies = {}
    for number, indices in turns.items():
        models, examples = [], []
        for index in indices:
            load_flat(client(index).model, shared)
            trained = client(index).train_round(number, threading.Event())
            models.append(flatten(client(index).model).numpy())
            examples.append(trained.num_examples)
        if models:
            changed = np.average(models, axis=0, weights=examples).astype("f4") - shared
            momentum = outer_momentum * momentum + changed
            shared = shared + changed + outer_momentum * momentum
        if number <= max(turns) - JUDGED_ROUNDS:
            continue
        load_flat(judge.model, shared)
        accuracies[number] = 100 * judge.evaluate()["accuracy"]
    return accuracies


def result(accuracies: Mapping[str, float], last: int) -> float:
    """Return the mean accuracy of the last rounds of a run, whose keys JSON has made texts."""
    by_round = [value for _, value in sorted((int(n), value) for n, value in accuracies.items())]
    return statistics.mean(by_round[-last:])


def table(results: Sequence[Result], last: int) -> str:
    """Return the Markdown table of all methods, as the mean of so many last rounds."""
    lines = [
        "| method | accuracy | FedAvg | against FedAvg, points | against FedAvg with the same "
        "outer momentum | kB sent a peer and round | payloads: times fewer bytes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(r["method"] for r in results):
        group = [r for r in results if r["method"] == name]
        ours, plain, same = (
            [result(r[key], last) for r in group] for key in ("ours", "fedavg", "fedavg_momentum")
        )
        cells = [METHODS[name].text, f"{statistics.mean(ours):.2f}"]
        cells.append(f"{statistics.mean(plain):.2f}")
        for other in (plain, same):
            mean, half = interval([a - b for a, b in zip(ours, other, strict=True)])
            cells.append(f"{mean:+.2f} ± {half:.2f}" if len(group) > 1 else f"{mean:+.2f}")
        cells.append(f"{statistics.mean(r['bytes_sent'] for r in group) / 1e3:.1f}")
        ratio = statistics.mean(r["dense_bytes"] / r["payload_bytes"] for r in group)
        cells.append(f"{ratio:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Run all cells and print the tables; return 1 where the default falls behind by a point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--methods", nargs="+", default=["lossless", "balanced"])
    parser.add_argument("--peers", type=int, default=100)
    parser.add_argument("--participants", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--out", type=Path, default=Path("runs/fleet"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if not fashion_mnist.is_there():
        print(f"left out: {fashion_mnist.MISSING}", file=sys.stderr)
        return 0
    if unknown := set(arguments.methods) - METHODS.keys():
        parser.error(f"--methods: unknown {sorted(unknown)}; known: {sorted(METHODS)}")
    cells = [
        ("learning", name, arguments.peers, arguments.participants, seed)
        for name in arguments.methods
        for seed in range(arguments.seeds)
    ]
    began = time.monotonic()
    results = run_cells(cells, run_cell, arguments.out, arguments.jobs)
    first = results[0]
    print(
        f"{first['peers']} peers, {statistics.mean(r['participants'] for r in results):.1f} of "
        f"them a round, {first['rounds']} rounds, Dirichlet 0.5, seeds 0 to "
        f"{arguments.seeds - 1}; {machine()}; {time.monotonic() - began:.0f} s"
    )
    for last in (1, JUDGED_ROUNDS):
        print(f"\naccuracy in %, {'mean of the last 5 rounds' if last > 1 else 'last round'}\n")
        print(table(results, last))
    updates = sum(r["participants"] * r["rounds"] for r in results)
    print(f"\nupdates that some peers folded late: {sum(r['late'] for r in results) / updates:.1%}")
    print(
        f"runs with one model at the end: {sum(r['models'] == 1 for r in results)}/{len(results)}"
    )
    behind = [
        result(r["fedavg"], 1) - result(r["ours"], 1) for r in results if r["method"] == "balanced"
    ]
    return int(bool(behind) and statistics.mean(behind) > 1)


if __name__ == "__main__":
    sys.exit(main())
