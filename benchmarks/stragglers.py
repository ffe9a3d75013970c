"""What waits for the slowest: one peer ten times faster than five others, on slow links.

    python benchmarks/stragglers.py [--rounds 40] [--seed 0]

The real protocol under a virtual clock: the fast peer trains 1 s a round, the others 10 s; one
update takes about 5 s over a link. Prints, for each setting, the rounds an hour, how much of the
time the fast peer trains, and the share of all updates that were folded in the round they are for
when it closed (the others are folded in later). The seed decides everything: no machine changes it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from semantic_net.simulation.node import CHUNK_BYTES, Node, NodeConfig
from semantic_net.simulation.world import LinkConfig, World

FAST_S, SLOW_S, LINK_S = 1.0, 10.0, 5.0
PAYLOAD_BYTES = 20 * CHUNK_BYTES
NAMES = "abcdef"


@dataclass(frozen=True)
class Setting:
    """One way to deal with stragglers."""

    name: str
    quorum: float = 1.0
    overlaps: bool = False


SETTINGS = (
    Setting("wait for all"),
    Setting("p2p.quorum 0.5", quorum=0.5),
    Setting("p2p.overlap", overlaps=True),
    Setting("both", quorum=0.5, overlaps=True),
)


def play(setting: Setting, rounds: int, seed: int) -> tuple[float, float, float]:
    """Return rounds an hour, the fast peer's share of time in training, and updates in time."""
    cfg = NodeConfig(
        rounds=rounds,
        listen_timeout_s=200.0,
        start_timeout_s=100.0,
        train_s=(0.9 * SLOW_S, 1.1 * SLOW_S),
        payload_bytes=PAYLOAD_BYTES,
        quorum=setting.quorum,
        overlaps=setting.overlaps,
        base_every=16,
    )
    chunk_s = LINK_S / (PAYLOAD_BYTES / CHUNK_BYTES)
    world = World(NAMES, cfg, seed, link=LinkConfig(chunk_s=(0.8 * chunk_s, 1.2 * chunk_s)))
    fast = world.nodes["a"]
    fast.cfg = replace(cfg, train_s=(0.9 * FAST_S, 1.1 * FAST_S))
    for node in world.nodes.values():
        node.start()
    world.run(until=1e6)
    assert world.all_finished()
    assert len({node.closed[-1].state_digest for node in world.nodes.values()}) == 1
    nodes = list(world.nodes.values())
    first, last = (max(node.closed[i].at for node in nodes) for i in (0, -1))
    num_closed = rounds - 1
    in_time = _in_time(nodes)
    return 3600 * num_closed / (last - first), num_closed * FAST_S / (last - first), in_time


def _in_time(nodes: list[Node]) -> float:
    """Return the share of the updates that a round was closed with, over all peers."""
    closed = [closed for node in nodes for closed in node.closed]
    return 1 - sum(len(one.missing) for one in closed) / (len(closed) * (len(nodes) - 1))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| setting | rounds an hour | fast peer trains | updates in their round |")
    print("|---|---|---|---|")
    for setting in SETTINGS:
        speed, busy, in_time = play(setting, options.rounds, options.seed)
        print(f"| {setting.name} | {speed:.0f} | {busy:.0%} | {in_time:.0%} |")


if __name__ == "__main__":
    main()
