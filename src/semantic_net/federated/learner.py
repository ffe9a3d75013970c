"""The model's side of a peer: training, codecs and the exact fold, behind one narrow face.

What is shared is the float32 view of the fold (`semantic_net.federated.local` says what becomes of
it); the state itself is the fold's whole numbers.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path

from semantic_net.aggregation.fold import FoldConfig
from semantic_net.aggregation.folder import Folder, Start
from semantic_net.aggregation.rules import Contribution
from semantic_net.aggregation.state import FoldState
from semantic_net.config import AggregationConfig
from semantic_net.errors import CheckpointError, RemoteProtocolError
from semantic_net.federated.base_store import BaseStore
from semantic_net.federated.local import LocalLearner
from semantic_net.federated.snapshot import (
    BaseSizes,
    decode_base,
    encode_snapshot,
    read_history,
    read_start,
)
from semantic_net.protocol.actions import FoldPlan
from semantic_net.protocol.bases import Base
from semantic_net.protocol.history import History
from semantic_net.protocol.update import Update, UpdateId
from semantic_net.semantic.decoder import ParsedDelta, max_payload_bytes, parse_payload
from semantic_net.semantic.flat import flatten
from semantic_net.semantic.schema import ModelSchema
from semantic_net.training.trainer import Trainer

log = logging.getLogger(__name__)


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


class ModelLearner(LocalLearner):
    """Trains, encodes and folds one torch model."""

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
        super().__init__(trainer)
        self.fold_config = fold_config_of(self.schema, aggregation)
        self.bases = bases
        self.taken_back: dict[UpdateId, int] = {}
        """The rounds of the own updates that are taken back: the residual has carried them."""
        self._cache_dir = cache_dir
        if base is None:
            base, _ = bases.put([self._origin()])
            bases.settle(base)
        self.base: UpdateId = base
        """What the last fold stands on."""
        self.history, start = self._read_base(self.base)
        """Of the base."""
        self._folder = self._new_folder(self.history.frontier, start)
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

    def take_back(self, own: Update, parsed: ParsedDelta) -> None:
        """Add to the residual, once, what an own update carried: it does not count any more."""
        if own.id not in self.taken_back:
            self.give_back(parsed)
            self.taken_back[own.id] = own.round

    def count_again(self, own: Update, parsed: ParsedDelta) -> None:
        """Subtract from the residual what was taken back of an own update: it counts after all."""
        if own.id in self.taken_back:
            carried = self._carried(parsed)
            self.residual = -carried if self.residual is None else self.residual - carried
            del self.taken_back[own.id]

    @property
    def base_sizes(self) -> BaseSizes:
        """What the transfer forms of bases take."""
        return BaseSizes.of(self.fold_config)

    def parsed_bytes(self, parsed: ParsedDelta) -> int:
        """Return what a parsed payload takes in memory beside the payload."""
        return parsed.own_bytes

    def max_payload_bytes(self, codec: str) -> int | None:
        """Return the size of the largest payload of a codec; None for an unknown one."""
        return max_payload_bytes(codec, self.schema)

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
        self._load_view()
