"""What a round costs beside training: three processes on loopback against gloo's all_reduce.

    make bench                      or   .venv/bin/python benchmarks/round_overhead.py --rounds 20

Models of 0.83 MB and 25.65 MB, mode ``none``, nothing is trained: each peer's parameters move by
a fixed random vector. A round is all that semantic-net does between two trainings: encode, hash,
sign, journal, exchange, check, fold, digest and load the model. Payloads are dropped a round later,
where a run would write them to disk. Gloo averages the same tensors
between the same number of processes in the same run, the two in turn, so that the ratio holds on
a noisy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import semantic_net.aggregation.folder as folder_module
import semantic_net.aggregation.state as state_module
import semantic_net.federated.peer as peer_module
import semantic_net.protocol.machine as machine_module
from semantic_net.config import load_config
from semantic_net.federated.assembly import assemble
from semantic_net.federated.facts import run_facts
from semantic_net.federated.folder import RunFolder
from semantic_net.federated.learner import ModelLearner
from semantic_net.federated.parts import ClosedRound, PeerParts
from semantic_net.federated.peer import Peer
from semantic_net.federated.runner import ThreadRunner
from semantic_net.semantic.rate import rate_controller
from semantic_net.task.base import Task
from semantic_net.training.trainer import TrainResult

NUM_PEERS = 3
SIZES = {"small": 207_500, "large": 6_412_500}
"""Parameters: 0.83 MB and 25.65 MB of float32."""


def peak_mb() -> float:
    """Return this process' largest resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def torch_mb() -> float:
    """Return what an interpreter takes that has done nothing but import torch, in MB."""
    code = "import resource, torch; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    ).stdout
    return int(printed) * 1024 / 1e6


PARTS = {
    "payload hashes": (peer_module, "hash_payload"),
    "encoding": (ModelLearner, "encode"),
    "parsing": (ModelLearner, "parse"),
    "folding": (folder_module, "fold_round"),
    "state digest": (state_module, "state_digest"),
    "loading": (ModelLearner, "_load"),
    "payload copies": (Peer, "_write"),
    "update signatures": (machine_module, "admit"),
    "heartbeat signatures": (machine_module, "verify_heartbeat"),
}
"""Where a round's processor time is counted; what is left is the event loop and the sockets."""


