"""A thousand rounds in one process: nothing grows that must not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes_support import PeerProcess, running

ROUNDS = 1000
WARM_UP = 300
EVERY = 100
MAX_GROWTH_BYTES = 10 * 1024
"""A round."""
DISK_BUDGET_MB = 0.5


@dataclass(frozen=True)
class Usage:
    """What a process holds at a round."""

    round: int
    resident_bytes: int
    num_files: int
    num_threads: int
    disk_bytes: int


def usage(peer: PeerProcess) -> Usage:
    process = Path("/proc") / str(peer.process.pid)
    resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    status = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line
    )
    updates = peer.out / "checkpoint" / "updates"
    sizes = []
    for path in updates.iterdir():
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # compacted meanwhile
            continue
    return Usage(
        peer.read_rounds()[-1],
        resident,
        len(list((process / "fd").iterdir())),
        int(status["Threads"]),
        sum(sizes),
    )


@pytest.mark.faults
def test_a_thousand_rounds_take_no_more_than_three_hundred(tmp_path: Path) -> None:
    """Memory grows by less than 10 KiB a round, files and threads not at all, the disk is bounded.

    Without compaction the updates of 1,000 rounds of two peers take 1.4 MB on disk, and their
    headers more than 10 KiB a round in memory with some more peers.
    """
    overrides = (
        "training.steps=1",
        "p2p.checkpoint_every=10",
        f"p2p.disk_budget_mb={DISK_BUDGET_MB}",
    )
    with running(tmp_path, 2, *overrides, rounds=ROUNDS + 2 * EVERY) as (one, two):
        seen = []
        for number in range(WARM_UP, ROUNDS + 1, EVERY):
            one.wait_for_round(number)
            seen.append(usage(one))
        assert [one.wait(), two.wait()] == [0, 0], one.said()
    first, last = seen[0], seen[-1]
    growth = (last.resident_bytes - first.resident_bytes) / (last.round - first.round)
    print(
        f"\nrounds {first.round} to {last.round}: {growth / 1024:.2f} KiB a round, files "
        f"{first.num_files} to {last.num_files}, threads {first.num_threads} to "
        f"{last.num_threads}, at most {max(u.disk_bytes for u in seen) / 1e6:.2f} MB of updates"
    )
    assert growth < MAX_GROWTH_BYTES
    assert len({u.num_threads for u in seen}) == 1
    assert max(u.num_files for u in seen) - min(u.num_files for u in seen) <= 2
    assert max(u.disk_bytes for u in seen) < DISK_BUDGET_MB * 1e6
    assert len({peer.digests()[-1] for peer in (one, two)}) == 1
