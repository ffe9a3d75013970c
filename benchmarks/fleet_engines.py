"""Whether it matters where simulated peers train: in one process, in several, or in a Ray cluster.

    python benchmarks/fleet_engines.py [--peers 10] [--rounds 3]

Plays one scenario with each engine and prints the digest of the model that all peers have come
to. Ray is left out where it is not installed (extra ``simulation``); it begins a cluster of its own
on this machine, whose processes give way to no others here.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import sys
import tempfile
import time
from pathlib import Path

import fashion_mnist
from cells import machine
from fleet_learning import SETTINGS

from semantic_net.simulation.engines import local_engine, ray_engine
from semantic_net.simulation.scenario import scenario
from semantic_net.simulation.simulate import MakeEngine, simulate

ENGINES: dict[str, MakeEngine] = {
    "this process": functools.partial(local_engine, num_workers=1),
    "2 processes": functools.partial(local_engine, num_workers=2),
    "Ray, 2 actors": functools.partial(ray_engine, num_workers=2),
}


def main() -> int:
    """Print the table; return 1 where two engines differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not fashion_mnist.is_there():
        print(f"left out: {fashion_mnist.MISSING}", file=sys.stderr)
        return 0
    found = scenario(
        None,
        [*SETTINGS, f"training.rounds={arguments.rounds}"],
        num_peers=arguments.peers,
        network="lan",
        seed=arguments.seed,
    )
    print(f"{arguments.peers} peers, {arguments.rounds} rounds, seed {arguments.seed}; {machine()}")
    print("\n| engine | seconds | digests of all peers | |\n|---|---|---|---|")
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # as Ray spells it
    first: set[str] = set()
    is_equal = True
    for name, make_engine in ENGINES.items():
        if "Ray" in name and importlib.util.find_spec("ray") is None:
            print(f"| {name} | | not installed | |")
            continue
        with tempfile.TemporaryDirectory() as out:
            began = time.monotonic()
            outcome = simulate(found, Path(out) / "run", make_engine)
            took_s = time.monotonic() - began
        last = outcome.rounds[-1].records
        digests = {record.state_digest for record in last.values()}
        first = first or digests
        same = len(last) == arguments.peers and len(digests) == 1 and digests == first
        is_equal = is_equal and same
        shown = ", ".join(digest[:16] for digest in sorted(digests))
        print(
            f"| {name} | {took_s:.0f} | {shown} | {'equal' if same else 'different'} |", flush=True
        )
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
