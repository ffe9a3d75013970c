"""The classes of the data sets that ship, in the order of their masks' indices, and colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

IGNORE: Final = 255
"""Target of a pixel that counts for nothing, whatever the index in the file was."""

MAX_CLASSES: Final = 255
"""Targets are stored as uint8, and one value is `IGNORE`."""


@dataclass(frozen=True, slots=True)
class ClassSet:
    """What the indices of a data set's masks mean."""

    names: tuple[str, ...]
    ignore_index: int | None = None
    """Mask index of pixels that count for nothing; it may, but need not, have a name."""


RESCUENET: Final = (
    "Background",
    "Water",
    "Building_No_Damage",
    "Building_Minor",
    "Building_Major",
    "Building_Total_Destruction",
    "Vehicle",
    "Road-Clear",
    "Road-Blocked",
    "Tree",
    "Pool",
)

FLOODNET: Final = (
    "Background",
    "Building-flooded",
    "Building-non-flooded",
    "Road-flooded",
    "Road-non-flooded",
    "Water",
    "Tree",
    "Vehicle",
    "Pool",
    "Grass",
)


def _palette() -> npt.NDArray[np.uint8]:
    first = [
        (0, 0, 0),
        (61, 130, 250),
        (180, 120, 120),
        (235, 220, 60),
        (255, 140, 6),
        (220, 0, 0),
        (255, 0, 245),
        (140, 140, 140),
        (110, 80, 20),
        (4, 160, 30),
        (0, 235, 235),
    ]
    # Beyond the disaster classes any distinct colours do: steps of a full-period generator.
    rest = [((37 * i + 80) % 256, (101 * i + 160) % 256, (197 * i + 40) % 256) for i in range(256)]
    table = np.array([*first, *rest[len(first) :]], dtype=np.uint8)
    table[IGNORE] = (255, 255, 255)
    table.flags.writeable = False
    return table


PALETTE: Final = _palette()
"""Colour of each class index in pictures for people, (256, 3) uint8; `IGNORE` is white."""
