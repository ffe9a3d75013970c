"""Flags that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from semantic_net.config import Config, load_config


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
