"""``simulate``: many peers on one machine, over a network in memory and in virtual time."""

from __future__ import annotations

import argparse
import functools
import logging
import math
import multiprocessing
import os
from pathlib import Path
from typing import TYPE_CHECKING

from semantic_net.commands.flags import add_shared
from semantic_net.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from semantic_net.simulation.progress import RoundOfAll
    from semantic_net.simulation.scenario import Scenario
    from semantic_net.simulation.simulate import Outcome

DONE, BROKE, INTERRUPTED = 0, 1, 130
DEFAULT_PAYLOAD_KB = 25.0
DEFAULT_TRAIN_S = 10.0
PEERS_A_PART = 50
"""Fewer have too little to do between two meetings of the processes that share them."""
MAX_DEFAULT_PARTS, MAX_PARTS = 8, 64
"""All of them meet all others."""
MAX_PAYLOAD_KB = 1_000_000

SIMULATE_HELP = """many peers at once, over a simulated network

The peers are real ones (training, codecs, protocol, records); the network and the clock are not,
so that hours pass in as long as the computing takes. The same seed gives the same bytes. What is
left in --out is what real peers leave: see `semantic-net report` and `compare`. docs/simulation.md
says what can be in a network's file.

Examples:
  semantic-net simulate --peers 4 --rounds 2 --network wifi
  semantic-net simulate --peers 100 --rounds 50 --network examples/network.yaml --workers 8
  semantic-net simulate --peers 200 --rounds 3 --protocol-only --set p2p.participants=20
"""


