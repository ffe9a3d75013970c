"""Flags that several commands share."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Sequence
from pathlib import Path

from semantic_net.config import Config, load_config
from semantic_net.errors import ConfigError


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Add what every command that trains takes."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML file of settings; keys not given are as in configs/base.yaml",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of the run, from 1")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the configuration, such as p2p.listen_timeout_s=20; repeatable",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add how much of a run goes to the console."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--quiet",
        dest="output",
        action="store_const",
        const="quiet",
        default="lines",
        help="print no rounds, and log warnings and errors alone",
    )
    group.add_argument(
        "--json",
        dest="output",
        action="store_const",
        const="json",
        help="print each round's record as a line of JSON, as it stands in rounds.jsonl",
    )


def add_peer(parser: argparse.ArgumentParser) -> None:
    """Add where a peer listens, whom it dials, what it leaves where, and how it takes part."""
    parser.add_argument(
        "--peers",
        metavar="A,B",
        help="host:port of other peers, separated by commas; one's own address is ignored",
    )
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="where to listen (default 0.0.0.0:5000; port 0: any)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="what the run leaves (default runs/<host>-<port>)"
    )
    parser.add_argument(
        "--observe",
        action="store_true",
        help="take part without data: relay, fold and record, and publish nothing",
    )


def config_of(arguments: argparse.Namespace, more: Sequence[str] = ()) -> Config:
    """Return the configuration that the shared flags, and more overrides, make.

    Raises:
        ConfigError: A key or a value is wrong.
    """
    overrides = [*arguments.set]
    if arguments.rounds is not None:
        overrides.append(f"training.rounds={arguments.rounds}")
    if getattr(arguments, "output", "lines") == "quiet":
        overrides.append("monitoring.log_level=warning")
    return load_config(arguments.config, [*overrides, *more])


def quoted(text: str) -> str:
    """Return a text as YAML reads it whatever it holds."""
    return "'" + text.replace("'", "''") + "'"


def peer_config_of(arguments: argparse.Namespace) -> Config:
    """Return the configuration of a peer, with its addresses.

    Raises:
        ConfigError: A key, a value or an address is wrong.
    """
    from semantic_net.protocol.address import parse_address

    overrides = []
    if arguments.listen is not None:
        try:
            listen = parse_address(arguments.listen)
        except ValueError as exc:
            raise ConfigError(f"--listen: {exc}") from exc
        overrides += [f"p2p.host={quoted(listen.host)}", f"p2p.port={listen.port}"]
    if arguments.observe:
        overrides.append("p2p.observe=true")
    if arguments.peers is not None:
        addresses = [part.strip() for part in arguments.peers.split(",") if part.strip()]
        overrides.append(f"p2p.peers=[{', '.join(quoted(a) for a in addresses)}]")
    config = config_of(arguments, overrides)
    for address in config.p2p.peers:
        try:
            parse_address(address)
        except ValueError as exc:
            raise ConfigError(f"p2p.peers (--peers): {exc}") from exc
    return config


def out_of(arguments: argparse.Namespace, config: Config) -> Path:
    """Return the folder of a peer."""
    out: Path | None = arguments.out
    return out or Path("runs") / f"{socket.gethostname()}-{config.p2p.port}"
