"""What the live page costs the peer that serves it: processor time and memory.

Three peers train, with steps that sleep, so that hardly anything else uses the processor. The first
one serves a page with one reader, or none; each pair of runs gives a difference.

    python benchmarks/page_cost.py --pairs 3 --rounds 60
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TASK = ROOT / "tests" / "faults" / "paced_task.py"
TICKS = os.sysconf("SC_CLK_TCK")
START_S = 120.0


@dataclass(frozen=True)
class Cost:
    """Of the first peer, from its first round to its end."""

    cpu_share: float
    """Of one core."""
    peak_mb: float
    round_s: float


def main() -> int:
    """Run the pairs, and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--step-s", type=float, default=0.2, help="of five steps a round")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print("pair  page  processor  peak memory  a round")
    pairs = []
    for number in range(1, arguments.pairs + 1):
        pair = [measure(arguments.rounds, arguments.step_s, page=page) for page in (False, True)]
        for cost, name in zip(pair, ("no", "yes"), strict=True):
            print(
                f"{number:4}  {name:4}  {100 * cost.cpu_share:7.2f} %  {cost.peak_mb:8.1f} MB  "
                f"{cost.round_s:.3f} s",
                flush=True,
            )
        pairs.append(pair)
    cpu = [100 * (with_page.cpu_share - without.cpu_share) for without, with_page in pairs]
    memory = [with_page.peak_mb - without.peak_mb for without, with_page in pairs]
    rounds = [with_page.round_s / without.round_s for without, with_page in pairs]
    print(
        f"the page: {statistics.median(cpu):+.2f} % of a core, "
        f"{statistics.median(memory):+.1f} MB, a round takes {statistics.median(rounds):.3f} times "
        "as long (medians)"
    )
    return 0


def measure(rounds: int, step_s: float, *, page: bool) -> Cost:
    """Run three peers, and look at the first."""
    with tempfile.TemporaryDirectory() as folder:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
        processes = []
        try:
            for index, address in enumerate(addresses):
                out = Path(folder) / f"peer{index}"
                with out.with_suffix(".log").open("wb") as log:
                    command = [sys.executable, str(ROOT / "run_peer_training.py")]
                    command += ["--listen", address, "--peers", ",".join(addresses)]
                    command += ["--rounds", str(rounds), "--out", str(out)]
                    for setting in (
                        f"task.name={TASK}",
                        f"task.options={{step_s: {step_s}}}",
                        "training.steps=5",
                        "training.num_threads=1",
                        *(["monitoring.dashboard=127.0.0.1:0"] if page and index == 0 else []),
                    ):
                        command += ["--set", setting]
                    processes.append(subprocess.Popen(command, stdout=log, stderr=log))
            return watch(processes[0], Path(folder) / "peer0", rounds, page=page)
        finally:
            for process in processes:
                process.kill()
                process.wait()


def watch(process: subprocess.Popen[bytes], out: Path, rounds: int, *, page: bool) -> Cost:
    """Return what a peer takes from its first round to its last but one."""
    reader = None
    began = cpu = 0.0
    deadline = time.monotonic() + START_S
    while (closed := num_rounds(out)) < 1:
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the peer did not start:\n{out.with_suffix('.log').read_text()}")
        time.sleep(0.05)
    if page:
        url = re.search(r"page at (\S+)", out.with_suffix(".log").read_text())
        assert url is not None, "the peer has a page"
        reader = threading.Thread(target=read, args=(url[1] + "events",), daemon=True)
        reader.start()
    first, began, cpu = closed, time.monotonic(), cpu_s(process.pid)
    while num_rounds(out) < rounds - 1 and process.poll() is None:
        time.sleep(0.05)
    took_s = time.monotonic() - began
    cost = Cost(
        cpu_share=(cpu_s(process.pid) - cpu) / took_s,
        peak_mb=peak_mb(process.pid),
        round_s=took_s / (rounds - 1 - first),
    )
    process.kill()
    if reader is not None:
        reader.join(10)
    return cost


def read(url: str) -> None:
    """Read the stream as a browser would, until its end."""
    try:
        with urllib.request.urlopen(url, timeout=60) as stream:
            while stream.readline():
                pass
    except OSError:
        pass  # the peer has been ended


def num_rounds(out: Path) -> int:
    """Return how many rounds have a record."""
    path = out / "rounds.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def cpu_s(pid: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mb(pid: int) -> float:
    """Return the most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None, "Linux tells"
    return int(found[1]) * 1024 / 1e6


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


if __name__ == "__main__":
    sys.exit(main())
