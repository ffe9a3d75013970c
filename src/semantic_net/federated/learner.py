"""The model's side of a peer: training, codecs and the exact fold, behind one narrow face.

The model's parameters are only ever two things: the float32 view of the fold, or that view plus
what local training changed. The state itself is the fold's whole numbers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semantic_net.aggregation.fold import FoldConfig
from semantic_net.aggregation.folder import Folder
from semantic_net.aggregation.rules import Contribution
from semantic_net.aggregation.state import FoldState, start_state
from semantic_net.buffers import trim_heap
from semantic_net.config import AggregationConfig, SemanticConfig
from semantic_net.federated.peer import Encoded, LearningStoppedError, Trained
from semantic_net.fixed_point import Float32Array
from semantic_net.protocol.actions import FoldPlan
from semantic_net.protocol.update import Update, UpdateId, hash_payload
from semantic_net.semantic.decoder import ParsedDelta, parse_payload
from semantic_net.semantic.encoder import encode
from semantic_net.semantic.flat import flatten, load_flat
from semantic_net.semantic.payloads import largest_magnitude
from semantic_net.semantic.schema import ModelSchema
from semantic_net.training.trainer import Trainer, TrainingInterrupted

log = logging.getLogger(__name__)

LARGE_BYTES = 8 << 20
"""Float32 size from which on a model is folded in place, with few states of the past, on disk."""


def fold_config_of(schema: ModelSchema, aggregation: AggregationConfig) -> FoldConfig:
    """Return how a model's updates become its state."""
    return FoldConfig.of(
        num_parameters=schema.num_parameters,
        num_buffers=schema.num_buffers,
        outer_momentum=aggregation.outer_momentum,
        outer_lr=aggregation.outer_lr,
        rule=aggregation.rule,
    )


class ModelLearner:
    """Trains, encodes and folds one torch model."""

    def __init__(
        self,
        trainer: Trainer,
        semantic: SemanticConfig,
        aggregation: AggregationConfig,
        cache_dir: Path | None = None,
    ) -> None:
        """Take the trainer, whose model holds the base.

        Args:
            trainer: Trains the model in place.
            semantic: How an update becomes bytes.
            aggregation: How updates become a state.
            cache_dir: Where large fold states of earlier rounds may lie.
        """
        self.trainer = trainer
        self.schema = ModelSchema.of(trainer.model)
        self.fold_config = fold_config_of(self.schema, aggregation)
        self._base_digest: UpdateId | None = None
        self.base_given = False
        """The base was given by hand, on whichever peer."""
        self.residual: Tensor | None = None
        """(schema.size,) float32: what the own updates left over; None for nothing."""
        self._semantic = semantic
        self._cache_dir = cache_dir
        self._stop = threading.Event()
        self._base: Float32Array = flatten(trainer.model).cpu().numpy()
        self._folder = self._new_folder()
        self._view = np.empty_like(self._base)
        self._reference = torch.from_numpy(self._view)
        self._load(self._folder.fold(0, lambda number: ()))

    def base(self) -> memoryview:
        """Return the base in its transfer form: little-endian float32."""
        return self._base.astype("<f4", copy=False).data.cast("B")

    @property
    def base_digest(self) -> UpdateId:
        """The hash of the base's transfer form."""
        if self._base_digest is None:
            self._base_digest = hash_payload(self.base())
        return self._base_digest

    def is_base(self, base: memoryview) -> bool:
        """Tell whether a base has this model's size and is finite; runs in any thread."""
        if len(base) != 4 * self.schema.size:
            return False
        return largest_magnitude(np.frombuffer(base, "<f4")) < np.inf

    def adopt_base(self, base: memoryview, given: bool) -> None:
        """Fold on another base from now on; its bytes must not change."""
        self.base_given, self._base_digest = given, None
        self._base = np.frombuffer(base, "<f4").astype(np.float32, copy=False)
        self._folder = self._new_folder()

    def parse(self, codec: str, payload: memoryview) -> ParsedDelta:
        """Return what the fold reads; runs in any thread.

        Raises:
            RemoteProtocolError: The payload breaks its codec or the schema.
        """
        return parse_payload(codec, payload, self.schema)

    def fold(self, plan: FoldPlan, parsed: Callable[[Update], ParsedDelta]) -> bytes:
        """Fold a plan, load the model with the state, and return the state's digest."""

        def contributions(number: int) -> list[Contribution]:
            return [Contribution(parsed(u), u.weight) for u in plan.rounds.get(number, ())]

        state = self._folder.fold(plan.through, contributions, changed_from=plan.changed_from)
        self._load(state)
        self._trim()
        return bytes.fromhex(state.digest)

    def train(self, round_index: int) -> Trained:
        """Train for a round.

        Raises:
            TrainingError: No update can come of it.
            LearningStoppedError: ``stop`` was called.
        """
        try:
            result = self.trainer.train_round(round_index, self._stop)
        except TrainingInterrupted as exc:
            raise LearningStoppedError(str(exc)) from exc
        self._trim()
        return Trained(result.loss, result.num_examples, result.notes)

    def encode(self) -> Encoded:
        """Encode what training changed and the residual; what is left is the new residual.

        Raises:
            TrainingError: Training has left the finite numbers.
        """
        total = flatten(self.trainer.model).sub_(self._reference)
        if self.residual is not None:
            total += self.residual
        encoded = encode(total, self.schema, self._semantic, overwrite=True)
        self.residual = encoded.residual
        return Encoded(encoded.codec, encoded.payload, self.schema.dense_bytes)

    def take_back(self, parsed: ParsedDelta) -> None:
        """Add to the residual what an own update carried, since nobody may ever fold it."""
        back = torch.from_numpy(parsed.to_float32()).to(self.trainer.device)
        back[self.schema.num_parameters :] = 0  # buffers are sent anew each round
        self.residual = back if self.residual is None else self.residual + back

    def evaluate(self) -> dict[str, float]:
        """Return the validation metrics of the model.

        Raises:
            TrainingError: It does not fit into memory.
        """
        return self.trainer.evaluate()

    def restore(self) -> None:
        """Load the model with the last fold again: without what training has changed since."""
        load_flat(self.trainer.model, self._view)

    def stop(self) -> None:
        """Make a running ``train`` end early."""
        self._stop.set()

    def _trim(self) -> None:
        # What training took and let go of would stay on the heap, beside the buffers of the
        # exchange; taking it anew each round costs less than a training step.
        if self.schema.dense_bytes >= LARGE_BYTES:
            trim_heap()

    def _new_folder(self) -> Folder:
        momentum = self.fold_config.beta > 0
        start = start_state(self._base, self.schema.num_parameters, momentum=momentum)
        in_place = self.schema.dense_bytes >= LARGE_BYTES
        try:
            return Folder(self.fold_config, start, cache_dir=self._cache_dir, in_place=in_place)
        except OSError as exc:
            log.warning("fold cache %s: %s; going on without one", self._cache_dir, exc.strerror)
            return Folder(self.fold_config, start, in_place=in_place)

    def _load(self, state: FoldState) -> None:
        state.to_float32(out=self._view)
        self.schema.keep_bounds(self._view)
        load_flat(self.trainer.model, self._view)
        # On the CPU this is the view itself, and no copy of it.
        self._reference = torch.from_numpy(self._view).to(self.trainer.device)
