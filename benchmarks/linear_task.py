"""A linear model of 455 x 455 and noise to learn: what a run costs is all that it is for."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

from semantic_net.config import TaskConfig
from semantic_net.task import Task, regression

WIDTH = 455
"""0.83 MB."""


def load(cfg: TaskConfig) -> Task:
    """Return the task."""
    examples = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(cfg.peer_seed))
    data = TensorDataset(examples, examples.flip(1))
    return Task(
        make_model=lambda: nn.Linear(WIDTH, WIDTH),
        train_data=data,
        val_data=data,
        loss=nn.functional.mse_loss,
        metrics=regression,
    )
