"""The trainings of some simulated peers, by number: what an engine runs, wherever it runs it.

A model travels as one flat vector, so that nothing of a process stays behind in what it returns:
the same call gives the same result in this process, in a pool's, and on another machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semantic_net.config import Config
from semantic_net.federated.shards import Joined, common_validation, load_shard
from semantic_net.fixed_point import Float32Array
from semantic_net.semantic.flat import flatten, load_flat
from semantic_net.semantic.schema import local_tensors
from semantic_net.task.base import MapDataset, Task
from semantic_net.training.trainer import Trainer, TrainResult, make_initial_model

MAX_EVALUATIONS = 64
"""Results that are remembered, where peers are judged on the same data."""


@dataclass(frozen=True, slots=True)
class Round:
    """What a round of training has led to."""

    flat: Float32Array
    """The trained model, (schema.size,)."""
    result: TrainResult
    local: dict[str, Any]
    """What of it never travels between peers, as arrays."""


def config_of(config: Config, index: int) -> Config:
    """Return the configuration of one peer: its own shard of the data."""
    partition = dataclasses.replace(config.data.partition, shard=index)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, partition=partition))


class Worker:
    """Trains and evaluates for some peers."""

    def __init__(self, config: Config) -> None:
        """Take what the peers have in common; data is loaded when it is asked for."""
        torch.set_num_threads(config.training.num_threads or 1)
        self._config = config
        self._tasks: dict[int, Task] = {}
        self._judged_on: MapDataset | None = None
        self._trainers: dict[int, Trainer] = {}
        self._found: dict[bytes, dict[str, float]] = {}
        partition = config.data.partition
        self._is_common = partition.validation == "all" and not config.training.local_layers

    def num_examples(self, index: int) -> int:
        """Return how many examples a peer trains on."""
        return len(self._task(index).train_data)

    def reset(self, index: int) -> None:
        """Let a peer begin anew."""
        self._trainers.pop(index, None)

    def train(self, index: int, round_index: int, flat: Float32Array) -> Round:
        """Train a model for a round on a peer's data.

        Raises:
            TrainingError: No update can come of it.
        """
        trainer = self._trainer(index)
        load_flat(trainer.model, flat)
        result = trainer.train_round(round_index, threading.Event())
        local = as_arrays(local_tensors(trainer.model))
        return Round(flatten(trainer.model).cpu().numpy(), result, local)

    def evaluate(self, index: int, flat: Float32Array) -> dict[str, float]:
        """Return the metrics of a model on a peer's validation data.

        Raises:
            TrainingError: It does not fit into memory.
        """
        key = hashlib.sha256(np.ascontiguousarray(flat).data).digest()
        if self._is_common and key in self._found:
            return dict(self._found[key])
        trainer = self._trainer(index)
        load_flat(trainer.model, flat)
        found = trainer.evaluate()
        if self._is_common:
            if len(self._found) >= MAX_EVALUATIONS:
                del self._found[next(iter(self._found))]
            self._found[key] = found
        return dict(found)

    def state(self, index: int) -> dict[str, Any]:
        """Return what a peer's next round depends on beside the model, as arrays."""
        found: dict[str, Any] = as_arrays(self._trainer(index).state())
        return found

    def load_state(self, index: int, state: Mapping[str, Any]) -> None:
        """Let a peer go on from a state, of arrays.

        Raises:
            CheckpointError: It is another model's.
        """
        self._trainer(index).load_state(as_tensors(state))

    def count_lost_rounds(self, index: int, number: int) -> None:
        """Account for the privacy of rounds that were published and that no state knows of."""
        self._trainer(index).count_lost_rounds(number)

    def _task(self, index: int) -> Task:
        if index not in self._tasks:
            task = load_shard(self._config, index)
            if self._config.data.partition.validation != "own":
                task = dataclasses.replace(task, val_data=self._common())
            self._tasks[index] = task
        return self._tasks[index]

    def _common(self) -> MapDataset:
        """Return what all peers are judged on; to gather it takes the data of each of them."""
        if self._judged_on is None:
            is_all = self._config.data.partition.validation == "all"
            self._judged_on = common_validation(self._config) if is_all else Joined([])
        return self._judged_on

    def _trainer(self, index: int) -> Trainer:
        if index not in self._trainers:
            config, task = self._config, self._task(index)
            model = make_initial_model(task, config.task.seed, config.training.local_layers)
            self._trainers[index] = Trainer(
                task, config.training, seed=index, model=model, privacy=config.privacy
            )
        return self._trainers[index]


def as_arrays(tree: Any) -> Any:
    """Return nested dicts and lists with arrays of their own in the place of tensors.

    Between processes torch would share tensors by files that somebody has to keep open.
    """
    if isinstance(tree, Tensor):
        return tree.detach().cpu().numpy().copy()
    return _mapped(tree, as_arrays)


def as_tensors(tree: Any) -> Any:
    """Return nested dicts and lists with tensors in the place of arrays."""
    if isinstance(tree, np.ndarray):
        # What comes from Ray lies in memory that is shared, and must not be written to.
        return torch.from_numpy(tree if tree.flags.writeable else tree.copy())
    return _mapped(tree, as_tensors)


def _mapped(tree: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(tree, Mapping):
        return {key: convert(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(convert(value) for value in tree)
    return tree
