"""What a peer takes beside torch: at most sixteen times its model, however long the run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from processes_support import running

MODEL_MB = 25.65
TASK = Path(__file__).with_name("large_task.py")
BARE = """
import resource, torch
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
"""torch.optim imports the compiler, torch._dynamo: 72 MB that every training loop takes."""


def test_a_peer_takes_sixteen_models_at_most(tmp_path: Path) -> None:
    # One after the other: nine large peers at once take as long as one that hangs.
    printed = subprocess.run([sys.executable, "-c", BARE], capture_output=True, check=True)
    bare_mb = int(printed.stdout) * 1024 / 1e6
    for mode in ("none", "gradients_topk", "weights_quantize"):
        taken = models_taken(tmp_path / mode, mode, bare_mb)
        assert max(taken) < 16, (mode, taken)


def models_taken(folder: Path, mode: str, bare_mb: float) -> list[float]:
    """Run three peers; return the most memory that each took, in sizes of its model."""
    overrides = (
        f"task.name={TASK}",
        "training.optimizer=sgd",
        "training.batch_size=8",
        "training.steps=2",
        f"semantic.mode={mode}",
        "p2p.base_every=4",  # snapshots are made, too
    )
    with running(folder, 3, *overrides, rounds=8, is_fresh=True) as peers:
        for number in range(1, 8):  # a round that takes too long hangs, and not eight that do not
            for peer in peers:
                peer.wait_for_round(number)
        assert [peer.wait() for peer in peers] == [0, 0, 0], peers[0].said()
    digests = {tuple(peer.digests()) for peer in peers}
    assert len(digests) == 1, "a large model takes ways of its own through the fold"
    return [(peer.rounds[-1].metrics["peak_mb"] - bare_mb) / MODEL_MB for peer in peers]
