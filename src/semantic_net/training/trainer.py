"""One peer's local training: some steps on its own data, and the evaluation of a model.

No network, no files, no clock: peers and the Flower client drive the same trainer. A round either
happens or leaves no trace: whatever ends it early (a loss that is not finite, an interruption, an
error in the task), the model and the optimiser are what they were when it began.

Nothing here seeds torch's global generator: batch order has its own, and what a model draws
(dropout) or a data set (augmentation by torch) comes from a generator forked and seeded for the
round, so a run that is resumed on a CPU goes on bit for bit.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from semantic_net.config import PrivacyConfig, TrainingConfig
from semantic_net.errors import CheckpointError, ConfigError, DataError, TrainingError
from semantic_net.semantic.schema import keep_local, local_tensors
from semantic_net.task.base import Batch, MapDataset, Task
from semantic_net.training.precision import (
    Precision,
    Pull,
    full_precision,
    is_out_of_memory,
    resolve_device,
)
from semantic_net.training.private import PrivateSteps
from semantic_net.training.sampler import PassSampler, batch_sizes, derive_seed
from semantic_net.training.state import (
    State,
    copy_state,
    load_optimizer_state,
    optimizer_state,
    trained_parameters,
)

log = logging.getLogger(__name__)

MAX_EXAMPLES = 1 << 20
"""Largest weight of an update."""

FINAL_RATE = 0.1
"""Where the cosine schedule ends, as a share of ``training.learning_rate``."""

EVAL_BATCH_FACTOR = 4
"""Evaluation keeps no activations, so it takes larger batches than training."""

_CHECK_EVERY = 16
"""Steps between two looks at the losses: each look makes a GPU wait for the CPU."""


class TrainingInterrupted(Exception):
    """``stop`` was set during a round; the round left no trace."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What one round of local training did."""

    loss: float | None
    """Mean over the round's steps."""
    num_examples: int
    """The update's weight: the examples this peer holds, whatever share of them a round visits.
    Federated averaging weighs peers by their data, so that the mean's objective is the loss over
    everybody's data together."""
    num_steps: int
    notes: tuple[str, ...]
    """What a person should know, such as a halved batch."""
    epsilon: float | None = None
    """What all rounds so far have cost; None without privacy."""


