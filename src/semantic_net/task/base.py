"""The contract between a task and everything that trains it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


class MapDataset(Sized, Protocol):
    """A map-style data set of ``(input, target)`` tensors."""

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]: ...


Metrics = Callable[[nn.Module, Iterable[Batch], torch.device], dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """All that semantic-net needs to know of a learning problem.

    A task is one module with ``load(cfg: TaskConfig) -> Task``.
    """

    make_model: Callable[[], nn.Module]
    """A fresh model; called under a seeded generator, so that all peers start alike."""
    train_data: MapDataset
    """This device's own examples; ``set_epoch(int)``, where it exists, is called before a pass."""
    val_data: MapDataset
    loss: Callable[[Tensor, Tensor], Tensor]
    """``loss(output, target)``, a scalar tensor: the mean over the batch."""
    metrics: Metrics
    """Evaluates a model in eval mode over batches of the validation data."""
    preview: Callable[[nn.Module, torch.device], Any] | None = None
    """Pictures of predictions, for people."""
    metric: str = ""
    """The metric that names the best model and heads tables; empty takes the first one."""
    higher_is_better: bool = True
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    """What must be equal on all peers for the task to be the same: classes, normalisation, ..."""
