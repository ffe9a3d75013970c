"""A model that a run has left, ready to be used: with its task, whether data is here or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from semantic_net.config import Config, load_config
from semantic_net.errors import CheckpointError, ConfigError, DataError, StartError
from semantic_net.federated.shards import load_own, seed_of_peer
from semantic_net.federated.weights import load_into, load_state_dict
from semantic_net.monitoring.runs import read_run
from semantic_net.task import Task
from semantic_net.training.precision import resolve_device
from semantic_net.training.trainer import make_initial_model

CONFIG_FILE = "config.yaml"
MODELS = {"best": "model_best.safetensors", "last": "model.safetensors"}
"""Files of a run, by what ``--model`` calls them."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run has come to."""

    config: Config
    task: Task
    model: nn.Module
    """In eval mode, on its device."""
    device: torch.device
    weights: Path

    def example(self) -> Tensor:
        """Return one input, without a batch.

        Raises:
            ConfigError: The task has none, and no data is here.
        """
        if self.task.example is not None:
            return self.task.example
        if len(self.task.val_data):
            return self.task.val_data[0][0]
        raise ConfigError(
            f"task.name: {self.config.task.name}: its Task has no example, and there is no data to "
            "take one from"
        )


def load_trained(
    run: Path, which: str = "best", overrides: Sequence[str] = (), *, needs_data: bool = False
) -> Trained:
    """Load the model of a run.

    Args:
        run: Its folder (``--out``).
        which: ``best``, ``last``, or a safetensors file. A run without a best one gives its last.
        overrides: Of the run's configuration.
        needs_data: Load the data of the task as well; shards are as the run had them.

    Raises:
        StartError: The folder is no run's, or the data is not usable.
        ConfigError: The configuration does not fit.
        CheckpointError: There are no weights, or another model's.
    """
    file = run / CONFIG_FILE
    if not file.is_file():
        raise StartError(f"{run}: no run's folder: it has no {CONFIG_FILE}")
    config = load_config(file, overrides)
    weights = _weights(run, which)
    task = load_own(config, _seed(config, run), observe=not needs_data)
    model = make_initial_model(task, config.task.seed, config.training.local_layers)
    load_into(model, load_state_dict(weights), str(weights))
    device = resolve_device(config.training.device)
    return Trained(config, task, model.to(device).eval(), device, weights)


def _seed(config: Config, run: Path) -> int:
    """Return the seed that decided which synthetic region was the run's own."""
    if config.data.partition.shard is not None:
        return config.data.partition.shard
    try:
        [own] = read_run(run)
    except DataError:  # no round has closed; whatever the data, there is no figure to repeat
        return 0
    return seed_of_peer(own.records[-1].peer) if own.role == "peer" else 0


def _weights(run: Path, which: str) -> Path:
    if which not in MODELS:
        if not Path(which).exists():
            raise CheckpointError(f"--model {which}: neither best nor last, nor a file")
        return Path(which)
    parts = sorted(path.parent.name for path in run.glob(f"*/{MODELS['last']}"))
    if parts and not (run / MODELS["last"]).exists():
        raise StartError(f"{run}: of several processes; give one of them: {', '.join(parts)}")
    found = run / MODELS[which]
    if which == "best" and not found.exists():
        found = run / MODELS["last"]
    if not found.exists():
        raise CheckpointError(f"{run}: has no {found.name} yet: no round has closed")
    return found
