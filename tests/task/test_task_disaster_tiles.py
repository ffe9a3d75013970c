"""Tiles cut from pictures, to train and to validate on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from disaster_support import Pixels
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.task.disaster.classes import IGNORE
from semantic_net.task.disaster.pictures import PictureCache
from semantic_net.task.disaster.tiles import TrainTiles, ValTiles, cut, to_tensors


@dataclass
class Numbered:
    """A picture whose every pixel tells its place: class = row, red = column."""

    height: int
    width: int
    group: str = ""
    reads: list[int] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    def read(self) -> tuple[Pixels, Pixels]:
        self.reads.append(1)
        rows, columns = np.mgrid[: self.height, : self.width].astype(np.uint8)
        return np.stack([columns, rows, rows * 0], axis=-1), rows


def cache(*pictures: Numbered) -> PictureCache:
    return PictureCache(pictures, budget_bytes=1 << 20)


def column_of(image: torch.Tensor) -> torch.Tensor:
    return torch.round((image[0] * 0.25 + 0.5) * 255)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([4, 8, 16]))
def test_validation_tiles_hold_every_pixel_once(height: int, width: int, size: int) -> None:
    tiles = ValTiles(cache(Numbered(height, width)), tile_size=size)
    seen: list[tuple[int, int]] = []
    for index in range(len(tiles)):
        image, target = tiles[index]
        assert image.shape == (3, size, size)
        counted = target != IGNORE
        seen += zip(target[counted].tolist(), column_of(image)[counted].tolist(), strict=True)
    assert sorted(seen) == [(row, column) for row in range(height) for column in range(width)]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5), st.integers(-9, 9))
def test_training_tiles_are_windows_of_a_picture_in_either_direction(
    height: int, width: int, epoch: int, seed: int
) -> None:
    tiles = TrainTiles(cache(Numbered(height, width)), tile_size=8, seed=seed)
    tiles.set_epoch(epoch)
    for index in range(len(tiles)):
        image, target = tiles[index]
        assert image.dtype == torch.float32
        assert target.dtype == torch.int64
        assert image.shape == (3, 8, 8)
        counted = target != IGNORE
        assert int(counted.sum()) == min(height, 8) * min(width, 8)
        rows = sorted(set(target[counted].tolist()))
        columns = sorted(set(column_of(image)[counted].tolist()))
        assert rows == list(range(rows[0], rows[0] + min(height, 8)))
        assert columns == [columns[0] + step for step in range(min(width, 8))]


def test_an_epoch_has_as_many_crops_as_cover_each_picture() -> None:
    tiles = TrainTiles(cache(Numbered(8, 8), Numbered(9, 17)), tile_size=8, seed=0)
    assert len(tiles) == 1 + 2 * 3
    assert len(TrainTiles(cache(Numbered(800, 800)), tile_size=8, seed=0)) == 64


def test_an_example_follows_from_seed_epoch_and_index_alone() -> None:
    def examples(seed: int, epoch: int, order: list[int]) -> list[list[float]]:
        tiles = TrainTiles(cache(Numbered(40, 40)), tile_size=8, seed=seed)
        tiles.set_epoch(epoch)
        found = {index: tiles[index][0].flatten().tolist() for index in order}
        return [found[index] for index in sorted(found)]

    indices = list(range(25))
    first = examples(0, 3, indices)
    assert first == examples(0, 3, indices[::-1])
    assert first != examples(0, 4, indices)
    assert first != examples(1, 3, indices)
    assert len({tuple(example) for example in first}) > 20


def test_flips_occur_in_both_directions() -> None:
    tiles = TrainTiles(cache(Numbered(160, 160)), tile_size=8, seed=0)
    directions = set()
    for index in range(len(tiles)):
        image, target = tiles[index]
        down = bool(target[1, 0] > target[0, 0])
        right = bool(image[0, 0, 1] > image[0, 0, 0])
        directions.add((down, right))
    assert len(directions) == 4


def test_indexing_ends_where_the_data_ends() -> None:
    pictures = cache(Numbered(16, 16))
    for tiles in (ValTiles(pictures, tile_size=8), TrainTiles(pictures, tile_size=8, seed=0)):
        assert len(tiles) == 4
        with pytest.raises(IndexError):
            tiles[4]


def test_a_picture_is_decoded_once() -> None:
    picture = Numbered(16, 16)
    tiles = ValTiles(cache(picture), tile_size=8)
    for index in [*range(4), *range(4)]:
        tiles[index]
    assert len(picture.reads) == 1


def test_padding_is_grey_and_counts_for_nothing() -> None:
    image = np.full((2, 3, 3), 255, dtype=np.uint8)
    tile, classes = cut(image, np.zeros((2, 3), dtype=np.uint8), 0, 1, 3)
    assert classes.tolist() == [[0, 0, IGNORE], [0, 0, IGNORE], [IGNORE] * 3]
    tensor, _ = to_tensors(tile, classes)
    assert tensor[0, 0].tolist() == pytest.approx([2.0, 2.0, 0.0], abs=0.01)
