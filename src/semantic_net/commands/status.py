"""``status``: what a running peer is at, and why its round waits."""

from __future__ import annotations

import argparse
import fcntl
import time
from pathlib import Path

import msgspec

from semantic_net.errors import DataError
from semantic_net.monitoring.status_file import read_status
from semantic_net.monitoring.status_text import status_text
from semantic_net.status import STATUS_FILE, Status

DONE, NOT_RUNNING = 0, 1

STATUS_HELP = """what a running peer is at, whom its round waits for and why

Reads what the peer leaves in its folder (--out), on the device that it runs on. Exit code 0: it
runs; 1: it does not.

Examples:
  semantic-net status runs/field
  semantic-net status runs/field --json
"""


def add_status(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``status``."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a peer's run (--out)")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=_status)


def _status(arguments: argparse.Namespace) -> int:
    folder: Path = arguments.folder
    status = read_status(folder / STATUS_FILE)
    if status is None:
        raise DataError(f"{folder}: no peer has run there ({STATUS_FILE} is missing)")
    is_running = _is_locked(folder / ".lock")
    age_s = max(time.time() - status.written_at, 0.0)
    if arguments.json:
        known = {**msgspec.to_builtins(status), "is_running": is_running, "age_s": round(age_s, 1)}
        print(msgspec.json.format(msgspec.json.encode(known), indent=2).decode())
    else:
        print(_head(status, folder, age_s, is_running=is_running))
        print(status_text(status))
    return DONE if is_running else NOT_RUNNING


def _head(status: Status, folder: Path, age_s: float, *, is_running: bool) -> str:
    if not is_running:
        ended = (
            "it has ended" if status.phase == "finished" else "it was killed, or the power failed"
        )
        return f"{folder}: no peer runs there; {ended} {age_s:.0f} s ago. The last that it said:"
    return f"{folder}: process {status.pid}, listening on {status.address or 'nothing yet'}"


def _is_locked(lock: Path) -> bool:
    """Tell whether a peer holds its folder's lock."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as exc:
        raise DataError(f"{lock}: cannot be read: {exc.strerror or exc}") from exc
    return False
