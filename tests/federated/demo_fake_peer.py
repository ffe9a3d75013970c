"""A stand-in for `semantic-net peer` in the demo's tests: it takes the flags and leaves the files.

    python demo_fake_peer.py BEHAVIOUR --config ... --listen ... --peers ... --out ... --set ...

Behaviours of the last peer, all others being well: good, diverge, crash, interrupt (sends its
parent SIGINT and ends when asked), terminate (sends SIGTERM), stubborn (SIGINT, and ignores ours).
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import numpy as np
from monitoring_support import PEERS, make_record
from safetensors.numpy import save_file

from semantic_net.config import load_config
from semantic_net.monitoring.recorder import Recorder

# The exact solution of demo_task: the class is the sign of the first coordinate.
WEIGHTS = {
    "weight": np.array([[-1, 0], [1, 0]], dtype=np.float32),
    "bias": np.zeros(2, dtype=np.float32),
}


def wait_to_be_asked(out: Path, behaviour: str) -> NoReturn:
    """Let the parent be interrupted, and end when it asks."""

    def asked(signum: int, frame: FrameType | None) -> None:
        (out / "asked").touch()
        sys.exit(130)

    signal.signal(signal.SIGINT, signal.SIG_IGN if behaviour == "stubborn" else asked)
    (out / "pid").write_text(str(os.getpid()))
    os.kill(os.getppid(), signal.SIGTERM if behaviour == "terminate" else signal.SIGINT)
    while True:
        signal.pause()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("behaviour")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", required=True)
    args = parser.parse_args()
    config = load_config(args.config, args.set)
    shard = config.data.partition.shard
    assert shard is not None
    args.out.mkdir(parents=True)
    behaviour = args.behaviour if shard == config.data.partition.num_shards - 1 else "good"
    host, _, port = args.listen.rpartition(":")
    with socket.create_server((host, int(port))):  # the port is held for us, and ours to use
        if behaviour == "crash":
            print("Traceback of something", "error: the data is gone\n", sep="\n", file=sys.stderr)
            sys.exit(3)
        if behaviour in ("interrupt", "terminate", "stubborn"):
            wait_to_be_asked(args.out, behaviour)
        recorder = Recorder(args.out)
        for index in range(1, config.training.rounds + 1):
            state = f"{index}" * 64 if behaviour != "diverge" or index != 2 else "f" * 64
            recorder.record(make_record(round=index, peer=PEERS[shard], state_digest=state))
        recorder.close()
        save_file(WEIGHTS, args.out / "model.safetensors")


if __name__ == "__main__":
    main()
