"""A model of 25.65 MB, and as its metric the memory that its process has taken so far."""

import resource

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from semantic_net.config import TaskConfig
from semantic_net.task import Task

WIDTH = 2_532
"""6.4 million parameters."""


def peak_mb() -> float:
    """Return this process' largest resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def load(cfg: TaskConfig) -> Task:
    def metrics(model: nn.Module, loader: object, device: torch.device) -> dict[str, float]:
        return {"peak_mb": peak_mb()}

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(output, target)

    examples = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(cfg.peer_seed))
    data = TensorDataset(examples, examples.flip(1))
    return Task(
        make_model=lambda: nn.Linear(WIDTH, WIDTH),
        train_data=data,
        val_data=data,
        loss=loss,
        metrics=metrics,
    )
