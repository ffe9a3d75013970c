"""Peers as processes that need not import torch first: forked from one that has.

An interpreter with torch takes seconds to start, and the tests start more than a hundred.
Everything else is a process of its own, as it would be started by a shell.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["semantic_net.cli", "semantic_net.federated.run", "torch.optim"])


class ForkedProcess:
    """What `subprocess.Popen` would be."""

    def __init__(self, command: str, arguments: list[str], log: Path, cwd: Path) -> None:
        self._process = _server.Process(target=_run, args=(command, arguments, log, cwd))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, as `subprocess` gives it; None while it runs."""
        return self.poll()

    def poll(self) -> int | None:
        """Return the exit code, if it has ended."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit code."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("peer", timeout or 0.0)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.send_signal(signal.SIGKILL)


def _run(command: str, arguments: list[str], log: Path, cwd: Path) -> None:
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(written, stream)
    os.chdir(cwd)
    sys.argv = [command, *arguments]
    from semantic_net.cli import main

    sys.exit(main([command, *arguments]))
