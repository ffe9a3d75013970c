"""Square tiles cut from pictures: random ones to train on, a fixed grid to validate on."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from semantic_net.task.disaster.classes import IGNORE
from semantic_net.task.disaster.pictures import PictureCache, Pixels

MEAN: Final = 0.5
SPREAD: Final = 0.25
"""A channel's value x in [0, 1] becomes (x - MEAN) / SPREAD."""

_MAX_CROPS: Final = 64
"""Most crops of one picture in an epoch; a full-size drone image would give thousands."""


class TrainTiles:
    """Random crops and flips; an epoch takes as many of a picture as cover it once.

    Example ``index`` of epoch ``e`` is a function of (seed, e, index).
    """

    def __init__(self, pictures: PictureCache, *, tile_size: int, seed: int) -> None:
        self._pictures = pictures
        self._size = tile_size
        self._seed = seed % (1 << 64)
        self._epoch = 0
        crops = [
            min(-(-height // tile_size) * -(-width // tile_size), _MAX_CROPS)
            for height, width in (picture.size for picture in pictures.pictures)
        ]
        self._picture_of = np.repeat(np.arange(len(crops)), crops)

    def set_epoch(self, epoch: int) -> None:
        """Choose other crops and flips than in any other epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._picture_of)

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        image, classes = self._pictures.read(int(self._picture_of[index]))
        rng = np.random.default_rng([self._seed, self._epoch, index % len(self)])
        top, left = (
            int(rng.integers(max(side - self._size, 0), endpoint=True)) for side in classes.shape
        )
        image, classes = cut(image, classes, top, left, self._size)
        if rng.random() < 0.5:
            image, classes = image[::-1], classes[::-1]
        if rng.random() < 0.5:
            image, classes = image[:, ::-1], classes[:, ::-1]
        return to_tensors(image, classes)


class ValTiles:
    """A grid of tiles over each picture; beyond its border nothing counts."""

    def __init__(self, pictures: PictureCache, *, tile_size: int) -> None:
        self._pictures = pictures
        self._size = tile_size
        self._places = [
            (number, top, left)
            for number, picture in enumerate(pictures.pictures)
            for top in range(0, picture.size[0], tile_size)
            for left in range(0, picture.size[1], tile_size)
        ]

    def __len__(self) -> int:
        return len(self._places)

    def pixels(self, index: int) -> tuple[Pixels, Pixels]:
        """Return a tile as (H, W, 3) colours and (H, W) classes."""
        number, top, left = self._places[index]
        return cut(*self._pictures.read(number), top, left, self._size)

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        return to_tensors(*self.pixels(index))


def cut(image: Pixels, classes: Pixels, top: int, left: int, size: int) -> tuple[Pixels, Pixels]:
    """Return a square of ``size``, filled up with grey and `IGNORE` beyond the picture."""
    window = (slice(top, top + size), slice(left, left + size))
    image, classes = image[window], classes[window]
    height, width = classes.shape
    if (height, width) == (size, size):
        return image, classes
    padded_image = np.full((size, size, 3), round(255 * MEAN), dtype=np.uint8)
    padded_classes = np.full((size, size), IGNORE, dtype=np.uint8)
    padded_image[:height, :width] = image
    padded_classes[:height, :width] = classes
    return padded_image, padded_classes


def to_tensors(image: Pixels, classes: Pixels) -> tuple[Tensor, Tensor]:
    """Return (3, H, W) float32 in normalised units, and (H, W) int64."""
    channels = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)
    channels -= 255 * MEAN
    channels /= 255 * SPREAD
    return torch.from_numpy(channels), torch.from_numpy(classes.astype(np.int64))
