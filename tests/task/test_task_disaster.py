"""The task ``disaster`` as a whole."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from disaster_support import config, make_folder, make_splits
from PIL import Image

from semantic_net.config import PartitionConfig, TaskConfig
from semantic_net.errors import ConfigError, DataError
from semantic_net.task.base import MapDataset, Task
from semantic_net.task.disaster import load
from semantic_net.task.disaster.classes import RESCUENET

CPU = torch.device("cpu")


def small(shard: int | None = None, *, by: str = "natural", num_shards: int = 1) -> TaskConfig:
    partition = PartitionConfig(by=by, num_shards=num_shards, shard=shard)  # type: ignore[arg-type]  # parametrized
    return config("synthetic", num_train=3, num_val=1, tile_size=64, partition=partition)


def batches(data: MapDataset, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    found = []
    for start in range(0, len(data), size):
        examples = [data[index] for index in range(start, min(start + size, len(data)))]
        found.append((torch.stack([e[0] for e in examples]), torch.stack([e[1] for e in examples])))
    return found


def opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


def pictures_of(task: Task) -> set[bytes]:
    """Return what tells the pictures of the validation data apart."""
    return {task.val_data[index][0].numpy().tobytes() for index in range(len(task.val_data))}


def test_training_lowers_the_loss_and_metrics_and_preview_fit_the_data() -> None:
    task = load(config("synthetic", num_train=2, num_val=1, tile_size=32))
    torch.manual_seed(0)
    model = task.make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    images, targets = batches(task.train_data, 8)[0]
    for _ in range(12):
        optimizer.zero_grad()
        loss = task.loss(model(images), targets)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]

    scores = task.metrics(model, batches(task.val_data, 3), CPU)
    assert task.metric in scores
    assert task.higher_is_better
    assert 0 < scores["miou"] < 1
    assert 0 < scores["pixel_accuracy"] < 1
    assert set(scores) <= {"miou", "pixel_accuracy", *(f"iou_{name}" for name in RESCUENET)}

    assert task.preview is not None
    samples = task.preview(model, CPU)
    assert len(samples) == 4
    for sample in samples:
        sizes = {name: opened(file).size for name, file in sample.pictures.items()}
        assert sizes == dict.fromkeys(("image", "truth", "prediction"), (32, 32))
    assert sum(len(file) for sample in samples for file in sample.pictures.values()) < 20_000


def test_the_fingerprint_tells_classes_and_normalisation(tmp_path: Path) -> None:
    synthetic, rescuenet = (
        load(cfg).fingerprint
        for cfg in (
            small(),
            config("rescuenet", make_splits(tmp_path, {"train": "train", "val": "val"})),
        )
    )
    assert synthetic == rescuenet, "scenes and RescueNet can train one model"
    folder = make_folder(tmp_path / "folder", {"": 3})
    first = load(config("folder", folder)).fingerprint
    other = load(config("folder", folder, ignore_index=7)).fingerprint
    assert first != synthetic
    assert first["classes"].endswith(" land,water,road")
    assert {key for key in first if first[key] != other[key]} == {"ignore_index"}


def test_the_natural_shards_are_regions_in_training_and_validation() -> None:
    tasks = [load(small(shard, num_shards=3)) for shard in range(3)]
    assert [len(task.train_data) for task in tasks] == [12, 12, 12]
    assert [len(task.val_data) for task in tasks] == [4, 4, 4]
    pooled = load(small(None, num_shards=3))
    assert len(pooled.train_data) == 36
    assert pictures_of(pooled) == set.union(*(pictures_of(task) for task in tasks))


@pytest.mark.parametrize("by", ["iid", "quantity", "dirichlet"])
def test_other_splits_divide_the_training_data_and_share_the_validation(by: str) -> None:
    tasks = [load(small(shard, by=by, num_shards=3)) for shard in range(3)]
    assert sum(len(task.train_data) for task in tasks) == 36
    assert all(len(task.train_data) > 0 for task in tasks)
    assert len({frozenset(pictures_of(task)) for task in tasks}) == 1


def test_folders_are_natural_groups(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"t1": 4, "t2": 4, "t3": 8})
    tasks = [
        load(config("folder", root, partition=PartitionConfig(num_shards=2, shard=shard)))
        for shard in range(2)
    ]
    # Every picture is 20 x 24 and gives four tiles; shard 0 has t1 and t3.
    assert [len(task.train_data) for task in tasks] == [4 * (3 + 6), 4 * 3]
    assert [len(task.val_data) for task in tasks] == [4 * (1 + 2), 4 * 1]
    with pytest.raises(ConfigError, match=r"4 shards, but the data has only 3 natural groups"):
        load(config("folder", root, partition=PartitionConfig(num_shards=4, shard=0)))


def test_a_group_with_nothing_to_validate_on_says_so(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"t1": 1, "t2": 4})
    with pytest.raises(DataError, match=r"shard 0: group t1 has one image only"):
        load(config("folder", root, partition=PartitionConfig(num_shards=2, shard=0)))


def test_data_without_groups_names_the_other_splits(tmp_path: Path) -> None:
    root = make_splits(tmp_path, {"train": "train", "val": "val"})
    with pytest.raises(ConfigError, match=r"data\.partition\.by: this data has no natural groups"):
        load(config("rescuenet", root, partition=PartitionConfig(num_shards=2, shard=0)))
    assert len(load(config("rescuenet", root)).train_data) == 8


def test_broken_content_is_named_when_it_is_reached(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"": 2})
    file = next((root / "masks").glob("*.png"))
    file.write_bytes(file.read_bytes()[:60])
    task = load(config("folder", root))
    with pytest.raises(DataError, match=file.name):
        [data[index] for data in (task.train_data, task.val_data) for index in range(len(data))]


@pytest.mark.skipif(
    "SEMANTIC_NET_DATA" not in os.environ,
    reason="needs real images: set SEMANTIC_NET_DATA to a folder with dubai_aerial",
)
def test_real_aerial_images_load_train_and_score() -> None:
    path = Path(os.environ["SEMANTIC_NET_DATA"]) / "dubai_aerial"
    classes = ("building", "land", "road", "vegetation", "water", "unlabeled")
    task = load(
        config(
            "folder",
            path,
            tile_size=64,
            classes=classes,
            ignore_index=5,
            max_side=256,
            partition=PartitionConfig(num_shards=4, shard=1),
        )
    )
    torch.manual_seed(0)
    model = task.make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    examples = batches(task.train_data, 8)
    for images, targets in examples[:12]:
        optimizer.zero_grad()
        loss = task.loss(model(images), targets)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    scores = task.metrics(model, batches(task.val_data, 16), CPU)
    assert "iou_unlabeled" not in scores
    assert scores["pixel_accuracy"] > 0.2
