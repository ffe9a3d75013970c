"""Fashion-MNIST as a user's own task: a peer's part of it, of as many as there are.

    semantic-net simulate --peers 100 --set task.name=benchmarks/fashion_task.py ...

A small CNN (30,170 parameters), judged on the whole test data, which all peers share.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.data import TensorDataset

sys.path.append(str(Path(__file__).parent))  # wherever it is read

import fashion_mnist

from semantic_net.config import TaskConfig
from semantic_net.errors import DataError
from semantic_net.task import Task, accuracy

HIDDEN = 16


@functools.cache
def _parts(alpha: float, num_shards: int, seed: int) -> list[npt.NDArray[np.int64]]:
    labels = fashion_mnist.load("train")[1].numpy()
    return fashion_mnist.split(labels, alpha, num_shards, seed)


@functools.cache
def _test() -> TensorDataset:
    return TensorDataset(*fashion_mnist.load("t10k"))


def load(cfg: TaskConfig) -> Task:
    """Return the task with one shard's data, or all of it."""
    if not fashion_mnist.is_there():
        raise DataError(fashion_mnist.MISSING)
    images, labels = fashion_mnist.load("train")
    partition = cfg.data.partition
    if partition.shard is not None:
        parts = _parts(partition.alpha, partition.num_shards, partition.seed)
        part = torch.from_numpy(parts[partition.shard])
        images, labels = images[part], labels[part]
    return Task(
        make_model=functools.partial(fashion_mnist.make_model, HIDDEN),
        train_data=TensorDataset(images, labels),
        val_data=_test(),
        loss=nn.functional.cross_entropy,
        metrics=accuracy,
    )
