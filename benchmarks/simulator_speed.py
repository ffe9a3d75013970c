"""How fast the simulator plays: rounds of all peers a second, with nothing trained.

    python benchmarks/simulator_speed.py [--repeats 3]

One core, full mesh, the real protocol with compaction, signatures stubbed. Prints the median of
the repeats; what a peer's round costs grows with the square of the peers, since each hears of each
update from everyone.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

from semantic_net.simulation.node import NodeConfig
from semantic_net.simulation.world import World

SIZES = {2: 400, 4: 200, 8: 60, 16: 20}
"""Rounds, by number of peers."""


def play(num_peers: int, rounds: int) -> float:
    """Return the peer-rounds a second of one run."""
    world = World([f"peer{i:02d}" for i in range(num_peers)], NodeConfig(rounds=rounds))
    began = time.perf_counter()
    for node in world.nodes.values():
        node.start()
    world.run(until=1e6)
    assert world.all_finished()
    num_closed = sum(len(node.closed) for node in world.nodes.values())
    return num_closed / (time.perf_counter() - began)


def main() -> None:
    """Play each size, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print(f"{platform.machine()}, Python {platform.python_version()}, median of {repeats}\n")
    print("| peers | peer-rounds a second |\n|---|---|")
    for num_peers, rounds in SIZES.items():
        speed = statistics.median(play(num_peers, rounds) for _ in range(repeats))
        print(f"| {num_peers} | {speed:.0f} |")


if __name__ == "__main__":
    main()
