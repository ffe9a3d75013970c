"""The folder that a run leaves: can it be written, is it free, is there room on the disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from semantic_net.federated.doctor.finding import FAIL, OK, WARN, Finding
from semantic_net.monitoring.presence import LOCK_FILE, is_running
from semantic_net.monitoring.text import format_bytes

MODELS_ON_DISK = 24
"""Sizes of the model that a folder takes at most beside updates: three snapshots of four, three
checkpoints (the optimiser's two, and what is not sent yet), and the weights, last and best."""


def check_out(out: Path) -> Finding:
    """Tell whether a peer could lock and write its folder; it is not made."""
    where = _existing(out)
    if not where.is_dir():
        return Finding("out", FAIL, f"{where} is no folder", "name another --out")
    try:
        with tempfile.TemporaryFile(dir=where):
            pass
    except OSError as exc:
        text = f"{where} cannot be written: {exc.strerror}"
        return Finding("out", FAIL, text, "name another --out, or see to its rights")
    try:
        runs = is_running(out)
    except OSError as exc:
        text = f"{out / LOCK_FILE} cannot be read: {exc.strerror}"
        return Finding("out", FAIL, text, "name another --out, or see to its rights")
    if runs:
        hint = "stop it, or name another --out"
        return Finding("out", FAIL, f"another peer runs in {out}", hint)
    if (out / "checkpoint").is_dir():
        return Finding("out", OK, f"{out}, with what a run before has left: it goes on from there")
    return Finding("out", OK, f"{out}{' (not made yet)' if where != out else ''}")


def check_disk(out: Path, budget_bytes: int, num_parameters: int | None) -> Finding:
    """Tell whether updates and checkpoints have room.

    Args:
        out: Of the run.
        budget_bytes: ``p2p.disk_budget_mb``.
        num_parameters: Of the model; None where it is not known.
    """
    where = _existing(out)
    try:
        free = shutil.disk_usage(where).free
    except OSError as exc:
        return Finding("disk", WARN, f"{where} does not say how much is free: {exc.strerror}")
    checkpoints = MODELS_ON_DISK * 4 * (num_parameters or 0)
    text = (
        f"{format_bytes(free)} free; p2p.disk_budget_mb {format_bytes(budget_bytes)}, and about "
        f"{format_bytes(checkpoints)} for checkpoints and weights"
    )
    if free < checkpoints:
        return Finding("disk", FAIL, text, "free some, or name an --out on another disk")
    if free < checkpoints + budget_bytes:
        return Finding("disk", WARN, text, "free some, or lower p2p.disk_budget_mb")
    return Finding("disk", OK, text)


def _existing(path: Path) -> Path:
    """Return a path, or the nearest of those above it that exist."""
    path = path.absolute()
    # Not Path.exists(), which raises where we may not look.
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path
