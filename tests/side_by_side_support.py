"""One scenario twice: real peers on a network that `tc` shapes, and `semantic-net simulate`.

What the simulation is told of the network is its shaping and its round trip; of the devices, what
the records of the real run say of computing. Bytes and the time of the exchange it must find out.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from namespaces_support import QUEUE_BYTES, Host, Rates, run, uneven_lan
from processes_support import LIMIT_S, ROOT, PeerProcess

from semantic_net.config import dump_config
from semantic_net.monitoring.recorder import RoundTail
from semantic_net.records import RoundRecord
from semantic_net.simulation.scenario import PORT, scenario
from semantic_net.transport.link import ETHERNET_HEADER_BYTES, SEGMENT_BYTES

TASK = ROOT / "tests" / "faults" / "paced_task.py"

BURST_BYTES = 2 * (SEGMENT_BYTES + ETHERNET_HEADER_BYTES)
"""So that a shaped link is one: a larger bucket gives away what it gathers between rounds."""

MAX_BYTES_OFF = 0.02
"""Of what sockets send and receive in the whole run: each peer's, and where links are uneven those
of all peers. There a slow peer's update is passed on by whoever has it first, in both runs; who
that is, is chance, and one that is passed on is 1 to 2% of a peer's bytes."""
MAX_TIME_OFF = 0.15
"""Of the mean round, and in the median of two rounds in a row. Who comes last in a round is chance
where TCP shares plain queues, so that one round says little: those of two real runs differ more."""

STEPS = 8
STEP_S = 0.05

PING = """
import errno, socket, sys, time
def ask():
    with socket.socket() as sock:
        began = time.perf_counter()
        assert sock.connect_ex((sys.argv[1], 9)) == errno.ECONNREFUSED
        return time.perf_counter() - began
print(min(ask() for _ in range(20)))
"""
"""The round trip to a host that refuses a connection at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is run twice."""

    name: str
    preset: str
    hidden: int
    """Size of the model: 75 parameters each."""
    mbit_s: Sequence[tuple[float, float]]
    """Up and down, of each peer's link."""
    rounds: int = 12
    seed: int = 0

    @property
    def num_peers(self) -> int:
        """How many peers there are."""
        return len(self.mbit_s)

    def overrides(self, *, step_s: float) -> list[str]:
        """Return the configuration, with steps that take so long in real time."""
        return [
            f"task.name={TASK}",
            f"task.options={{step_s: {step_s:g}, hidden: {self.hidden}}}",
            "data.num_train=256",
            f"training.steps={STEPS}",
            f"training.rounds={self.rounds}",
            f"semantic.preset={self.preset}",
        ]


@dataclass(frozen=True, slots=True)
class Pair:
    """The records of both runs, by peer."""

    case: Case
    real: list[list[RoundRecord]]
    simulated: list[list[RoundRecord]]

    def bytes_off(self) -> list[float]:
        """Return how far the socket bytes of each peer are off: simulated / real - 1."""
        both = zip(self.simulated, self.real, strict=True)
        return [_socket_bytes(ours) / _socket_bytes(theirs) - 1 for ours, theirs in both]

    def all_bytes_off(self) -> float:
        """Return how far those of all peers together are."""
        simulated, real = (
            sum(_socket_bytes(peer) for peer in each) for each in (self.simulated, self.real)
        )
        return simulated / real - 1

    def times_off(self) -> list[float]:
        """Return how far any two rounds in a row are off together, the first of all left out.

        For that one peers gather. Whoever comes last in one round comes early in the next, so that
        long and short ones take turns, which a difference in one of them would count twice.
        """
        return [
            sum(_time_s(self.simulated, n + i) for i in (0, 1))
            / sum(_time_s(self.real, n + i) for i in (0, 1))
            - 1
            for n in range(1, self.case.rounds - 1)
        ]

    def mean_s(self, records: list[list[RoundRecord]]) -> float:
        """Return the mean time of a round after the first."""
        return statistics.mean(_time_s(records, n) for n in range(1, self.case.rounds))

    def mean_off(self) -> float:
        """Return how far the mean round after the first is off."""
        return self.mean_s(self.simulated) / self.mean_s(self.real) - 1

    def median_off(self) -> float:
        """Return the median of `times_off`."""
        return statistics.median(self.times_off())

    def exchange_off(self) -> float:
        """Return how far the exchange alone is off, which nothing of the real run has told."""
        simulated, real = (
            statistics.mean(record.exchange_s for peer in each for record in peer[1:])
            for each in (self.simulated, self.real)
        )
        return simulated / real - 1

    def broken(self) -> list[str]:
        """Return which bars do not hold, in words."""
        found = []
        for what in ("payload_bytes", "state_digest"):
            ours, theirs = (
                [[getattr(record, what) for record in peer] for peer in each]
                for each in (self.simulated, self.real)
            )
            if ours != theirs:
                found.append(f"{what} differ: {ours}, real {theirs}")
        bytes_off = {"all peers": self.all_bytes_off()}
        if len(set(self.case.mbit_s)) == 1:
            bytes_off |= {f"peer {n}": off for n, off in enumerate(self.bytes_off())}
        found += [
            f"socket bytes of {whose}: {off:+.1%}"
            for whose, off in bytes_off.items()
            if abs(off) > MAX_BYTES_OFF
        ]
        for what, off in (("mean", self.mean_off()), ("median", self.median_off())):
            if abs(off) > MAX_TIME_OFF:
                found.append(f"time of a round, {what}: {off:+.1%}")
        return found


