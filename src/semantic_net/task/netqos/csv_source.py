"""Traces from a table in a file: CSV, plain or gzip-compressed, columns named in ``data.csv``.

An empty cell, or one that says nan, is a sample that was not taken. Where the target is missing
the whole row is; a missing feature keeps the trace's last value, and rows before its first value
are left out. Everything else that is no finite number is refused, with its line and column.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np

from semantic_net.config import CsvConfig
from semantic_net.errors import DataError
from semantic_net.task.netqos.traces import Trace

_MISSING = {"", "nan", "null", "none", "na", "n/a"}


def read_traces(path: Path, cfg: CsvConfig) -> list[Trace]:
    """Read all traces of a file, in the order in which they begin.

    Raises:
        DataError: The file cannot be read, lacks a column, or a cell is no number; the message
            names the file, the line and the column.
    """
    try:
        with _open(path) as file:
            return _read(path, file, cfg)
    except (OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise DataError(f"{path}: cannot be read as CSV: {reason}") from exc


@contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    with open(path, "rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    opener = gzip.open if zipped else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
        yield file


def _read(path: Path, file: TextIO, cfg: CsvConfig) -> list[Trace]:
    rows = csv.reader(file)
    header = next(rows, [])
    place = {name: header.index(name) for name in header}
    wanted = {
        "data.csv.trace": (cfg.trace,),
        "data.csv.time": (cfg.time,),
        "data.csv.target": (cfg.target,),
        "data.csv.features": cfg.features,
        "data.csv.group": cfg.group,
    }
    for key, names in wanted.items():
        for name in names:
            if name not in place:
                raise DataError(
                    f"{path}: no column {name!r} ({key}); the file has {', '.join(header)}"
                )
    numeric = [(name, place[name]) for name in (cfg.time, cfg.target, *cfg.features)]
    drafts: dict[tuple[str, str], list[list[float]]] = {}
    for row in rows:
        if not row:
            continue
        where = f"{path}, line {rows.line_num}"
        if len(row) < len(header):
            raise DataError(f"{where}: {len(row)} cells, but the header has {len(header)}")
        name, group = row[place[cfg.trace]], ", ".join(row[place[g]] for g in cfg.group)
        draft = drafts.setdefault((name, group), [])
        sample = [_number(row[index], where, column) for column, index in numeric]
        _keep(draft, sample, where, cfg)
    return [_finish(*key, draft, len(numeric)) for key, draft in drafts.items()]


def _number(cell: str, where: str, column: str) -> float:
    """Return a cell's number; nan where it says that there is none."""
    try:
        number = float(cell)
    except ValueError:
        number = math.nan if cell.strip().lower() in _MISSING else math.inf
    if math.isinf(number):
        raise DataError(f"{where}, column {column}: not a finite number: {cell[:40]!r}")
    return number


def _keep(draft: list[list[float]], sample: list[float], where: str, cfg: CsvConfig) -> None:
    """Append a sample (time, target, features) to its trace, missing features filled."""
    time_s, target = sample[:2]
    if math.isnan(time_s):
        raise DataError(f"{where}, column {cfg.time}: empty; every row needs its time")
    if draft and time_s < draft[-1][0]:
        raise DataError(
            f"{where}, column {cfg.time}: goes back from {draft[-1][0]:g} to {time_s:g} within a "
            "trace; sort the file by time"
        )
    if math.isnan(target):
        return
    last = draft[-1] if draft else sample
    draft.append([old if math.isnan(new) else new for new, old in zip(sample, last, strict=True)])


def _finish(name: str, group: str, draft: list[list[float]], width: int) -> Trace:
    table = np.array(draft, dtype=np.float64).reshape(len(draft), width)
    complete = ~np.isnan(table).any(axis=1)  # filled forwards, so only the beginning can lack any
    table = table[complete]
    return Trace(
        name=name, group=group, time_s=table[:, 0], values=table[:, 2:], target=table[:, 1]
    )
