"""One device on its own data: what every way of training together is held against."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from semantic_net.config import Config, TrainingConfig
from semantic_net.errors import TrainingError
from semantic_net.federated.shards import load_own, load_pooled
from semantic_net.records import RoundRecord
from semantic_net.semantic.schema import ModelSchema
from semantic_net.training.sampler import batch_sizes
from semantic_net.training.trainer import Trainer, make_initial_model

NAME = "single"


class Single:
    """A run of one: the same trainer, first weights and seeds as a peer's."""

    def __init__(self, config: Config, *, pooled: bool = False) -> None:
        """Load the task and make the model.

        Args:
            config: As for a peer.
            pooled: Train on the data of all shards in one place, in each round for as many steps
                as a peer takes on average: what federated training is held against.

        Raises:
            ConfigError: The configuration does not fit the task.
            StartError: The data is not usable.
        """
        seed = config.data.partition.shard or 0
        if pooled:
            self.task, lengths = load_pooled(config)
            config = replace(config, training=_steps_of_a_peer(config.training, lengths))
        else:
            self.task = load_own(config, seed)
        model = make_initial_model(self.task, config.task.seed, config.training.local_layers)
        self.trainer = Trainer(
            self.task, config.training, seed=seed, model=model, privacy=config.privacy
        )
        self._dense_bytes = ModelSchema.of(model).dense_bytes
        self._config = config

    def rounds(self) -> Iterator[RoundRecord]:
        """Train round by round, and yield a record of each once it is evaluated."""
        stop = threading.Event()
        for number in range(1, self._config.training.rounds + 1):
            began = time.monotonic()
            loss, examples, epsilon = None, 0, None
            notes: tuple[str, ...] = ()
            try:
                result = self.trainer.train_round(number, stop)
            except TrainingError as exc:  # as for a peer: the next round may give something
                notes = (str(exc),)
            else:
                loss, examples = result.loss, result.num_examples
                epsilon, notes = result.epsilon, result.notes
            train_s = time.monotonic() - began
            metrics = self.trainer.evaluate()
            yield RoundRecord(
                round=number,
                peer=NAME,
                time_s=round(time.monotonic() - began, 4),
                train_s=round(train_s, 4),
                encode_s=0.0,
                exchange_s=0.0,
                fold_s=0.0,
                loss=loss,
                metrics=metrics,
                epsilon=epsilon,
                delta=None if epsilon is None else self._config.privacy.delta,
                payload_bytes=0,
                dense_bytes=self._dense_bytes,
                bytes_sent=0,
                bytes_received=0,
                updates_in=[NAME],
                missing=[],
                close_reason="alone",
                state_digest="",
                set_digest="",
                num_examples=examples,
                rejected={},
                notes=list(notes),
            )


def _steps_of_a_peer(cfg: TrainingConfig, lengths: Sequence[int]) -> TrainingConfig:
    """Return the section with as many steps a round as peers of so many examples take on average.

    One without examples takes none.
    """
    if cfg.steps is not None:
        return cfg
    taken = [
        len(batch_sizes(n, cfg.batch_size, steps=None, epochs=cfg.epochs)) for n in lengths if n
    ]
    return replace(cfg, steps=max(1, round(sum(taken) / len(lengths))))
