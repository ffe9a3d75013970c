"""From a column's number to what the model sees, by the unit at the end of the column's name.

The same on every device: nothing is measured on local data, since peers whose inputs are scaled
apart do not train one model. ``rtt_ms`` is in ms, ``rsrp_dbm`` in dBm; a column whose ending is
unknown (a count, an index) is seen through a signed logarithm, which tames any range.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Unit:
    """How numbers of one unit are brought near [-3, 3]."""

    centre: float
    scale: float
    heavy_tail: bool = False
    """Rare values lie far out: the model sees the logarithm too."""


UNITS = {
    "us": Unit(0, 100_000, heavy_tail=True),
    "ms": Unit(0, 100, heavy_tail=True),
    "s": Unit(0, 0.1, heavy_tail=True),
    "bps": Unit(0, 20e6, heavy_tail=True),
    "kbps": Unit(0, 20e3, heavy_tail=True),
    "mbps": Unit(0, 20, heavy_tail=True),
    "dbm": Unit(-85, 15),
    "db": Unit(10, 10),
    "mps": Unit(0, 10),
    "kmh": Unit(0, 36),
    "percent": Unit(50, 25),
    "ratio": Unit(0.5, 0.25),
}
"""By the part of a column's name after its last underscore, in lower case."""

_UNKNOWN = Unit(0, 1)


def unit_of(column: str) -> str:
    """Return the key into `UNITS` that a column's name ends in; empty where there is none."""
    ending = column.rpartition("_")[2].lower()
    return ending if ending in UNITS else ""


@dataclass(frozen=True, slots=True)
class Scale:
    """The straight line between a column's unit and the model's numbers."""

    centre: float
    scale: float

    def normalise(self, values: Float64Array) -> Float64Array:
        """Return the model's numbers."""
        return (values - self.centre) / self.scale

    def restore(self, values: Float64Array) -> Float64Array:
        """Return numbers in the column's unit."""
        return values * self.scale + self.centre


@dataclass(frozen=True, slots=True)
class Inputs:
    """Which columns the model sees and forecasts, and how.

    Channel 0 is the target's own past on a straight scale, whether it is among the features or
    not: the model adds to it. Then each feature: a straight channel where its unit is known, and
    a logarithmic one where it is not, or where the unit has a heavy tail.
    """

    features: tuple[str, ...]
    target: str
    target_max: float | None = None

    @property
    def target_scale(self) -> Scale:
        """How the target is normalised; one of unknown unit by a fifth of its clip, or not."""
        name = unit_of(self.target)
        if name:
            return Scale(UNITS[name].centre, UNITS[name].scale)
        return Scale(0.0, abs(self.target_max) / 5 if self.target_max else 1.0)

    def channels(self) -> tuple[str, ...]:
        """Return a description of each channel: equal descriptions, equal numbers."""
        scale = self.target_scale
        names = [f"({self.target}-{scale.centre:g})/{scale.scale:g}"]
        for feature in self.features:
            unit = UNITS.get(unit_of(feature), _UNKNOWN)
            if unit is not _UNKNOWN and feature != self.target:
                names.append(f"({feature}-{unit.centre:g})/{unit.scale:g}")
            if unit is _UNKNOWN or unit.heavy_tail:
                names.append(f"slog({feature}/{unit.scale:g})")
        return tuple(names)

    def encode(
        self, values: Float64Array, target: Float64Array
    ) -> tuple[Float32Array, Float32Array]:
        """Return the channels (T, C) and the normalised target (T,) of a trace.

        Args:
            values: The features' columns, (T, len(features)), in their units.
            target: The target's column, (T,), in its unit.
        """
        normal = self.target_scale.normalise(self._clip(self.target, target))
        encoded = [normal]
        for feature, column in zip(self.features, values.T, strict=True):
            column = self._clip(feature, column)
            unit = UNITS.get(unit_of(feature), _UNKNOWN)
            if unit is not _UNKNOWN and feature != self.target:
                encoded.append((column - unit.centre) / unit.scale)
            if unit is _UNKNOWN:
                encoded.append(np.sign(column) * np.log1p(np.abs(column)))
            elif unit.heavy_tail:
                # A hundredth of the scale is where small values begin to differ.
                small = column * (100 / unit.scale)
                encoded.append(np.sign(small) * np.log1p(np.abs(small)) - 3)
        return np.stack(encoded, axis=1).astype(np.float32), normal.astype(np.float32)

    def _clip(self, column: str, values: Float64Array) -> Float64Array:
        """Clip what is in the target's unit as the target is.

        A delay beyond the clip is not known until it has passed; an input that told it would
        see into the future.
        """
        clips = column == self.target or (
            unit_of(column) and unit_of(column) == unit_of(self.target)
        )
        return (
            np.minimum(values, self.target_max) if clips and self.target_max is not None else values
        )
