"""The task ``disaster``: semantic segmentation of aerial imagery.

What is here: how the parts make a `Task`, and which pictures are this peer's. The pictures
themselves are found by `sources`, cut by `tiles`, scored by `scores`.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Final

import numpy as np
import torch

from semantic_net.config import PartitionConfig, TaskConfig
from semantic_net.errors import DataError
from semantic_net.task.base import Task
from semantic_net.task.disaster.classes import PALETTE, ClassSet
from semantic_net.task.disaster.model import UNet
from semantic_net.task.disaster.pictures import Picture, PictureCache
from semantic_net.task.disaster.predict import predict
from semantic_net.task.disaster.preview import preview
from semantic_net.task.disaster.scores import balanced_cross_entropy, evaluate
from semantic_net.task.disaster.sources import Source, find
from semantic_net.task.disaster.tiles import MEAN, SPREAD, TrainTiles, ValTiles
from semantic_net.task.partition import shard_of

__all__ = ["PALETTE", "load"]

_CACHE_BYTES: Final = 128 << 20
"""Decoded pictures kept in memory, for training and again for validation."""


def load(cfg: TaskConfig) -> Task:
    """Make the task of a configuration.

    Raises:
        ConfigError: A key does not fit the source, or the data cannot be split as asked.
        DataError: Data is missing or broken; the message names the file or folder.
    """
    source = find(cfg)
    train, val = ((), ()) if cfg.observe else _share(source, cfg.data.partition)
    tile_size = cfg.disaster.tile_size
    train_data = TrainTiles(
        PictureCache(train, budget_bytes=_CACHE_BYTES), tile_size=tile_size, seed=cfg.data.seed
    )
    val_data = ValTiles(PictureCache(val, budget_bytes=_CACHE_BYTES), tile_size=tile_size)
    return Task(
        make_model=partial(
            UNet,
            len(source.classes.names),
            base_channels=cfg.disaster.base_channels,
            depth=cfg.disaster.depth,
        ),
        train_data=train_data,
        val_data=val_data,
        loss=balanced_cross_entropy,
        metrics=partial(evaluate, source.classes),
        preview=partial(preview, val_data),
        predict=partial(predict, source.classes, tile_size, cfg.data.max_side),
        example=torch.zeros(3, tile_size, tile_size),
        metric="miou",
        fingerprint=_fingerprint(source.classes),
    )


def _share(source: Source, cfg: PartitionConfig) -> tuple[tuple[Picture, ...], tuple[Picture, ...]]:
    """Return this peer's training and validation pictures.

    The natural split divides both by group. The others divide what is trained on; all peers then
    validate on the same pictures.
    """
    groups = [picture.group for picture in source.train] if source.grouped else None
    chosen = shard_of(cfg, len(source.train), groups=groups, labels=partial(_labels, source))
    train = tuple(source.train[index] for index in chosen)
    if cfg.by != "natural" or cfg.shard is None or not source.grouped:
        return train, source.val
    mine = {picture.group for picture in train}
    val = tuple(picture for picture in source.val if picture.group in mine)
    if not val:
        raise DataError(
            f"data.partition.shard {cfg.shard}: group {', '.join(sorted(mine))} has one image only,"
            " so that none is left to validate on; add images, or use fewer shards"
        )
    return train, val


def _labels(source: Source) -> list[int]:
    """Return the class that stands out most in each training picture.

    The most frequent one would nearly always be the background; this is the class with the
    largest share of the picture as against its mean share.
    """
    num_classes = len(source.classes.names)
    counts = np.array(
        [np.bincount(p.read()[1].ravel(), minlength=256)[:num_classes] for p in source.train]
    )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels: list[int] = np.argmax(shares / np.maximum(shares.mean(axis=0), 1e-9), axis=1).tolist()
    return labels


def _fingerprint(classes: ClassSet) -> dict[str, str]:
    names = ",".join(classes.names)
    # Number and hash first: a refusal shows only the beginning of a long value.
    digest = hashlib.blake2b(names.encode(), digest_size=4).hexdigest()
    return {
        "classes": f"{len(classes.names)} ({digest}) {names}"[:500],
        "ignore_index": "none" if classes.ignore_index is None else str(classes.ignore_index),
        "normalisation": f"(x - {MEAN}) / {SPREAD}",
    }
