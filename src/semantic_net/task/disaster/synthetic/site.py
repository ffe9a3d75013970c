"""A picture under construction, and the strokes that every kind of object is made of.

Coordinates are pixels with x to the right and y down; angles are radians from x towards y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from semantic_net.task.disaster.synthetic.region import Colour, Region

Float = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

_WOOD: tuple[Colour, ...] = ((0.52, 0.42, 0.31), (0.66, 0.60, 0.52), (0.36, 0.31, 0.27))


@dataclass(frozen=True, slots=True)
class Frame:
    """A window of a picture; ``a`` runs along an object and ``b`` across it, 0 at its centre."""

    window: tuple[slice, slice]
    a: Float
    b: Float


class Site:
    """Colours in [0, 1], the class of each pixel, and which ground is already built upon."""

    def __init__(self, region: Region, rng: np.random.Generator, side: int) -> None:
        self.region = region
        self.rng = rng
        self.side = side
        self.colour: Float = np.zeros((side, side, 3), dtype=np.float32)
        self.classes: npt.NDArray[np.uint8] = np.zeros((side, side), dtype=np.uint8)
        self.taken: Bool = np.zeros((side, side), dtype=np.bool_)
        axis = np.arange(side, dtype=np.float32)
        self.x: Float = axis[None, :]
        self.y: Float = axis[:, None]
        self.grain: Float = rng.standard_normal((side, side), dtype=np.float32)
        """Unit noise without correlation, for the texture of every surface."""
        self.pieces: Float = palette((*region.roofs, *_WOOD, region.soil, region.road))
        """The colours of what lies about after a disaster, (K, 3)."""
        self.rubble = self._make_rubble()
        """What a heap of broken walls and roofs looks like, wherever one is."""

    def _make_rubble(self) -> Float:
        chunks, dust = self.pieces[self._blocks(3)], self.pieces[self._blocks(1)]
        tone = 0.82 + 0.22 * self.grain + 0.15 * self.noise(5)
        rubble: Float = (0.6 * chunks + 0.4 * dust) * np.clip(tone, 0.35, 1.3)[..., None]
        return rubble

    def _blocks(self, size: int) -> npt.NDArray[np.int64]:
        cells = -(-self.side // size)
        values = self.rng.integers(0, len(self.pieces), (cells, cells))
        return values.repeat(size, axis=0).repeat(size, axis=1)[: self.side, : self.side]

    @property
    def per_area(self) -> float:
        """What a count for 128 x 128 pixels is to be multiplied by."""
        return (self.side / 128) ** 2

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def normal(self, spread: float) -> float:
        return float(self.rng.normal(0.0, spread))

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def noise(self, blob: int) -> Float:
        """Return noise over the picture in about [-1, 1] whose blobs are ``blob`` pixels wide."""
        cells = max(self.side // blob, 2)
        grid = self.rng.uniform(-1.0, 1.0, (cells + 1, cells + 1)).astype(np.float32)
        weights = _weights(self.side, cells)
        noise: Float = weights @ grid @ weights.T
        return noise

    def frame(self, x: float, y: float, angle: float, reach: float) -> Frame | None:
        """Return the pixels around a point with coordinates turned by ``angle``.

        None where the square of half side ``reach`` misses the picture.
        """
        left, right = max(int(x - reach), 0), min(int(x + reach) + 2, self.side)
        top, bottom = max(int(y - reach), 0), min(int(y + reach) + 2, self.side)
        if left >= right or top >= bottom:
            return None
        dx, dy = self.x[:, left:right] - np.float32(x), self.y[top:bottom] - np.float32(y)
        cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        window = (slice(top, bottom), slice(left, right))
        return Frame(window, dx * cos + dy * sin, dy * cos - dx * sin)

    def paint(self, at: Frame, where: Bool, colours: Float, label: int | None = None) -> None:
        """Set the pixels of ``where`` to one colour, or to the colours of the frame."""
        np.copyto(self.colour[at.window], colours, where=where[..., None])
        if label is not None:
            self.classes[at.window][where] = label

    def scatter(self, x: Any, y: Any, *, longest: int) -> None:
        """Drop a thin straight piece of random colour, direction and length at each point.

        Classes stay as they are.

        Args:
            x: Where the pieces start, any number of them.
            y: Where the pieces start.
            longest: Most pixels of a piece.
        """
        count = len(x)
        tone = self.rng.uniform(0.65, 1.2, (count, 1)).astype(np.float32)
        colour = self.pieces[self.rng.integers(0, len(self.pieces), count)] * tone
        angle = self.rng.uniform(0, 2 * np.pi, count)
        length = self.rng.integers(1, longest + 1, count)
        dx, dy = np.cos(angle), np.sin(angle)
        for step in range(longest):
            column, row = np.floor(x + step * dx).astype(int), np.floor(y + step * dy).astype(int)
            seen = (length > step) & (column >= 0) & (row >= 0)
            seen &= (column < self.side) & (row < self.side)
            self.colour[row[seen], column[seen]] = colour[seen]

    def cast_shadow(self, tall: Bool, length: int) -> None:
        """Darken the ground that what is ``tall`` hides from the sun."""
        shade = np.zeros_like(tall)
        away_x, away_y = -math.cos(self.region.sun), -math.sin(self.region.sun)
        for step in range(1, length + 1):
            dx, dy = round(step * away_x), round(step * away_y)
            shade[_from(dy, self.side), _from(dx, self.side)] |= tall[
                _from(-dy, self.side), _from(-dx, self.side)
            ]
        self.colour[shade & ~tall] *= 1 - self.region.shadow


def palette(colours: tuple[Colour, ...]) -> Float:
    """Return colours as a (K, 3) array."""
    return np.asarray(colours, dtype=np.float32)


def shaded(colour: Colour | Float, tone: Any) -> Float:
    """Return one colour in different tones: (H, W) of them give (H, W, 3)."""
    tones: Float = np.asarray(tone, dtype=np.float32)[..., None]
    return np.asarray(colour, dtype=np.float32) * tones


@lru_cache(maxsize=64)
def _weights(side: int, cells: int) -> Float:
    """Return the (side, cells + 1) matrix that interpolates smoothly along one axis."""
    at = np.arange(side) * (cells / side)
    low = at.astype(np.int64)
    share = at - low
    share = share * share * (3 - 2 * share)  # no creases at the grid's lines
    weights = np.zeros((side, cells + 1), dtype=np.float32)
    rows = np.arange(side)
    weights[rows, low] = 1 - share
    weights[rows, low + 1] = share
    weights.flags.writeable = False
    return weights


def _from(shift: int, side: int) -> slice:
    """Return the places that something of length ``side`` still covers once shifted."""
    return slice(max(shift, 0), side + min(shift, 0))
