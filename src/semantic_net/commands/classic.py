"""``server``, ``client`` and ``single``: the ways of training that peers are compared with.

The classic mode is federated averaging over Flower (extra ``flower``), on the same tasks, trainer
and codecs; ``single`` is one device on its own data.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from semantic_net.commands.flags import add_output, add_shared, config_of, quoted
from semantic_net.config import Config, dump_config
from semantic_net.errors import ConfigError, OutputError, SemanticNetError, StartError
from semantic_net.records import RoundRecord

if TYPE_CHECKING:
    from semantic_net.federated.folder import RunFolder
    from semantic_net.federated.port_traffic import PortTraffic
    from semantic_net.monitoring.console import Output

DONE, INTERRUPTED = 0, 130
DEFAULT_PORT = 8080
MAX_CLIENTS_HERE = 1000
MISSING = "Flower is not installed: pip install 'semantic-net[flower]'"

log = logging.getLogger(__name__)

SERVER_HELP = """serve clients: federated averaging over Flower

Waits for --clients, then all that are there train in each round. Start it first, then on each
device `semantic-net client`. Without --tls anybody who reaches the port may join and listen.

Examples:
  semantic-net server --config configs/task_disaster.yaml --port 8080 --rounds 3
  semantic-net server --clients 3 --set semantic.mode=none --set aggregation.outer_momentum=0
"""

CLIENT_HELP = """train on this device's data for a server

Examples:
  semantic-net client --config configs/task_disaster.yaml --server localhost:8080
  semantic-net client --server 192.168.0.2:8080 --set data.partition.shard=0
"""

SINGLE_HELP = """train alone, on this device's data

Examples:
  semantic-net single --task disaster --epochs 1
  semantic-net single --config configs/task_netqos.yaml --rounds 5 --out runs/alone
"""


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``server``."""
    add_shared(parser)
    add_output(parser)
    parser.add_argument("--host", help="where to listen (default p2p.host: on all addresses)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, metavar="N", help="default 8080")
    parser.add_argument(
        "--clients", type=int, default=2, metavar="N", help="to wait for in each round (default 2)"
    )
    parser.add_argument(
        "--round-timeout",
        type=float,
        default=3600.0,
        metavar="S",
        help="a client that has not answered by then is left out of the round (default 3600)",
    )
    parser.add_argument(
        "--tls",
        nargs=3,
        type=Path,
        metavar=("CA", "CERT", "KEY"),
        help="speak TLS: certificates of the authority and of this server, and its key, in PEM",
    )
    parser.add_argument("--init", type=Path, metavar="FILE", help="safetensors weights to start at")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="what the run leaves (default runs/server-<port>)"
    )
    parser.set_defaults(run=_server)


def add_client(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``client``."""
    add_shared(parser)
    add_output(parser)
    parser.add_argument(
        "--server",
        default=f"localhost:{DEFAULT_PORT}",
        metavar="HOST:PORT",
        help="default localhost:8080",
    )
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="speak TLS: the authority's certificate, in PEM"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="what the run leaves (default runs/client-<host>[-<shard>], or the next that is free)",
    )
    parser.set_defaults(run=_client)


def add_single(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``single``."""
    add_shared(parser)
    add_output(parser)
    parser.add_argument("--task", metavar="NAME", help="task.name: disaster, netqos or a file")
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="passes over the data, a record each (default: the rounds of the configuration)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="what the run leaves (default runs/single)"
    )
    parser.add_argument(
        "--pooled",
        action="store_true",
        help="train on the data of all data.partition.num_shards shards in one place",
    )
    parser.set_defaults(run=_single)


def _server(arguments: argparse.Namespace) -> int:
    config = config_of(arguments)
    _need_flower()
    for name, value in (
        ("--clients", arguments.clients),
        ("--round-timeout", arguments.round_timeout),
    ):
        if not value > 0:
            raise ConfigError(f"{name}: must be above 0, got {value}")
    if not 1 <= arguments.port <= 65535:
        raise ConfigError(f"--port: must be in [1, 65535], got {arguments.port}")
    host = arguments.host or config.p2p.host
    from semantic_net.federated.plain_recording import PlainRecording
    from semantic_net.federated.port_traffic import PortTraffic
    from semantic_net.federated.server import FoldStrategy, ServerOptions, run_server

    out = arguments.out or Path("runs") / f"server-{arguments.port}"
    with (
        _run_in(out, config, arguments.output) as (folder, show),
        PortTraffic(arguments.port) as traffic,
    ):
        strategy = FoldStrategy(config, min_clients=arguments.clients, init=arguments.init)
        recording = PlainRecording(
            config,
            strategy.task,
            strategy.model,
            folder,
            show(strategy.task.metric, config.training.rounds),
            "server",
        )

        strategy.on_round = lambda record: recording.record(_with_bytes(record, traffic))
        if arguments.tls is None and not host.startswith(("127.", "localhost", "::1")):
            log.warning("no TLS: whoever reaches port %d may join, and listen", arguments.port)
        options = ServerOptions(
            host=host,
            port=arguments.port,
            round_timeout_s=arguments.round_timeout,
            certificates=tuple(arguments.tls) if arguments.tls else None,
        )
        finished = False
        try:
            log.info("waiting for %d clients at port %d", arguments.clients, arguments.port)
            run_server(strategy, options, config.training.rounds)
            finished = True
            log.info("all %d rounds are done", config.training.rounds)
        finally:
            recording.finish(finished=finished)
    return DONE


