"""Pictures of any size through a model that was trained on tiles: classes, colours, an overlay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import nn

from semantic_net.errors import DataError
from semantic_net.task.base import Prediction
from semantic_net.task.disaster.classes import PALETTE, ClassSet
from semantic_net.task.disaster.pictures import Pixels, read_image, size_to_read
from semantic_net.task.disaster.tiles import cut, to_tensors

_BATCH: Final = 8
_OPACITY: Final = 0.5
_SHOWN: Final = 4
"""Most classes that are named in a line."""


def predict(
    classes: ClassSet,
    tile_size: int,
    max_side: int | None,
    model: nn.Module,
    path: Path,
    out: Path,
    device: torch.device,
) -> Prediction:
    """Write an image's classes, ``<stem>_classes.png``, and itself in their colours.

    Args:
        classes: What the model tells apart.
        tile_size: That it was trained on.
        max_side: As images were shrunk to in training.
        model: In eval mode.
        path: The image.
        out: Folder for ``<stem>_classes.png``, whose pixels are class indices shown in colours, and
            ``<stem>_overlay.png``; both have the size of the image.
        device: The model's.

    Raises:
        DataError: The image cannot be read, or a picture cannot be written.
    """
    image, full_size = read_image(path, size_to_read(path, max_side))
    found = segment(model, image, tile_size, device)
    mask = Image.fromarray(found)
    if found.shape != full_size:
        mask = mask.resize((full_size[1], full_size[0]), Image.Resampling.NEAREST)
    mask.putpalette(PALETTE.tobytes())
    whole, _ = read_image(path, full_size)
    colours = PALETTE[np.asarray(mask)]
    blended = np.rint(_OPACITY * colours + (1 - _OPACITY) * whole).astype(np.uint8)
    files = (out / f"{path.stem}_classes.png", out / f"{path.stem}_overlay.png")
    try:
        mask.save(files[0])
        Image.fromarray(blended).save(files[1])
    except OSError as exc:
        raise DataError(f"{out}: cannot be written: {exc.strerror or exc}") from exc
    return Prediction(files, _shares(found, classes))


def segment(model: nn.Module, image: Pixels, tile_size: int, device: torch.device) -> Pixels:
    """Return the class of each pixel, (H, W), as the tile sees it in whose middle it lies."""
    height, width = image.shape[:2]
    found: Pixels = np.zeros((height, width), np.uint8)
    nothing = np.zeros((height, width), np.uint8)
    places = [
        (rows, columns)
        for rows in _places(height, tile_size)
        for columns in _places(width, tile_size)
    ]
    for start in range(0, len(places), _BATCH):
        batch = places[start : start + _BATCH]
        tiles = [to_tensors(*cut(image, nothing, r[0], c[0], tile_size))[0] for r, c in batch]
        with torch.inference_mode():
            scores = model(torch.stack(tiles).to(device))
        for (rows, columns), best in zip(batch, scores.argmax(dim=1).cpu().numpy(), strict=True):
            (top, begin, end), (left, first, last) = rows, columns
            found[begin:end, first:last] = best[begin - top : end - top, first - left : last - left]
    return found


def _places(length: int, tile_size: int) -> Iterator[tuple[int, int, int]]:
    """Yield, along one side, where each tile begins and the part of the picture that it decides."""
    step = max(tile_size // 2, 1)
    for begin in range(0, length, step):
        start = min(max(begin - (tile_size - step) // 2, 0), max(length - tile_size, 0))
        yield start, begin, min(begin + step, length)


def _shares(found: Pixels, classes: ClassSet) -> str:
    counts = np.bincount(found.ravel(), minlength=len(classes.names))
    order = np.argsort(-counts, kind="stable")[:_SHOWN]
    shares = [(classes.names[index], counts[index] / found.size) for index in order]
    return ", ".join(f"{name} {share:.0%}" for name, share in shares if share >= 0.005)