def run_both(case: Case, folder: Path) -> Pair:
    """Run a case in both ways.

    Args:
        case: What to run.
        folder: For what the runs leave, and the logs.
    """
    rates = [Rates(round(1e6 * down), round(1e6 * up), BURST_BYTES) for up, down in case.mbit_s]
    with uneven_lan(rates) as network:
        delay_s = statistics.median(
            float(run(*one.prefix(), sys.executable, "-c", PING, other.address)) / 2
            for one in network.hosts
            for other in network.hosts
            if other is not one
        )
        real = _run_real(case, folder / "real", network.hosts)
    file = folder / "network.yaml"
    file.write_text(json.dumps(_network(case, delay_s, real)))  # JSON is YAML
    return Pair(case, real, _simulate(case, folder, file))


def _run_real(case: Case, folder: Path, hosts: list[Host]) -> list[list[RoundRecord]]:
    overrides = case.overrides(step_s=STEP_S)
    found = scenario(None, overrides, num_peers=case.num_peers, network="lan", seed=case.seed)
    addresses = tuple(f"{host.address}:{PORT}" for host in hosts)
    folder.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        peers = []
        for index, host in enumerate(hosts):
            config = found.config_of(index)
            p2p = replace(config.p2p, host=host.address, peers=addresses)
            file = folder / f"peer{index}.yaml"
            file.write_text(dump_config(replace(config, p2p=p2p)))
            out = folder / f"peer{index}"
            peers.append(PeerProcess(out, ["--config", str(file)], host.prefix()))
            stack.callback(peers[-1].kill)
        for peer in peers:
            assert peer.wait() == 0, peer.said()
            peer.read_rounds()
    return [peer.rounds for peer in peers]


def _network(case: Case, delay_s: float, real: list[list[RoundRecord]]) -> dict[str, object]:
    """Return a network file: the shaping, and what the real run says of its devices."""
    num_parameters = 75 * case.hidden + 10
    records = [record for peer in real for record in peer[1:]]

    def median(value: Callable[[RoundRecord], float]) -> float:
        return statistics.median(value(record) for record in records)

    return {
        "link": {"delay_s": delay_s},
        "machine": {"queue": "fifo", "queue_kb": QUEUE_BYTES / 1000},
        "machines": [
            {"peers": index, "up_mbit_s": up, "down_mbit_s": down}
            for index, (up, down) in enumerate(case.mbit_s)
        ],
        "device": {
            "step_s": median(lambda r: r.train_s) / STEPS,
            "encode_s_per_million": median(lambda r: r.encode_s) / num_parameters * 1e6,
            "fold_s_per_million": median(lambda r: r.fold_s / len(r.updates_in))
            / num_parameters
            * 1e6,
            "evaluate_s": median(
                lambda r: r.time_s - r.train_s - r.encode_s - r.exchange_s - r.fold_s
            ),
        },
    }


def _simulate(case: Case, folder: Path, network: Path) -> list[list[RoundRecord]]:
    out, log = folder / "simulated", folder / "simulated.log"
    settings = [flag for each in case.overrides(step_s=0) for flag in ("--set", each)]
    with log.open("wb") as file:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "semantic_net.cli", "simulate"),
                *("--peers", str(case.num_peers), "--seed", str(case.seed)),
                *("--network", str(network), "--out", str(out), *settings),
            ],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            timeout=LIMIT_S,
        )
    assert done.returncode == 0, log.read_text()
    return [RoundTail(out / f"peer{n}" / "rounds.jsonl").poll() for n in range(case.num_peers)]


def _socket_bytes(records: list[RoundRecord]) -> int:
    return sum(record.bytes_sent + record.bytes_received for record in records)


def _time_s(records: list[list[RoundRecord]], index: int) -> float:
    return statistics.mean(peer[index].time_s for peer in records)
