"""The task with its data and its model, as a run would load them; and one step of its training."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from semantic_net.config import Config
from semantic_net.errors import SemanticNetError
from semantic_net.federated.doctor.finding import FAIL, OK, Finding, duration
from semantic_net.federated.facts import run_facts
from semantic_net.federated.learner import fold_config_of
from semantic_net.federated.shards import load_own
from semantic_net.semantic.schema import ModelSchema
from semantic_net.task.base import Task
from semantic_net.task.loader import place_in
from semantic_net.training.sampler import batch_sizes
from semantic_net.training.trainer import Trainer, make_initial_model

log = logging.getLogger(__name__)

MEASURE_S = 1.0
"""Seconds of training that are enough to tell how long a step takes."""

MAX_STEPS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What a run knows before it opens a socket."""

    task: Task
    schema: ModelSchema
    facts: dict[str, str]
    """What must be equal on all peers."""


def prepare(config: Config, seed: int) -> Prepared:
    """Load the task and make its model.

    Raises:
        SemanticNetError: Something is wrong with the configuration or the data.
    """
    task = load_own(config, seed, observe=config.p2p.observe)
    model = make_initial_model(task, config.task.seed, config.training.local_layers)
    schema = ModelSchema.of(model)
    facts = run_facts(config, task, schema, fold_config_of(schema, config.aggregation))
    return Prepared(task, schema, facts)


def check_task(config: Config, seed: int) -> tuple[Finding, Prepared | None]:
    """Tell whether the task can be loaded, and what there is to learn from."""
    try:
        ready = prepare(config, seed)
    except SemanticNetError as exc:
        return Finding("task", FAIL, " ".join(str(exc).split())), None
    except Exception as exc:  # whatever a user's own task does
        log.debug("the task breaks", exc_info=exc)
        return Finding("task", FAIL, place_in(Path(config.task.name), exc)), None
    train, val = len(ready.task.train_data), len(ready.task.val_data)
    text = (
        f"{config.task.name}: {train} examples to train on, {val} to validate on; "
        f"a model of {ready.schema.num_parameters} parameters"
    )
    return Finding("task", OK, text), ready


def check_training(ready: Prepared, config: Config, seed: int) -> Finding:
    """Train for a moment, and tell how long a round of it takes."""
    training = config.training
    length = len(ready.task.train_data)
    if config.p2p.observe or not length:
        return Finding("training", OK, "none: this peer only observes")
    sizes = batch_sizes(length, training.batch_size, steps=training.steps, epochs=training.epochs)
    try:
        step_s = _seconds_a_step(ready, config, seed)
    except SemanticNetError as exc:
        return Finding("training", FAIL, " ".join(str(exc).split()))
    except Exception as exc:  # whatever a user's own task does
        log.debug("training breaks", exc_info=exc)
        return Finding("training", FAIL, place_in(Path(config.task.name), exc))
    text = (
        f"{len(sizes)} steps a round of {duration(step_s)}: {duration(len(sizes) * step_s)} a round"
    )
    return Finding("training", OK, text)


def _seconds_a_step(ready: Prepared, config: Config, seed: int) -> float:
    """Return the seconds of one step; the first of all, which takes longer, only where it must."""
    first_s = _train(ready, config, seed, steps=1)
    if first_s > MEASURE_S:
        return first_s
    steps = max(1, min(MAX_STEPS, int(MEASURE_S / first_s)))
    return _train(ready, config, seed, steps=steps) / steps


def _train(ready: Prepared, config: Config, seed: int, *, steps: int) -> float:
    model = make_initial_model(ready.task, config.task.seed, config.training.local_layers)
    training = replace(config.training, steps=steps)
    trainer = Trainer(ready.task, training, seed=seed, model=model, privacy=config.privacy)
    began = time.perf_counter()
    trainer.train_round(1, threading.Event())
    return time.perf_counter() - began
