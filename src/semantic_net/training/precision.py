"""Where training runs, in which precision, and how running out of memory shows.

Owns everything that differs between a CPU and a GPU and between the versions of torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from semantic_net.errors import ConfigError, StartError

_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def resolve_device(name: str) -> torch.device:
    """Return the device that ``training.device`` names; ``auto`` is CUDA where there is one.

    Raises:
        ConfigError: ``name`` is no device's name.
        StartError: This machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise ConfigError(
            f"training.device must be auto, cpu, cuda or cuda:N, got {name!r}"
        ) from exc
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as exc:
        raise StartError(
            f"training.device: {name} cannot be used here; set training.device=auto or cpu"
        ) from exc
    return device


def is_out_of_memory(exc: BaseException) -> bool:
    """Tell whether memory ran out; torch 2.1 to 2.13 name this in several ways."""
    if isinstance(exc, MemoryError):
        return True
    return isinstance(exc, RuntimeError) and any(mark in str(exc) for mark in _OUT_OF_MEMORY)


@dataclass(frozen=True, slots=True)
class Pull:
    """The proximal term of FedProx: ``mu / 2 * |w - w_t|^2`` in the loss.

    Li et al., "Federated Optimization in Heterogeneous Networks", 2020, equation 2.
    """

    mu: float
    towards: Sequence[Tensor]
    """w_t: the parameters where the round's training began."""

    @torch.no_grad()
    def add_to_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Add ``mu * (w - w_t)`` to the gradient of each parameter that has one."""
        for parameter, begun in zip(parameters, self.towards, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - begun, alpha=self.mu)


class Precision:
    """Mixed precision on CUDA, plain float32 elsewhere.

    bfloat16 where the GPU computes in it (from Ampere on), since it needs no loss scaling;
    float16 with a scaled loss on older ones.
    """

    def __init__(self, device: torch.device, *, amp: bool) -> None:
        self._device = device
        self._dtype: torch.dtype | None = None
        self._scaler: Any = None
        if amp and device.type == "cuda":
            if torch.cuda.get_device_capability(device)[0] >= 8:
                self._dtype = torch.bfloat16
            else:
                self._dtype = torch.float16
                self._scaler = make_scaler(device.type)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context that the forward pass runs in."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the loss' gradients, scaled where that is due."""
        # Untyped in some versions of torch.
        scaled: Tensor = loss if self._scaler is None else self._scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call,unused-ignore]

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: list[Tensor],
        max_norm: float | None,
        pull: Pull | None = None,
    ) -> None:
        """Pull and clip the gradients where that is asked for, and take the optimiser's step."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)
        if pull is not None:
            pull.add_to_gradients(parameters)
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        if self._scaler is None:
            optimizer.step()
        else:
            self._scaler.step(optimizer)
            self._scaler.update()

    def state(self) -> dict[str, float]:
        """Return the loss scaler's numbers; empty where nothing is scaled."""
        return {} if self._scaler is None else dict(self._scaler.state_dict())

    def load_state(self, state: dict[str, float]) -> None:
        """Take a `state` back; one from a device of another kind is left aside."""
        if self._scaler is not None and state:
            self._scaler.load_state_dict(state)


def make_scaler(device_type: str) -> Any:
    """Return a loss scaler; torch moved the class after 2.2."""
    scaler = getattr(torch.amp, "GradScaler", None)
    return scaler(device_type) if scaler is not None else torch.cuda.amp.GradScaler()


def full_precision(output: Tensor) -> Tensor:
    """Return a model's output as the loss wants it: half precision is widened."""
    return output.float() if output.dtype in (torch.float16, torch.bfloat16) else output
