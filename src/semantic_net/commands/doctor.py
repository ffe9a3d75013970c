"""``doctor``: would a run with this configuration work on this device, and if not why."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from semantic_net.commands.devices import device_folder
from semantic_net.commands.flags import add_peer, add_shared, out_of, peer_config_of

if TYPE_CHECKING:
    from semantic_net.federated.doctor.finding import Finding

DONE, CANNOT_START = 0, 3

WAIT_S = 600.0

DOCTOR_HELP = """would a run with these settings work on this device, and if not why

It takes the flags of `peer`, looks at this device, its task and each peer, and leaves nothing
behind; a run that goes on there is not disturbed. FAIL means that a run would not start here, or
would never meet that peer as things are; warn, that it may go better. Exit code 0 if it would
work, 3 if not. With --wait it answers the doctors of other devices, which then measure the link.

Examples:
  semantic-net doctor --config configs/task_disaster.yaml --peers 192.168.0.2:5000,192.168.0.3:5000
  semantic-net doctor --wait
  semantic-net doctor --listen 127.0.0.1:5001 --json
"""


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``doctor``."""
    add_shared(parser)
    add_peer(parser)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--json", action="store_true", help="a JSON list of what each check found")
    group.add_argument(
        "--wait",
        type=_seconds,
        nargs="?",
        const=WAIT_S,
        metavar="SECONDS",
        help="check nothing: answer other devices that measure the link to this one, for so long "
        f"(default {WAIT_S:g})",
    )
    parser.set_defaults(run=_doctor)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(f"seconds, over 0 and at most a day, not {text!r}")
    return seconds


def _doctor(arguments: argparse.Namespace) -> int:
    config = peer_config_of(arguments)
    from semantic_net.federated.doctor.examine import Place, examine
    from semantic_net.federated.doctor.finding import would_work
    from semantic_net.transport.probe import ProbeSettings

    out: Path = out_of(arguments, config)
    place = Place(out, device_folder(config.security.folder))
    if arguments.wait is not None:
        from semantic_net.federated.doctor.wait import wait_for_doctors

        asyncio.run(
            wait_for_doctors(config, place, arguments.wait, lambda line: print(line, flush=True))
        )
        return DONE
    findings: list[Finding] = []
    for finding in examine(config, place, ProbeSettings()):
        findings.append(finding)
        if not arguments.json:
            print(finding.line, flush=True)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print(_verdict(findings))
    return DONE if would_work(findings) else CANNOT_START


def _verdict(findings: Sequence[Finding]) -> str:
    failed = [finding.name for finding in findings if finding.level == "FAIL"]
    if failed:
        return f"It would not work as things are: {', '.join(failed)}"
    warned = [finding.name for finding in findings if finding.level == "warn"]
    return f"It would work; see {', '.join(warned)}" if warned else "It would work"
