"""Whether a process runs in a folder, as its lock and its address tell: nobody is asked."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

LOCK_FILE = ".lock"
"""Locked for as long as a peer runs in the folder."""
SIMULATION_FILE = "simulation.yaml"
"""What all peers of a simulation share; also what marks a folder as a simulation's own."""
ADDRESS_FILE = "address"
"""Where it listens; there from then on, and stale where the power failed."""


def is_running(folder: Path) -> bool:
    """Tell whether a process runs in a folder.

    Raises:
        OSError: The lock cannot be read.
    """
    try:
        lock = os.open(folder / LOCK_FILE, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # Held for no longer than this takes: a peer that starts just now must not find it taken.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
