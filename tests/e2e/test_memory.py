"""What a peer takes beside torch: at most sixteen times its model, however long the run."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes_support import running

MODEL_MB = 25.65
TASK = Path(__file__).with_name("large_task.py")
BARE = """
import resource, torch
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
"""torch.optim imports the compiler, torch._dynamo: 72 MB that every training loop takes."""


@pytest.fixture
def one_at_a_time(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep other workers' runs out: nine large peers at once take as long as one that hangs."""
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with (shared / "memory.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("mode", ["none", "gradients_topk", "weights_quantize"])
def test_a_peer_takes_sixteen_models_at_most(tmp_path: Path, mode: str) -> None:
    overrides = (
        f"task.name={TASK}",
        "training.optimizer=sgd",
        "training.batch_size=8",
        "training.steps=2",
        f"semantic.mode={mode}",
        "p2p.base_every=4",  # snapshots are made, too
    )
    with running(tmp_path, 3, *overrides, rounds=8, is_fresh=True) as peers:
        assert [peer.wait() for peer in peers] == [0, 0, 0], peers[0].said()
    printed = subprocess.run([sys.executable, "-c", BARE], capture_output=True, check=True)
    bare_mb = int(printed.stdout) * 1024 / 1e6
    digests = {tuple(peer.digests()) for peer in peers}
    assert len(digests) == 1, "a large model takes ways of its own through the fold"
    for peer in peers:
        taken = [(record.metrics["peak_mb"] - bare_mb) / MODEL_MB for record in peer.rounds]
        assert taken[-1] < 16, taken
