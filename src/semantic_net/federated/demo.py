"""The demo: some peers on this machine learn a task together, then what each would be alone.

Peers are real ones: separate processes of `semantic-net peer` on loopback, each with its own shard
of the data. This module starts and watches them, reads the files that they leave, and prints.
It knows no model and no socket; it trains nothing itself.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from semantic_net.config import Config, dump_config
from semantic_net.disk import remove_named
from semantic_net.errors import ConfigError, StartError
from semantic_net.federated.child_processes import Children, ended_by_signals, reserved_ports
from semantic_net.federated.demo_figures import (
    DemoFigures,
    LocalResult,
    compare_models,
    demo_figures,
)
from semantic_net.federated.experiment import experiment_config
from semantic_net.monitoring.comparison import comparison_lines, comparison_table
from semantic_net.monitoring.console import print_interrupted
from semantic_net.monitoring.digests import verdict
from semantic_net.monitoring.live import LiveView, Watched
from semantic_net.records import RoundRecord

CONFIG_FILE = "demo.yaml"
OWN_FILES = r"peer\d+|local\d+\.json|peer-\d+(-alone)?\.(out|err)\.txt"
"""What a demo leaves beside that."""
"""The configuration that all peers get; also what marks a folder as a demo's own."""

MODEL_FILE = "model.safetensors"

SETTINGS = (
    "training.rounds=15",
    "training.steps=20",
    "training.learning_rate=0.004",
    "training.schedule=cosine",
)
"""What the demo changes of the defaults when no configuration is given: at most 5 minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What the command line says of a demo."""

    peers: int = 3
    rounds: int | None = None
    """Unset: as configured."""
    seed: int = 0
    """Of the first weights, the data, its split and the batch order."""
    out: Path = Path("runs/demo")
    config: Path | None = None
    """Unset: the defaults with `SETTINGS`."""
    overrides: tuple[str, ...] = ()
    """As of ``--set``."""
    json: Path | None = None
    """Where the figures go as well."""
    peer_command: tuple[str, ...] = (sys.executable, "-m", "semantic_net.cli", "peer")
    local_command: tuple[str, ...] = (sys.executable, "-m", "semantic_net.federated.demo_local")


def run_demo(options: DemoOptions, console: Console | None = None) -> int:
    """Run a demo from start to table.

    Returns:
        0; 1 where the peers' digests are not equal in every round; 130 when interrupted.

    Raises:
        ConfigError: An option or the configuration is wrong.
        StartError: A peer or a baseline failed; all other processes have been ended.
    """
    console = console or Console(highlight=False)
    config = configuration(options)
    folder = options.out
    with ended_by_signals():
        try:
            started = time.monotonic()
            histories = run_peers(options, config, folder, console)
            federated_s = time.monotonic() - started
            started = time.monotonic()
            results = _run_locals(options, config, folder, console)
            local_s = time.monotonic() - started
        except KeyboardInterrupt:
            print_interrupted("all peers have been ended", console)
            return 130
    found = compare_models(results, histories, federated_s, local_s)
    judged = verdict(histories, config.training.rounds)
    console.print(comparison_table(found))
    for line in comparison_lines(found):
        console.print(line, soft_wrap=not console.is_terminal)
    console.print(judged.sentence, style="green" if judged.agreed else "bold red", soft_wrap=True)
    console.print(f"The model: {_run_folder(folder, 0) / MODEL_FILE}", soft_wrap=True)
    if options.json is not None:
        _write_json(options.json, demo_figures(config, options.seed, found, judged, histories))
    return 0 if judged.agreed else 1


