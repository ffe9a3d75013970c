"""What takes longer than a second says so: on a terminal it spins, elsewhere it is a line."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

from rich.console import Console

from semantic_net.monitoring.text import format_duration

log = logging.getLogger(__name__)

PATIENCE_S = 1.0
"""Seconds that nobody has to be told of."""


@contextlib.contextmanager
def logged_if_long(what: str, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Log that something is under way once it takes long, and then how long it took."""
    timer = threading.Timer(patience_s, log.info, ("%s ...", what))
    timer.daemon = True
    began = time.monotonic()
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    took_s = time.monotonic() - began
    if took_s > patience_s:
        log.info("%s took %s", what, format_duration(took_s))


@contextlib.contextmanager
def shown_if_long(
    what: str, console: Console | None = None, patience_s: float = PATIENCE_S
) -> Iterator[None]:
    """Show on standard error that something is under way; for commands without a log."""
    console = console or Console(stderr=True, highlight=False)
    if console.is_terminal:
        with console.status(f"{what} ..."):
            yield
        return
    timer = threading.Timer(patience_s, console.print, (f"{what} ...",), {"soft_wrap": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
