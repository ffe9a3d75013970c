"""A simulated peer's learner: the real one, whose trainings an engine does, and a device's costs.

What is a pure function of bytes that all peers get (the parsing of a payload) is done once for all.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semantic_net.aggregation.state import FoldState
from semantic_net.config import AggregationConfig, Config
from semantic_net.federated.base_store import BaseStore
from semantic_net.federated.learner import ModelLearner
from semantic_net.federated.parts import Encoded, Trained
from semantic_net.protocol.actions import FoldPlan
from semantic_net.protocol.update import Update, UpdateId, hash_payload
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.decoder import ParsedDelta
from semantic_net.semantic.flat import flatten, load_flat
from semantic_net.simulation.engines import Engine, Jobs
from semantic_net.simulation.network_plan import DeviceCosts
from semantic_net.simulation.worker import as_arrays, as_tensors
from semantic_net.task.base import Task
from semantic_net.training.sampler import batch_sizes
from semantic_net.training.state import State
from semantic_net.training.trainer import Trainer, TrainResult, make_initial_model

MAX_PARSED = 256
"""Payloads of which all peers share what they parse to."""


class RemoteTrainer(Trainer):
    """A trainer whose rounds an engine runs; the model is here, the data is not."""

    def __init__(
        self, config: Config, task: Task, index: int, engine: Engine, jobs: Jobs | None
    ) -> None:
        """Make the model, and let the peer's worker begin anew.

        Args:
            config: Of the peers.
            task: Without data.
            index: The peer's.
            engine: Trains.
            jobs: Told when there is only a worker to wait for.
        """
        model = make_initial_model(task, config.task.seed, config.training.local_layers)
        on_cpu = dataclasses.replace(config.training, device="cpu")
        super().__init__(task, on_cpu, seed=index, model=model)
        self._index = index
        self._engine = engine
        self._jobs = jobs
        self._has_noise = config.privacy.noise_multiplier is not None
        engine.call("reset", index)
        length = max(engine.call("num_examples", index), 1)
        cfg = config.training
        self.num_steps = len(
            batch_sizes(length, cfg.batch_size, steps=cfg.steps, epochs=cfg.epochs)
        )
        """Of a round."""

    @property
    def is_private(self) -> bool:
        """Whether there is noise on what is learned, and an account of it."""
        return self._has_noise

    def train_round(self, round_index: int, stop: threading.Event) -> TrainResult:
        """Train the model for one round; ``stop`` is of no use: no real time passes."""
        done = self._call("train", round_index, flatten(self.model).numpy())
        load_flat(self.model, done.flat)
        self._load_local(as_tensors(done.local))
        result: TrainResult = done.result
        return result

    def evaluate(self) -> dict[str, float]:
        """Return the metrics of the model on the peer's validation data."""
        found: dict[str, float] = self._call("evaluate", flatten(self.model).numpy())
        return found

    def count_lost_rounds(self, number: int) -> None:
        """Account for the privacy of rounds that were published and that no state knows of."""
        if number:
            self._engine.call("count_lost_rounds", self._index, number)

    def state(self) -> State:
        """Return what the next round depends on beside the model."""
        found: State = as_tensors(self._engine.call("state", self._index))
        return found

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._engine.call("load_state", self._index, as_arrays(state))

    def _call(self, method: str, *arguments: Any) -> Any:
        if self._jobs is not None:
            self._jobs.waits_for_worker()
        return self._engine.call(method, self._index, *arguments)


class SharedParsing:
    """Parses each payload once for all peers; they get the same object, and change nothing."""

    def __init__(self) -> None:
        self._parsed: OrderedDict[tuple[str, bytes], ParsedDelta] = OrderedDict()

    def get(
        self, codec: str, payload: memoryview, parse: Callable[[str, memoryview], ParsedDelta]
    ) -> ParsedDelta:
        """Return what a payload parses to."""
        key = codec, hash_payload(payload)
        parsed = self._parsed.get(key)
        if parsed is None:
            parsed = self._parsed[key] = parse(codec, payload)
            if len(self._parsed) > MAX_PARSED:
                self._parsed.popitem(last=False)
        return parsed


@dataclass(frozen=True, slots=True)
class Device:
    """What a simulated learner costs, and with whom it shares."""

    costs: DeviceCosts
    spend: Callable[[float], None]
    parsing: SharedParsing


class SimulatedLearner(ModelLearner):
    """A learner that says what a device would have taken."""

    def __init__(
        self,
        device: Device,
        trainer: Trainer,
        aggregation: AggregationConfig,
        bases: BaseStore,
        *,
        base: UpdateId | None,
        cache_dir: Path | None,
    ) -> None:
        """Take the device; the rest is as in `ModelLearner`."""
        self._device = device
        super().__init__(trainer, aggregation, bases, base=base, cache_dir=cache_dir)

    def train(self, round_index: int, *, is_ahead: bool = False) -> Trained:
        """Train for a round; see `LocalLearner.train`."""
        assert isinstance(self.trainer, RemoteTrainer), "an engine trains"
        self._device.spend(self._device.costs.train_s(self.trainer.num_steps))
        return super().train(round_index, is_ahead=is_ahead)

    def encode(self, codec: Codec, max_bytes: int | None = None) -> Encoded:
        """Encode what training changed; see `LocalLearner.encode`."""
        self._device.spend(self._device.costs.encode_s(self.schema.num_parameters))
        return super().encode(codec, max_bytes)

    def parse(self, codec: str, payload: memoryview) -> ParsedDelta:
        """Return what the fold reads; see `ModelLearner.parse`."""
        return self._device.parsing.get(codec, payload, super().parse)

    def evaluate(self) -> dict[str, float]:
        """Return the metrics of the model; see `LocalLearner.evaluate`."""
        self._device.spend(self._device.costs.evaluate_s)
        return super().evaluate()

    def _fold(self, plan: FoldPlan, parsed: Callable[[Update], ParsedDelta]) -> FoldState:
        updates = sum(len(plan.rounds[n]) for n in plan.rounds if n >= plan.changed_from)
        self._device.spend(self._device.costs.fold_s(self.schema.num_parameters, updates))
        return super()._fold(plan, parsed)
