"""Many runs of a benchmark, some at a time, each of which leaves its result as a file.

A run whose file is there is not made again: so what was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

import torch

Result = dict[str, Any]
Cell = TypeVar("Cell", bound=tuple[Any, ...])


def run_cells(
    cells: Sequence[Cell], run_cell: Callable[[Cell], Result], out: Path, jobs: int
) -> list[Result]:
    """Run the cells that have no file yet, and return the results of all, in order.

    Args:
        cells: What tells one run from another.
        run_cell: Runs one in a process of its own; a function of a module.
        out: Where the files lie.
        jobs: How many at a time.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = {cell: out / f"{'-'.join(map(str, cell))}.json" for cell in cells}
    missing = [cell for cell in cells if not paths[cell].exists()]
    print(f"{len(cells)} cells, {len(missing)} to run, {jobs} at a time", file=sys.stderr)
    made_by = {"version": version(), "machine": machine()}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        running = {pool.submit(run_cell, cell): cell for cell in missing}
        for number, done in enumerate(as_completed(running), start=1):
            result, path = done.result() | made_by, paths[running[done]]
            part = path.with_suffix(".part")
            part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            part.rename(path)
            figures = ", ".join(
                f"{key} {value:.6g}" for key, value in result.items() if isinstance(value, float)
            )
            print(f"{number}/{len(missing)} {path.stem}: {figures}", file=sys.stderr)
    results: list[Result] = [json.loads(path.read_text("utf-8")) for path in paths.values()]
    for key in made_by:
        if len(mixed := {str(result.get(key, "unknown")) for result in results}) > 1:
            print(f"note: cells of more than one {key}: {', '.join(sorted(mixed))}")
    return results


def version() -> str:
    """Return the commit of this checkout, and whether it has been changed since."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def machine() -> str:
    """Return what a reader must know of where figures come from."""
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )
