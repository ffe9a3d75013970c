"""The contract between a task and everything that trains it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from semantic_net.status import Sample

Batch = tuple[Tensor, Tensor]


class MapDataset(Sized, Protocol):
    """A map-style data set of ``(input, target)`` tensors."""

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]: ...


Metrics = Callable[[nn.Module, Iterable[Batch], torch.device], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model has made of one file of a user's."""

    files: tuple[Path, ...]
    """That were written."""
    text: str
    """In a few words."""


Preview = Callable[[nn.Module, torch.device], Sequence[Sample]]
"""From a model in eval mode and its device, a few examples: the same ones each time."""

Predict = Callable[[nn.Module, Path, Path, torch.device], Prediction]
"""From a model in eval mode, a file, a folder to write into, and the model's device."""


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
    preview: Preview | None = None
    """What the model makes of a few examples, for people."""
    predict: Predict | None = None
    """What `semantic-net predict` does with a file of a user's."""
    example: Tensor | None = None
    """One input, without a batch; needed where there may be no data. None: the first to validate
    on."""
    metric: str = ""
    """The metric that names the best model and heads tables; empty takes the first one."""
    higher_is_better: bool = True
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    """What must be equal on all peers for the task to be the same: classes, normalisation, ..."""