def make_initial_model(task: Task, seed: int, local_layers: Sequence[str] = ()) -> nn.Module:
    """Return a fresh model: equal seeds give equal weights, and nothing else gets seeded.

    Args:
        task: Makes it.
        seed: Of its weights.
        local_layers: Patterns of what never leaves the device (``training.local_layers``).

    Raises:
        ConfigError: A pattern fits nothing, or nothing would be shared.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        model = task.make_model()
    try:
        keep_local(model, local_layers)
    except ValueError as exc:
        raise ConfigError(f"training.local_layers: {exc}") from exc
    return model


class Trainer:
    """Trains one model on one task's local data, a round at a time."""

    def __init__(
        self,
        task: Task,
        cfg: TrainingConfig,
        *,
        seed: int,
        model: nn.Module | None = None,
        privacy: PrivacyConfig | None = None,
    ) -> None:
        """Move the model to its device and make the optimiser.

        Args:
            task: Without data for one who only observes.
            cfg: The ``training`` section.
            seed: This peer's own; mixed with ``cfg.seed`` into batch order and augmentation.
            model: The model to train, changed in place. None makes the task's under seed 0.
            privacy: The ``privacy`` section; None is off.

        Raises:
            ConfigError: The device's name is none, nothing in the model can be trained, or not
                with privacy.
            StartError: This machine has no such device.
        """
        self.task = task
        self.device = resolve_device(cfg.device)
        self.model = (model if model is not None else make_initial_model(task, 0)).to(self.device)
        self._cfg = cfg
        self._seed = derive_seed(cfg.seed, seed)
        self._parameters: list[Tensor] = [p for _, p in trained_parameters(self.model)]
        if not self._parameters:
            raise ConfigError("task: the model has no parameter that requires a gradient")
        self._optimizer = _make_optimizer(self._parameters, cfg)
        self.private: PrivateSteps | None = None
        if privacy is not None and privacy.noise_multiplier is not None:
            if cfg.proximal_mu:
                raise ConfigError(
                    "training.proximal_mu: not with privacy.noise_multiplier; set it to 0"
                )
            self.private = PrivateSteps(task, self.model, self._optimizer, privacy, cfg.batch_size)
        # Half precision has too few digits for noise that is to hide anything.
        self._precision = Precision(self.device, amp=cfg.amp and self.private is None)
        self._sampler = PassSampler(max(len(task.train_data), 1), derive_seed(self._seed, 0))
        self._epoch: int | None = None
        """The pass that the data set was last told of."""
        self._chunk = cfg.batch_size
        """Examples that go through the model at once; halved where memory runs out."""

    @property
    def is_private(self) -> bool:
        """Whether there is noise on what is learned, and an account of it."""
        return self.private is not None

    def train_round(self, round_index: int, stop: threading.Event) -> TrainResult:
        """Train the model in place for one round.

        Args:
            round_index: From 1; with the seeds it decides all that is random.
            stop: Setting it ends the round before its next step.

        Raises:
            TrainingError: No update can come of this round; the message says why.
            TrainingInterrupted: ``stop`` was set.
        """
        if len(self.task.train_data) == 0:
            raise TrainingError("the task's train_data is empty; there is nothing to train on")
        if self._cfg.num_threads is not None:
            torch.set_num_threads(self._cfg.num_threads)
        before = copy_state(self._moving_state())
        cuda = [self.device] if self.device.type == "cuda" else []
        self.model.train()
        try:
            with torch.random.fork_rng(devices=cuda):
                torch.manual_seed(derive_seed(self._seed, 1, round_index))
                return self._train(round_index, stop, self._pull_to(before["model"]))
        except BaseException as exc:
            # A failed round does not rewind the sampler: the batch that broke it is not next again.
            self._restore(before, rewind=not isinstance(exc, TrainingError))
            raise
        finally:
            self._optimizer.zero_grad(set_to_none=True)  # the gradients' memory is others' now
            self.model.eval()

    def evaluate(self) -> dict[str, float]:
        """Return the task's metrics of the model on the local validation data; none without any."""
        if len(self.task.val_data) == 0:
            return {}
        return self.evaluate_on(self.task.val_data)

    def validation_loss(self) -> float:
        """Return the task's mean loss on the local validation data; 0 without any."""
        total, size = 0.0, self._chunk
        self.model.eval()
        with torch.inference_mode():
            for inputs, targets in _batches(self.task.val_data, size):
                output = self.model(inputs.to(self.device))
                total += float(self.task.loss(output, targets.to(self.device))) * len(inputs)
        return total / max(len(self.task.val_data), 1)

    def evaluate_on(self, dataset: MapDataset) -> dict[str, float]:
        """Return the task's metrics of the model on ``dataset``.

        Raises:
            TrainingError: Not even one example fits into memory.
        """
        size = self._cfg.batch_size * EVAL_BATCH_FACTOR
        self.model.eval()
        while True:
            try:
                with torch.inference_mode():
                    found = self.task.metrics(self.model, _batches(dataset, size), self.device)
                break
            except (RuntimeError, MemoryError) as exc:
                if not is_out_of_memory(exc):
                    raise
                if size == 1:
                    raise TrainingError(
                        "evaluation: out of memory with a single example; use a smaller model"
                    ) from exc
            size = self._free_and_halve(size)
            log.warning("evaluation: out of memory, trying again with batches of %d", size)
        try:
            metrics = {name: float(value) for name, value in found.items()}
        except (AttributeError, TypeError, ValueError) as exc:
            raise ConfigError(
                f"the task's metrics must return numbers by name, got {found!r:.80}"
            ) from exc
        for name in [name for name, value in metrics.items() if not math.isfinite(value)]:
            log.warning("evaluation: %s is %s and is left out", name, metrics.pop(name))
        return metrics

    def set_num_rounds(self, rounds: int) -> None:
        """Take over how long a run is, which the schedule of the rate follows."""
        self._cfg = replace(self._cfg, rounds=rounds)

    def count_lost_rounds(self, number: int) -> None:
        """Account for the privacy of rounds that were published and that no state knows of."""
        if self.private is not None:
            cfg, length = self._cfg, max(len(self.task.train_data), 1)
            sizes = batch_sizes(length, cfg.batch_size, steps=cfg.steps, epochs=cfg.epochs)
            self.private.count_steps(number * len(sizes))

    def state(self) -> State:
        """Return what the next round depends on beside the model: see `state.split_state`.

        The tensors are the optimiser's own: save or copy them before the next round.
        """
        return {
            "optimizer": optimizer_state(self.model, self._optimizer),
            "scaler": self._precision.state(),
            "sampler": self._sampler.state(),
            "privacy": {} if self.private is None else self.private.state(),
            "local": dict(local_tensors(self.model)),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`; the model itself is the caller's to load.

        Raises:
            CheckpointError: The state is another model's, or another optimiser's.
        """
        try:
            load_optimizer_state(self.model, self._optimizer, state["optimizer"])
            self._precision.load_state(dict(state["scaler"]))
            self._sampler.load_state(state["sampler"])
            if self.private is not None and (spent := dict(state.get("privacy", {}))):
                self.private.load_state(spent)
            self._load_local(dict(state.get("local", {})))
        except (KeyError, TypeError, ValueError) as exc:
            raise CheckpointError(
                f"training state: {type(exc).__name__}: {exc}; --resume never starts afresh"
            ) from exc

    def _load_local(self, kept: Mapping[str, Tensor]) -> None:
        for name, tensor in local_tensors(self.model).items():
            if name in kept:  # no checkpoint had them once
                if kept[name].shape != tensor.shape:
                    raise ValueError(f"{name} has another shape")
                tensor.copy_(kept[name])

    def _pull_to(self, begun: Mapping[str, Tensor]) -> Pull | None:
        if not self._cfg.proximal_mu:
            return None
        names = [name for name, _ in trained_parameters(self.model)]
        return Pull(self._cfg.proximal_mu, [begun[name] for name in names])

    def _train(
        self, round_index: int, stop: threading.Event, pull: Pull | None = None
    ) -> TrainResult:
        cfg, length = self._cfg, len(self.task.train_data)
        sizes = batch_sizes(length, cfg.batch_size, steps=cfg.steps, epochs=cfg.epochs)
        losses: list[Tensor] = []
        total, checked = 0.0, 0
        notes: list[str] = []
        if self.private is not None:
            self.private.begin_round(round_index, len(sizes))
            self._tell_epoch(round_index)
        for step, size in enumerate(sizes):
            if stop.is_set():
                raise TrainingInterrupted(f"round {round_index}: stopped before step {step + 1}")
            self._set_rate((round_index - 1 + step / len(sizes)) / cfg.rounds)
            losses.append(self._backward(*self._next_batch(size), notes))
            max_norm = cfg.max_grad_norm if self.private is None else None  # each is clipped
            self._precision.step(self._optimizer, self._parameters, max_norm, pull)
            if len(losses) == _CHECK_EVERY or step + 1 == len(sizes):
                total += self._check(losses, round_index, checked, len(sizes))
                checked += len(losses)
                losses.clear()
        self._check_model(round_index)
        if self.private is not None:
            self.private.count_steps(len(sizes))
        return TrainResult(
            loss=total / len(sizes),
            num_examples=min(length, MAX_EXAMPLES),
            num_steps=len(sizes),
            notes=tuple(notes),
            epsilon=None if self.private is None else self.private.epsilon(),
        )

    def _next_batch(self, size: int) -> Batch:
        data = self.task.train_data
        if self.private is not None:
            drawn = self.private.draw()
            inputs, targets = collate([data[index] for index in drawn or [0]])
            return inputs[: len(drawn)], targets[: len(drawn)]
        examples: list[Any] = []
        for epoch, indices in self._sampler.take(size):
            self._tell_epoch(epoch)
            examples += [data[index] for index in indices]
        return collate(examples)

    def _tell_epoch(self, epoch: int) -> None:
        set_epoch = getattr(self.task.train_data, "set_epoch", None)
        if epoch != self._epoch and set_epoch is not None:
            set_epoch(epoch)
        self._epoch = epoch

    def _backward(self, inputs: Tensor, targets: Tensor, notes: list[str]) -> Tensor:
        """Compute the gradients of a batch, in as many chunks as memory wants; return its loss."""
        while True:
            try:
                return self._backward_in_chunks(inputs, targets)
            except (RuntimeError, MemoryError) as exc:
                if not is_out_of_memory(exc):
                    raise
                chunk = min(self._chunk, len(inputs))
                if chunk == 1:
                    raise TrainingError(
                        "out of memory with a single example; use a smaller model or input"
                    ) from exc
            # Only here is the traceback gone, and with it the failed step's tensors.
            self._chunk = self._free_and_halve(chunk)
            notes.append(f"out of memory: batches are computed in parts of {self._chunk}")
            log.warning(notes[-1])

    def _backward_in_chunks(self, inputs: Tensor, targets: Tensor) -> Tensor:
        if self.private is not None:
            return self.private.backward(inputs, targets, self._chunk)
        self._optimizer.zero_grad(set_to_none=True)
        mean = torch.zeros((), device=self.device)
        for x, y in zip(*(torch.split(t, self._chunk) for t in (inputs, targets)), strict=True):
            with self._precision.autocast():
                output = self.model(x.to(self.device))
            loss = self.task.loss(full_precision(output), y.to(self.device))
            if len(x) < len(inputs):
                loss = loss * (len(x) / len(inputs))
            self._precision.backward(loss)
            mean += loss.detach()
        return mean

    def _free_and_halve(self, size: int) -> int:
        self._optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return size // 2

    def _check(self, losses: list[Tensor], round_index: int, done: int, steps: int) -> float:
        values = torch.stack(losses).tolist()
        for step, value in enumerate(values, start=done + 1):
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss became {value} in step {step} of {steps}; "
                    "lower training.learning_rate, or set training.max_grad_norm"
                )
        return math.fsum(values)

    def _check_model(self, round_index: int) -> None:
        # The last step's gradient may be infinite where its loss was not.
        for name, tensor in self.model.state_dict().items():
            if isinstance(tensor, Tensor) and not _is_finite(tensor):
                raise TrainingError(
                    f"round {round_index}: {name} is not finite after the last step; "
                    "lower training.learning_rate, or set training.max_grad_norm"
                )

    def _set_rate(self, progress: float) -> None:
        rate = self._cfg.learning_rate
        if self._cfg.schedule == "cosine":
            falling = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
            rate *= FINAL_RATE + (1 - FINAL_RATE) * falling
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def _moving_state(self) -> State:
        return {**self.state(), "model": self.model.state_dict()}

    def _restore(self, before: State, *, rewind: bool) -> None:
        self.model.load_state_dict(before["model"])
        load_optimizer_state(self.model, self._optimizer, before["optimizer"])
        self._precision.load_state(before["scaler"])
        if rewind:
            self._sampler.load_state(before["sampler"])


def collate(examples: list[Any]) -> Batch:
    """Stack ``(input, target)`` pairs into a batch; targets may be plain numbers.

    Raises:
        DataError: The examples of the batch differ in shape.
    """
    stacked = []
    for what, values in zip(("inputs", "targets"), zip(*examples, strict=True), strict=True):
        tensors = [torch.as_tensor(value) for value in values]
        shapes = {tuple(tensor.shape) for tensor in tensors}
        if len(shapes) > 1:
            raise DataError(f"task: {what} of one batch differ in shape: {sorted(shapes)}")
        stacked.append(torch.stack(tensors))
    return stacked[0], stacked[1]


def _is_finite(tensor: Tensor) -> bool:
    if tensor.is_floating_point() and tensor.numel():
        return all(math.isfinite(end) for end in tensor.aminmax())  # allocates nothing
    return bool(torch.isfinite(tensor).all())


def _batches(dataset: MapDataset, size: int) -> Iterator[Batch]:
    for start in range(0, len(dataset), size):
        yield collate([dataset[i] for i in range(start, min(start + size, len(dataset)))])


def _make_optimizer(parameters: list[Tensor], cfg: TrainingConfig) -> torch.optim.Optimizer:
    if cfg.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=cfg.learning_rate,
            momentum=cfg.momentum,
            weight_decay=cfg.weight_decay,
        )
    return torch.optim.Adam(parameters, lr=cfg.learning_rate, weight_decay=cfg.weight_decay)
