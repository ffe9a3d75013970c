"""Whose data a run trains on and is evaluated on, where one machine plays several devices.

A device has its own data, and that is all there is to say. In an experiment each process takes one
shard (``data.partition.shard``); here is what it takes to judge all of them on common ground, and
to train on everybody's data in one place.
"""

from __future__ import annotations

import dataclasses
import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from semantic_net.config import Config
from semantic_net.task import MapDataset, Task, load_task


class Joined:
    """Several data sets, one after the other."""

    def __init__(self, parts: Sequence[MapDataset]) -> None:
        self._parts = parts
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect_right(self._ends, index)
        return self._parts[part][index - (self._ends[part - 1] if part else 0)]

    def set_epoch(self, epoch: int) -> None:
        """Tell those parts that want to know which pass begins."""
        for part in self._parts:
            tell = getattr(part, "set_epoch", None)
            if tell is not None:
                tell(epoch)


def seed_of_peer(peer: str) -> int:
    """Return the seed of a device that has no shard: it follows from its peer's id."""
    return int.from_bytes(hashlib.sha256(peer.encode("ascii")).digest()[:4], "little")


def load_own(config: Config, seed: int, *, observe: bool = False) -> Task:
    """Return the task with this device's data.

    Args:
        config: Its ``data.partition.validation`` says whose data it is evaluated on.
        seed: The peer's own, or its shard's number.
        observe: There may be no data here.
    """
    task = load_task(
        dataclasses.replace(config.task, data=config.data, peer_seed=seed, observe=observe)
    )
    judged_on = config.data.partition.validation
    if judged_on == "own" or observe:
        return task
    common = common_validation(config) if judged_on == "all" else Joined([])
    return dataclasses.replace(task, val_data=common)


def common_validation(config: Config) -> MapDataset:
    """Return the validation data of all shards together; what several of them share is in it once.

    Many splits divide the training data alone, so that all validate on the same.
    """
    distinct: list[MapDataset] = []
    for shard in range(config.data.partition.num_shards):
        found = load_shard(config, shard).val_data
        if not any(_is_same(found, other) for other in distinct):
            distinct.append(found)
    return Joined(distinct)


def load_shard(config: Config, shard: int) -> Task:
    """Return the task with one shard's data, as the peer of that shard sees it."""
    partition = dataclasses.replace(config.data.partition, shard=shard)
    data = dataclasses.replace(config.data, partition=partition)
    return load_task(dataclasses.replace(config.task, data=data, peer_seed=shard))


def load_pooled(config: Config) -> tuple[Task, list[int]]:
    """Return the task with the data of all shards in one place, and how many examples each has."""
    tasks = [load_shard(config, shard) for shard in range(config.data.partition.num_shards)]
    parts = [task.train_data for task in tasks]
    pooled = dataclasses.replace(
        tasks[0], train_data=Joined(parts), val_data=common_validation(config)
    )
    return pooled, [len(part) for part in parts]


def _is_same(one: MapDataset, other: MapDataset) -> bool:
    """Tell whether two data sets hold the same; most that do not differ in the first example."""
    return len(one) == len(other) and all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b))  # targets may be plain numbers
        for i in range(len(one))
        for a, b in zip(one[i], other[i], strict=True)
    )
