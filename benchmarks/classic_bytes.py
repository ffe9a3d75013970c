"""What a round of the classic mode takes: Flower's own server, and ours, with and without a codec.

    .venv/bin/python benchmarks/classic_bytes.py

A server and three clients as processes on loopback, a model of 0.83 MB, eight rounds; bytes are
the kernel's count of the server's connections, both directions, the median of the last four
rounds. The clients are ours in all three; to Flower's own server they are clients like any.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ROUNDS, CLIENTS, JUDGED = 8, 3, 4
LIMIT_S = 300

Runs = dict[str, tuple[str, ...]]
RUNS: Runs = {
    "Flower's own server": ("semantic.mode=none",),
    "ours, mode none": ("semantic.mode=none",),
    "ours, preset balanced": ("semantic.preset=balanced",),
    "ours, preset extreme": ("semantic.preset=extreme",),
}


def main() -> None:
    """Measure all runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--own-server", metavar="PORT", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.own_server is not None:
        flowers_own(arguments.own_server)
        return
    print(f"{CLIENTS} clients, a model of 0.83 MB, {os.cpu_count()} cores, seed 0\n")
    print("| server | to clients | from clients | together |\n|---|---|---|---|")
    for name, overrides in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            rounds = run(Path(folder), overrides, is_own=name in list(RUNS)[:1])
        sent, received = (
            statistics.median(each[way] for each in rounds[-JUDGED:]) / 1e6 for way in (0, 1)
        )
        print(f"| {name} | {sent:.3f} MB | {received:.3f} MB | {sent + received:.3f} MB |")


def run(folder: Path, overrides: Sequence[str], *, is_own: bool) -> list[tuple[int, int]]:
    """Return the bytes to and from the clients in each round."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    shared = ["--rounds", str(ROUNDS)]
    for key in (
        f"task.name={ROOT / 'benchmarks' / 'linear_task.py'}",
        "training.num_threads=1",
        "training.steps=4",
        f"data.partition.num_shards={CLIENTS}",
        *overrides,
    ):
        shared += ["--set", key]
    server = [str(ROOT / "run_fed_server.py"), "--host", "127.0.0.1", "--port", str(port)]
    server += ["--clients", str(CLIENTS), "--out", str(folder / "server"), *shared]
    if is_own:
        server = [__file__, "--own-server", str(port)]
    with contextlib.ExitStack() as stack:
        commands = [server]
        for shard in range(CLIENTS):
            own = ["--server", f"127.0.0.1:{port}", "--set", f"data.partition.shard={shard}"]
            out = ["--out", str(folder / f"client{shard}")]
            commands.append([str(ROOT / "run_fed_client.py"), *own, *out, *shared])
        processes = []
        for command in commands:
            process = subprocess.Popen(
                [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            stack.callback(process.kill)
            processes.append(process)
        printed, _ = processes[0].communicate(timeout=LIMIT_S)
        if processes[0].returncode:
            sys.exit(f"the server ended with {processes[0].returncode}")
    if is_own:
        return [tuple(json.loads(line)) for line in printed.splitlines()]
    records = (folder / "server" / "rounds.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(record) for record in records]
    return [(each["bytes_sent"], each["bytes_received"]) for each in found]


def flowers_own(port: int) -> None:
    """Serve with Flower's FedAvg, and print the bytes of each round."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    from flwr.server import ServerConfig, start_server
    from flwr.server.strategy import FedAvg

    from semantic_net.federated.port_traffic import PortTraffic

    with PortTraffic(port) as traffic:

        class Counted(FedAvg):
            def aggregate_evaluate(self, server_round: int, results: Any, failures: Any) -> Any:
                print(json.dumps(traffic.since_last()), flush=True)
                return super().aggregate_evaluate(server_round, results, failures)

        start_server(
            server_address=f"127.0.0.1:{port}",
            config=ServerConfig(num_rounds=ROUNDS),
            strategy=Counted(
                min_fit_clients=CLIENTS, min_evaluate_clients=CLIENTS, min_available_clients=CLIENTS
            ),
        )


if __name__ == "__main__":
    main()
