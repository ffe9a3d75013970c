"""The procedural scenes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from disaster_support import config

from semantic_net.config import PartitionConfig
from semantic_net.task.disaster.classes import RESCUENET
from semantic_net.task.disaster.confusion import class_iou, confusion_matrix
from semantic_net.task.disaster.synthetic.region import CHARACTERS, make_region
from semantic_net.task.disaster.synthetic.scene import render_scene
from semantic_net.task.disaster.synthetic.source import Scene, find_scenes

Bins = npt.NDArray[np.int64]


def scenes(
    shard: int | None = 0, num_shards: int = 3, count: int = 2, seed: int = 0, peer_seed: int = 0
) -> tuple[tuple[Scene, ...], tuple[Scene, ...]]:
    partition = PartitionConfig(num_shards=num_shards, shard=shard)
    return find_scenes(
        config(
            "synthetic",
            partition=partition,
            num_train=count,
            num_val=count,
            seed=seed,
            peer_seed=peer_seed,
        )
    )


def pixels(scene: Scene) -> bytes:
    image, classes = scene.read()
    return image.tobytes() + classes.tobytes()


@pytest.mark.parametrize("side", [64, 128, 200])
def test_a_scene_is_a_picture_with_a_class_for_every_pixel(side: int) -> None:
    region = make_region(np.random.default_rng(0), 0)
    image, classes = render_scene(region, np.random.default_rng(1), side)
    assert image.shape == (side, side, 3)
    assert classes.shape == (side, side)
    assert image.dtype == classes.dtype == np.uint8
    assert classes.max() < len(RESCUENET)
    assert image.std() > 10


def test_every_class_occurs_and_the_regions_mix_them_differently() -> None:
    counts = np.zeros((len(CHARACTERS), len(RESCUENET)))
    for number in range(len(CHARACTERS)):
        region = make_region(np.random.default_rng([0, number]), number)
        for index in range(12):
            _, classes = render_scene(region, np.random.default_rng([number, index]), 128)
            counts[number] += np.bincount(classes.ravel(), minlength=len(RESCUENET))
    shares = counts / counts.sum(axis=1, keepdims=True)
    assert (shares.sum(axis=0) > 0).all()
    mean = shares.mean(axis=0)
    distance = np.abs(shares - mean).sum(axis=1) / 2
    assert (distance > 0.04).all()


def test_colour_alone_does_not_tell_the_classes() -> None:
    # benchmarks/colour_baseline.py sets this beside what the U-Net reaches.
    def colours_and_classes(found: tuple[Scene, ...]) -> tuple[Bins, Bins]:
        pixels = [scene.read() for scene in found]
        levels = np.concatenate([image.reshape(-1, 3) // 16 for image, _ in pixels]).astype(int)
        classes = np.concatenate([classes.ravel() for _, classes in pixels]).astype(int)
        return levels @ np.array([256, 16, 1]), classes

    train, val = scenes(None, num_shards=3, count=12)
    colours, truth = colours_and_classes(train)
    counts = np.bincount(colours * len(RESCUENET) + truth, minlength=16**3 * len(RESCUENET))
    counts = counts.reshape(-1, len(RESCUENET))
    colours, truth = colours_and_classes(val)
    for balance in (0.0, 0.25, 0.5):
        likely = np.argmax((counts + 0.1) / counts.sum(axis=0) ** balance, axis=1)
        iou = class_iou(confusion_matrix(truth, likely[colours], len(RESCUENET)))
        assert np.nanmean(iou) < 0.36


def test_scenes_follow_from_seed_region_split_and_index() -> None:
    train, val = scenes()
    again, _ = scenes()
    assert [pixels(s) for s in train] == [pixels(s) for s in again[::-1]][::-1]
    other_seed, _ = scenes(seed=1)
    everything = [*train, *val, *other_seed]
    assert len({pixels(scene) for scene in everything}) == len(everything)


def test_a_scene_does_not_depend_on_how_many_there_are() -> None:
    few, _ = scenes(count=1)
    many, _ = scenes(count=5)
    assert pixels(few[0]) == pixels(many[0])


def test_without_a_shard_each_peer_has_a_region_of_its_own() -> None:
    mine, _ = scenes(None, num_shards=1, peer_seed=11)
    again, _ = scenes(None, num_shards=1, peer_seed=11)
    other, _ = scenes(None, num_shards=1, peer_seed=-4)
    numbered, _ = scenes(0, num_shards=1)
    assert pixels(mine[0]) == pixels(again[0])
    assert len({pixels(s[0]) for s in (mine, other, numbered)}) == 3


def test_with_shards_the_data_set_is_that_of_all_regions() -> None:
    train, val = scenes(1, num_shards=3)
    assert [scene.group for scene in train] == [
        f"region-000{number}" for number in (0, 0, 1, 1, 2, 2)
    ]
    assert [scene.group for scene in val] == [scene.group for scene in train]


def test_tiles_larger_than_a_scene_make_it_larger() -> None:
    cfg = config("synthetic", tile_size=160, num_train=1, num_val=1)
    assert find_scenes(cfg)[0][0].size == (160, 160)
