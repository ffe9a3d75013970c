"""The command line: flags to a configuration, the parts put together, errors to exit codes.

    0    done
    1    the run broke: an error in a task's own code, a bug of ours, or nowhere to write the
         model; or the demo's peers differ
    2    wrong usage or configuration
    3    this peer cannot start: port busy, no data, bad checkpoint
    130  interrupted, after a goodbye and a checkpoint; a second signal ends at once

What is wrong is one line on standard error. Subcommands import what they need when they run, so
that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from semantic_net import __version__
from semantic_net.commands import after, classic, compare, devices, doctor, report, simulate, status
from semantic_net.commands.flags import (
    add_output,
    add_peer,
    add_shared,
    out_of,
    peer_config_of,
)
from semantic_net.errors import ConfigError, OutputError, SemanticNetError

DONE, BROKE, USAGE, CANNOT_START, INTERRUPTED = 0, 1, 2, 3, 130

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments, unknown = _parser().parse_known_args(argv)
    if unknown:
        arguments.command.refuse(unknown)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except ConfigError as exc:
        return _fail(exc, USAGE)
    except OutputError as exc:
        return _fail(exc, BROKE)
    except SemanticNetError as exc:
        return _fail(exc, CANNOT_START)
    except KeyboardInterrupt:
        return INTERRUPTED


def _fail(error: Exception | str, code: int) -> int:
    print(f"semantic-net: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """argparse, with its errors as one line, and no flag by half its name."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def refuse(self, arguments: Sequence[str]) -> NoReturn:
        """End with what a command does not know, and the flag that is most like it."""
        flag = arguments[0].partition("=")[0]
        known = [option for action in self._actions for option in action.option_strings]
        like = difflib.get_close_matches(flag, known, n=1)
        hint = f"; did you mean {like[0]}?" if like else ""
        self.error(f"unrecognized arguments: {' '.join(arguments)}{hint}")

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="semantic-net",
        description="Peer-to-peer federated learning for edge devices, without a server.",
    )
    parser.add_argument("--version", action="version", version=f"semantic-net {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for name, (text, add_arguments) in COMMANDS.items():
        title, _, rest = text.partition("\n\n")
        command = commands.add_parser(
            name,
            help=title,
            description=title,
            epilog=rest,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_arguments(command)
        command.set_defaults(command=command)
    return parser


PEER_HELP = """train together with other peers

Examples:
  semantic-net peer --config configs/task_disaster.yaml --peers 192.168.0.2:5000,192.168.0.3:5000
  semantic-net peer --listen 127.0.0.1:5001 --peers 127.0.0.1:5002 --rounds 3
  semantic-net peer --set p2p.run=field --set p2p.discovery=mdns
"""

DEMO_HELP = """three peers on this machine learn a task together, and a table of what it was worth

Examples:
  semantic-net demo
  semantic-net demo --peers 2 --rounds 4 --seed 1 --json figures.json
"""


# peer


def _add_peer(parser: argparse.ArgumentParser) -> None:
    add_shared(parser)
    add_output(parser)
    add_peer(parser)
    parser.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="go on from the checkpoint in --out (auto), or start as a new peer (never)",
    )
    parser.add_argument("--init", type=Path, metavar="FILE", help="safetensors weights to start at")
    parser.set_defaults(run=_peer)


def _peer(arguments: argparse.Namespace) -> int:
    config = peer_config_of(arguments)
    # Torch takes seconds to import; a wrong flag should be told before that.
    from semantic_net.federated.folder import RunFolder
    from semantic_net.federated.run import RunOptions, run_peer
    from semantic_net.monitoring.console import logging_to
    from semantic_net.monitoring.peer_console import PeerConsole
    from semantic_net.monitoring.sd_notify import ServiceManager
    from semantic_net.task.loader import place_in

    with (
        RunFolder(out_of(arguments, config)) as folder,
        PeerConsole(arguments.output) as shown,
        logging_to(config.monitoring.log_level, folder.log, shown.log_console),
    ):
        options = RunOptions(
            resume=arguments.resume == "auto",
            init=arguments.init,
            device_folder=devices.device_folder(config.security.folder),
            printer=shown.printer,
            on_status=shown.status,
            service=ServiceManager.of(os.environ, os.getpid()),
        )

        async def run() -> bool:
            stop = asyncio.Event()
            _stop_on_signals(stop)
            return await run_peer(config, folder, options, stop)

        try:
            return DONE if asyncio.run(run()) else INTERRUPTED
        except SemanticNetError as exc:
            log.debug("%s", exc, exc_info=exc)
            raise
        except Exception as exc:
            log.debug("the run broke", exc_info=exc)
            where = place_in(Path(config.task.name), exc)
            return _fail(f"the run broke: {where} (all of it in {folder.log})", BROKE)


def _stop_on_signals(stop: asyncio.Event) -> None:
    """Let the first signal end the run in good order, and the second one at once."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), b"\x1b[?25h")  # a table has hidden the cursor
            os._exit(INTERRUPTED)
        log.warning("stopping: goodbye and a checkpoint; once more ends at once")
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)


# demo


def _add_demo(parser: argparse.ArgumentParser) -> None:
    add_shared(parser)
    parser.add_argument("--peers", type=int, default=3, metavar="N", help="processes (default 3)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of data and training")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/demo"),
        metavar="DIR",
        help="what the peers leave (default runs/demo); an earlier demo's files are removed",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from semantic_net.federated.demo import DemoOptions, run_demo

    return run_demo(
        DemoOptions(
            peers=arguments.peers,
            rounds=arguments.rounds,
            seed=arguments.seed,
            out=arguments.out,
            config=arguments.config,
            overrides=tuple(arguments.set),
            json=arguments.json,
        )
    )


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "peer": (PEER_HELP, _add_peer),
    "demo": (DEMO_HELP, _add_demo),
    "server": (classic.SERVER_HELP, classic.add_server),
    "client": (classic.CLIENT_HELP, classic.add_client),
    "single": (classic.SINGLE_HELP, classic.add_single),
    "simulate": (simulate.SIMULATE_HELP, simulate.add_simulate),
    "compare": (compare.COMPARE_HELP, compare.add_compare),
    "status": (status.STATUS_HELP, status.add_status),
    "report": (report.REPORT_HELP, report.add_report),
    "evaluate": (after.EVALUATE_HELP, after.add_evaluate),
    "predict": (after.PREDICT_HELP, after.add_predict),
    "export": (after.EXPORT_HELP, after.add_export),
    "doctor": (doctor.DOCTOR_HELP, doctor.add_doctor),
    "id": (devices.ID_HELP, devices.add_id),
    "pair": (devices.PAIR_HELP, devices.add_pair),
    "peers": (devices.PEERS_HELP, devices.add_peers),
    "revoke": (devices.REVOKE_HELP, devices.add_revoke),
}
"""Each command's help (its title and its examples) and its flags."""


if __name__ == "__main__":
    sys.exit(main())
