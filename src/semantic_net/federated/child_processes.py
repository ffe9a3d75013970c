"""Child processes: started with their own output files, watched, and ended by id.

Nothing here knows what a child does. A child that fails is told of by the last line that it wrote
to its standard error; all others are then asked to end (SIGINT), waited for and, at last, killed.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess  # nosec B404  # starts our own interpreter only
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType

from semantic_net.errors import StartError

GRACE_S = 10.0
"""Seconds that a child has to end by itself once asked."""

POLL_S = 0.2
"""Seconds between two looks at the children."""


@dataclass(slots=True)
class Child:
    """One process, and where its output lies."""

    name: str
    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path


@dataclass(slots=True)
class Children:
    """The processes of one stage; a context manager that leaves none behind."""

    folder: Path
    running: list[Child] = field(default_factory=list)

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, name: str, command: Sequence[str]) -> Child:
        """Start a command; its output goes to files named after the child."""
        stem = name.replace(" ", "-")
        stdout, stderr = self.folder / f"{stem}.out.txt", self.folder / f"{stem}.err.txt"
        with stdout.open("wb") as out, stderr.open("wb") as err:
            process = subprocess.Popen(  # nosec B603  # no shell, and the command is our own
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                # A Ctrl-C on the terminal is for us: we pass it on once, not twice.
                start_new_session=True,
            )
        child = Child(name, process, stdout, stderr)
        self.running.append(child)
        return child

    def all_done(self) -> bool:
        """Tell whether every child has ended well.

        Raises:
            StartError: One has failed; the message has its last line of standard error.
        """
        for child in self.running:
            code = child.process.poll()
            if code is not None and code != 0:
                raise StartError(f"{child.name} {_ending(code)}: {_last_line(child)}")
        return all(child.process.returncode == 0 for child in self.running)

    def wait(self, look: Callable[[], None]) -> None:
        """Wait until every child has ended well, and look at what they have done meanwhile.

        Raises:
            StartError: One has failed.
        """
        while not self.all_done():
            look()
            time.sleep(POLL_S)
        look()

    def stop(self) -> None:
        """End what still runs: asked first, killed after `GRACE_S` or a second Ctrl-C."""
        alive = [child.process for child in self.running if child.process.poll() is None]
        deadline = time.monotonic() + GRACE_S
        try:
            for process in alive:
                process.send_signal(signal.SIGINT)
            for process in alive:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=max(0.0, deadline - time.monotonic()))
        finally:
            for process in alive:
                process.kill()  # nothing happens to one that has been waited for
                process.wait()
            self.running.clear()


@contextlib.contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Hold free TCP ports of 127.0.0.1 for children that will listen on them.

    A port stays bound here while the block runs, so that nobody else is given it. That does not
    keep a child out: on Linux a socket may listen where another is bound but does not listen,
    when both set SO_REUSEADDR (asyncio's servers do).
    """
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            held = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", 0))
            ports.append(held.getsockname()[1])
        yield ports


@contextlib.contextmanager
def ended_by_signals(again: Callable[[], None] | None = None) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end what runs alike, so that no child is left behind.

    Also where SIGINT was ignored, as a shell's background jobs and their children begin.

    Args:
        again: Called at a second signal, where what runs takes a while to end.
    """
    is_ending = False

    def interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal is_ending
        if is_ending and again is not None:
            again()
        is_ending = True
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = {n: signal.signal(n, interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ending(code: int) -> str:
    if code < 0:
        return f"was ended by signal {signal.Signals(-code).name}"
    return f"failed with exit code {code}"


def _last_line(child: Child) -> str:
    lines = child.stderr.read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{last or 'it said nothing'} (all of it: {child.stderr})"
