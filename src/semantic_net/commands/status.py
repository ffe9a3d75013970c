"""``status``: what a running peer is at, and why its round waits."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import msgspec

from semantic_net.errors import DataError
from semantic_net.monitoring.presence import ADDRESS_FILE, SIMULATION_FILE, is_running
from semantic_net.monitoring.recorder import ROUNDS_FILE
from semantic_net.monitoring.status_file import read_status
from semantic_net.monitoring.status_text import status_text
from semantic_net.monitoring.text import format_duration
from semantic_net.status import STATUS_FILE, Status

WELL, NOT_WELL = 0, 1

STATUS_HELP = """what a running peer is at, whom its round waits for and why

Reads what the peer leaves in its folder (--out), on the device that it runs on. Exit code 0: it
runs and listens; 1: it does not, or it has closed no round for --max-age seconds.

Examples:
  semantic-net status runs/field
  semantic-net status runs/field --json
  semantic-net status runs/field --max-age 3600 || sudo systemctl restart semantic-net
"""


def add_status(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``status``."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a peer's run (--out)")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument(
        "--max-age",
        type=float,
        metavar="S",
        help="also 1 where it has neither started nor closed a round for so many seconds",
    )
    parser.set_defaults(run=_status)


def _status(arguments: argparse.Namespace) -> int:
    folder: Path = arguments.folder
    try:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; name the --out of a peer")
        status = read_status(folder / STATUS_FILE)
        runs = is_running(folder)
        idle_s = _idle_s(folder, time.time())
    except OSError as exc:
        raise DataError(f"{folder}: cannot be read: {exc.strerror or exc}") from exc
    if status is None:
        if any((place / SIMULATION_FILE).is_file() for place in (folder, folder.parent)):
            raise DataError(
                f"{folder}: was simulated, and simulated peers leave no status; see "
                f"semantic-net report {folder}"
            )
        if not runs:
            raise DataError(f"{folder}: no peer has run there ({STATUS_FILE} is missing)")
        text = '{"is_running": true}' if arguments.json else f"{folder}: a peer is starting there"
        print(text)
        return NOT_WELL
    age_s = max(time.time() - status.written_at, 0.0)
    if arguments.json:
        more = {"is_running": runs, "age_s": round(age_s, 1), "idle_s": idle_s}
        known = {**msgspec.to_builtins(status), **more}
        print(msgspec.json.format(msgspec.json.encode(known), indent=2).decode())
    else:
        print(_head(status, folder, age_s, runs=runs))
        print(status_text(status))
    limit_s = arguments.max_age
    is_idle = limit_s is not None and idle_s is not None and idle_s > limit_s
    return WELL if runs and status.address and not is_idle else NOT_WELL


def _idle_s(folder: Path, now: float) -> float | None:
    """Return the seconds since the peer has started to listen, or closed a round; None before."""
    paths = [folder / ADDRESS_FILE, folder / ROUNDS_FILE]
    times = [path.stat().st_mtime for path in paths if path.exists()]
    return round(max(now - max(times), 0.0), 1) if times else None


def _head(status: Status, folder: Path, age_s: float, *, runs: bool) -> str:
    if runs:
        return f"{folder}: process {status.pid}, listening on {status.address or 'nothing yet'}"
    ended = "it has ended" if status.phase == "finished" else "it was killed, or the power failed,"
    return (
        f"{folder}: no peer runs there; {ended} {format_duration(age_s)} ago. "
        "The last that it said:"
    )
