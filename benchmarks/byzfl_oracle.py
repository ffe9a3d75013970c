"""Holds the robust rules, and the attacks of benchmarks/liars.py, to those of byzfl.

    make oracle

byzfl (0.0.11, MIT) is read from where ``--byzfl`` says and is no dependency: as a whole it needs
torchvision and more, so only its modules of rules and attacks are imported. Random rounds are given
to both; the table says how far the results are from each other, as a share of the length of
theirs. Exits with 1 where that is more than rounding explains.

Where byzfl's definition is another one, both are asked for the same number: its Krum adds up one
distance more than the paper's, so that it is ours for one liar less (its multi-Krum is then none of
ours, and left out); its mixing is by distance and ours by direction, which is the same order among
updates of one length; its deviation is that of a sample.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from attacks import ATTACKS, Seen

from semantic_net.aggregation.robust import ROBUST_RULES, PastMean, Round, mixed_with_nearest
from semantic_net.semantic.deltas import DenseFloats, ParsedDelta

NUM_ENTRIES = 500
UNIT = 2.0**-24
ALLOWED = 1e-4
"""Clipping is to n / 2^16 of the length; everything else is rounded to units."""

Floats = npt.NDArray[np.float64]
Case = Callable[[Any, Floats, int], tuple[Floats, Floats]]
"""From byzfl's modules, a round's updates (N, P) and how many lie: its result and ours, (P,)."""


def main() -> int:
    """Compare on random rounds; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--byzfl", type=Path, required=True, help="folder that byzfl lies in")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    byzfl = modules_of(arguments.byzfl)
    rng = np.random.default_rng(arguments.seed)
    worst = dict.fromkeys(CASES, 0.0)
    for _ in range(arguments.rounds):
        updates, num_liars = random_round(rng)
        for name, case in CASES.items():
            theirs, ours = case(byzfl, updates.copy(), num_liars)
            distance = math.dist(theirs, ours) / np.linalg.norm(theirs)
            worst[name] = float(np.maximum(worst[name], distance))  # keeps what is no number
    print(f"{arguments.rounds} random rounds of 3 to 12 authors, seed {arguments.seed}\n")
    print("| rule or attack | greatest relative distance from byzfl's |\n|---|---|")
    for name, distance in worst.items():
        print(f"| {name} | {distance:.1e} |")
    return 0 if all(distance <= ALLOWED for distance in worst.values()) else 1


def modules_of(folder: Path) -> Any:
    """Import byzfl's rules and attacks without what its package imports first."""
    package = types.ModuleType("byzfl")
    package.__path__ = [str(folder / "byzfl")]
    sys.modules["byzfl"] = package
    for name in ("aggregators.aggregators", "aggregators.preaggregators", "attacks.attacks"):
        module = importlib.import_module(f"byzfl.{name}")
        for item in ("Median", "TrMean", "Krum", "CenteredClipping", "NNM",
                     "ALittleIsEnough", "InnerProductManipulation"):  # fmt: skip
            if hasattr(module, item):
                setattr(package, item, getattr(module, item))
    return package


def random_round(rng: np.random.Generator) -> tuple[Floats, int]:
    """Return updates (N, P) as float32 holds them, some of them far off, and how many may lie."""
    count = int(rng.integers(3, 13))
    num_liars = int(rng.integers(1, (count - 1) // 2 + 1))
    updates = rng.standard_normal((count, NUM_ENTRIES)) * 2.0**-6
    updates += rng.standard_normal(NUM_ENTRIES) * 2.0**-6
    updates[:num_liars] *= rng.uniform(-9, 9, (num_liars, 1))
    # In whole units, so that both sides start from the same numbers.
    return np.rint(updates.astype(np.float32) / UNIT) * UNIT, num_liars


def result_of(rule: str, updates: Floats, num_liars: int, *, mixes: bool = False) -> Floats:
    """Return what a rule of ours makes of a round."""
    singles = updates.astype(np.float32)
    no_buffers = DenseFloats(np.empty(0, np.float32), 0.0)
    parts = [DenseFloats(row, float(np.abs(row).max())) for row in singles]
    deltas = [ParsedDelta(part, no_buffers) for part in parts]
    seen = Round(deltas, 0, NUM_ENTRIES, num_liars, PastMean(np.empty(0, np.int32), 0, 0))
    out = np.empty(NUM_ENTRIES, np.int32)
    ROBUST_RULES[rule](mixed_with_nearest(seen) if mixes else seen).reduce(0, out)
    return np.multiply(out, UNIT, dtype=np.float64)


def _median_norm(updates: Floats) -> float:
    norms = sorted(np.linalg.norm(updates, axis=1))
    return float(norms[(len(norms) - 1) // 2])


def _krum(byzfl: Any, updates: Floats, num_liars: int) -> tuple[Floats, Floats]:
    return byzfl.Krum(f=num_liars)(updates), result_of("krum", updates, num_liars - 1)


def _mixed(byzfl: Any, updates: Floats, num_liars: int) -> tuple[Floats, Floats]:
    norms = np.linalg.norm(updates, axis=1, keepdims=True)
    equal = np.rint(updates / norms / UNIT) * UNIT
    theirs = byzfl.TrMean(f=num_liars)(byzfl.NNM(f=num_liars)(equal))
    return theirs, result_of("trimmed_mean", equal, num_liars, mixes=True)


def _attack(name: str, updates: Floats) -> Floats:
    seen = Seen(updates.astype(np.float32), updates[0].astype(np.float32), np.random.default_rng(0))
    return ATTACKS[name](seen).astype(np.float64)


def _alie(byzfl: Any, updates: Floats, num_liars: int) -> tuple[Floats, Floats]:
    spread = 1.5 * math.sqrt((len(updates) - 1) / len(updates))
    return byzfl.ALittleIsEnough(tau=-spread)(updates), _attack("alie", updates)


CASES: Mapping[str, Case] = {
    "clipped": lambda byzfl, updates, _: (
        byzfl.CenteredClipping(tau=_median_norm(updates))(updates),
        result_of("clipped", updates, 0),
    ),
    "trimmed_mean": lambda byzfl, updates, f: (
        byzfl.TrMean(f=f)(updates),
        result_of("trimmed_mean", updates, f),
    ),
    "median": lambda byzfl, updates, _: (byzfl.Median()(updates), result_of("median", updates, 0)),
    "krum": _krum,
    "mixing, trimmed_mean": _mixed,
    "alie": _alie,
    "ipm": lambda byzfl, updates, _: (
        byzfl.InnerProductManipulation(tau=1.0)(updates),
        _attack("ipm", updates),
    ),
}


if __name__ == "__main__":
    sys.exit(main())
