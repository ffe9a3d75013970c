"""The model's side of a peer: training, codecs and the exact fold, behind one narrow face.

The model's parameters are only ever two things: the float32 view of the fold, which is what is
evaluated and shared, or that view plus some of what this peer has learned and not sent, which is
where its training goes on from (docs/decisions/0007). The state itself is the fold's whole numbers.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semantic_net.aggregation.fold import FoldConfig
from semantic_net.aggregation.folder import Folder, Start
from semantic_net.aggregation.rules import Contribution
from semantic_net.aggregation.state import FoldState
from semantic_net.buffers import trim_heap
from semantic_net.config import AggregationConfig
from semantic_net.errors import CheckpointError, RemoteProtocolError, TrainingError
from semantic_net.federated.base_store import BaseStore
from semantic_net.federated.parts import Encoded, LearningStoppedError, Trained
from semantic_net.federated.snapshot import decode_base, encode_snapshot, read_history, read_start
from semantic_net.fixed_point import Float32Array
from semantic_net.protocol.actions import FoldPlan
from semantic_net.protocol.bases import Base
from semantic_net.protocol.history import History
from semantic_net.protocol.update import Update, UpdateId
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.decoder import ParsedDelta, parse_payload
from semantic_net.semantic.encoder import encode
from semantic_net.semantic.flat import flatten, load_flat
from semantic_net.semantic.schema import ModelSchema
from semantic_net.training.trainer import Trainer, TrainingInterrupted

log = logging.getLogger(__name__)

REACH = 0.5
"""How far from the shared model a round's training may begin, along the residual: in lengths of
what the training before has changed."""

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
        byzantine_ratio=aggregation.byzantine_ratio,
        nearest_neighbour_mixing=aggregation.nearest_neighbour_mixing,
    )


class ModelLearner:
    """Trains, encodes and folds one torch model."""

    reach = REACH

    def __init__(
        self,
        trainer: Trainer,
        aggregation: AggregationConfig,
        bases: BaseStore,
        *,
        base: UpdateId | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        """Take the trainer, and a base to start from.

        Args:
            trainer: Trains the model in place.
            aggregation: How updates become a state.
            bases: Where bases lie.
            base: One of them; None makes the trainer's model the origin.
            cache_dir: Where large fold states of earlier rounds may lie.

        Raises:
            CheckpointError: The base is damaged, or of another model.
        """
        self.trainer = trainer
        self.schema = ModelSchema.of(trainer.model)
        self.fold_config = fold_config_of(self.schema, aggregation)
        self.bases = bases
        self.residual: Tensor | None = None
        """(schema.size,) float32: what the own updates left over; None for nothing."""
        self.taken_back: dict[UpdateId, int] = {}
        """The rounds of the own updates that are taken back: the residual has carried them."""
        self.changed_norm = 0.0
        """Length of what the last training has changed, of the parameters; 0 before the first."""
        self._trained_from: Tensor | None = None
        """What of the residual was in the model when training began."""
        self._set_aside: Tensor | None = None
        """(schema.size,) float32: what was trained ahead of the fold."""
        self._cache_dir = cache_dir
        self._stop = threading.Event()
        if base is None:
            base, _ = bases.put([self._origin()])
            bases.settle(base)
        self.base: UpdateId = base
        """What the last fold stands on."""
        self.history, start = self._read_base(self.base)
        """Of the base."""
        self._folder = self._new_folder(self.history.frontier, start)
        self._view: Float32Array = np.empty(self.schema.size, np.float32)
        self._reference = torch.from_numpy(self._view)
        self._load(self._folder.fold(self.history.frontier, lambda number: ()))

    def history_of(self, data: memoryview, base: Base) -> History:
        """Return the history of a base that has arrived; runs in any thread.

        Raises:
            RemoteProtocolError: It is not what its peer said.
        """
        return decode_base(data, base, self.fold_config)

    def make_base(
        self, plan: FoldPlan, history: History, parsed: Callable[[Update], ParsedDelta]
    ) -> tuple[UpdateId, int]:
        """Store the base that includes all that a plan folds; return its digest and its size."""
        self._stand_on(plan.base)
        made = self.bases.put(encode_snapshot(history, self._fold(plan, parsed)))
        self._folder.let_go(plan.through)
        return made

    def parse(self, codec: str, payload: memoryview) -> ParsedDelta:
        """Return what the fold reads; runs in any thread.

        Raises:
            RemoteProtocolError: The payload breaks its codec or the schema.
        """
        return parse_payload(codec, payload, self.schema)

    def fold(self, plan: FoldPlan, parsed: Callable[[Update], ParsedDelta]) -> bytes:
        """Fold a plan, load the model with the state, and return the state's digest."""
        self._stand_on(plan.base)
        state = self._fold(plan, parsed)
        self._load(state)
        self._trim()
        return bytes.fromhex(state.digest)

    def train(self, round_index: int, *, is_ahead: bool = False) -> Trained:
        """Train for a round.

        Args:
            round_index: From 1.
            is_ahead: The round before is not folded yet: go on from what it has trained, and set
                aside what changes. The delta is then one fold stale.

        Raises:
            TrainingError: No update can come of it.
            LearningStoppedError: ``stop`` was called.
        """
        before = None
        if is_ahead:
            before = flatten(self.trainer.model)
        else:
            self._trained_from = self._within_reach()
            if self._trained_from is not None:
                self._load_vector(self._reference + self._trained_from)
        try:
            result = self.trainer.train_round(round_index, self._stop)
        except TrainingInterrupted as exc:
            raise LearningStoppedError(str(exc)) from exc
        except TrainingError:
            self._trained_from = None  # as large as the model
            raise
        if before is not None:
            self._set_aside = flatten(self.trainer.model).sub_(before)
        self._trim()
        return Trained(result.loss, result.num_examples, result.notes, result.epsilon)

    def encode(self, codec: Codec, max_bytes: int | None = None) -> Encoded:
        """Encode what training changed and the residual; what is left is the new residual.

        Args:
            codec: Mode and strength.
            max_bytes: Most that the payload should take, for which less may be kept.

        Raises:
            TrainingError: Training has left the finite numbers.
        """
        total, self._set_aside = self._set_aside, None
        if total is None:
            total = flatten(self.trainer.model).sub_(self._reference)
            if self._trained_from is not None:
                total -= self._trained_from
                self._trained_from = None  # as large as the model
        else:
            # What comes next is trained from there, as if the fold had come first.
            self._load_vector(self._reference + total)
        parameters = total[: self.schema.num_parameters]
        # Finite entries have a finite length in float64, whatever they are.
        changed_norm = float(torch.linalg.vector_norm(parameters, dtype=torch.float64))
        if self.residual is not None:
            total += self.residual
        encoded = encode(total, self.schema, codec, max_bytes=max_bytes, overwrite=True)
        self.residual, self.changed_norm = encoded.residual, changed_norm
        del total
        self._trim()
        return Encoded(encoded.codec, encoded.payload, self.schema.dense_bytes, encoded.kept_ratio)

    def take_back(self, own: Update, parsed: ParsedDelta) -> None:
        """Add to the residual, once, what an own update carried: it does not count any more."""
        if own.id not in self.taken_back:
            carried = self._carried(parsed)
            self.residual = carried if self.residual is None else self.residual + carried
            self.taken_back[own.id] = own.round

    def count_again(self, own: Update, parsed: ParsedDelta) -> None:
        """Subtract from the residual what was taken back of an own update: it counts after all."""
        if own.id in self.taken_back:
            carried = self._carried(parsed)
            self.residual = -carried if self.residual is None else self.residual - carried
            del self.taken_back[own.id]

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

    def _within_reach(self) -> Tensor | None:
        """Return what of the residual training begins with; None for nothing."""
        if self.residual is None:
            return None
        length = float(torch.linalg.vector_norm(self.residual, dtype=torch.float64))
        limit = self.reach * self.changed_norm if self.changed_norm else 0.0
        if limit == 0:
            return None
        return self.residual.clone() if length <= limit else self.residual * (limit / length)

    def _carried(self, parsed: ParsedDelta) -> Tensor:
        carried = torch.from_numpy(parsed.to_float32()).to(self.trainer.device)
        carried[self.schema.num_parameters :] = 0  # buffers are sent anew each round
        return carried

    def _load_vector(self, flat: Tensor) -> None:
        load_flat(self.trainer.model, flat.cpu().numpy())

    def _trim(self) -> None:
        # What training took and let go of would stay on the heap, beside the buffers of the
        # exchange; taking it anew each round costs less than a training step.
        if self._is_large:
            trim_heap()

    def _fold(self, plan: FoldPlan, parsed: Callable[[Update], ParsedDelta]) -> FoldState:
        def contributions(number: int) -> list[Contribution]:
            return [Contribution(parsed(u), u.weight, u.id) for u in plan.rounds.get(number, ())]

        return self._folder.fold(plan.through, contributions, changed_from=plan.changed_from)

    def _stand_on(self, base: UpdateId) -> None:
        if base == self.base:
            return
        self.history, start = self._read_base(base)
        self.base = base
        self._folder.rebase(self.history.frontier, start)

    def _read_base(self, base: UpdateId) -> tuple[History, Start]:
        """Return its history, and its state; that of a large model is read when needed."""
        try:
            history = read_history(self.bases.read_checked(base), base, self.fold_config)
        except RemoteProtocolError as exc:
            raise CheckpointError(f"base {base.hex()[:16]}: {exc}") from exc
        start = functools.partial(self._read_start, base)
        return history, start if self._is_large else start()

    def _read_start(self, base: UpdateId) -> FoldState:
        try:
            return read_start(self.bases.read_checked(base), self.fold_config)
        except RemoteProtocolError as exc:
            raise CheckpointError(f"base {base.hex()[:16]}: {exc}") from exc

    @property
    def _is_large(self) -> bool:
        return self.schema.dense_bytes >= LARGE_BYTES

    def _origin(self) -> memoryview:
        values = flatten(self.trainer.model).cpu().numpy()
        return values.astype("<f4", copy=False).data.cast("B")

    def _new_folder(self, start_round: int, start: Start) -> Folder:
        folder = functools.partial(
            Folder,
            self.fold_config,
            start,
            start_round=start_round,
            in_place=self._is_large,
        )
        try:
            return folder(cache_dir=self._cache_dir)
        except OSError as exc:
            log.warning("fold cache %s: %s; going on without one", self._cache_dir, exc.strerror)
            return folder()

    def _load(self, state: FoldState) -> None:
        state.to_float32(out=self._view)
        self.schema.keep_bounds(self._view)
        load_flat(self.trainer.model, self._view)
        # On the CPU this is the view itself, and no copy of it.
        self._reference = torch.from_numpy(self._view).to(self.trainer.device)
