"""``compare``: every way of training on the same data, or runs that were made before."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from semantic_net.commands.flags import add_shared
from semantic_net.errors import ConfigError

COMPARE_HELP = """ways of training side by side: alone, pooled, over a server, peer-to-peer

Runs each way on this machine, on the same split, seeds and number of local steps, and evaluates
all models on the same data. Or shows runs side by side that were made before, by their folders.
Leaves a page (compare.html), Markdown, figures (compare.json) and a plot in --out; a run that is
there already is not made again.

Examples:
  semantic-net compare --config configs/task_disaster.yaml --rounds 5
  semantic-net compare --config configs/netqos_cicv5g.yaml --seeds 0 1 2
  semantic-net compare runs/field runs/demo
"""


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``compare``."""
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folder of a run to show")
    add_shared(parser)
    parser.add_argument(
        "--peers", type=int, metavar="N", help="devices (default: data.partition.num_shards, or 3)"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        metavar="N",
        help="default 0; use three or more",
    )
    parser.add_argument(
        "--ways",
        nargs="+",
        metavar="NAME",
        help="of alone, pooled, fedavg, fedavg_encoded, dense, dense_momentum, compressed "
        "(default: all but fedavg_encoded and dense_momentum)",
    )
    parser.add_argument(
        "--last",
        type=int,
        default=1,
        metavar="N",
        help="take the mean of the last N rounds for a result (default 1)",
    )
    parser.add_argument(
        "--again", action="store_true", help="run also what is there already, as after new data"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="default runs/compare, or runs/side_by_side for runs that were made",
    )
    parser.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from semantic_net.federated.compare import CompareOptions, compare_runs, run_comparison

    console = Console(highlight=False)
    if arguments.runs:
        given = [
            flag
            for flag, value in (
                ("--config", arguments.config),
                ("--rounds", arguments.rounds),
                ("--set", arguments.set),
                ("--peers", arguments.peers),
                ("--ways", arguments.ways),
                ("--seeds", arguments.seeds),
                ("--again", arguments.again),
            )
            if value
        ]
        if given:
            raise ConfigError(f"compare RUN...: shows runs that were made; take {given[0]} away")
        out = arguments.out or Path("runs/side_by_side")
        return compare_runs(arguments.runs, out, arguments.last, console)
    rounds = [] if arguments.rounds is None else [f"training.rounds={arguments.rounds}"]
    return run_comparison(
        CompareOptions(
            config=arguments.config,
            overrides=(*arguments.set, *rounds),
            peers=arguments.peers,
            seeds=tuple(arguments.seeds or [0]),
            ways=None if arguments.ways is None else tuple(arguments.ways),
            last=arguments.last,
            again=arguments.again,
            out=arguments.out or Path("runs/compare"),
            facts=(("command", shlex.join(["semantic-net", *sys.argv[1:]])),),
        ),
        console,
    )