def add_simulate(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``simulate``."""
    add_shared(parser)
    parser.add_argument("--peers", type=int, default=10, metavar="N", help="how many (default 10)")
    parser.add_argument(
        "--network",
        default="lan",
        metavar="NAME",
        help="lan, wifi, lte, lora, mesh-disaster, or a YAML file (default lan)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of all that is drawn (default 0)"
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="where peers train: on this machine, or in a Ray cluster (extra simulation)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that train, or actors of Ray (default: one a core); with --protocol-only "
        f"processes that share the peers (default: one a core and {PEERS_A_PART} peers, at most "
        f"{MAX_DEFAULT_PARTS})",
    )
    parser.add_argument(
        "--protocol-only",
        action="store_true",
        help="learn nothing: what the protocol costs, for any number of peers",
    )
    parser.add_argument(
        "--payload-kb",
        type=float,
        metavar="KB",
        help=f"with --protocol-only: size of an update (default {DEFAULT_PAYLOAD_KB:g})",
    )
    parser.add_argument(
        "--train-s",
        type=float,
        metavar="S",
        help=f"with --protocol-only: seconds of a round's training (default {DEFAULT_TRAIN_S:g})",
    )
    parser.add_argument(
        "--until", type=float, metavar="S", help="end after so many simulated seconds"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/simulation"),
        metavar="DIR",
        help="what the peers leave, a folder each (default runs/simulation); those of an earlier "
        "simulation are removed",
    )
    parser.set_defaults(run=_simulate)


def _simulate(arguments: argparse.Namespace) -> int:
    _check(arguments)
    from rich.console import Console

    from semantic_net.federated.child_processes import ended_by_signals
    from semantic_net.monitoring.console import logging_to, print_interrupted
    from semantic_net.simulation.engines import local_engine, ray_engine
    from semantic_net.simulation.scenario import scenario
    from semantic_net.simulation.simulate import simulate

    overrides = [*arguments.set]
    if arguments.rounds is not None:
        overrides.append(f"training.rounds={arguments.rounds}")
    payload_kb, train_s = arguments.payload_kb, arguments.train_s
    found = scenario(
        arguments.config,
        overrides,
        num_peers=arguments.peers,
        network=arguments.network,
        seed=arguments.seed,
        payload_bytes=int(1000 * (payload_kb or DEFAULT_PAYLOAD_KB))
        if arguments.protocol_only
        else None,
        train_s=DEFAULT_TRAIN_S if train_s is None else train_s,
    )
    console = Console(highlight=False)
    make_engine = ray_engine if arguments.engine == "ray" else local_engine
    workers = min(arguments.workers or os.cpu_count() or 1, found.num_peers)
    level = found.config.monitoring.log_level
    # What a thousand peers tell of themselves, nobody reads unless asked for.
    with logging_to("error" if level == "info" else level), ended_by_signals(_end_at_once):
        _name_peers()
        try:
            outcome = simulate(
                found,
                arguments.out,
                functools.partial(make_engine, num_workers=workers),
                until_s=arguments.until,
                show=lambda of_all: console.print(_line(of_all, found), soft_wrap=True),
                begin=lambda: _tell_begin(found, arguments, console),
                show_alive=lambda virtual_s, num_running: console.print(
                    _alive_line(virtual_s, num_running, found), soft_wrap=True
                ),
                num_parts=_num_parts(arguments.workers, found),
            )
        except KeyboardInterrupt:
            if any(arguments.out.glob("*/rounds.jsonl")):
                left = f"what peers have left so far: semantic-net report {arguments.out}"
            else:
                left = "no round was closed"
            print_interrupted(left, console)
            return INTERRUPTED
    return _tell_end(outcome, found, arguments, console)


def _num_parts(workers: int | None, found: Scenario) -> int:
    """Return how many processes share the peers, each of which runs its own."""
    if found.payload_bytes is None:
        return 1
    if workers is None:
        wanted = min(os.cpu_count() or 1, found.num_peers // PEERS_A_PART, MAX_DEFAULT_PARTS)
        return 1 if found.plan.keeps_together else max(wanted, 1)
    if workers > 1 and found.plan.keeps_together:
        raise ConfigError(
            f"--workers {workers}: this network has {found.plan.keeps_together}, and all its peers "
            "are in one process; leave it out"
        )
    return min(workers, found.num_peers)


def _end_at_once() -> None:
    for worker in multiprocessing.active_children():
        worker.kill()  # else it would be through with its training first
        worker.join()
    os._exit(INTERRUPTED)


def _check(arguments: argparse.Namespace) -> None:
    if arguments.protocol_only and arguments.engine != "local":
        raise ConfigError(f"--engine {arguments.engine}: with --protocol-only nobody trains")
    if not arguments.protocol_only:
        for flag, value in (
            ("--payload-kb", arguments.payload_kb),
            ("--train-s", arguments.train_s),
        ):
            if value is not None:
                raise ConfigError(f"{flag}: only with --protocol-only; peers that train say both")
    for flag, value in (
        ("--workers", arguments.workers),
        ("--until", arguments.until),
    ):
        if value is not None and not value > 0:
            raise ConfigError(f"{flag}: must be positive, got {value:g}")
    payload_kb, train_s = arguments.payload_kb, arguments.train_s
    if payload_kb is not None and not 0.001 <= payload_kb <= MAX_PAYLOAD_KB:
        raise ConfigError(f"--payload-kb: must be in [0.001, {MAX_PAYLOAD_KB}], got {payload_kb:g}")
    if train_s is not None and not 0 <= train_s < math.inf:
        raise ConfigError(f"--train-s: must be 0 or more, and finite, got {train_s:g}")
    if arguments.protocol_only and (arguments.workers or 1) > MAX_PARTS:
        raise ConfigError(
            f"--workers: at most {MAX_PARTS} processes can share peers, got {arguments.workers}"
        )


def _name_peers() -> None:
    """Let every line of the log begin with the peer that it is of."""
    from semantic_net.simulation.lives import PEER

    def named(record: logging.LogRecord) -> bool:
        if (name := PEER.get("")) and not hasattr(record, "peer"):
            record.peer = name
            record.msg = f"{name}: {record.msg}"
        return True

    for handler in logging.getLogger("semantic_net").handlers:
        handler.addFilter(named)


def _tell_begin(found: Scenario, arguments: argparse.Namespace, console: Console) -> None:
    from semantic_net.monitoring.text import format_bytes

    p2p = found.config.p2p
    alone = found.num_peers == 1
    who = "1 peer" if alone else f"{found.num_peers} peers"
    verb, what = "learn", found.config.task.name
    if arguments.protocol_only:
        verb, what = "exchange", f"noise, {format_bytes(found.payload_bytes or 0)} an update"
    each = ""
    if p2p.participants is not None:  # a mean: turns are drawn, and whole rounds apart
        of_them = round(found.num_peers / p2p.turn_period)
        each = f", {'all' if p2p.turn_period == 1 else f'about {of_them}'} of them a round"
    console.print(
        f"{who} {verb}{'s' * alone} {what}{each}: network {arguments.network}, topology "
        f"{p2p.topology}, seed {arguments.seed}; their files are in {arguments.out}",
        soft_wrap=True,
    )


def _line(of_all: RoundOfAll, found: Scenario) -> str:
    """Return what a round has come to, for all peers together."""
    from semantic_net.monitoring.digests import Agreement
    from semantic_net.monitoring.text import (
        format_bytes,
        format_duration,
        format_metric,
        main_metric,
        metric_label,
        short_digest,
    )

    records = [*of_all.records.values()]
    rounds = found.config.training.rounds
    parts = [f"round {of_all.number}/{rounds}  at {format_duration(of_all.closed_at_s)}"]
    if len(records) < found.num_peers:
        parts.append(f"{len(records)} of {found.num_peers} peers")
    judged = [record.metrics for record in records if record.metrics]
    if judged and (name := main_metric(judged[0])) is not None:
        mean = sum(metrics.get(name, 0.0) for metrics in judged) / len(judged)
        parts.append(f"{metric_label(name)} {format_metric(name, mean)}")
    sent = sum(record.bytes_sent for record in records) / len(records)
    updates = of_all.num_participants
    parts.append(f"{updates} update{'s' * (updates != 1)}")
    num_missing, why = of_all.missing
    if num_missing:
        parts.append(f"{num_missing:.2g} missing at each: {why}")
    parts.append(f"{format_bytes(sent)} sent by each")
    found_out = of_all.agreement
    if found_out is Agreement.EQUAL:
        parts.append(f"one model {short_digest(records[0].state_digest)}")
    else:
        digests = {record.state_digest for record in records}
        parts.append(f"{len(digests)} models so far")
    return "  ".join(parts)


def _alive_line(virtual_s: float, num_running: int, found: Scenario) -> str:
    from semantic_net.monitoring.text import format_duration

    at = format_duration(virtual_s)
    return f"... at {at}, {num_running} of {found.num_peers} peers run"


def _tell_end(
    outcome: Outcome, found: Scenario, arguments: argparse.Namespace, console: Console
) -> int:
    from semantic_net.monitoring.digests import Agreement
    from semantic_net.monitoring.text import format_duration, format_energy

    took = (
        f"{format_duration(outcome.virtual_s)} of the network in "
        f"{format_duration(outcome.real_s)} of this machine"
    )
    joules = [r.energy_j for o in outcome.rounds for r in o.records.values()]
    if known := [each for each in joules if each is not None]:
        took += f"; {format_energy(sum(known))} of all devices"
    if not outcome.rounds:
        hint = "" if arguments.until is None else ": set --until higher"
        console.print(f"no round was closed{hint}; {took}", soft_wrap=True)
        return DONE
    last = outcome.rounds[-1]
    digests = {record.state_digest for record in last.records.values()}
    one = "one model" if len(digests) == 1 else f"{len(digests)} models"
    rounds, closed = found.config.training.rounds, f"{len(last.records)} of {found.num_peers} peers"
    if last.number < rounds:
        what = f"ended in round {last.number} of {rounds}: {closed} closed it, with {one}"
    else:
        what = f"{closed} closed round {last.number}, with {one}"
    console.print(f"{what}; {took}", soft_wrap=True)
    broken = [o.number for o in outcome.rounds if o.agreement is Agreement.UNEQUAL]
    if broken:
        console.print(
            f"unequal digests of the same updates in round {broken[0]}: a bug, please report it",
            style="bold red",
            soft_wrap=True,
        )
        return BROKE
    console.print(f"More: semantic-net report {arguments.out}", soft_wrap=True)
    return DONE
