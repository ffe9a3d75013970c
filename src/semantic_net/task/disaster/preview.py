"""A few tiles as people see them: the picture, what is there, and what the model makes of it."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import nn

from semantic_net.status import Sample
from semantic_net.task.disaster.classes import PALETTE
from semantic_net.task.disaster.pictures import Pixels
from semantic_net.task.disaster.tiles import ValTiles, to_tensors

NUM_SAMPLES: Final = 4
MAX_SIDE: Final = 128
"""Pixels of a picture's side: about 5 kB a sample."""

_QUALITY: Final = 75


def preview(data: ValTiles, model: nn.Module, device: torch.device) -> list[Sample]:
    """Return a few tiles from all over the validation data, and the model's classes of them."""
    count = min(NUM_SAMPLES, len(data))
    indices = np.linspace(0, len(data) - 1, count).astype(int).tolist() if count else []
    tiles = [data.pixels(index) for index in indices]
    if not tiles:
        return []
    inputs = torch.stack([to_tensors(image, truth)[0] for image, truth in tiles])
    with torch.inference_mode():
        found = model(inputs.to(device)).argmax(dim=1).cpu().numpy().astype(np.uint8)
    return [
        Sample(
            f"tile {index + 1}",
            pictures={
                "image": _picture(image),
                "truth": _classes(truth),
                "prediction": _classes(predicted),
            },
        )
        for index, (image, truth), predicted in zip(indices, tiles, found, strict=True)
    ]


def _picture(image: Pixels) -> bytes:
    shown = Image.fromarray(image)
    shown.thumbnail((MAX_SIDE, MAX_SIDE))
    return _file(shown, "JPEG", quality=_QUALITY)


def _classes(mask: Pixels) -> bytes:
    shown = Image.fromarray(mask)
    shown.putpalette(PALETTE.tobytes())
    shown.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.NEAREST)
    return _file(shown, "PNG", optimize=True)


def _file(image: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
