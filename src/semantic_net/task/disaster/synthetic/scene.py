"""One aerial picture of a region after a disaster, with the class of every pixel.

Classes and their order are RescueNet's. Colour alone does not tell them: roofs, roads and bare
ground share their greys and browns, tarpaulins are as blue as pools, and a road is blocked by
what lies on it. Shape and context do.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from semantic_net.task.disaster.synthetic import buildings, ground, objects
from semantic_net.task.disaster.synthetic.region import Region, vary
from semantic_net.task.disaster.synthetic.site import Site

Pixels = npt.NDArray[np.uint8]

SCENE_SIDE: Final = 128
"""Pixels of a scene's side; more where the tiles are larger."""


def render_scene(region: Region, rng: np.random.Generator, side: int) -> tuple[Pixels, Pixels]:
    """Return a (side, side, 3) picture and its (side, side) classes."""
    site = Site(vary(region, rng), rng, side)
    ground.lay_ground(site)
    roads = ground.plan_roads(site)
    water, kind = ground.plan_water(site)
    if kind == "river":
        ground.pour_water(site, water)  # before the roads: they cross it on bridges
    paved = ground.pave(site, roads)
    if kind == "coast":
        ground.pour_water(site, water)
    fallen = ground.block_roads(site, roads)
    lots = buildings.plan_buildings(site, roads)
    if kind == "flood":
        ground.flood_roads(site, water, paved)
    for lot in lots:
        objects.add_driveway(site, lot)
    buildings.shade_ground(site, lots)
    for lot in lots:
        buildings.build(site, lot)
    objects.add_gardens(site, lots)
    objects.add_vehicles(site, roads, lots)
    objects.add_trees(site, objects.plan_trees(site))
    for x, y, heading in fallen:
        objects.add_fallen_tree(site, x, y, heading)
    return _develop(site), site.classes


def _develop(site: Site) -> Pixels:
    """Apply the region's light and a camera's faults."""
    region = site.region
    padded = np.pad(site.colour, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    picture = (1 - region.blur) * site.colour + (region.blur / 4) * around
    picture *= np.asarray(region.light, dtype=np.float32)
    if site.chance(region.clouds):
        cloud = np.clip(2.5 * (site.noise(48) + 0.2 * site.noise(12)) + 0.3, 0, 1)
        picture *= 1 - site.uniform(0.15, 0.45) * cloud[..., None]
    picture = (picture - 0.45) * (region.contrast * (1 - region.haze))
    picture += 0.45 * (1 - region.haze) + region.haze
    noise = site.rng.standard_normal(picture.shape, dtype=np.float32)
    picture += region.grain * noise
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8)
