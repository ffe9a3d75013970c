"""``status``: whether a peer runs in a folder, and what it has come to; for people and programs."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from semantic_net.errors import DataError

DONE, NOT_WELL = 0, 1

STATUS_HELP = """whether a peer runs in a folder, and what it has come to

Looks into the folder and asks nobody. Exit code 0: a peer runs there and listens. 1: none does, or
it has closed no round for --max-age seconds.

Examples:
  semantic-net status runs/field
  semantic-net status runs/field --max-age 3600 || sudo systemctl restart semantic-net
"""


def add_status(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``status``."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a peer (its --out)")
    parser.add_argument(
        "--max-age",
        type=float,
        metavar="S",
        help="also 1 where it has neither started nor closed a round for so many seconds",
    )
    parser.set_defaults(run=_status)


def _status(arguments: argparse.Namespace) -> int:
    from semantic_net.monitoring.console import round_text
    from semantic_net.monitoring.presence import ADDRESS_FILE, is_running
    from semantic_net.monitoring.recorder import ROUNDS_FILE, read_rounds
    from semantic_net.monitoring.text import format_duration

    folder: Path = arguments.folder
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name the --out of a peer")
    address, rounds = folder / ADDRESS_FILE, folder / ROUNDS_FILE
    try:
        started = address.stat().st_mtime if is_running(folder) and address.exists() else None
        where = address.read_text(encoding="utf-8").strip() if started is not None else ""
        records = read_rounds(rounds) if rounds.exists() else []
        closed = rounds.stat().st_mtime if records else 0.0
    except OSError as exc:
        raise DataError(f"{folder}: cannot be read: {exc.strerror or exc}") from exc
    print(f"listens on {where}" if started is not None else "does not listen")
    if records:
        age = format_duration(max(0.0, time.time() - closed))
        print(f"{round_text(records[-1], _rounds_of(folder, records[-1].round)).plain}, {age} ago")
    if started is None:
        return NOT_WELL
    is_stale = arguments.max_age is not None and (
        time.time() - max(started, closed) > arguments.max_age
    )
    return NOT_WELL if is_stale else DONE


def _rounds_of(folder: Path, at_least: int) -> int:
    """Return the rounds of the run, as the folder's own configuration says."""
    from semantic_net.config import load_config

    return max(at_least, load_config(folder / "config.yaml").training.rounds)