def configuration(options: DemoOptions) -> Config:
    """Return what all peers of a demo share; only the shard is each peer's own.

    Raises:
        ConfigError: An option or the configuration is wrong.
    """
    if options.peers < 2:
        raise ConfigError(f"--peers must be >= 2, got {options.peers}")
    config = experiment_config(
        options.config,
        [
            *(SETTINGS if options.config is None else ()),
            *((f"training.rounds={options.rounds}",) if options.rounds is not None else ()),
            *options.overrides,
        ],
        peers=options.peers,
        seed=options.seed,
        run=f"demo-{options.seed}",
    )
    if config.training.local_layers:
        raise ConfigError(
            "training.local_layers: a demo shows one model of all; use semantic-net compare"
        )
    return config


def _make_fresh(folder: Path, config: Config) -> None:
    """Remove what an earlier demo has left, or make the folder; refuse one of something else."""
    try:
        if folder.exists():
            if any(folder.iterdir()) and not (folder / CONFIG_FILE).is_file():
                raise StartError(
                    f"--out {folder}: holds something that is no demo's; name another folder"
                )
            remove_named(folder, OWN_FILES)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")
    except OSError as exc:
        raise StartError(f"--out {folder}: cannot be used: {exc.strerror or exc}") from exc


def run_peers(
    options: DemoOptions, config: Config, folder: Path, console: Console
) -> list[list[RoundRecord]]:
    """Run all peers to their last round, shown live.

    Args:
        options: How many peers, and by which command.
        config: What they share.
        folder: Gets a folder a peer; an earlier demo's files there are removed.
        console: Where the rounds are shown.

    Returns:
        The records of each peer.

    Raises:
        StartError: The folder is not usable, or a peer failed; all others have been ended.
    """
    _make_fresh(folder, config)
    watched = [
        Watched(f"peer {shard + 1}", _run_folder(folder, shard)) for shard in range(options.peers)
    ]
    title = (
        f"{len(watched)} peers learn {config.task.name} together"
        f" ({config.semantic.trade.mode}, seed {options.seed})"
    )
    console.print(f"Starting {len(watched)} peers; their files are in {folder}", soft_wrap=True)
    view = LiveView(watched, config.training.rounds, title=title, console=console)
    # The children stop before the view does: what they say last is still shown.
    with reserved_ports(len(watched)) as ports, view, Children(folder) as children:
        addresses = [f"127.0.0.1:{port}" for port in ports]
        for shard, peer in enumerate(watched):
            others = addresses[:shard] + addresses[shard + 1 :]
            command = [*options.peer_command, "--config", str(folder / CONFIG_FILE)]
            command += ["--listen", addresses[shard], "--out", str(peer.folder)]
            command += ["--peers", ",".join(others), "--set", f"data.partition.shard={shard}"]
            children.start(peer.name, command)
        children.wait(view.poll)
    return view.histories


def _run_locals(
    options: DemoOptions, config: Config, folder: Path, console: Console
) -> list[LocalResult]:
    files = [folder / f"local{shard + 1}.json" for shard in range(options.peers)]
    console.print("Training each peer's model alone, for as many local steps", soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with progress, Children(folder) as children:
        bar = progress.add_task("rounds", total=len(files) * config.training.rounds)
        for shard, file in enumerate(files):
            command = [*options.local_command, "--config", str(folder / CONFIG_FILE)]
            command += ["--shard", str(shard), "--out", str(file)]
            if shard == 0:
                command += ["--federated", str(_run_folder(folder, shard) / MODEL_FILE)]
            children.start(f"peer {shard + 1} alone", command)
        outputs = [child.stdout for child in children.running]
        children.wait(
            lambda: progress.update(
                bar, completed=sum(path.read_bytes().count(b"\n") for path in outputs)
            ),
        )
    try:
        return [msgspec.json.decode(file.read_bytes(), type=LocalResult) for file in files]
    except (OSError, msgspec.DecodeError) as exc:
        raise StartError(f"a baseline left no result: {exc}") from exc


def _write_json(path: Path, figures: DemoFigures) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")
    except OSError as exc:
        raise StartError(f"--json {path}: cannot be written: {exc.strerror or exc}") from exc


def _run_folder(folder: Path, shard: int) -> Path:
    return folder / f"peer{shard + 1}"
