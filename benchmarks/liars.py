"""What some liars among the peers cost, under each rule of aggregation, and each rule without any.

    .venv/bin/python benchmarks/liars.py                      every cell; goes on where it was
    .venv/bin/python benchmarks/liars.py --rules clipped mean --attacks none sign_flip

Ten peers learn Fashion-MNIST, dealt out unevenly (Dirichlet 0.5); the last two lie. Training,
codecs and the fold are those of a run, without a network: all peers hold all updates. Liars see
what the honest send before they send, and send float32. A cell is one rule under one attack with
one seed. Differences are in pairs of equal seeds, in points of accuracy, against the mean of all
ten without liars; intervals are Student's t at 95%.
A run whose loss becomes infinite counts as a guess (10%).
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import fashion_mnist
import numpy as np
import torch
from attacks import ATTACKS, Seen
from cells import Result, machine, run_cells
from data_sets import DATA_SETS, seeded
from paired import interval
from torch.utils.data import TensorDataset

from semantic_net.aggregation.fold import fold_round
from semantic_net.aggregation.rules import Contribution
from semantic_net.aggregation.state import FoldState
from semantic_net.config import Config
from semantic_net.errors import TrainingError
from semantic_net.federated.base_store import BaseStore
from semantic_net.federated.learner import ModelLearner
from semantic_net.federated.snapshot import read_start
from semantic_net.fixed_point import Float32Array
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.deltas import DenseFloats, ParsedDelta
from semantic_net.semantic.rate import rate_controller
from semantic_net.task import Task
from semantic_net.training import Trainer, make_initial_model

NUM_PEERS = 10
NUM_LIARS = 2
ALPHA = 0.5
JUDGED_ROUNDS = 3

Cell = tuple[str, str, int]


RULES: dict[str, tuple[str, ...]] = {
    "mean": (),
    **{
        name: (f"aggregation.rule={name}",)
        for name in ("clipped", "trimmed_mean", "median", "krum", "multi_krum")
    },
    **{
        f"nnm_{name}": (
            f"aggregation.rule={name}",
            "aggregation.nearest_neighbour_mixing=true",
        )
        for name in ("clipped", "trimmed_mean")
    },
}
"""By name, with the nearest-neighbour mixing in front of some."""


class _Learner(ModelLearner):
    """One that is handed the common state."""

    def start(self) -> FoldState:
        """Return the state that the first round is folded on."""
        return read_start(self.bases.read(self.base), self.fold_config)

    def update(self, round_index: int, codec: Codec) -> tuple[ParsedDelta, int]:
        """Train for a round; return what others read of it, and the number of examples."""
        trained = self.train(round_index)
        encoded = self.encode(codec)
        return self.parse(encoded.codec, memoryview(encoded.payload)), trained.num_examples

    def take(self, state: FoldState) -> None:
        """Load the state that all updates have folded to."""
        self._load(state)


def run_cell(cell: Cell) -> Result:
    """Run one cell and return its result."""
    rule, attack, seed = cell
    gc.collect()
    torch.set_num_threads(1)
    overrides = [*RULES[rule], "training.rounds=25", "training.steps=20"]
    config = seeded(DATA_SETS["fashion_dirichlet"].config(overrides), seed)
    tasks = fashion_mnist.tasks(ALPHA, NUM_PEERS, seed)
    if attack == "label_flip":
        tasks = [*tasks[:-NUM_LIARS], *map(_with_flipped_labels, tasks[-NUM_LIARS:])]
    learners = []
    for index, task in enumerate(tasks):
        model = make_initial_model(task, config.task.seed)
        trainer = Trainer(task, config.training, seed=index, model=model)
        learners.append(_Learner(trainer, config.aggregation, BaseStore()))
    try:
        accuracy = _run(learners, config, attack, seed)
    except TrainingError:  # the loss is infinite: the model is worth as much as a guess
        accuracy = 1 / fashion_mnist.NUM_CLASSES
    return {"rule": rule, "attack": attack, "seed": seed, "accuracy": accuracy}


def _run(learners: Sequence[_Learner], config: Config, attack: str, seed: int) -> float:
    rng = np.random.default_rng(seed)
    rate = rate_controller(config.semantic, learners[0].schema)
    test = fashion_mnist.tasks(None, 1, 0)[0].val_data
    state = learners[0].start()
    found = []
    for number in range(1, config.training.rounds + 1):
        codec = rate.choose(number, ()).codec
        sent = [learner.update(number, codec) for learner in learners]
        honest = np.stack([delta.to_float32() for delta, _ in sent[:-NUM_LIARS]])
        if attack == "silent":
            sent = sent[:-NUM_LIARS]
        elif attack != "none":
            for i in range(NUM_PEERS - NUM_LIARS, NUM_PEERS):
                delta, weight = sent[i]
                told = ATTACKS[attack](Seen(honest, delta.to_float32(), rng))
                sent[i] = _as_delta(told), 1 << 20 if attack == "weight" else weight
        contributions = [
            Contribution(delta, weight, bytes([i])) for i, (delta, weight) in enumerate(sent)
        ]
        state = fold_round(state, contributions, learners[0].fold_config)
        for learner in learners:
            learner.take(state)
        if number > config.training.rounds - JUDGED_ROUNDS:
            found.append(learners[0].trainer.evaluate_on(test)["accuracy"])
    return statistics.mean(found)


def _as_delta(values: Float32Array) -> ParsedDelta:
    nothing = DenseFloats(np.empty(0, np.float32), 0.0)
    return ParsedDelta(DenseFloats(values, float(np.abs(values).max())), nothing)


def _with_flipped_labels(task: Task) -> Task:
    assert isinstance(task.train_data, TensorDataset)
    images, labels = task.train_data.tensors
    flipped = TensorDataset(images, fashion_mnist.NUM_CLASSES - 1 - labels)
    return replace(task, train_data=flipped)


def table(results: Sequence[Result], rules: Sequence[str], attacks: Sequence[str]) -> str:
    """Return the Markdown table: a row a rule, a column an attack."""
    found = {(r["rule"], r["attack"], r["seed"]): 100 * r["accuracy"] for r in results}
    seeds = sorted({r["seed"] for r in results})
    clean = [found["mean", "none", seed] for seed in seeds]
    lines = [
        f"accuracy of the mean without liars: {statistics.mean(clean):.2f}%; below, the difference "
        "from it in points",
        "",
        f"| rule | {' | '.join(attacks)} |",
        "|---" * (len(attacks) + 1) + "|",
    ]
    for rule in rules:
        cells = []
        for attack in attacks:
            differences = [
                found[rule, attack, seed] - own for seed, own in zip(seeds, clean, strict=True)
            ]
            mean, half = interval(differences)
            cells.append(f"{mean:+.1f} ± {half:.1f}")
        lines.append(f"| {rule} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run all cells and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--out", type=Path, default=Path("runs/liars"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if not fashion_mnist.is_there():
        parser.exit(3, f"{fashion_mnist.MISSING}\n")
    cells = [
        (rule, attack, seed)
        for rule in arguments.rules
        for attack in arguments.attacks
        for seed in range(arguments.seeds)
    ]
    clean = [("mean", "none", seed) for seed in range(arguments.seeds)]
    wanted = list(dict.fromkeys([*clean, *cells]))
    results = run_cells(wanted, run_cell, arguments.out, arguments.jobs)
    print(f"{NUM_PEERS} peers, the last {NUM_LIARS} lie; {arguments.seeds} seeds; {machine()}\n")
    print(table(results, arguments.rules, arguments.attacks))


if __name__ == "__main__":
    main()
