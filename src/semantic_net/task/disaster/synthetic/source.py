"""Which scenes a peer has: regions by number for experiments, or one of its own.

With ``data.partition.shard`` or ``num_shards`` set, the data set is that of regions
0 .. num_shards - 1. Otherwise it is one region, seeded by the peer's id.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semantic_net.config import TaskConfig
from semantic_net.task.disaster.synthetic.region import Region, make_region
from semantic_net.task.disaster.synthetic.scene import SCENE_SIDE, Pixels, render_scene

_NUMBERED, _OWN = 0, 1
_TRAIN, _VAL = 1, 2


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene that is rendered when it is read."""

    group: str
    region: Region
    entropy: tuple[int, ...]
    side: int

    @property
    def size(self) -> tuple[int, int]:
        return self.side, self.side

    def read(self) -> tuple[Pixels, Pixels]:
        return render_scene(self.region, np.random.default_rng(self.entropy), self.side)


def find_scenes(cfg: TaskConfig) -> tuple[tuple[Scene, ...], tuple[Scene, ...]]:
    """Return the training and the validation scenes of all regions of the data set."""
    partition = cfg.data.partition
    if partition.shard is None and partition.num_shards == 1:
        origins = [(_OWN, cfg.peer_seed % (1 << 64))]
    else:
        origins = [(_NUMBERED, number) for number in range(partition.num_shards)]
    side = max(SCENE_SIDE, cfg.disaster.tile_size)
    train: list[Scene] = []
    val: list[Scene] = []
    for kind, number in origins:
        place = (cfg.data.seed % (1 << 64), kind, number)
        region = make_region(np.random.default_rng(place), number)
        # Zero-padded, so that the order of names is the order of numbers.
        group = f"region-{number:04d}"
        for split, count, scenes in (
            (_TRAIN, cfg.data.num_train, train),
            (_VAL, cfg.data.num_val, val),
        ):
            scenes += [Scene(group, region, (*place, split, i), side) for i in range(count)]
    return tuple(train), tuple(val)
