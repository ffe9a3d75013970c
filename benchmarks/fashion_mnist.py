"""Fashion-MNIST for the benchmarks: the data, its splits, and a small CNN.

Read from the Debian package ``dataset-fashion-mnist``, or from ``SEMANTIC_NET_FASHION_MNIST``.
"""

from __future__ import annotations

import functools
import gzip
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from semantic_net.task import Task, accuracy

FOLDER = Path(os.environ.get("SEMANTIC_NET_FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
MISSING = f"no Fashion-MNIST in {FOLDER}: apt-get install dataset-fashion-mnist"

NUM_CLASSES = 10
_HEADER_BYTES = {"images": 16, "labels": 8}


def is_there() -> bool:
    """Tell whether the data is on this machine."""
    return (FOLDER / "train-images-idx3-ubyte.gz").is_file()


@functools.cache
def load(part: str) -> tuple[Tensor, Tensor]:
    """Return images, (N, 1, 28, 28) from -1 to 1, and labels; ``part`` is train or t10k."""
    images = _read(part, "images-idx3").reshape(-1, 1, 28, 28)
    labels = _read(part, "labels-idx1")
    return torch.from_numpy(images / np.float32(127.5) - 1), torch.from_numpy(labels.astype("i8"))


def split(
    labels: npt.NDArray[np.int64], alpha: float | None, num_peers: int, seed: int
) -> list[npt.NDArray[np.int64]]:
    """Return each peer's indices.

    Args:
        labels: (N,).
        alpha: Concentration of the Dirichlet distribution by which each class is dealt out (Hsu et
            al., "Measuring the Effects of Non-Identical Data Distribution", 2019); None: IID.
        num_peers: Parts.
        seed: Of the split.
    """
    rng = np.random.default_rng(seed)
    if alpha is None:
        return np.array_split(rng.permutation(labels.size), num_peers)
    parts: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(num_peers)]
    for label in range(NUM_CLASSES):
        indices = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet([alpha] * num_peers)
        cuts = (np.cumsum(shares)[:-1] * indices.size).astype(int)
        for part, piece in zip(parts, np.split(indices, cuts), strict=True):
            part.append(piece)
    return [np.concatenate(part) for part in parts]


def make_model(hidden: int = 128) -> nn.Module:
    """Return a CNN: of 207,018 parameters (0.83 MB) with 128 hidden units, 1,015,274 with 640."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, hidden),
        nn.ReLU(),
        nn.Linear(hidden, NUM_CLASSES),
    )


def tasks(alpha: float | None, num_peers: int, seed: int) -> list[Task]:
    """Return one task a peer: its part of the training data, and the whole test data."""
    images, labels = load("train")
    parts = split(labels.numpy(), alpha, num_peers, seed)
    test = TensorDataset(*load("t10k"))
    return [
        Task(
            make_model=make_model,
            train_data=TensorDataset(images[part], labels[part]),
            val_data=test,
            loss=nn.functional.cross_entropy,
            metrics=accuracy,
        )
        for part in map(torch.from_numpy, parts)
    ]


def _read(part: str, kind: str) -> npt.NDArray[np.uint8]:
    data = gzip.decompress((FOLDER / f"{part}-{kind}-ubyte.gz").read_bytes())
    return np.frombuffer(data, np.uint8, offset=_HEADER_BYTES[kind.partition("-")[0]])