def _client(arguments: argparse.Namespace) -> int:
    config = config_of(arguments)
    _need_flower()
    if config.privacy.noise_multiplier is not None:
        raise ConfigError(
            "privacy.noise_multiplier: a client's account would not outlive its process; train as "
            "a peer, which keeps it, or set it to null"
        )
    from semantic_net.federated.client import JetsonClient, run_client
    from semantic_net.federated.plain_recording import PlainRecording
    from semantic_net.federated.port_traffic import PortTraffic
    from semantic_net.protocol.address import parse_address

    try:
        address = parse_address(arguments.server)
    except ValueError as exc:
        raise ConfigError(f"--server: {exc}") from exc
    shard = config.data.partition.shard
    name = socket.gethostname() + ("" if shard is None else f"-{shard}")
    out = arguments.out or _first_free(Path("runs") / f"client-{name}")
    with (
        _run_in(out, config, arguments.output) as (folder, show),
        PortTraffic(address.port, is_remote=True) as traffic,
    ):
        client = JetsonClient(config, name=name)
        task, model = client.task, client.learner.trainer.model
        recording = PlainRecording(
            config,
            task,
            model,
            folder,
            # The server tells how many rounds there are.
            lambda record: show(task.metric, client.num_rounds)(record),
            "client",
        )

        client.on_round = lambda record: recording.record(_with_bytes(record, traffic))
        finished = False
        try:
            run_client(
                client, arguments.server, max_wait_s=config.p2p.start_timeout_s, ca=arguments.ca
            )
            finished = True
            log.info("the server %s has ended the run", arguments.server)
        finally:
            try:
                client.finish_round()
            finally:  # a signal may have come in the middle of a record
                recording.finish(finished=finished)
    return DONE


def _single(arguments: argparse.Namespace) -> int:
    more = [] if arguments.task is None else [f"task.name={quoted(arguments.task)}"]
    if arguments.epochs is not None:
        if arguments.rounds is not None:
            raise ConfigError("--epochs: each is a round here; give one of --epochs and --rounds")
        for override in arguments.set:
            if override.startswith(("training.steps=", "training.epochs=", "training.rounds=")):
                key = override.partition("=")[0]
                raise ConfigError(f"--epochs: says {key} as well; give one of the two")
        more += [f"training.rounds={arguments.epochs}", "training.epochs=1", "training.steps=null"]
    config = config_of(arguments, more)
    from semantic_net.federated.plain_recording import PlainRecording
    from semantic_net.federated.single import Single

    with _run_in(arguments.out or Path("runs/single"), config, arguments.output) as (folder, show):
        single = Single(config, pooled=arguments.pooled)
        recording = PlainRecording(
            config,
            single.task,
            single.trainer.model,
            folder,
            show(single.task.metric, config.training.rounds),
            "single",
        )
        finished = False
        try:
            for record in single.rounds():
                recording.record(record)
            finished = True
        finally:
            recording.finish(finished=finished)
    return DONE


def _first_free(base: Path) -> Path:
    """Return a folder that no other client on this machine runs in."""
    from semantic_net.federated.folder import RunFolder

    for number in range(1, MAX_CLIENTS_HERE):
        out = base if number == 1 else base.with_name(f"{base.name}-{number}")
        try:
            with RunFolder(out):
                return out
        except StartError:
            log.debug("%s is in use", out)
    return base


def _need_flower() -> None:
    if importlib.util.find_spec("flwr") is None:
        raise ConfigError(MISSING)
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # read when it is imported


Show = Callable[[str, int], Callable[[RoundRecord], None]]
"""From the main metric and the rounds of the run to what shows a record."""


@contextmanager
def _run_in(out: Path, config: Config, output: Output) -> Iterator[tuple[RunFolder, Show]]:
    """Open a run's folder, with the log in it and the configuration as resolved."""
    from semantic_net.federated.child_processes import ended_by_signals
    from semantic_net.federated.folder import RunFolder
    from semantic_net.monitoring.console import logging_to, record_printer
    from semantic_net.task.loader import place_in

    flower = logging.getLogger("flwr")
    if config.monitoring.log_level != "debug":  # a page of it a round, and advice to use its tools
        flower.setLevel(logging.ERROR)
    with (
        RunFolder(out) as folder,
        logging_to(config.monitoring.log_level, folder.log),
        ended_by_signals(),
    ):
        resolved = replace(config, semantic=config.semantic.resolved())
        folder.config.write_text(dump_config(resolved), encoding="utf-8")
        try:
            yield folder, lambda metric, rounds: record_printer(output, rounds, metric)
        except SemanticNetError:
            raise
        except Exception as exc:
            log.debug("the run broke", exc_info=exc)
            where = place_in(Path(config.task.name), exc)
            raise OutputError(f"the run broke: {where} (all of it in {folder.log})") from exc


def _with_bytes(record: RoundRecord, traffic: PortTraffic) -> RoundRecord:
    sent, received = traffic.since_last()
    return msgspec.structs.replace(record, bytes_sent=sent, bytes_received=received)
