"""Buildings at four levels of damage, which differ in shape and texture rather than in colour.

No damage: a whole roof and its shadow. Minor: patches on the roof. Major: part of the roof is
gone and shows rooms. Destroyed: a field of rubble that casts no shadow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from semantic_net.task.disaster.classes import RESCUENET
from semantic_net.task.disaster.synthetic.ground import Road
from semantic_net.task.disaster.synthetic.site import Bool, Float, Frame, Site, palette, shaded

NO_DAMAGE = RESCUENET.index("Building_No_Damage")
MINOR = RESCUENET.index("Building_Minor")
MAJOR = RESCUENET.index("Building_Major")
DESTROYED = RESCUENET.index("Building_Total_Destruction")
LEVELS = (NO_DAMAGE, MINOR, MAJOR, DESTROYED)

_COVERS = palette(((0.22, 0.46, 0.70), (0.26, 0.56, 0.74), (0.30, 0.29, 0.28), (0.72, 0.72, 0.70)))
"""Tarpaulins, bare underlay and new sheets: some as blue as a pool, some as grey as a road."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Building:
    """Where a building stands, how it was built and what became of it."""

    x: float
    y: float
    heading: float
    half_a: float
    """Half length along the road."""
    half_b: float
    wing: float
    """Half length of a wing across the main part; 0 for a plain rectangle."""
    flat: bool
    roof: int
    """Which of the region's colours."""
    level: int
    """The class: one of `LEVELS`."""
    road: Road

    def spot(self, a: float, b: float) -> tuple[float, float]:
        """Return x and y of a place in the building's own frame."""
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        return self.x + a * cos - b * sin, self.y + a * sin + b * cos

    def shape(self, frame: Frame, margin: float = 0.0) -> Bool:
        """Return the ground plan, grown by ``margin``."""
        a, b = np.abs(frame.a), np.abs(frame.b)
        depth = 0.62 * self.half_b if self.wing else self.half_b
        plan: Bool = (a < self.half_a + margin) & (b < depth + margin)
        if self.wing:
            offset = np.abs(frame.a - (self.half_a - self.wing))
            plan |= (offset < self.wing + margin) & (b < self.half_b + margin)
        return plan


@dataclass(frozen=True, slots=True)
class Lot:
    """A building and the pixels that it takes."""

    building: Building
    frame: Frame
    plan: Bool


def plan_buildings(site: Site, roads: list[Road]) -> list[Lot]:
    """Choose lots along the roads on ground that is free, and take them."""
    lots = []
    for road in roads:
        for hand in (-1.0, 1.0):
            along = -0.72 * site.side + site.uniform(0, 20)
            while along < 0.72 * site.side:
                half_a = site.region.house * site.uniform(0.75, 1.3)
                if site.chance(site.region.built):
                    building = _plan_building(site, road, along + half_a, hand, half_a)
                    if (lot := _claim(site, building)) is not None:
                        lots.append(lot)
                along += 2 * half_a + site.uniform(4, 12)
    return lots


def _plan_building(site: Site, road: Road, along: float, hand: float, half_a: float) -> Building:
    region = site.region
    half_b = half_a * site.uniform(0.6, 0.95)
    x, y, heading = road.at(along, hand * (road.width / 2 + half_b + site.uniform(3, 8)))
    return Building(
        x=x,
        y=y,
        heading=heading + site.normal(0.04),
        half_a=half_a,
        half_b=half_b,
        wing=site.uniform(0.35, 0.6) * half_a if site.chance(0.35) else 0.0,
        flat=site.chance(region.flat_roofs),
        roof=int(site.rng.integers(len(region.roofs))),
        level=LEVELS[int(site.rng.choice(4, p=region.damage))],
        road=road,
    )


def _claim(site: Site, building: Building) -> Lot | None:
    reach = 1.45 * max(building.half_a, building.half_b) + 2
    frame = site.frame(building.x, building.y, building.heading, reach)
    if frame is None or np.any(site.taken[frame.window] & building.shape(frame, 2.0)):
        return None
    plan = building.shape(frame)
    if not plan.any():
        return None
    site.taken[frame.window] |= plan
    return Lot(building, frame, plan)


def shade_ground(site: Site, lots: list[Lot]) -> None:
    """Let what still stands cast its shadow."""
    length = site.region.shadow_length
    for levels, height in (((NO_DAMAGE, MINOR), length), ((MAJOR,), length / 2)):
        tall = np.zeros((site.side, site.side), dtype=np.bool_)
        for lot in lots:
            if lot.building.level in levels:
                tall[lot.frame.window] |= lot.plan
        site.cast_shadow(tall, round(height))


