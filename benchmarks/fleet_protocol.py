"""What the protocol costs a peer, in fleets of different size: messages, bytes, time and memory.

    python benchmarks/fleet_protocol.py [--peers 100 300 1000] [--rounds 20] [--workers 2]

`semantic-net simulate --protocol-only` with the same number of participants in each fleet, each in
processes of its own, so that its memory and its time are its own. Messages are frames as the
connections write them; bytes are those of the sockets. Both are means over peers and rounds,
without the first rounds, in which all meet, and with everything after the last round left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cells import version

from semantic_net.records import RoundRecord
from semantic_net.simulation.engines import local_engine
from semantic_net.simulation.progress import RoundOfAll
from semantic_net.simulation.scenario import scenario
from semantic_net.simulation.simulate import simulate

SKIPPED_ROUNDS = 3
"""In which peers meet."""

PAYLOAD_BYTES, TRAIN_S = 10_000, 2.0
"""Of an update, as of a model of some 250,000 parameters at a hundredth, and of what it takes."""

LIVENESS_S = 30.0
"""Rounds are short: who is silent for a few of them is no loss to a large fleet."""

MAX_SECONDS, MAX_GIB, MAX_RATIO = 300.0, 8.0, 1.1
"""What a thousand peers may take, and how far they may be from a hundred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one fleet has come to."""

    peers: int
    messages: float
    """Received, a peer and round."""
    sent: float
    """Bytes a peer and round."""
    participants: float
    digests: int
    """Different ones after the last round."""
    virtual_s: float
    seconds: float
    gib: float
    """Of all processes, if none but this one takes more than another."""


def play(
    num_peers: int, rounds: int, participants: int, network: str, seed: int, workers: int
) -> Cost:
    """Run one fleet in this process, and in others begun by it."""
    overrides = [
        f"training.rounds={rounds}",
        f"p2p.participants={participants}",
        f"p2p.liveness_s={LIVENESS_S}",
    ]
    found = scenario(
        None,
        overrides,
        num_peers=num_peers,
        network=network,
        seed=seed,
        payload_bytes=PAYLOAD_BYTES,
        train_s=TRAIN_S,
    )

    if found.plan.keeps_together:
        workers = 1

    def show(of_all: RoundOfAll) -> None:
        print(f"{num_peers} peers: round {of_all.number}/{rounds}", file=sys.stderr)

    with tempfile.TemporaryDirectory() as out:
        began = time.monotonic()
        outcome = simulate(
            found, Path(out) / "run", lambda c: local_engine(c, 1), show=show, num_parts=workers
        )
        seconds = time.monotonic() - began
    counted = [of_all for of_all in outcome.rounds if of_all.number > SKIPPED_ROUNDS]
    records: list[RoundRecord] = [r for of_all in counted for r in of_all.records.values()]
    peer_rounds = num_peers * len(counted)
    if len(records) != peer_rounds:
        raise RuntimeError(f"{len(records)} records, and not {peer_rounds}")
    return Cost(
        peers=num_peers,
        messages=sum(record.messages_received or 0 for record in records) / peer_rounds,
        sent=sum(record.bytes_sent for record in records) / peer_rounds,
        participants=sum(of_all.num_participants for of_all in counted) / len(counted),
        digests=len({r.state_digest for r in outcome.rounds[-1].records.values()}),
        virtual_s=outcome.virtual_s,
        seconds=seconds,
        gib=(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            + (workers - 1) * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        )
        / (1 << 20),
    )


def play_elsewhere(num_peers: int, flags: Sequence[str]) -> Cost:
    """Run one fleet in a process of its own."""
    command = [sys.executable, __file__, "--one", "--peers", str(num_peers), *flags]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return msgspec.json.decode(done.stdout, type=Cost)


HEAD = (
    "| peers | participants | messages a peer and round | kB sent a peer and round | models at the "
    "end | simulated, s | real, s | memory, GiB |\n|---|---|---|---|---|---|---|---|"
)


def row(cost: Cost, first: Cost) -> str:
    """Return a row of the Markdown table; ratios are to the first fleet."""
    cells = (
        f"{cost.peers}",
        f"{cost.participants:.1f}",
        f"{cost.messages:.1f} ({cost.messages / first.messages:.2f})",
        f"{cost.sent / 1e3:.1f} ({cost.sent / first.sent:.2f})",
        f"{cost.digests}",
        f"{cost.virtual_s:.0f}",
        f"{cost.seconds:.0f}",
        f"{cost.gib:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def broken(costs: Sequence[Cost]) -> list[str]:
    """Return what a fleet has missed of what is asked of it."""
    first, last = costs[0], costs[-1]
    found = [f"{cost.peers} peers hold {cost.digests} models" for cost in costs if cost.digests > 1]
    for what, ratio in (
        ("messages", last.messages / first.messages),
        ("bytes", last.sent / first.sent),
    ):
        if not 1 / MAX_RATIO <= ratio <= MAX_RATIO:
            found.append(f"{what} a peer and round: {ratio:.2f} times those of {first.peers} peers")
    if last.seconds > MAX_SECONDS:
        found.append(f"{last.seconds:.0f} s, over {MAX_SECONDS:.0f}")
    if last.gib > MAX_GIB:
        found.append(f"{last.gib:.1f} GiB, over {MAX_GIB:.0f}")
    return found


def main() -> int:
    """Run the fleets and print the table; return 1 where one misses what is asked of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--participants", type=int, default=32)
    parser.add_argument("--network", default="lan")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes that share the peers")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shared = (
        arguments.rounds,
        arguments.participants,
        arguments.network,
        arguments.seed,
        arguments.workers,
    )
    if arguments.rounds <= SKIPPED_ROUNDS:
        parser.error(f"--rounds: more than {SKIPPED_ROUNDS}")
    if arguments.one:
        print(json.dumps(msgspec.to_builtins(play(arguments.peers[0], *shared))))
        return 0
    names = ("rounds", "participants", "network", "seed", "workers")
    flags = [f"--{name}={value}" for name, value in zip(names, shared, strict=True)]
    print(
        f"{arguments.participants} participants, {arguments.rounds} rounds, of which the first "
        f"{SKIPPED_ROUNDS} are not counted, payloads of {PAYLOAD_BYTES / 1e3:g} kB after "
        f"{TRAIN_S:g} s of training, network {arguments.network}, seed {arguments.seed}, "
        f"{arguments.workers} processes; "
        f"{platform.machine()}, Python {platform.python_version()}, {version()}\n"
    )
    print(HEAD, flush=True)
    costs: list[Cost] = []
    for number in arguments.peers:
        costs.append(play_elsewhere(number, flags))
        print(row(costs[-1], costs[0]), flush=True)
    problems = broken(costs)
    for problem in problems:
        print(f"missed: {problem}")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
