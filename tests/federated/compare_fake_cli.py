"""A stand-in for `semantic-net` in the tests of `compare`: it takes the flags and leaves the files.

    python compare_fake_cli.py COMMAND --config ... --out ... [--set data.partition.shard=N] ...

Each call adds a line to ``calls`` beside the folder of the comparison. Where a file ``break`` lies
there, the command that it names does what it says: crash, or interrupt (asks its parent to end).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from monitoring_support import leave_run, make_record, make_summary

from semantic_net.config import load_config
from semantic_net.records import Role

ACCURACY = {"single": 0.5, "pooled": 0.9, "client": 0.75, "peer": 0.7}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--pooled", action="store_true")
    for flag in ("--listen", "--peers", "--server", "--host", "--port", "--clients"):
        parser.add_argument(flag)
    args = parser.parse_args()
    config = load_config(args.config, args.set)
    run = args.out.parent
    top = run.parent.parent.parent
    with (top / "calls").open("a") as calls:
        calls.write(f"{run.parent.name} {run.name} {args.command}\n")
    what = (top / "break").read_text() if (top / "break").exists() else ""
    if what == f"{args.command} crash":
        sys.exit("error: the data is gone")
    if what == f"{args.command} interrupt":
        signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
        os.kill(os.getppid(), signal.SIGINT)
        signal.pause()
    accuracy = ACCURACY.get("pooled" if args.pooled else args.command, 0.0)
    judges = config.data.partition.validation != "none"
    records = [
        make_record(
            round=number,
            metrics={"accuracy": accuracy * number / config.training.rounds} if judges else {},
            state_digest="" if args.command == "single" else f"{number}" * 64,
        )
        for number in range(1, config.training.rounds + 1)
    ]
    role: Role = args.command
    leave_run(args.out, records, make_summary(role=role, metric="accuracy"))


if __name__ == "__main__":
    main()
