"""A task of your own in one file: which digit is in a noisy picture of 8 x 8 pixels?"""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from semantic_net.config import TaskConfig
from semantic_net.task import Task, accuracy

ROWS = "75557 26227 71747 71717 55711 74717 74757 71122 75757 75717"  # 3 pixels an octal digit
GLYPHS = torch.tensor([[[int(r) >> b & 1 for b in (2, 1, 0)] for r in d] for d in ROWS.split()])


def draw(count: int, seed: int) -> TensorDataset:
    chance = torch.Generator().manual_seed(seed)
    digits = torch.randint(10, (count,), generator=chance)
    pictures = 0.3 * torch.randn(count, 8, 8, generator=chance)
    pictures[:, 1:6, 2:5] += GLYPHS[digits]
    return TensorDataset(pictures, digits)


def load(cfg: TaskConfig) -> Task:
    return Task(
        make_model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        train_data=draw(cfg.data.num_train, seed=cfg.peer_seed),  # this device's own
        val_data=draw(500, seed=-1),  # the same on every device
        loss=nn.functional.cross_entropy,
        metrics=accuracy,
    )