def count_processor_time() -> dict[str, float]:
    """Return the seconds that each of `PARTS` takes from now on, in all threads together."""
    spent = dict.fromkeys(PARTS, 0.0)

    def counting(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += time.thread_time() - began

        return counted

    for part, (owner, name) in PARTS.items():
        setattr(owner, name, counting(part, getattr(owner, name)))
    return spent


class StandStill:
    """A trainer that trains nothing: it moves all parameters by a fixed random vector."""

    def __init__(self, num_parameters: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.device = torch.device("cpu")
        self.model = nn.ParameterList([torch.randn(num_parameters, generator=generator)])
        self._move = 0.01 * torch.randn(
            num_parameters, generator=torch.Generator().manual_seed(1 + seed)
        )

    @torch.no_grad()
    def train_round(self, round_index: int, stop: object) -> TrainResult:
        """Move the parameters."""
        for parameter in self.model:
            parameter.add_(self._move)
        return TrainResult(loss=0.0, num_examples=1, num_steps=0, notes=())

    def evaluate(self) -> dict[str, float]:
        """Return nothing."""
        return {}


def run_worker(arguments: argparse.Namespace) -> None:
    """Be one peer; print the times of its rounds."""
    torch.set_num_threads(1)
    config = load_config(
        None,
        [
            "p2p.host=127.0.0.1",
            f"p2p.port={arguments.ports[arguments.index]}",
            f"p2p.peers=[{', '.join(f'127.0.0.1:{port}' for port in arguments.ports)}]",
            f"training.rounds={arguments.rounds}",
            "semantic.mode=none",
        ],
    )
    task: Any = Task(make_model=None, train_data=[], val_data=[], loss=None, metrics=None)  # type: ignore[arg-type]  # never used
    spent = count_processor_time()
    ended: list[float] = []
    wire: list[tuple[int, int]] = []
    phases: list[dict[str, float]] = []

    def on_round(closed: ClosedRound) -> None:
        ended.append(time.monotonic())
        wire.append((closed.sent, closed.facts.payload_bytes))
        phases.append(
            {
                "encode": closed.facts.encode_s,
                "exchange": closed.exchange_s,
                "fold": closed.fold_s,
                "cpu": time.process_time(),
                **spent,
            }
        )
        assert len(closed.authors) == NUM_PEERS, closed.close.reason
        for update in closed.close.plan.rounds.get(closed.close.round - 1, ()):
            parts.store.discard(update.id)

    with tempfile.TemporaryDirectory() as folder, RunFolder(Path(folder)) as run_folder:
        identity = run_folder.identity()
        learner = ModelLearner(
            StandStill(SIZES[arguments.size], arguments.index),  # type: ignore[arg-type]  # all of it
            config.aggregation,
            run_folder.bases,
            cache_dir=run_folder.cache,
        )
        facts = run_facts(config, task, learner.schema, learner.fold_config)
        parts = assemble(config, identity, 1, learner, facts)
        runner = ThreadRunner()
        peer = Peer(
            PeerParts(
                machine=parts.machine,
                signer=identity.signer,
                transport=parts.transport,
                learner=learner,
                store=parts.store,
                bases=run_folder.bases,
                rate=rate_controller(config.semantic, learner.schema),
                runner=runner,
                journal=identity.journal.author,
                on_round=on_round,
            )
        )
        asyncio.run(peer.run(asyncio.Event()))
        runner.close()
    print(
        json.dumps(
            {
                "times_s": [b - a for a, b in itertools.pairwise(ended)],
                "phases_ms": {
                    name: 1e3 * statistics.median(phase[name] for phase in phases)
                    for name in ("encode", "exchange", "fold")
                },
                "cpu_ms": {
                    name: 1e3 * (phases[-1][name] - phases[0][name]) / (len(phases) - 1)
                    for name in ("cpu", *PARTS)
                },
                "sent": sum(s for s, _ in wire),
                "payload": sum(p for _, p in wire) * (NUM_PEERS - 1),
                "peak_mb": peak_mb(),
            }
        )
    )


def run_gloo(arguments: argparse.Namespace) -> None:
    """Be one rank of gloo; rank 0 prints the times of its averages."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(arguments.ports[0]))
    dist.init_process_group("gloo", rank=arguments.index, world_size=NUM_PEERS)
    tensor = torch.randn(SIZES[arguments.size])
    times = []
    for _ in range(arguments.rounds):
        dist.barrier()
        began = time.monotonic()
        dist.all_reduce(tensor)
        tensor /= NUM_PEERS
        times.append(time.monotonic() - began)
    dist.destroy_process_group()
    print(json.dumps({"times_s": times[1:]}))


def run_group(role: str, size: str, rounds: int) -> list[dict[str, Any]]:
    """Run one group of processes and return what each printed."""
    import socket

    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(NUM_PEERS)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    children = [
        subprocess.Popen(
            [
                sys.executable,
                __file__,
                *("--role", role, "--size", size, "--rounds", str(rounds)),
                *("--index", str(index), "--ports", *ports),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(NUM_PEERS)
    ]
    results = []
    for child in children:
        out, _ = child.communicate(timeout=300)
        if child.returncode:
            raise SystemExit(f"a {role} process failed with exit code {child.returncode}")
        results.append(json.loads(out.strip().splitlines()[-1]))
    return results


def compare(size: str, rounds: int, repeats: int) -> dict[str, float]:
    """Run the two in turn and return medians."""
    ours, gloo, sent, payload, peak = [], [], 0, 0, 0.0
    cpu: list[dict[str, float]] = []
    phases: list[dict[str, float]] = []
    for _ in range(repeats):
        peers = run_group("peer", size, rounds)
        ours.append(statistics.median(t for peer in peers for t in peer["times_s"]))
        cpu += [peer["cpu_ms"] for peer in peers]
        phases += [peer["phases_ms"] for peer in peers]
        sent += sum(peer["sent"] for peer in peers)
        payload += sum(peer["payload"] for peer in peers)
        peak = max(peak, *(peer["peak_mb"] for peer in peers))
        ranks = run_group("gloo", size, rounds)
        gloo.append(statistics.median(t for rank in ranks for t in rank["times_s"]))
    return {
        "model_mb": SIZES[size] * 4 / 1e6,
        "round_ms": 1e3 * statistics.median(ours),
        "gloo_ms": 1e3 * statistics.median(gloo),
        "ratio": statistics.median(a / b for a, b in zip(ours, gloo, strict=True)),
        "above_gloo_ms": 1e3 * statistics.median(a - b for a, b in zip(ours, gloo, strict=True)),
        **{name: statistics.median(each[name] for each in cpu) for name in cpu[0]},
        **{f"{n}_ms": statistics.median(phase[n] for phase in phases) for n in phases[0]},
        "wire_over_payload": sent / payload,
        "peak_over_model": (peak - torch_mb()) / (SIZES[size] * 4 / 1e6),
    }


def main() -> None:
    """Print one row a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--role", choices=("peer", "gloo"), help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=tuple(SIZES), help="one model only")
    parser.add_argument("--index", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--ports", nargs="*", default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role == "peer":
        run_worker(arguments)
        return
    if arguments.role == "gloo":
        run_gloo(arguments)
        return
    print(
        f"{NUM_PEERS} processes, {os.cpu_count()} cores, {platform.machine()}, "
        f"torch {torch.__version__}, Python {platform.python_version()}; "
        f"{arguments.repeats} x {arguments.rounds} rounds, medians"
    )
    for size in [arguments.size] if arguments.size else SIZES:
        row = compare(size, arguments.rounds, arguments.repeats)
        print(
            f"{row['model_mb']:6.2f} MB  round {row['round_ms']:7.1f} ms  "
            f"gloo {row['gloo_ms']:6.1f} ms  ratio {row['ratio']:5.1f}  "
            f"above gloo {row['above_gloo_ms']:7.1f} ms  "
            f"wire/payload {row['wire_over_payload']:.4f}  "
            f"memory/model {row['peak_over_model']:4.1f}\n"
            f"           of a round: encode {row['encode_ms']:.1f}, exchange "
            f"{row['exchange_ms']:.1f}, fold {row['fold_ms']:.1f} ms; "
            f"a peer's processor time {row['cpu']:.1f} ms:\n           "
            + ", ".join(f"{part} {row[part]:.1f}" for part in PARTS)
            + f", event loop and sockets {row['cpu'] - sum(row[part] for part in PARTS):.1f}"
        )


if __name__ == "__main__":
    main()
