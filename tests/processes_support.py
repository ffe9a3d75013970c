"""Real peers as real processes on loopback, with a task that trains in milliseconds."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from forked_peers import ForkedProcess

from semantic_net.monitoring.recorder import RoundTail
from semantic_net.records import RoundRecord

ROOT = Path(__file__).parents[1]
SCRIPTS = {
    "peer": ROOT / "run_peer_training.py",
    "server": ROOT / "run_fed_server.py",
    "client": ROOT / "run_fed_client.py",
}
LIMIT_S = 90.0
"""Seconds after which a process counts as hung."""

FAST = (
    f"task.name={ROOT / 'examples' / 'digits_task.py'}",
    "data.num_train=64",
    "training.num_threads=1",
    "training.steps=4",
    "p2p.heartbeat_s=0.2",
    "p2p.liveness_s=3",
    "p2p.listen_timeout_s=30",
    "p2p.start_timeout_s=40",
)


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class PeerProcess:
    """One `run_peer_training.py`, or another of the scripts beside it."""

    def __init__(
        self,
        out: Path,
        arguments: list[str],
        prefix: Sequence[str] = (),
        *,
        is_fresh: bool = False,
        command: str = "peer",
    ) -> None:
        """Start it.

        Args:
            out: Its folder.
            arguments: Of the script.
            prefix: A command that runs it, and becomes it, elsewhere.
            is_fresh: Whether it imports everything anew, as a user's does.
            command: What it does.
        """
        self.out = out
        self._arguments = arguments
        self._prefix = prefix
        self._log = out.with_suffix(".log")
        out.parent.mkdir(parents=True, exist_ok=True)
        self._log.touch()
        arguments = ["--out", str(out), *arguments]
        self.process: subprocess.Popen[bytes] | ForkedProcess
        if prefix or is_fresh:
            with self._log.open("ab") as log:
                self.process = subprocess.Popen(
                    [*prefix, sys.executable, str(SCRIPTS[command]), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=ROOT,
                )
        else:
            self.process = ForkedProcess(command, arguments, self._log, ROOT)
        self._tail = RoundTail(out / "rounds.jsonl")
        self.rounds: list[RoundRecord] = []

    def start_again(self) -> PeerProcess:
        """Start the same peer in the same folder anew."""
        return PeerProcess(self.out, self._arguments, self._prefix)

    def wait(self) -> int:
        """Return the exit code."""
        try:
            return self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.out.name} hangs:\n{self.said()}") from None

    def said(self) -> str:
        """Return everything that it printed."""
        return self._log.read_text()

    def wait_until(self, condition: Callable[[PeerProcess], bool], what: str) -> None:
        """Wait for something that the peer's files show."""
        deadline = time.monotonic() + LIMIT_S
        while not condition(self):
            assert self.process.poll() is None, f"{self.out.name} ended early:\n{self.said()}"
            assert time.monotonic() < deadline, f"{self.out.name}: never {what}:\n{self.said()}"
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)

    def wait_for_round(self, number: int) -> None:
        """Wait until a round is recorded."""
        self.wait_until(lambda p: p.read_rounds()[-1:] >= [number], f"recorded round {number}")

    def wait_until_listening(self) -> str:
        """Return the address."""
        self.wait_until(lambda p: (p.out / "address").exists(), "listened")
        return (self.out / "address").read_text().strip()

    def read_rounds(self) -> list[int]:
        """Read what is new; return the numbers of all rounds so far."""
        self.rounds += self._tail.poll()
        return [record.round for record in self.rounds]

    def digests(self) -> list[str]:
        """Return the state digests so far."""
        self.read_rounds()
        return [record.state_digest for record in self.rounds]

    def summary(self) -> dict[str, Any]:
        """Return summary.json."""
        summary: dict[str, Any] = json.loads((self.out / "summary.json").read_text())
        return summary

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Hold:
    """Keeps the steps of `paced_task` from ending while it is on, by its option ``held_by``."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path = path
        self._file: BinaryIO | None = None

    def begin(self) -> None:
        """Let no step end from now on."""
        self._file = self._path.open("rb")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def end(self) -> None:
        """Let all go on."""
        assert self._file is not None, "begun"
        self._file.close()


def settings(*overrides: str) -> list[str]:
    """Return the flags for a fast peer with these overrides."""
    return [flag for override in (*FAST, *overrides) for flag in ("--set", override)]


@contextlib.contextmanager
def running(
    folder: Path,
    num_peers: int,
    *overrides: str,
    rounds: int = 3,
    each: Callable[[int], list[str]] = lambda index: [],
    is_fresh: bool = False,
) -> Iterator[list[PeerProcess]]:
    """Start peers that know each other; none is left behind."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(num_peers)]
    peers = []
    try:
        for index, address in enumerate(addresses):
            peers.append(
                PeerProcess(
                    folder / f"peer{index}",
                    [
                        "--listen",
                        address,
                        "--peers",
                        ",".join(addresses),
                        "--rounds",
                        str(rounds),
                        *settings(*overrides),
                        *each(index),
                    ],
                    is_fresh=is_fresh,
                )
            )
        yield peers
    finally:
        for peer in peers:
            peer.kill()
