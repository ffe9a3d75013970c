"""What makes one region unlike another: its colours, its light, its density, what befell it.

A region is one of a few characters, each a place and a disaster that leave their own mix of
classes, with everything in it drawn a little differently from the region's seed. Neighbouring
region numbers have different characters, so few peers already cover most of what there is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """All that the scenes of one region have in common."""

    soil: Colour
    grass: Colour
    grass_share: float
    """Share of the open ground that is green, in [0, 1]."""
    road: Colour
    road_width: float
    """In pixels, as every length here."""
    winding: float
    """How far roads swing to the side."""
    marked: bool
    """Whether roads have a centre line."""
    water: Colour
    waters: tuple[float, float, float, float]
    """Share of scenes with no water, a coast, a river, a flood."""
    foliage: Colour
    trees: float
    """Mean number of trees in 128 x 128 pixels, as every number here."""
    roofs: tuple[Colour, ...]
    flat_roofs: float
    """Share of buildings with a flat roof."""
    house: float
    """Typical half length of a building."""
    built: float
    """Share of the lots along roads that are built upon."""
    damage: tuple[float, float, float, float]
    """Share of buildings with no, minor, major damage, and destroyed."""
    pools: float
    """Share of houses with a pool."""
    vehicles: float
    blocked: float
    """Mean number of road blocks a scene."""
    blocks: tuple[float, float, float]
    """Share of road blocks made of debris, of a fallen tree, of water."""
    sun: float = 0.0
    """Direction to the sun, radians."""
    shadow: float = 0.5
    """How dark a shadow is, in [0, 1]."""
    shadow_length: float = 5.0
    """Of a building of one storey."""
    light: Colour = (1.0, 1.0, 1.0)
    clouds: float = 0.15
    """Share of scenes with the shadow of a cloud."""
    contrast: float = 1.0
    haze: float = 0.0
    """Share of white in every pixel."""
    blur: float = 0.3
    """Weight of the neighbours in each pixel, in [0, 1]."""
    grain: float = 0.01


_GULF_SUBURB = Region(
    soil=(0.56, 0.51, 0.42),
    grass=(0.36, 0.45, 0.24),
    grass_share=0.75,
    road=(0.47, 0.47, 0.48),
    road_width=13,
    winding=6,
    marked=True,
    water=(0.24, 0.40, 0.46),
    waters=(0.55, 0.30, 0.15, 0.0),
    foliage=(0.22, 0.34, 0.16),
    trees=14,
    roofs=((0.46, 0.41, 0.38), (0.55, 0.50, 0.46), (0.36, 0.35, 0.37), (0.50, 0.36, 0.28)),
    flat_roofs=0.1,
    house=13,
    built=0.8,
    damage=(0.62, 0.30, 0.06, 0.02),
    pools=0.75,
    vehicles=11,
    blocked=0.3,
    blocks=(0.5, 0.5, 0.0),
    shadow=0.45,
    shadow_length=4,
    light=(1.06, 1.02, 0.94),
)

_DRY_TOWN = Region(
    soil=(0.72, 0.62, 0.47),
    grass=(0.55, 0.53, 0.34),
    grass_share=0.25,
    road=(0.62, 0.57, 0.50),
    road_width=12,
    winding=3,
    marked=False,
    water=(0.40, 0.42, 0.34),
    waters=(0.88, 0.0, 0.12, 0.0),
    foliage=(0.40, 0.43, 0.26),
    trees=6,
    roofs=((0.78, 0.70, 0.57), (0.66, 0.60, 0.53), (0.84, 0.80, 0.74), (0.60, 0.48, 0.38)),
    flat_roofs=0.9,
    house=12,
    built=0.9,
    damage=(0.18, 0.14, 0.30, 0.38),
    pools=0.08,
    vehicles=4,
    blocked=1.4,
    blocks=(0.95, 0.05, 0.0),
    shadow=0.6,
    shadow_length=6,
    light=(1.10, 1.0, 0.86),
    contrast=1.05,
    haze=0.06,
)

_FLOODED_DELTA = Region(
    soil=(0.38, 0.33, 0.26),
    grass=(0.26, 0.36, 0.18),
    grass_share=0.7,
    road=(0.46, 0.44, 0.42),
    road_width=11,
    winding=10,
    marked=False,
    water=(0.42, 0.40, 0.27),
    waters=(0.20, 0.0, 0.25, 0.55),
    foliage=(0.16, 0.28, 0.13),
    trees=34,
    roofs=((0.50, 0.54, 0.56), (0.32, 0.40, 0.50), (0.48, 0.33, 0.25), (0.62, 0.62, 0.60)),
    flat_roofs=0.2,
    house=11,
    built=0.55,
    damage=(0.30, 0.34, 0.28, 0.08),
    pools=0.08,
    vehicles=5,
    blocked=0.8,
    blocks=(0.1, 0.5, 0.4),
    shadow=0.22,
    shadow_length=3,
    light=(0.90, 0.95, 1.02),
    contrast=0.85,
    haze=0.05,
    blur=0.4,
)

_NORTHERN_CITY = Region(
    soil=(0.50, 0.47, 0.44),
    grass=(0.38, 0.42, 0.28),
    grass_share=0.4,
    road=(0.38, 0.39, 0.41),
    road_width=15,
    winding=2,
    marked=True,
    water=(0.22, 0.29, 0.33),
    waters=(0.7, 0.0, 0.3, 0.0),
    foliage=(0.30, 0.34, 0.18),
    trees=12,
    roofs=((0.33, 0.34, 0.38), (0.47, 0.29, 0.25), (0.42, 0.40, 0.39), (0.26, 0.27, 0.30)),
    flat_roofs=0.45,
    house=15,
    built=0.95,
    damage=(0.40, 0.20, 0.20, 0.20),
    pools=0.0,
    vehicles=14,
    blocked=0.5,
    blocks=(0.9, 0.1, 0.0),
    shadow=0.5,
    shadow_length=8,
    light=(0.98, 0.97, 0.98),
)

_FOREST_EDGE = Region(
    soil=(0.55, 0.38, 0.27),
    grass=(0.42, 0.48, 0.25),
    grass_share=0.65,
    road=(0.52, 0.46, 0.42),
    road_width=11,
    winding=14,
    marked=False,
    water=(0.16, 0.26, 0.24),
    waters=(0.6, 0.0, 0.4, 0.0),
    foliage=(0.20, 0.37, 0.17),
    trees=60,
    roofs=((0.62, 0.34, 0.24), (0.54, 0.40, 0.32), (0.44, 0.30, 0.24)),
    flat_roofs=0.05,
    house=12,
    built=0.45,
    damage=(0.50, 0.30, 0.15, 0.05),
    pools=0.08,
    vehicles=4,
    blocked=0.9,
    blocks=(0.15, 0.85, 0.0),
    shadow=0.5,
    shadow_length=5,
    light=(1.02, 1.0, 0.96),
)

_ISLAND = Region(
    soil=(0.80, 0.75, 0.64),
    grass=(0.50, 0.55, 0.32),
    grass_share=0.4,
    road=(0.66, 0.63, 0.58),
    road_width=12,
    winding=8,
    marked=True,
    water=(0.22, 0.55, 0.58),
    waters=(0.3, 0.6, 0.0, 0.1),
    foliage=(0.30, 0.44, 0.20),
    trees=18,
    roofs=((0.88, 0.86, 0.82), (0.74, 0.46, 0.34), (0.40, 0.56, 0.66), (0.80, 0.66, 0.52)),
    flat_roofs=0.4,
    house=13,
    built=0.7,
    damage=(0.20, 0.30, 0.35, 0.15),
    pools=0.30,
    vehicles=7,
    blocked=0.5,
    blocks=(0.7, 0.2, 0.1),
    shadow=0.5,
    shadow_length=4,
    light=(1.08, 1.04, 0.96),
    haze=0.03,
)

CHARACTERS = (
    _GULF_SUBURB,
    _DRY_TOWN,
    _FLOODED_DELTA,
    _NORTHERN_CITY,
    _ISLAND,
    _FOREST_EDGE,
)


def make_region(rng: np.random.Generator, number: int) -> Region:
    """Draw region ``number`` from its own generator."""
    plain = CHARACTERS[number % len(CHARACTERS)]

    def about(value: float, spread: float) -> float:
        return float(value * np.exp(rng.normal(0, spread)))

    none, minor, major, destroyed = rng.dirichlet(60 * np.array(plain.damage) + 0.3).tolist()
    return replace(
        _repaint(plain, rng, 0.025),
        damage=(none, minor, major, destroyed),
        trees=about(plain.trees, 0.15),
        house=about(plain.house, 0.05),
        vehicles=about(plain.vehicles, 0.15),
        blocked=about(plain.blocked, 0.15),
        sun=float(rng.uniform(0, 2 * np.pi)),
        shadow_length=about(plain.shadow_length, 0.1),
    )


def vary(region: Region, rng: np.random.Generator) -> Region:
    """Return the region as one flight sees it: another street, another hour, another sky.

    Without this a colour would give its class away wherever it occurs.
    """
    red, green, blue = (
        np.array(region.light) * rng.uniform(0.95, 1.05) * rng.normal(1, 0.01, 3)
    ).tolist()
    return replace(
        _repaint(region, rng, 0.01),
        light=(red, green, blue),
        sun=region.sun + float(rng.normal(0, 0.3)),
        shadow=float(np.clip(region.shadow + rng.normal(0, 0.06), 0.1, 0.7)),
    )


def _repaint(region: Region, rng: np.random.Generator, spread: float) -> Region:
    def tint(colour: Colour) -> Colour:
        # One step for brightness and a smaller one for each channel keep the hue believable.
        shift = rng.normal(0, spread) + rng.normal(0, spread / 2, 3)
        red, green, blue = np.clip(np.array(colour) + shift, 0.05, 0.95).tolist()
        return red, green, blue

    return replace(
        region,
        soil=tint(region.soil),
        grass=tint(region.grass),
        road=tint(region.road),
        water=tint(region.water),
        foliage=tint(region.foliage),
        roofs=tuple(tint(roof) for roof in region.roofs),
    )
