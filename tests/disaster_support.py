"""Small data sets on disk for the tests of the task ``disaster``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from semantic_net.config import DataConfig, DisasterConfig, PartitionConfig, TaskConfig

Pixels = npt.NDArray[np.uint8]


def picture(height: int = 20, width: int = 24, seed: int = 0) -> tuple[Pixels, Pixels]:
    """Return a random image and a mask of classes 0 to 2."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    return image, rng.integers(0, 3, (height, width)).astype(np.uint8)


def save_pair(images: Path, masks: Path, stem: str, suffix: str = "", seed: int = 0) -> None:
    """Write a random image and its mask."""
    image, mask = picture(seed=seed)
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(images / f"{stem}.png")
    Image.fromarray(mask).save(masks / f"{stem}{suffix}.png")


def make_folder(root: Path, groups: dict[str, int]) -> Path:
    """Write ``root/group/images`` and ``masks`` with so many pairs a group; return ``root``."""
    for number, (group, count) in enumerate(groups.items()):
        for i in range(count):
            folder = root / group
            save_pair(folder / "images", folder / "masks", f"p{i}", seed=100 * number + i)
    return root


def make_splits(root: Path, layout: dict[str, str], count: int = 2) -> Path:
    """Write ``split-org-img`` and ``split-label-img`` in each split's folder; return ``root``."""
    for split, folder in layout.items():
        for i in range(count):
            images = root / folder / f"{split}-org-img"
            save_pair(images, root / folder / f"{split}-label-img", f"{i:05d}", "_lab", seed=i)
    return root


def config(
    source: str,
    path: Path | str = "",
    *,
    tile_size: int = 16,
    partition: PartitionConfig | None = None,
    peer_seed: int = 0,
    **data: Any,
) -> TaskConfig:
    """Return the configuration of a small model on ``source``."""
    if source == "folder":
        data.setdefault("classes", ("land", "water", "road"))
    return TaskConfig(
        disaster=DisasterConfig(base_channels=4, depth=2, tile_size=tile_size),
        data=DataConfig(
            source=source, path=str(path), partition=partition or PartitionConfig(), **data
        ),
        peer_seed=peer_seed,
    )
