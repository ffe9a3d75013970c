"""Driveways, pools, sports courts, vehicles and trees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from semantic_net.task.disaster.classes import RESCUENET
from semantic_net.task.disaster.synthetic.buildings import DESTROYED, Building, Lot
from semantic_net.task.disaster.synthetic.ground import ROAD_BLOCKED, ROAD_CLEAR, Road
from semantic_net.task.disaster.synthetic.site import Float, Site, palette, shaded

BACKGROUND = RESCUENET.index("Background")
VEHICLE = RESCUENET.index("Vehicle")
TREE = RESCUENET.index("Tree")
POOL = RESCUENET.index("Pool")

_DECK = (0.74, 0.71, 0.66)
_BASINS = palette(((0.24, 0.62, 0.74), (0.22, 0.50, 0.72), (0.34, 0.66, 0.68), (0.28, 0.46, 0.36)))
_BODIES = palette(
    (
        (0.88, 0.88, 0.86),
        (0.80, 0.80, 0.82),
        (0.14, 0.14, 0.15),
        (0.45, 0.46, 0.48),
        (0.62, 0.14, 0.12),
        (0.18, 0.28, 0.52),
        (0.60, 0.54, 0.40),
        (0.24, 0.34, 0.26),
    )
)

_DRIVABLE = np.zeros(len(RESCUENET), dtype=np.bool_)
_DRIVABLE[[BACKGROUND, ROAD_CLEAR, ROAD_BLOCKED]] = True


def add_driveway(site: Site, lot: Lot) -> None:
    """Pave a strip beside a building as far as its road: asphalt that is no road."""
    building = lot.building
    x, y = building.spot(building.half_a + 3.5, 0.0)
    frame = site.frame(x, y, building.heading, building.half_b + 9)
    if frame is None:
        return
    to_road = frame.b * -np.sign(building.road.hand(building.x, building.y))
    strip = (np.abs(frame.a) < 2.8) & (to_road > -0.5 * building.half_b)
    strip &= site.classes[frame.window] == BACKGROUND
    site.paint(frame, strip, shaded(site.region.road, site.uniform(0.95, 1.12)))


def add_gardens(site: Site, lots: list[Lot]) -> None:
    """Dig pools and lay out small courts beside houses, where there is room."""
    for lot in lots:
        if lot.building.level != DESTROYED and site.chance(site.region.pools):
            _add_pool(site, lot.building)
        elif site.chance(0.12):
            _add_court(site, lot.building)


def _add_court(site: Site, building: Building) -> None:
    """Lay out a court in the colours of a pool or a tarpaulin, with white lines."""
    half_a, half_b = site.uniform(6, 9), site.uniform(4, 6)
    behind = float(site.rng.choice([-1.0, 1.0])) * (building.half_b + half_b + 3)
    x, y = building.spot(site.uniform(-0.5, 0.5) * building.half_a, behind)
    frame = site.frame(x, y, building.heading, half_a + 2)
    if frame is None:
        return
    a, b = np.abs(frame.a), np.abs(frame.b)
    court = (a < half_a) & (b < half_b)
    if np.any(site.taken[frame.window] & court):
        return
    lines = court & ((a > half_a - 1) | (b > half_b - 1) | (a < 0.6))
    surface = _tinted(site, _BASINS[site.rng.integers(len(_BASINS))])
    tone = np.where(lines, 1.5, 1.0) + 0.04 * site.grain[frame.window]
    site.paint(frame, court, shaded(surface, tone))
    site.taken[frame.window] |= court


def _tinted(site: Site, colour: Float) -> Float:
    return colour + site.rng.normal(0, 0.045, 3).astype(np.float32)


def _add_pool(site: Site, building: Building) -> None:
    half_a, half_b = site.uniform(6, 9), site.uniform(4, 6)
    behind = float(site.rng.choice([-1.0, 1.0])) * (building.half_b + half_b + 3.5)
    x, y = building.spot(site.uniform(-0.5, 0.5) * building.half_a, behind)
    frame = site.frame(x, y, building.heading, half_a + 4)
    if frame is None:
        return
    # A superellipse: between a rectangle and an oval, as pools are.
    radius = (frame.a / np.float32(half_a)) ** 4 + (frame.b / np.float32(half_b)) ** 4
    deck = radius < 3.2
    if np.any(site.taken[frame.window] & deck):
        return
    grain = site.grain[frame.window]
    site.paint(frame, deck, shaded(_DECK, 1 + 0.02 * grain))
    basin = _tinted(site, _BASINS[site.rng.integers(len(_BASINS))])
    site.paint(frame, radius < 1, shaded(basin, 1 + 0.05 * grain), POOL)
    site.taken[frame.window] |= deck


def add_vehicles(site: Site, roads: list[Road], lots: list[Lot]) -> None:
    """Put cars and lorries into the lanes, and some beside buildings."""
    for _ in range(site.rng.poisson(site.region.vehicles * site.per_area)):
        if lots and site.chance(0.3):
            near = lots[site.rng.integers(len(lots))].building
            angle, reach = site.uniform(0, 2 * math.pi), 1.25 * near.half_a + 5
            x, y = near.x + reach * math.cos(angle), near.y + reach * math.sin(angle)
            heading = near.heading + float(site.rng.choice([0.0, math.pi / 2]))
        else:
            road = roads[site.rng.integers(len(roads))]
            lane = float(site.rng.choice([-0.25, 0.25])) * road.width + site.normal(0.6)
            x, y, heading = road.at(site.uniform(-0.6, 0.6) * site.side, lane)
            heading += site.normal(0.08)
        _add_vehicle(site, x, y, heading)


def _add_vehicle(site: Site, x: float, y: float, heading: float) -> None:
    half_a, half_b = (8.0, 3.2) if site.chance(0.15) else (5.2, 2.6)
    frame = site.frame(x, y, heading, half_a + 4)
    if frame is None:
        return
    a, b = frame.a, frame.b
    body = (np.abs(a) < half_a) & (np.abs(b) < half_b)
    ground = site.classes[frame.window][body]
    if not _DRIVABLE[ground].all():
        return
    cos, sin = math.cos(site.region.sun - heading), math.sin(site.region.sun - heading)
    shadow = (np.abs(a + 1.5 * cos) < half_a) & (np.abs(b + 1.5 * sin) < half_b) & ~body
    site.colour[frame.window][shadow] *= 1 - 0.8 * site.region.shadow
    glass = ((a > 0.3 * half_a) & (a < 0.62 * half_a)) | (a < -0.72 * half_a)
    tone = np.where(glass & (np.abs(b) < half_b - 0.6), 0.35, 1.0)
    paints = _BODIES if site.chance(0.6) else site.pieces
    paint = _tinted(site, paints[site.rng.integers(len(paints))])
    site.paint(frame, body, shaded(paint, tone), VEHICLE)


@dataclass(frozen=True, slots=True)
class Tree:
    """A crown seen from above."""

    x: float
    y: float
    radius: float


def plan_trees(site: Site) -> list[Tree]:
    """Choose places in loose groups, on ground that nothing stands on."""
    trees = []
    wanted = int(site.rng.poisson(site.region.trees * site.per_area))
    while wanted > 0:
        x, y = site.uniform(-4, site.side + 4), site.uniform(-4, site.side + 4)
        for _ in range(min(int(site.rng.integers(1, 7)), wanted)):
            tree = Tree(x + site.normal(9), y + site.normal(9), site.uniform(3, 7.5))
            wanted -= 1
            column, row = (min(max(int(v), 0), site.side - 1) for v in (tree.x, tree.y))
            if not site.taken[row, column]:
                trees.append(tree)
    return trees


def add_trees(site: Site, trees: list[Tree]) -> None:
    """Paint trees that stand, over their shadows."""
    tall = np.zeros((site.side, site.side), dtype=np.bool_)
    for tree in trees:
        if (frame := site.frame(tree.x, tree.y, 0.0, tree.radius)) is not None:
            tall[frame.window] |= frame.a**2 + frame.b**2 < tree.radius**2
    site.cast_shadow(tall, max(round(0.7 * site.region.shadow_length), 1))
    for tree in trees:
        _add_crown(site, tree, 0.0, 1.0)


def add_fallen_tree(site: Site, x: float, y: float, heading: float) -> None:
    """Lay a tree across a road; what lies on a blocked road counts as blocked road."""
    _add_crown(site, Tree(x, y, 6.0), heading + math.pi / 2 + site.normal(0.3), 2.1)


def _add_crown(site: Site, tree: Tree, heading: float, stretch: float) -> None:
    frame = site.frame(tree.x, tree.y, heading, tree.radius * stretch + 2)
    if frame is None:
        return
    a, b = frame.a / np.float32(tree.radius * stretch), frame.b / np.float32(tree.radius)
    distance, bearing = np.hypot(a, b), np.arctan2(b, a)
    grain = site.grain[frame.window]
    three, five = site.uniform(0, 2 * math.pi), site.uniform(0, 2 * math.pi)
    edge = 1 + 0.13 * np.sin(3 * bearing + three) + 0.1 * np.sin(5 * bearing + five)
    crown = distance < edge + 0.06 * grain
    sun = site.region.sun - heading
    dome = a * math.cos(sun) + b * math.sin(sun)
    tone = 1 + 0.9 * site.region.shadow * dome - 0.25 * distance + 0.13 * grain
    leaves = palette((site.region.foliage,))[0] * np.float32(site.uniform(0.85, 1.3))
    leaves += site.rng.normal(0, 0.015, 3).astype(np.float32)
    site.paint(frame, crown, shaded(leaves, np.clip(tone, 0.3, 1.8)))
    classes = site.classes[frame.window]
    classes[crown & (classes != ROAD_BLOCKED)] = TREE
