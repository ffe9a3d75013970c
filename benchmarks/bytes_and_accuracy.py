"""Accuracy against bytes: what each codec costs and saves in whole runs.

    make bench-full     every cell; goes on where it was interrupted
    .venv/bin/python benchmarks/bytes_and_accuracy.py --data fashion_iid --methods dense balanced

A cell is one method on one data set with one seed: real peers over sockets on loopback, to the
last round. Its result is a file, and a cell whose file is there is not run again. The seed decides
first weights, split and batches: methods are compared in pairs of equal seeds, and intervals are
Student's t over those differences, at 95%. Bytes are those of all sockets in the whole run,
handshakes, heartbeats and goodbyes included.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from cells import Result, machine, run_cells
from data_sets import DATA_SETS, seeded
from in_process import plain_rate, run_together
from methods import MAIN, METHODS, register
from paired import differences, interval

from semantic_net.buffers import trim_heap
from semantic_net.config import Config
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.rate import Choice, LinkUse, RateController
from semantic_net.semantic.schema import ModelSchema

Cell = tuple[str, str, int]


class _Always:
    """One codec in all rounds."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def choose(self, round_index: int, links: Iterable[LinkUse]) -> Choice:
        return Choice(self._codec, "the benchmark's")

    def encoded(self, payload_bytes: int, kept_ratio: float | None) -> None:
        pass


def run_cell(cell: Cell) -> Result:
    """Run one cell and return its result."""
    register()
    torch.set_num_threads(1)
    data_set, method, seed = DATA_SETS[cell[0]], METHODS[cell[1]], cell[2]
    config = seeded(data_set.config([*method.overrides, "p2p.run=bench"]), seed)
    tasks, judged_on = data_set.load(config, seed)
    rounds = config.training.rounds
    codec = method.codec

    def rate(config: Config, schema: ModelSchema) -> RateController:
        return plain_rate(config, schema) if codec is None else _Always(codec)

    gc.collect()  # the cell before left cycles as large as its models
    trim_heap()
    began = time.monotonic()
    outcome = run_together(
        tasks,
        config,
        evaluate_on=judged_on,
        evaluate_in=lambda number: number > rounds - data_set.judged_rounds,
        make_learner=method.make_learner,
        make_rate=rate,
    )
    return {
        "data": cell[0],
        "method": method.name,
        "seed": seed,
        "metric": statistics.mean(m[data_set.metric] for m in outcome.metrics.values()),
        "by_round": {number: m[data_set.metric] for number, m in outcome.metrics.items()},
        "bytes_sent": statistics.mean(outcome.bytes_sent),
        "payload_bytes": statistics.mean(outcome.payload_bytes),
        "dense_bytes": outcome.dense_bytes,
        "peers": len(tasks),
        "rounds": rounds,
        "seconds": round(time.monotonic() - began, 1),
    }


def table(name: str, results: list[Result]) -> str:
    """Return the Markdown table of one data set, against its first method."""
    data_set = DATA_SETS[name]
    by_method = {
        method: list(group)
        for method, group in itertools.groupby(results, key=lambda result: result["method"])
    }
    reference = next(iter(by_method.values()))
    factor = abs(data_set.scale) if not data_set.is_relative else 1
    sent = statistics.mean(r["bytes_sent"] for r in reference)
    lines = [
        f"**{data_set.text}**: {reference[0]['peers']} peers, {reference[0]['rounds']} rounds, "
        f"{len(reference)} seeds, {data_set.metric}, mean of the last {data_set.judged_rounds} "
        "rounds",
        "",
        f"| method | {data_set.metric} | against {METHODS[reference[0]['method']].text}, "
        f"{data_set.unit} | kB sent a peer and round | times fewer bytes | payloads alone |",
        "|---|---|---|---|---|---|",
    ]
    for method, group in by_method.items():
        mean, half = interval(differences(data_set, group, reference))
        bytes_sent = statistics.mean(r["bytes_sent"] for r in group)
        payload = statistics.mean(r["payload_bytes"] / r["rounds"] for r in group)
        cells = (
            METHODS[method].text,
            f"{factor * statistics.mean(r['metric'] for r in group):.2f}",
            "" if group is reference else f"{mean:+.2f} ± {half:.2f}",
            f"{bytes_sent / group[0]['rounds'] / 1e3:.1f}",
            f"{sent / bytes_sent:.1f}",
            f"{group[0]['dense_bytes'] / payload:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run all cells and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data",
        nargs="+",
        default=["fashion_iid", "fashion_dirichlet"],
        choices=list(DATA_SETS),
        metavar="NAME",
    )
    parser.add_argument(
        "--methods", nargs="+", default=list(MAIN), choices=[*METHODS, "all"], metavar="NAME"
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--plot", type=Path, help="write PATH.svg and PATH.png")
    arguments = parser.parse_args()
    methods = list(METHODS) if "all" in arguments.methods else arguments.methods
    names = []
    for name in arguments.data:
        if (problem := DATA_SETS[name].missing()) is None:
            names.append(name)
        else:
            print(f"{name} is left out: {problem}", file=sys.stderr)
    cells = [
        (name, method, seed)
        for name in names
        for method in methods
        for seed in range(arguments.seeds)
    ]
    results = run_cells(cells, run_cell, arguments.out, arguments.jobs)
    print(f"seeds 0 to {arguments.seeds - 1}; {machine()}\n")
    for name in names:
        print(table(name, [r for r in results if r["data"] == name]), end="\n\n")
    if arguments.plot is not None:
        from plots import plot_trade

        plot_trade(results, arguments.plot)


if __name__ == "__main__":
    main()