def build(site: Site, lot: Lot) -> None:
    """Paint one building, and the pieces of it that lie about."""
    building = lot.building
    if building.level == DESTROYED:
        _pile_up(site, lot)
        _litter(site, building, 70, 1.45)
        return
    site.paint(lot.frame, lot.plan, _roof(site, lot), building.level)
    if building.level == MAJOR:
        _tear_open(site, lot)
        _litter(site, building, 40, 1.3)
    elif building.level == MINOR:
        _damage_roof(site, lot)
        _litter(site, building, 9, 1.25)


def _roof(site: Site, lot: Lot) -> Float:
    """Return the colours of a whole roof: a flat one with a rim, or one with four slopes."""
    building, a, b = lot.building, lot.frame.a, lot.frame.b
    if building.flat:
        rim = np.maximum(np.abs(a) - building.half_a, np.abs(b) - building.half_b) > -1.6
        tone = np.where(rim, 1.12, 0.97)
    else:
        toward_a = math.cos(site.region.sun - building.heading)
        toward_b = math.sin(site.region.sun - building.heading)
        gable = np.abs(a) - (building.half_a - 0.9 * building.half_b) > np.abs(b)
        lit = np.where(gable, np.sign(a) * toward_a, np.sign(b) * toward_b)
        courses = np.where(gable, a, b) % 3 < 1
        ridge = (np.abs(b) < 0.6) & ~gable
        tone = 1 + 0.55 * site.region.shadow * lit - 0.05 * courses + 0.12 * ridge
    tone = tone + 0.03 * site.grain[lot.frame.window]
    return shaded(site.region.roofs[building.roof], tone)


def _damage_roof(site: Site, lot: Lot) -> None:
    """Cover or tear a few rectangles of the roof, and make a hole or two."""
    building, frame = lot.building, lot.frame
    grain = site.grain[frame.window]
    for _ in range(site.rng.integers(2, 5)):
        off_a = frame.a - site.uniform(-0.7, 0.7) * building.half_a
        off_b = frame.b - site.uniform(-0.6, 0.6) * building.half_b
        patch = (np.abs(off_a) < site.uniform(2.5, 6)) & (np.abs(off_b) < site.uniform(2.5, 6))
        cover = _COVERS[site.rng.integers(len(_COVERS))]
        cover = cover + site.rng.normal(0, 0.045, 3).astype(np.float32)
        folds = 1 + 0.04 * grain + 0.06 * np.sin(1.3 * frame.a)
        site.paint(frame, patch & lot.plan, shaded(cover, folds))
    holes = lot.plan & (_waves(site, frame) > 0.85)
    site.paint(frame, holes, shaded((0.25, 0.22, 0.20), 1 + 0.2 * grain))


def _tear_open(site: Site, lot: Lot) -> None:
    """Take about half of the roof away: walls from above, dark floors, heaps of rubble."""
    frame = lot.frame
    ragged = _waves(site, frame) + 0.5 * np.sign(frame.a) * site.rng.choice([-1, 1])
    torn = lot.plan & (ragged > site.uniform(-0.1, 0.3))
    walls = (frame.a % 8 < 1.5) | ((frame.b + 2) % 7 < 1.5)
    tone = np.where(walls, 1.15, 0.55) + 0.08 * site.grain[frame.window]
    site.paint(frame, torn, shaded(site.region.roofs[lot.building.roof], tone))
    heaps = torn & (_waves(site, frame) > 0.1)
    site.paint(frame, heaps, site.rubble[frame.window])


def _pile_up(site: Site, lot: Lot) -> None:
    """Leave rubble, sometimes with a ragged outline, and bare ground between."""
    frame = lot.frame
    ragged = _waves(site, frame)
    ruin = lot.plan & (ragged > -0.75) if site.chance(0.5) else lot.plan
    site.paint(frame, ruin, site.rubble[frame.window], DESTROYED)
    bare = shaded(site.region.soil, 0.9 + 0.05 * site.grain[frame.window])
    site.paint(frame, ruin & (ragged > 0.75), bare)


def _waves(site: Site, frame: Frame) -> Float:
    """Return waves in a building's own frame, about in [-1, 1]: cheap irregular outlines."""
    p, q, r = site.rng.uniform(0, 2 * np.pi, 3).astype(np.float32)
    k, m, n = site.rng.uniform(0.25, 0.55, 3).astype(np.float32)
    waves: Float = np.sin(k * frame.a + p) + np.sin(m * frame.b + q)
    waves += np.sin(n * (frame.a + frame.b) + r)
    waves /= 2
    return waves


def _litter(site: Site, building: Building, count: int, spread: float) -> None:
    """Scatter pieces over a building and the ground around it."""
    a = site.rng.uniform(-spread, spread, count) * building.half_a
    b = site.rng.uniform(-spread, spread, count) * building.half_b
    cos, sin = math.cos(building.heading), math.sin(building.heading)
    site.scatter(building.x + a * cos - b * sin, building.y + a * sin + b * cos, longest=4)
