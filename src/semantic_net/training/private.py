"""Local differential privacy: what leaves the device tells little of any one example.

DP-SGD (Abadi et al., "Deep Learning with Differential Privacy", 2016, algorithm 1) with Opacus
(extra ``privacy``): each step draws every example with the same probability, clips the gradient of
each to ``clip_norm``, sums them and adds Gaussian noise. Whatever is made of the model afterwards,
such as an update, its compression and the residual, costs no more. How much all steps so far have
cost, epsilon, follows from their number by Renyi differential privacy (Mironov, 2017).

Noise and draws come from the system's entropy and never from a seed: who knew the noise could take
it away. So a private run is not repeated bit for bit.
"""

from __future__ import annotations

import logging
import secrets
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from semantic_net.config import PrivacyConfig
from semantic_net.errors import ConfigError, TrainingError
from semantic_net.extras import needed_for
from semantic_net.task.base import Task

if TYPE_CHECKING:
    from opacus.accountants import RDPAccountant


class PrivateSteps:
    """Makes the optimiser's steps private, and keeps account of them."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        cfg: PrivacyConfig,
        batch_size: int,
    ) -> None:
        """Prepare a model's parameters for gradients of single examples.

        Args:
            task: Whose loss and examples.
            model: Its parameters get hooks, where Opacus knows all of its layers.
            optimizer: Of them.
            cfg: With a ``noise_multiplier``.
            batch_size: How many examples a step takes on average.

        Raises:
            ConfigError: Opacus is not installed, or a layer mixes the examples of a batch.
        """
        assert cfg.noise_multiplier is not None, "privacy is on"
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        try:
            with needed_for("privacy.noise_multiplier", "privacy"):
                from opacus.accountants import RDPAccountant
                from opacus.grad_sample import GradSampleModule
                from opacus.optimizers import DPOptimizer
        finally:  # it sets up logging for everybody
            root.handlers[:] = handlers
            root.setLevel(level)
        _refuse_mixing(model)
        self._task, self._model, self._cfg = task, model, cfg
        self._noise_multiplier = cfg.noise_multiplier
        self._num_examples = max(len(task.train_data), 1)
        self._rate = min(batch_size / self._num_examples, 1.0)
        self._accountant: RDPAccountant = RDPAccountant()
        self._generator = torch.Generator(next(model.parameters()).device)
        self._optimizer = DPOptimizer(
            optimizer,
            noise_multiplier=cfg.noise_multiplier,
            max_grad_norm=cfg.clip_norm,
            expected_batch_size=min(batch_size, self._num_examples),
            generator=self._generator,
        )
        self._hooked: nn.Module | None = None
        # Of recurrent layers Opacus has no gradients; one example at a time does for any layer.
        is_recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
        if not (is_recurrent or GradSampleModule.validate(model, strict=False)):
            self._hooked = GradSampleModule(model, loss_reduction="sum")

    def begin_round(self, round_index: int, num_steps: int) -> None:
        """Draw fresh noise from now on.

        Raises:
            TrainingError: The round would cost more than ``max_epsilon`` leaves.
        """
        limit = self._cfg.max_epsilon
        if limit is not None and (spent := self.epsilon(more_steps=num_steps)) > limit:
            raise TrainingError(
                f"privacy.max_epsilon = {limit:g} would be exceeded ({spent:.3g} with round "
                f"{round_index}): nothing more is learned from this device's data"
            )
        self._generator.manual_seed(secrets.randbits(63))

    def draw(self) -> list[int]:
        """Return the examples of a step, each drawn with the same probability; perhaps none."""
        chances = torch.rand(
            self._num_examples, generator=self._generator, device=self._generator.device
        )
        return (chances < self._rate).nonzero().flatten().tolist()

    def backward(self, inputs: Tensor, targets: Tensor, chunk: int) -> Tensor:
        """Put the noisy mean of the clipped gradients in place; return the mean loss.

        Args:
            inputs: (N, ...); N may be 0.
            targets: (N, ...).
            chunk: Examples that go through the model at once.
        """
        self._optimizer.zero_grad(set_to_none=True)
        device = next(self._model.parameters()).device
        total = torch.zeros((), device=device)
        if not len(inputs):
            for parameter in self._optimizer.params:
                parameter.grad_sample = torch.zeros((0, *parameter.shape), device=device)
            self._optimizer.clip_and_accumulate()
        for x, y in zip(*(torch.split(t, chunk) for t in (inputs, targets)), strict=True):
            if len(x):
                total += self._accumulate(x.to(device), y.to(device))
        self._optimizer.add_noise()
        for parameter in self._optimizer.params:
            parameter.grad /= self._optimizer.expected_batch_size
        self._forget_samples()
        return total / max(len(inputs), 1)

    def count_steps(self, number: int) -> None:
        """Account for steps whose outcome leaves this device."""
        if number:
            self._accountant.history = self._with_more(number)

    def epsilon(self, *, more_steps: int = 0) -> float:
        """Return what all steps so far have cost, at ``privacy.delta``."""
        before = self._accountant.history
        try:
            self._accountant.history = self._with_more(more_steps) if more_steps else before
            if not self._accountant.history:
                return 0.0
            with warnings.catch_warnings():
                # That the best order is the last one that was tried makes the bound less tight.
                warnings.simplefilter("ignore")
                return float(self._accountant.get_epsilon(delta=self._cfg.delta))
        finally:
            self._accountant.history = before

    def state(self) -> dict[str, Any]:
        """Return the account, as plain numbers."""
        return {"history": [[n, q, steps] for n, q, steps in self._accountant.history]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self._accountant.history = [
            (float(n), float(q), int(steps)) for n, q, steps in state["history"]
        ]

    def _with_more(self, number: int) -> list[tuple[float, float, int]]:
        history = list(self._accountant.history)
        kind = (self._noise_multiplier, self._rate)
        if history and history[-1][:2] == kind:
            number += history.pop()[2]
        return [*history, (*kind, number)]

    def _accumulate(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the clipped gradients of some examples up; return the sum of their losses."""
        if self._hooked is not None:
            if x.is_floating_point():
                x = x.detach().requires_grad_()  # the first layer's hook wants it so
            output = self._hooked(x)
            # The loss of each by itself: a task's mean may weigh examples by one another.
            loss = self._sum_of_losses(output, y)
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            loss = self._one_by_one(x, y)
        self._optimizer.clip_and_accumulate()
        self._forget_samples(keep_sums=True)
        return loss.detach()

    def _sum_of_losses(self, output: Tensor, y: Tensor) -> Tensor:
        losses = [self._task.loss(output[i : i + 1], y[i : i + 1]) for i in range(len(y))]
        return torch.stack(losses).sum()

    def _one_by_one(self, x: Tensor, y: Tensor) -> Tensor:
        parameters = self._optimizer.params
        samples: list[tuple[Tensor, ...]] = []
        total = torch.zeros((), device=x.device)
        for i in range(len(x)):
            loss = self._task.loss(self._model(x[i : i + 1]), y[i : i + 1])
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            pairs = zip(found, parameters, strict=True)
            samples.append(tuple(torch.zeros_like(p) if g is None else g for g, p in pairs))
            total += loss.detach()
        for parameter, gradients in zip(parameters, zip(*samples, strict=True), strict=True):
            parameter.grad_sample = torch.stack(gradients)
        return total

    def _forget_samples(self, *, keep_sums: bool = False) -> None:
        for parameter in self._optimizer.params:
            parameter.grad_sample = None
            if not keep_sums:
                parameter.summed_grad = None


def _refuse_mixing(model: nn.Module) -> None:
    """Refuse layers through which one example shows in what another gives.

    Raises:
        ConfigError: There is one.
    """
    for name, module in model.named_modules():
        keeps = getattr(module, "track_running_stats", False)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) or keeps:
            raise ConfigError(
                f"privacy.noise_multiplier: the layer {name} ({type(module).__name__}) mixes the "
                "examples of a batch; use GroupNorm or LayerNorm in the task's model"
            )
