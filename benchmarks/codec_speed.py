"""How fast the codecs are, against torch.topk of the same tensor in the same run.

    .venv/bin/python benchmarks/codec_speed.py

One thread, a million parameters. The tensors are what peers encode: what a CNN has learned in its
second and tenth round on Fashion-MNIST, residual included, and noise beside it. Each round of the
benchmark takes torch.topk and every codec in turn; a ratio is the median over rounds, a time the
fastest one. Memory is the most that Python and numpy hold at a time beside input and output, in
float32 models; buffers that are mapped on their own (`semantic_net.buffers`) count, too.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest import mock

import fashion_mnist
import numpy as np
import torch
from data_sets import DATA_SETS, seeded
from in_process import run_together
from torch import Tensor

from semantic_net.config import Config
from semantic_net.federated.base_store import BaseStore
from semantic_net.federated.learner import ModelLearner
from semantic_net.federated.parts import Encoded
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.decoder import parse_payload
from semantic_net.semantic.encoder import encode
from semantic_net.semantic.flat import flatten
from semantic_net.semantic.schema import ModelSchema
from semantic_net.training import Trainer

CODECS = {
    "balanced": Codec("topk_quantize", topk=0.03),
    "extreme": Codec("entropy_quantize", topk=0.01),
    "entropy_quantize, 3%": Codec("entropy_quantize", topk=0.03),
    "gradients_topk, 3%": Codec("gradients_topk", topk=0.03),
    "weights_quantize, 4 bits": Codec("weights_quantize", bit_width=4),
}
HIDDEN = 640
KEPT_ROUNDS = (2, 10)


class _Watched(ModelLearner):
    """Keeps what it is to encode."""

    totals: list[Tensor]

    def encode(self, codec: Codec, max_bytes: int | None = None) -> Encoded:
        """Note the whole update first."""
        self.totals.append(flatten(self.trainer.model) - self._reference)
        return super().encode(codec, max_bytes)


def learned(codec: Codec) -> tuple[ModelSchema, Iterator[tuple[str, Tensor]]]:
    """Return a model's schema, and updates of one of its peers under a codec."""
    data_set = DATA_SETS["fashion_dirichlet"]
    config = seeded(
        data_set.config(
            [
                f"training.rounds={max(KEPT_ROUNDS)}",
                f"semantic.mode={codec.mode}",
                f"semantic.topk={codec.topk}",
            ]
        ),
        seed=0,
    )
    watched: list[_Watched] = []

    def make(trainer: Trainer, config: Config, bases: BaseStore) -> ModelLearner:
        learner = _Watched(trainer, config.aggregation, bases)
        learner.totals = []
        watched.append(learner)
        return learner

    tasks, judged_on = data_set.load(config, 0)
    tasks = [replace(t, make_model=lambda: fashion_mnist.make_model(HIDDEN)) for t in tasks]
    run_together(
        tasks, config, evaluate_on=judged_on, evaluate_in=lambda number: False, make_learner=make
    )
    totals = watched[0].totals
    return watched[0].schema, ((f"round {r}", totals[r - 1]) for r in KEPT_ROUNDS)


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peak_models(work: Callable[[], object], schema: ModelSchema) -> float:
    """Return the most memory that is held at a time, in models."""
    tracemalloc.start()
    try:
        # `new_array` maps large arrays on their own, where tracemalloc does not see them.
        with mock.patch("semantic_net.semantic.sparsify.new_array", np.empty):
            work()
        return tracemalloc.get_traced_memory()[1] / schema.dense_bytes
    finally:
        tracemalloc.stop()


def measure(name: str, codec: Codec, total: Tensor, schema: ModelSchema, rounds: int) -> str:
    """Return a line of the table."""
    spare = total.clone()
    payload = encode(total, schema, codec).payload

    def ours() -> object:
        return encode(spare, schema, codec, overwrite=True)

    def back() -> object:
        return parse_payload(codec.mode, payload, schema)

    def top() -> object:
        return torch.topk(total, round(0.03 * total.numel()))

    times: list[tuple[float, float, float]] = []
    for _ in range(rounds):
        spare.copy_(total)
        times.append((seconds(top), seconds(ours), seconds(back)))
    encode_ratio, decode_ratio = (
        statistics.median(row[column] / row[0] for row in times) for column in (1, 2)
    )
    top_ms, encode_ms, decode_ms = (1e3 * min(column) for column in zip(*times, strict=True))
    spare.copy_(total)
    return (
        f"| {name} | {schema.dense_bytes / len(payload):.0f} | {encode_ms:.1f} | {decode_ms:.1f} | "
        f"{top_ms:.1f} | {encode_ratio:.2f} | {decode_ratio:.2f} | "
        f"{peak_models(ours, schema):.1f} | {peak_models(back, schema):.1f} |"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=31)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not fashion_mnist.is_there():
        raise SystemExit(fashion_mnist.MISSING)
    print(f"{platform.machine()}, one thread, torch {torch.__version__}\n")
    print(
        "| update | codec | times smaller | encode, ms | decode, ms | torch.topk, ms "
        "| encode / topk | decode / topk | encode, models of memory | decode |\n"
        "|---|---|---|---|---|---|---|---|---|---|"
    )
    for name, codec in CODECS.items():
        schema, updates = learned(codec)
        for update, total in updates:
            print(f"| {update} {measure(name, codec, total, schema, arguments.rounds)}")
        generator = torch.Generator().manual_seed(0)
        noise = 1e-3 * torch.randn(schema.size, generator=generator)
        print(f"| noise {measure(name, codec, noise, schema, arguments.rounds)}")


if __name__ == "__main__":
    main()
