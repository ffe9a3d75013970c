"""Open ground, water, roads and what blocks them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from semantic_net.task.disaster.classes import RESCUENET
from semantic_net.task.disaster.synthetic.site import Bool, Float, Site, palette, shaded

WATER = RESCUENET.index("Water")
ROAD_CLEAR = RESCUENET.index("Road-Clear")
ROAD_BLOCKED = RESCUENET.index("Road-Blocked")

DEBRIS, FALLEN_TREE, PUDDLE = range(3)

WaterKind = Literal["none", "coast", "river", "flood"]
_WATER_KINDS: tuple[WaterKind, ...] = ("none", "coast", "river", "flood")


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """A gently winding strip across the whole picture."""

    angle: float
    offset: float
    swing: float
    wave: float
    phase: float
    width: float
    side: int
    along: Float
    """Position of each pixel along the road."""
    away: Float
    """Distance of each pixel from the centre line; the sign tells the hand."""

    @property
    def pixels(self) -> Bool:
        return np.less(np.abs(self.away), self.width / 2)

    def at(self, along: float, away: float) -> tuple[float, float, float]:
        """Return x, y and heading of the place ``along`` the road, ``away`` from its centre."""
        swung = self.wave * along + self.phase
        centre = self.offset + self.swing * math.sin(swung)
        heading = self.angle + math.atan(self.swing * self.wave * math.cos(swung))
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        x = self.side / 2 + along * cos - centre * sin - away * math.sin(heading)
        y = self.side / 2 + along * sin + centre * cos + away * math.cos(heading)
        return x, y, heading

    def hand(self, x: float, y: float) -> float:
        """Return the signed distance from the centre line to a place, or the nearest in sight."""
        column, row = (min(max(round(value), 0), self.side - 1) for value in (x, y))
        return float(self.away[row, column])


def lay_ground(site: Site) -> None:
    """Cover everything with grass and bare soil in soft patches."""
    region = site.region
    patches = site.noise(28) + 0.5 * site.noise(9)
    green = np.clip(3 * (patches + 1.1 * region.grass_share - 0.55) + 0.5, 0, 1)[..., None]
    soil, grass = palette((region.soil, region.grass))
    tone = 1 + 0.07 * site.grain + 0.09 * site.noise(6)
    site.colour[:] = (soil + (grass - soil) * green) * tone[..., None]


def plan_roads(site: Site) -> list[Road]:
    """Draw one or two streets side by side, and often one that crosses them."""
    side = site.side
    angle = site.uniform(0, math.pi)
    spacing = side * site.uniform(0.46, 0.62)
    first = site.uniform(-0.5, 0.5) * spacing
    roads = [_plan_road(site, angle, first)]
    if site.chance(0.6):
        roads.append(_plan_road(site, angle, first - math.copysign(spacing, first)))
    if site.chance(0.75):
        crossing = angle + math.pi / 2 + site.normal(0.12)
        roads.append(_plan_road(site, crossing, site.uniform(-0.35, 0.35) * side))
    return roads


def _plan_road(site: Site, angle: float, offset: float) -> Road:
    swing = site.region.winding * site.uniform(0.3, 1.0)
    wave = 2 * math.pi / (site.side * site.uniform(0.7, 1.3))
    phase = site.uniform(0, 2 * math.pi)
    dx, dy = site.x - np.float32(site.side / 2), site.y - np.float32(site.side / 2)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    swung = np.float32(wave) * along + np.float32(phase)
    slope = np.float32(swing * wave) * np.cos(swung)
    away = (across - np.float32(offset) - np.float32(swing) * np.sin(swung)) / np.hypot(1, slope)
    return Road(
        angle=angle,
        offset=offset,
        swing=swing,
        wave=wave,
        phase=phase,
        width=site.region.road_width * site.uniform(0.85, 1.2),
        side=site.side,
        along=along,
        away=away.astype(np.float32),
    )


def plan_water(site: Site) -> tuple[Bool, WaterKind]:
    """Return where water stands, and of which kind it is."""
    side = site.side
    kind = _WATER_KINDS[int(site.rng.choice(4, p=site.region.waters))]
    if kind == "none":
        return np.zeros((side, side), dtype=np.bool_), kind
    ragged = site.noise(20)
    if kind == "flood":
        height = site.noise(40) + 0.3 * ragged
        return np.greater(height, np.quantile(height, site.uniform(0.55, 0.85))), kind
    angle = site.uniform(0, 2 * math.pi)
    across = (site.x - side / 2) * math.cos(angle) + (site.y - side / 2) * math.sin(angle)
    across = across + 5 * ragged
    if kind == "coast":
        return np.greater(across, site.uniform(0.1, 0.38) * side), kind
    middle, half_width = site.uniform(-0.3, 0.3) * side, site.uniform(0.06, 0.13) * side
    return np.less(np.abs(across - middle), half_width), kind


def pour_water(site: Site, water: Bool) -> None:
    """Paint water with ripples and glints, often in a hue that the ground has too."""
    depth = site.noise(24)
    ripples = np.sin(0.9 * (site.x + 0.6 * site.y) + 5 * site.noise(16))
    glints = (ripples > 0.93) & (depth > 0.1)
    tone = 1 + 0.12 * depth + 0.06 * ripples + 0.2 * glints + 0.01 * site.grain
    np.copyto(site.colour, shaded(site.region.water, tone), where=water[..., None])
    site.classes[water] = WATER
    site.taken |= water


def flood_roads(site: Site, water: Bool, paved: Bool) -> None:
    """Let standing water cover free ground and roads; asphalt still shows through a little."""
    buildings = site.taken & ~paved
    drowned = water & paved
    below = site.colour[drowned]
    pour_water(site, water & ~buildings)
    site.colour[drowned] = 0.7 * site.colour[drowned] + 0.3 * below
    site.classes[drowned] = ROAD_BLOCKED


def pave(site: Site, roads: list[Road]) -> Bool:
    """Paint the roads, clear so far, and return where they are."""
    paved = np.zeros((site.side, site.side), dtype=np.bool_)
    lines = np.zeros_like(paved)
    for road in roads:
        paved |= road.pixels
        if site.region.marked:
            lines |= (np.abs(road.away) < 0.7) & (road.along % 12 < 6)
    wear = 1 + 0.03 * site.grain + 0.07 * site.noise(10)
    np.copyto(site.colour, shaded(site.region.road, wear), where=paved[..., None])
    site.colour[lines] = 0.5 * site.colour[lines] + 0.42
    site.classes[paved] = ROAD_CLEAR
    site.taken |= paved
    return paved


def block_roads(site: Site, roads: list[Road]) -> list[tuple[float, float, float]]:
    """Bury stretches of road under debris, trees or water.

    Returns:
        Places (x, y, heading) where a tree has fallen across the road, to be drawn later.
    """
    fallen = []
    for _ in range(site.rng.poisson(site.region.blocked * site.per_area)):
        road = roads[site.rng.integers(len(roads))]
        kind = int(site.rng.choice(3, p=site.region.blocks))
        centre = site.uniform(-0.5, 0.5) * site.side
        length = site.uniform(12, 18) if kind == FALLEN_TREE else site.uniform(14, 34)
        ragged = site.noise(6)
        reach = np.abs(road.along - np.float32(centre)) + 3 * ragged
        stretch = (reach < length / 2) & road.pixels & (site.classes == ROAD_CLEAR)
        if kind == PUDDLE:
            sheet = shaded(site.region.water, 1 + 0.08 * ragged)[stretch]
            site.colour[stretch] = 0.25 * site.colour[stretch] + 0.75 * sheet
        else:
            heaps = stretch & (site.noise(5) > (-0.3 if kind == DEBRIS else 0.2))
            site.colour[heaps] = site.rubble[heaps]
            _strew(site, road, centre, length, 60 if kind == DEBRIS else 20)
        if kind == FALLEN_TREE:
            fallen.append(road.at(centre, site.uniform(-2, 2)))
        site.classes[stretch] = ROAD_BLOCKED
    return fallen


def _strew(site: Site, road: Road, centre: float, length: float, count: int) -> None:
    """Scatter loose pieces over a stretch of road and a little beside it."""
    along = centre + site.rng.uniform(-0.5, 0.5, count) * length
    away = site.rng.uniform(-0.6, 0.6, count) * road.width
    places = np.array([road.at(float(a), float(b)) for a, b in zip(along, away, strict=True)])
    site.scatter(places[:, 0], places[:, 1], longest=5)
