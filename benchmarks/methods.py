"""What the benchmarks compare: the shipped modes, and methods from the literature beside them.

A method beside ours is an encoder and a parser of its own, put into the tables of codecs; all the
rest of a run (residual, fold, sockets, counting) is the same for all.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from in_process import MakeLearner, plain_learner
from torch import Tensor

from semantic_net.config import Config
from semantic_net.federated.base_store import BaseStore
from semantic_net.federated.learner import ModelLearner
from semantic_net.federated.parts import Encoded, Trained
from semantic_net.fixed_point import Float32Array
from semantic_net.semantic import encoder, payloads
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.deltas import DenseFloats, ParsedDelta
from semantic_net.semantic.flat import flatten
from semantic_net.semantic.reader import PayloadReader
from semantic_net.semantic.schema import ModelSchema
from semantic_net.training import Trainer
from semantic_net.training.state import trained_parameters


@dataclass(frozen=True, slots=True)
class Method:
    """One way to trade bytes for accuracy."""

    name: str
    text: str
    overrides: tuple[str, ...]
    """Of the configuration."""
    make_learner: MakeLearner = field(default=plain_learner)
    codec: Codec | None = None
    """Of all rounds; None: as the configuration says."""


class _NoFeedback(ModelLearner):
    """Forgets what the codec has dropped."""

    def encode(self, codec: Codec, max_bytes: int | None = None) -> Encoded:
        """Encode, and start over."""
        encoded = super().encode(codec, max_bytes)
        self.residual = None
        return encoded


def _no_feedback(trainer: Trainer, config: Config, bases: BaseStore) -> ModelLearner:
    return _NoFeedback(trainer, config.aggregation, bases)


class _FromShared(ModelLearner):
    """Trains from the shared model alone, as error feedback usually does (decision 7)."""

    reach = 0.0


class _FromAllUnsent(ModelLearner):
    """Trains from the shared model and all that is not sent yet."""

    reach = math.inf


def _from_shared(trainer: Trainer, config: Config, bases: BaseStore) -> ModelLearner:
    return _FromShared(trainer, config.aggregation, bases)


def _from_all_unsent(trainer: Trainer, config: Config, bases: BaseStore) -> ModelLearner:
    return _FromAllUnsent(trainer, config.aggregation, bases)


# SCAFFOLD's control variates (Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for
# Federated Learning", 2020, algorithm 1 with option II). With everybody in a round, the mean of the
# new variates is what the shared model has moved by, over steps and rate: no byte more is sent.


class _Correction:
    """Adds ``c - c_i`` to the gradients of each step (the paper's line 10)."""

    def __init__(self, parts: list[Tensor]) -> None:
        self._parts = parts

    @torch.no_grad()
    def add_to_gradients(self, parameters: Sequence[Tensor]) -> None:
        for parameter, part in zip(parameters, self._parts, strict=True):
            if parameter.grad is not None:
                parameter.grad += part.view_as(parameter)


class _ControlVariates(ModelLearner):
    """Corrects each step by how the own gradients differ from everybody's. SGD alone."""

    def __init__(self, trainer: Trainer, config: Config, bases: BaseStore) -> None:
        super().__init__(trainer, config.aggregation, bases)
        cfg, size = config.training, self.schema.num_parameters
        assert cfg.steps is not None
        assert cfg.optimizer == "sgd"
        self._steps = cfg.steps / (1 - cfg.momentum)  # momentum makes each step so much longer
        self._damping = 1 - config.aggregation.outer_momentum  # and what is shared moves so much on
        self._variate, self._mean = torch.zeros(size), torch.zeros(size)
        self._before: Tensor | None = None
        self._way = 0.0  # of the round before: steps times rate

    def train(self, round_index: int, *, is_ahead: bool = False) -> Trained:
        """Train with the correction, and make the next variate."""
        shared = self._reference[: self.schema.num_parameters].clone()
        if self._before is not None:
            self._mean = (self._before - shared) * self._damping / self._way
        self._before = shared
        sizes = [p.numel() for _, p in trained_parameters(self.trainer.model)]
        correction = torch.split(self._mean - self._variate, sizes)
        self.trainer._pull_to = lambda begun: _Correction(list(correction))  # type: ignore[method-assign,assignment,return-value]
        trained = super().train(round_index, is_ahead=is_ahead)
        start = shared
        if self._trained_from is not None:
            start = shared + self._trained_from[: self.schema.num_parameters]
        changed = flatten(self.trainer.model)[: self.schema.num_parameters] - start
        self._way = self._steps * self.trainer._optimizer.param_groups[0]["lr"]
        self._variate = self._variate - self._mean - changed / self._way
        return trained


# PowerSGD-like: each matrix as a product of two thin ones (Vogels et al., "PowerSGD: Practical
# Low-Rank Gradient Compression for Distributed Optimization", 2019), with error feedback. Two steps
# of subspace iteration from a fixed random start stand for the warm start of the paper.

RANK = 4
_STEPS = 2


def _shapes(schema: ModelSchema) -> Iterator[tuple[slice, int, int, bool]]:
    """Yield where each parameter lies, its rows and columns, and whether it is split."""
    for spec, start in zip(schema.parameters, schema.offsets, strict=False):
        rows = spec.shape[0] if len(spec.shape) > 1 else 1
        columns = spec.size // rows
        thin = RANK * (rows + columns) < spec.size and min(rows, columns) > RANK
        yield slice(start, start + spec.size), rows, columns, thin


def _encode_rank(total: Tensor, schema: ModelSchema, codec: Codec) -> encoder.Written:
    parts: list[Float32Array] = []
    flat = total.numpy()
    for here, rows, columns, thin in _shapes(schema):
        if not thin:
            parts.append(flat[here])
            continue
        matrix = torch.from_numpy(flat[here]).view(rows, columns)
        right = torch.randn(columns, RANK, generator=torch.Generator().manual_seed(0))
        for _ in range(_STEPS):
            left, _ = torch.linalg.qr(matrix @ right)
            right = matrix.T @ left
        parts += [left.numpy().ravel(), right.numpy().ravel()]
    parts.append(flat[schema.num_parameters :])
    return np.concatenate(parts).astype("<f4").tobytes(), None


def _parse_rank(reader: PayloadReader, schema: ModelSchema) -> ParsedDelta:
    flat = np.empty(schema.num_parameters, np.float32)
    for here, rows, columns, thin in _shapes(schema):
        if thin:
            left, _ = reader.floats(rows * RANK)
            right, _ = reader.floats(columns * RANK)
            flat[here] = (left.reshape(rows, RANK) @ right.reshape(columns, RANK).T).ravel()
        else:
            flat[here] = reader.floats(here.stop - here.start)[0]
    buffers = DenseFloats(*reader.floats(schema.num_buffers))
    return ParsedDelta(DenseFloats(flat, float(np.abs(flat).max(initial=0))), buffers)


@functools.cache
def register() -> None:
    """Put the methods of this file into the tables of codecs."""
    encoder._ENCODERS["power_sgd"] = _encode_rank
    payloads.CODECS["power_sgd"] = payloads._Codec(_parse_rank, lambda schema: schema.dense_bytes)


METHODS = {
    method.name: method
    for method in (
        Method("dense", "dense float32, momentum 0.5", ("semantic.preset=lossless",)),
        Method(
            "dense_plain",
            "dense float32, no momentum",
            ("semantic.preset=lossless", "aggregation.outer_momentum=0"),
        ),
        Method("int8", "int8", ("semantic.mode=weights_quantize", "semantic.bit_width=8")),
        Method("int4", "int4", ("semantic.mode=weights_quantize", "semantic.bit_width=4")),
        Method("power_sgd", f"PowerSGD-like, rank {RANK}", (), codec=Codec("power_sgd")),
        Method(
            "topk_no_feedback",
            "top 3% float32, no error feedback",
            ("semantic.mode=gradients_topk",),
            make_learner=_no_feedback,
        ),
        Method("topk", "top 3% float32", ("semantic.mode=gradients_topk",)),
        Method("balanced", "preset balanced", ("semantic.preset=balanced",)),
        Method("extreme", "preset extreme", ("semantic.preset=extreme",)),
        *(
            Method(
                f"{preset}_from_{start}",
                f"preset {preset}, trained from {text}",
                (f"semantic.preset={preset}",),
                make_learner=make,
            )
            for preset in ("balanced", "extreme")
            for start, text, make in (
                ("shared", "the shared model", _from_shared),
                ("all", "all that is unsent", _from_all_unsent),
            )
        ),
        *(
            Method(
                f"entropy_{share:g}",
                f"entropy_quantize, {share:g}%",
                ("semantic.mode=entropy_quantize", f"semantic.topk={share / 100:g}"),
            )
            for share in (3.0, 0.5, 0.3, 0.2)
        ),
        *(
            Method(
                f"prox_{mu:g}",
                f"preset balanced, FedProx with mu {mu:g}",
                ("semantic.preset=balanced", f"training.proximal_mu={mu:g}"),
            )
            for mu in (0.01, 0.1, 1.0)
        ),
        Method(
            "scaffold",
            "preset balanced, SCAFFOLD's control variates",
            ("semantic.preset=balanced",),
            make_learner=_ControlVariates,
        ),
        Method(
            "scaffold_dense",
            "dense float32, no momentum, SCAFFOLD's control variates",
            ("semantic.preset=lossless", "aggregation.outer_momentum=0"),
            make_learner=_ControlVariates,
        ),
        Method(
            "extreme_warm",
            "preset extreme, 3 rounds of warm-up",
            ("semantic.preset=extreme", "semantic.warmup_rounds=3"),
        ),
    )
}
"""By name, as in the commands."""

MAIN = ("dense", "balanced", "extreme", "entropy_0.3")
"""Those of the short benchmark."""
