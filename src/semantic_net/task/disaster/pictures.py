"""Images with their masks: reading them from files, and keeping decoded ones in memory.

Bytes on disk are not trusted: whatever is wrong with a file becomes a `DataError` that names it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from semantic_net.errors import DataError
from semantic_net.task.disaster.classes import IGNORE, ClassSet

Pixels = npt.NDArray[np.uint8]

# What Pillow raises on broken bytes, by format and by how they are broken.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)
_IMAGE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_MASK_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


class Picture(Protocol):
    """An image with its mask, read anew each time."""

    @property
    def group(self) -> str:
        """The natural group it belongs to: a region, a tile."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    def read(self) -> tuple[Pixels, Pixels]:
        """Return the (H, W, 3) image and the (H, W) classes, `IGNORE` where nothing counts.

        Raises:
            DataError: A file cannot be used; the message names it.
        """
        ...


@dataclass(frozen=True, slots=True)
class FilePair:
    """An image file and the index mask that goes with it."""

    image: Path
    mask: Path
    group: str
    classes: ClassSet
    size: tuple[int, int]
    """Height and width that both are shrunk to on reading."""

    def read(self) -> tuple[Pixels, Pixels]:
        image, full_size = read_image(self.image, self.size)
        return image, self._read_mask(full_size)

    def _read_mask(self, image_size: tuple[int, int]) -> Pixels:
        with _open(self.mask) as file:
            if file.mode not in _MASK_MODES:
                raise DataError(
                    f"{self.mask}: a mask has one channel of class indices, this one is {file.mode}"
                )
            try:
                indices = np.asarray(file)
            except _BROKEN as exc:
                raise DataError(_unreadable(self.mask, exc)) from exc
        if indices.shape != image_size:
            raise DataError(
                f"{self.mask}: {indices.shape[1]} x {indices.shape[0]} pixels, but its image"
                f" {self.image} has {image_size[1]} x {image_size[0]}"
            )
        self._check_indices(indices)
        if indices.shape != self.size:
            indices = indices[_nearest(image_size[0], self.size[0])]
            indices = indices[:, _nearest(image_size[1], self.size[1])]
        classes = indices.astype(np.uint8)
        if self.classes.ignore_index is not None:
            classes[indices == self.classes.ignore_index] = IGNORE
        return classes

    def _check_indices(self, indices: npt.NDArray[Any]) -> None:
        if indices.dtype.itemsize == 1:
            found = np.flatnonzero(np.bincount(indices.ravel(), minlength=1))
        else:
            found = np.unique(indices)
        known = (found >= 0) & (found < len(self.classes.names))
        known |= found == self.classes.ignore_index
        if not known.all():
            wrong = found[~known]
            raise DataError(
                f"{self.mask}: class index {', '.join(map(str, wrong[:5].tolist()))} is outside"
                f" the {len(self.classes.names)} classes; check data.classes and data.ignore_index"
            )


def open_pair(
    image: Path, mask: Path, group: str, classes: ClassSet, max_side: int | None
) -> FilePair:
    """Return the pair, having looked at the image's header only.

    Raises:
        DataError: The image cannot be read.
    """
    return FilePair(image, mask, group, classes, size_to_read(image, max_side))


def size_to_read(image: Path, max_side: int | None) -> tuple[int, int]:
    """Return height and width that an image is shrunk to on reading, from its header alone.

    Raises:
        DataError: The image cannot be read.
    """
    with _open(image) as file:
        width, height = file.size
    longer = max(width, height)
    if max_side is not None and longer > max_side:
        height = max(round(height * max_side / longer), 1)
        width = max(round(width * max_side / longer), 1)
    return height, width


def read_image(path: Path, size: tuple[int, int]) -> tuple[Pixels, tuple[int, int]]:
    """Return an image shrunk to a size, (H, W, 3), and the height and width that it has.

    Raises:
        DataError: The file cannot be used; the message names it.
    """
    height, width = size
    with _open(path) as file:
        full_size = (file.height, file.width)
        if file.mode not in _IMAGE_MODES:
            raise DataError(f"{path}: images of mode {file.mode} are not supported; save it as RGB")
        try:
            if full_size == size:
                return np.asarray(file.convert("RGB")), full_size
            # JPEG decodes at a half, a quarter or an eighth for a fraction of the time.
            file.draft("RGB", (width, height))
            small = file.convert("RGB").resize((width, height), Image.Resampling.BOX)
            return np.asarray(small), full_size
        except _BROKEN as exc:
            raise DataError(_unreadable(path, exc)) from exc


class PictureCache:
    """Pictures by number, the first ones kept decoded as long as they fit a budget.

    What is kept stays: epochs visit all pictures in turn, and evicting the oldest would then
    evict each one just before it is wanted.
    """

    def __init__(self, pictures: Sequence[Picture], *, budget_bytes: int) -> None:
        self.pictures = tuple(pictures)
        self._left = budget_bytes
        self._kept: dict[int, tuple[Pixels, Pixels]] = {}

    def read(self, number: int) -> tuple[Pixels, Pixels]:
        """Return the image and classes of a picture; not to be written to."""
        if (kept := self._kept.get(number)) is not None:
            return kept
        image, classes = self.pictures[number].read()
        size = image.nbytes + classes.nbytes
        if size <= self._left:
            self._left -= size
            self._kept[number] = (image, classes)
        return image, classes


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except _BROKEN as exc:
        raise DataError(_unreadable(path, exc)) from exc


def _unreadable(path: Path, exc: BaseException) -> str:
    reason = "no known image format" if isinstance(exc, UnidentifiedImageError) else exc
    if isinstance(exc, OSError) and exc.strerror:
        reason = exc.strerror
    return f"{path}: cannot be read as an image: {reason}; replace it, or leave it out"


def _nearest(full: int, small: int) -> npt.NDArray[np.int64]:
    return ((np.arange(small) + 0.5) * (full / small)).astype(np.int64)
