"""What liars send in the place of their updates, once they have seen those of the honest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from semantic_net.fixed_point import Float32Array


@dataclass(frozen=True, slots=True)
class Seen:
    """What liars know before they send."""

    honest: Float32Array
    """(N, P): what the honest peers have sent."""
    own: Float32Array
    """(P,): what the liar's own training, and its codec, gave."""
    rng: np.random.Generator


Attack = Callable[[Seen], Float32Array]


def _alie(seen: Seen) -> Float32Array:
    """A little is enough (Baruch et al., 2019): as far off as the honest are from each other."""
    told: Float32Array = seen.honest.mean(0) - 1.5 * seen.honest.std(0)
    return told


def _ipm(seen: Seen) -> Float32Array:
    """Inner product manipulation (Xie et al., "Fall of Empires", 2020)."""
    told: Float32Array = -seen.honest.mean(0)
    return told


def _gaussian(seen: Seen) -> Float32Array:
    norm = np.linalg.norm(seen.honest, axis=1).mean()
    noise = seen.rng.standard_normal(seen.own.size).astype(np.float32)
    told: Float32Array = noise * np.float32(10 * norm / np.linalg.norm(noise))
    return told


ATTACKS: dict[str, Attack] = {
    "none": lambda seen: seen.own,
    "silent": lambda seen: seen.own,  # it sends nothing: the best that any rule could make of it
    "sign_flip": lambda seen: -seen.own,
    "alie": _alie,
    "ipm": _ipm,
    "label_flip": lambda seen: seen.own,  # its data lies
    "gaussian": _gaussian,
    "huge": lambda seen: -1000 * seen.own,
    "weight": lambda seen: -seen.own,  # and its number of examples lies, too
}
