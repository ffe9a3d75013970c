"""Where pictures come from: `SOURCES` maps a ``data.source`` to a function that finds them.

Finding looks at names and image headers only. Anything missing or unpaired is an error here; what
is wrong inside of a file shows on reading.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from semantic_net.config import DataConfig, TaskConfig
from semantic_net.errors import ConfigError, DataError
from semantic_net.task.disaster.classes import FLOODNET, MAX_CLASSES, RESCUENET, ClassSet
from semantic_net.task.disaster.pictures import FilePair, Picture, open_pair
from semantic_net.task.disaster.synthetic.source import find_scenes

_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})


@dataclass(frozen=True, slots=True)
class Source:
    """The pictures of a whole data set, before it is split into shards."""

    classes: ClassSet
    train: tuple[Picture, ...]
    val: tuple[Picture, ...]
    grouped: bool
    """Whether `Picture.group` says anything."""


def find(cfg: TaskConfig) -> Source:
    """Find the pictures of the configured source.

    Raises:
        ConfigError: No such source, or its keys do not fit it.
        DataError: A folder or a file is missing, or an image has no mask, or the reverse.
    """
    source = cfg.data.source
    if source not in SOURCES:
        raise ConfigError(
            f"data.source: task disaster has no source {source!r}; known: {', '.join(SOURCES)}"
        )
    if source != "folder":
        for key, value in (
            ("classes", cfg.data.classes or None),
            ("ignore_index", cfg.data.ignore_index),
        ):
            if value is not None:
                raise ConfigError(f"data.{key}: only source folder takes it, {source} has its own")
    classes_of, find_pictures = SOURCES[source]
    classes = classes_of(cfg.data)
    if cfg.observe:
        return Source(classes, (), (), grouped=False)
    found = find_pictures(cfg, classes)
    for split, pictures in (("train on", found.train), ("validate on", found.val)):
        if not pictures:
            raise DataError(f"data.path {cfg.data.path}: no image to {split}; add more images")
    return found


def _synthetic(cfg: TaskConfig, classes: ClassSet) -> Source:
    train, val = find_scenes(cfg)
    return Source(classes, train, val, grouped=True)


def _by_split(cfg: TaskConfig, classes: ClassSet) -> Source:
    """Find ``{split}-org-img`` and ``{split}-label-img`` in either layout in use."""
    data = cfg.data
    root = _root(data)
    found: dict[str, tuple[FilePair, ...]] = {}
    for split, long_name in (("train", "trainset"), ("val", "validationset")):
        folders = [root / split, root / f"segmentation-{long_name}"]
        parent = next((folder for folder in folders if folder.is_dir()), None)
        if parent is None:
            raise DataError(
                f"data.path {root}: neither {folders[0].name}/ nor {folders[1].name}/ is there"
            )
        pairs = _pair(parent / f"{split}-org-img", parent / f"{split}-label-img", "_lab")
        found[split] = tuple(
            open_pair(image, mask, "", classes, data.max_side) for image, mask in pairs
        )
    return Source(classes, found["train"], found["val"], grouped=False)


def _folder(cfg: TaskConfig, classes: ClassSet) -> Source:
    data = cfg.data
    root = _root(data)
    train: list[FilePair] = []
    val: list[FilePair] = []
    image_folders = sorted(path for path in root.rglob("images") if path.is_dir())
    if not image_folders:
        raise DataError(f"data.path {root}: no folder images/ with a folder masks/ beside it")
    for images in image_folders:
        group = images.parent.relative_to(root).as_posix()
        pairs = _pair(images, images.parent / "masks", "")
        held_out = _held_out([image.stem for image, _ in pairs], group, data)
        for image, mask in pairs:
            pair = open_pair(image, mask, group, classes, data.max_side)
            (val if image.stem in held_out else train).append(pair)
    return Source(classes, tuple(train), tuple(val), grouped=True)


def _rescuenet_classes(data: DataConfig) -> ClassSet:
    return ClassSet(RESCUENET)


def _floodnet_classes(data: DataConfig) -> ClassSet:
    return ClassSet(FLOODNET)


def _configured_classes(data: DataConfig) -> ClassSet:
    names, ignore = data.classes, data.ignore_index
    if not 2 <= len(names) <= MAX_CLASSES or len(set(names)) < len(names):
        raise ConfigError(
            "data.classes: source folder needs the names of all classes in the order of their mask"
            f" indices, 2 to {MAX_CLASSES} different ones, got {list(names)}"
        )
    if ignore is not None and ignore < 0:
        raise ConfigError(f"data.ignore_index must be >= 0, got {ignore}")
    return ClassSet(names, ignore)


Finder = tuple[
    Callable[[DataConfig], ClassSet],
    Callable[[TaskConfig, ClassSet], Source],
]
"""How a source's classes are known, and how its pictures are found."""

SOURCES: Mapping[str, Finder] = {
    "synthetic": (_rescuenet_classes, _synthetic),
    "rescuenet": (_rescuenet_classes, _by_split),
    "floodnet": (_floodnet_classes, _by_split),
    "folder": (_configured_classes, _folder),
}


def _root(data: DataConfig) -> Path:
    if not data.path:
        raise ConfigError(f"data.path: source {data.source} needs the folder of the data set")
    root = Path(data.path).expanduser()
    if not root.is_dir():
        raise DataError(f"data.path {root}: no such folder; give the folder of the data set")
    return root


def _pair(images: Path, masks: Path, suffix: str) -> list[tuple[Path, Path]]:
    """Pair each image with the mask of the same stem plus ``suffix``, in the order of names."""
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; images and masks come in pairs")
    by_stem = _by_stem(path for path in images.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES)
    masks_by_stem = _by_stem(path for path in masks.iterdir() if path.suffix.lower() == ".png")
    for stem, image in by_stem.items():
        if stem + suffix not in masks_by_stem:
            raise DataError(f"{image}: its mask {masks / f'{stem}{suffix}.png'} is missing")
    for stem, mask in masks_by_stem.items():
        if not stem.endswith(suffix) or stem[: len(stem) - len(suffix)] not in by_stem:
            raise DataError(f"{mask}: its image in {images} is missing")
    return [(by_stem[stem], masks_by_stem[stem + suffix]) for stem in sorted(by_stem)]


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(paths):
        if path.name.startswith("."):
            continue
        if path.stem in found:
            raise DataError(f"{path}: {found[path.stem].name} has the same stem; rename one")
        found[path.stem] = path
    return found


def _held_out(stems: list[str], group: str, data: DataConfig) -> set[str]:
    """Choose the share of a group to validate on: at least one of two, never all.

    The choice is by hash, so that a further image does not reshuffle the others.
    """
    count = min(max(round(len(stems) * data.val_ratio), 1), len(stems) - 1)

    def rank(stem: str) -> bytes:
        return hashlib.blake2b(f"{data.seed}/{group}/{stem}".encode(), digest_size=16).digest()

    return set(sorted(stems, key=rank)[: max(count, 0)])
