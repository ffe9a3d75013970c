"""A task for the demo's tests: points right or left of a line, each shard seeing one side only."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from semantic_net.config import TaskConfig
from semantic_net.task import Batch, Task


class Points:
    """Points whose first coordinate has the sign of their shard's class."""

    def __init__(self, shard: int, count: int) -> None:
        generator = torch.Generator().manual_seed(shard)
        self._label = shard % 2
        self._points = torch.rand(count, 2, generator=generator)
        self._points[:, 0] += 0.5
        if self._label == 0:
            self._points[:, 0] *= -1

    def __len__(self) -> int:
        return len(self._points)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= len(self):
            raise IndexError(index)
        return self._points[index], torch.tensor(self._label)


def metrics(model: nn.Module, batches: Iterable[Batch], device: torch.device) -> dict[str, float]:
    hits, count = 0, 0
    for inputs, targets in batches:
        hits += int((model(inputs.to(device)).argmax(1) == targets.to(device)).sum())
        count += len(targets)
    return {"accuracy": hits / count}


def broken_loss(output: Tensor, target: Tensor) -> Tensor:
    return output.sum() * torch.nan


def load(cfg: TaskConfig) -> Task:
    shard = cfg.data.partition.shard or 0
    return Task(
        make_model=lambda: nn.Linear(2, 2),
        train_data=Points(shard, 16),
        val_data=Points(shard + 10, 5 + shard),
        loss=broken_loss if cfg.options.get("broken") else nn.functional.cross_entropy,
        metrics=metrics,
        metric="accuracy",
    )
