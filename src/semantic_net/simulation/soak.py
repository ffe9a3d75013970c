"""Many seeded disasters, in parallel: ``python -m semantic_net.simulation.soak --seeds 0:1000``.

Prints each seed that breaks a promise, with what is broken, and how to play it again. Seeds are
independent of each other and of the number of processes.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from semantic_net.simulation.disasters import disturbed, in_mesh, in_turns, revoked, undisturbed

SCRIPTS: dict[str, Callable[[int], list[str]]] = {
    "disturbed": disturbed,
    "undisturbed": undisturbed,
    "revoked": revoked,
    "in_turns": in_turns,
    "mesh": in_mesh,
}
Job = tuple[str, int]


def play(job: Job) -> tuple[Job, list[str]]:
    """Play one seed of a script; return what it breaks, an exception included."""
    name, seed = job
    try:
        return job, SCRIPTS[name](seed)
    except Exception:  # whatever it is, the seed that finds it is what matters
        return job, [traceback.format_exc()]


def soak(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, list[str]]]:
    """Play jobs; yield those that break something."""
    if processes == 1:
        yield from ((job, broken) for job, broken in map(play, jobs) if broken)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        results = pool.imap_unordered(play, jobs, chunksize=4)
        yield from ((job, broken) for job, broken in results if broken)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the seeds that the command line names; return 1 if any breaks a promise."""
    parser = argparse.ArgumentParser(
        prog="python -m semantic_net.simulation.soak", description="Play many seeded disasters."
    )
    parser.add_argument("--seeds", type=_span, default=range(1000), metavar="A:B")
    parser.add_argument("--script", choices=SCRIPTS, action="append", help="default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args(arguments)
    scripts = options.script or list(SCRIPTS)
    jobs = list(itertools.product(scripts, options.seeds))
    began, num_broken = time.monotonic(), 0
    for (name, seed), broken in soak(jobs, max(options.jobs, 1)):
        num_broken += 1
        again = f"--script {name} --seeds {seed}:{seed + 1} --jobs 1"
        print(f"{name} {seed}: {'; '.join(broken)}\n  play it again: {again}", flush=True)
    took_s = time.monotonic() - began
    print(f"{len(jobs)} disasters in {took_s:.0f} s: {num_broken} broke a promise")
    return 1 if num_broken else 0


def _span(text: str) -> range:
    first, _, end = text.partition(":")
    return range(int(first), int(end))


if __name__ == "__main__":
    sys.exit(main())
