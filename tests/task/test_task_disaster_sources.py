"""Finding the pictures of a data set on disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from disaster_support import config, make_folder, make_splits, save_pair

from semantic_net.errors import ConfigError, DataError
from semantic_net.task.disaster.classes import FLOODNET, RESCUENET
from semantic_net.task.disaster.pictures import FilePair, Picture
from semantic_net.task.disaster.sources import find

SHORT = {"train": "train", "val": "val", "test": "test"}
LONG = {
    "train": "segmentation-trainset",
    "val": "segmentation-validationset",
    "test": "segmentation-testset",
}


def stems(pictures: tuple[Picture, ...]) -> list[str]:
    assert all(isinstance(picture, FilePair) for picture in pictures)
    return [picture.image.stem for picture in pictures if isinstance(picture, FilePair)]


@pytest.mark.parametrize("layout", [SHORT, LONG])
def test_rescuenet_is_found_in_both_layouts(tmp_path: Path, layout: dict[str, str]) -> None:
    source = find(config("rescuenet", make_splits(tmp_path, layout, count=3)))
    assert source.classes.names == RESCUENET
    assert not source.grouped
    assert stems(source.train) == stems(source.val) == ["00000", "00001", "00002"]
    first = source.train[0]
    assert isinstance(first, FilePair)
    assert first.image.parent.name == "train-org-img"
    assert first.mask.name == "00000_lab.png"
    assert first.read()[1].max() == 2


def test_floodnet_has_its_own_classes(tmp_path: Path) -> None:
    source = find(config("floodnet", make_splits(tmp_path, SHORT)))
    assert source.classes.names == FLOODNET
    assert len(source.train) == 2


def test_a_missing_split_names_both_layouts(tmp_path: Path) -> None:
    make_splits(tmp_path, {"train": "train"})
    with pytest.raises(DataError, match="neither val/ nor segmentation-validationset/ is there"):
        find(config("rescuenet", tmp_path))


def test_a_folder_may_be_one_group_or_have_one_below_each_folder(tmp_path: Path) -> None:
    one = find(config("folder", make_folder(tmp_path / "one", {"": 5})))
    assert {picture.group for picture in (*one.train, *one.val)} == {"."}
    many = find(config("folder", make_folder(tmp_path / "many", {"b": 5, "deep/a": 10})))
    assert [picture.group for picture in many.train] == ["b"] * 4 + ["deep/a"] * 8
    assert [picture.group for picture in many.val] == ["b"] + ["deep/a"] * 2


def test_the_held_out_share_is_fixed_by_the_seed_and_spares_small_groups(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"a": 10, "b": 2, "c": 1})
    source = find(config("folder", root, val_ratio=0.3))
    assert [picture.group for picture in source.val] == ["a", "a", "a", "b"]
    assert stems(source.val) == stems(find(config("folder", root, val_ratio=0.3)).val)
    assert not set(source.train) & set(source.val)
    others = {tuple(stems(find(config("folder", root, seed=s)).val)) for s in range(5)}
    assert len(others) > 1


def test_a_further_image_does_not_reshuffle_the_others(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"": 10})
    before = set(stems(find(config("folder", root, val_ratio=0.3)).val))
    save_pair(root / "images", root / "masks", "another")
    after = set(stems(find(config("folder", root, val_ratio=0.3)).val))
    assert len(before - after) <= 1


def test_files_that_are_no_images_are_passed_over(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"": 3})
    (root / "images" / "notes.txt").write_text("x")
    (root / "images" / ".hidden.png").write_bytes(b"")
    (root / "masks" / "classes.json").write_text("{}")
    assert len(find(config("folder", root)).train) == 2


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("t/masks/p1.png", "t/images/p1.png: its mask"),
        ("t/images/p1.png", "t/masks/p1.png: its image in"),
    ],
)
def test_an_unpaired_file_is_named(tmp_path: Path, missing: str, message: str) -> None:
    root = make_folder(tmp_path, {"t": 3})
    (root / missing).unlink()
    with pytest.raises(DataError, match=re.escape(message)):
        find(config("folder", root))


def test_a_mask_without_the_suffix_of_its_data_set_is_unpaired(tmp_path: Path) -> None:
    root = make_splits(tmp_path, SHORT)
    mask = root / "val" / "val-label-img" / "00001_lab.png"
    mask.rename(mask.with_name("00001.png"))
    with pytest.raises(DataError, match=r"00001\.png: its mask .*00001_lab\.png is missing"):
        find(config("rescuenet", root))
    mask.with_name("00001.png").rename(mask)
    mask.with_name("colours.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"colours\.png: its image in"):
        find(config("rescuenet", root))


def test_two_images_of_one_stem_are_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"": 2})
    (root / "images" / "p0.jpg").write_bytes((root / "images" / "p0.png").read_bytes())
    with pytest.raises(DataError, match=r"p0\.png: p0\.jpg has the same stem"):
        find(config("folder", root))


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        find(config("folder", tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no folder images/ with a folder masks/ beside it"):
        find(config("folder", tmp_path))
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="masks: no such folder"):
        find(config("folder", tmp_path))


def test_a_folder_with_nothing_to_validate_on_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image to validate on"):
        find(config("folder", make_folder(tmp_path / "one", {"": 1})))
    (tmp_path / "none" / "images").mkdir(parents=True)
    (tmp_path / "none" / "masks").mkdir()
    with pytest.raises(DataError, match="no image to train on"):
        find(config("folder", tmp_path / "none"))


@pytest.mark.parametrize(
    ("source", "data", "message"),
    [
        ("folders", {}, "data.source: task disaster has no source 'folders'; known: synthetic"),
        ("folder", {}, "data.path: source folder needs the folder"),
        ("folder", {"classes": ()}, "data.classes: source folder needs the names"),
        ("folder", {"classes": ("a", "a")}, "data.classes: source folder needs the names"),
        ("folder", {"ignore_index": -1}, "data.ignore_index must be >= 0, got -1"),
        ("rescuenet", {"classes": ("a", "b")}, "data.classes: only source folder takes it"),
        ("synthetic", {"ignore_index": 0}, "data.ignore_index: only source folder takes it"),
    ],
)
def test_keys_that_do_not_fit_the_source_are_named(
    source: str, data: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        find(config(source, **data))
