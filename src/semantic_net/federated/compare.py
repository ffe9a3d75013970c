"""Ways of training side by side: each run by the commands that a user would run, then one table.

    OUT/seed0/fedavg/config.yaml, server/, client1/, ...    one way under one seed: its run
    OUT/compare.md, compare.html, compare.json, compare.svg, compare.png

All ways have the same split, seeds, first weights, trainer and number of local steps, and all
models are evaluated on the validation data of all shards together, after every round. A run that is
there already is not made again, so what was interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import semantic_net
from semantic_net.config import Config, dump_config, load_config
from semantic_net.errors import ConfigError, DataError, StartError
from semantic_net.federated.child_processes import Children, ended_by_signals, reserved_ports
from semantic_net.federated.experiment import experiment_config
from semantic_net.federated.trainings import (
    CONFIG_FILE,
    DEFAULT_WAYS,
    TRAININGS,
    Training,
    problem,
    text_of,
)
from semantic_net.monitoring import plots
from semantic_net.monitoring.console import print_interrupted
from semantic_net.monitoring.energy import EnergyMeter
from semantic_net.monitoring.recorder import ROUNDS_FILE
from semantic_net.monitoring.runs import main_metric_of, read_run
from semantic_net.monitoring.side_by_side import Outcome, SideBySide, Way, outcome_of
from semantic_net.monitoring.side_by_side_page import (
    console_table,
    html,
    markdown,
    notes,
    ways_in_words,
)
from semantic_net.monitoring.text import format_duration, format_metric, metric_label

PATIENCE_S = 3600
"""For a peer that evaluates for all, as a server has for its clients."""

RUN_FILE = "run.json"
"""In the folder of a run that is complete: what it was made with."""


class _Made(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was made with, and what no record of it tells."""

    version: str
    config: str
    task_file: str
    """Hash of a task of the user's own; empty for one that ships."""
    made_at: str
    energy_j: float | None
    run_s: float
    """Start of the processes included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """What the command line says of a comparison."""

    config: Path | None = None
    overrides: tuple[str, ...] = ()
    """As of ``--set``."""
    peers: int | None = None
    """Unset: the shards of the configuration, or 3 where it has one."""
    seeds: tuple[int, ...] = (0,)
    ways: tuple[str, ...] | None = None
    """Unset: `DEFAULT_WAYS`, but those that cannot be run here."""
    last: int = 1
    again: bool = False
    """Run also what is there already."""
    out: Path = Path("runs/compare")
    command: tuple[str, ...] = (sys.executable, "-m", "semantic_net.cli")
    facts: tuple[tuple[str, str], ...] = field(default_factory=tuple)
    """What else the page tells, as (name, value)."""


def run_comparison(options: CompareOptions, console: Console) -> int:
    """Run all ways under all seeds, and show them side by side.

    Returns:
        0; 130 when interrupted.

    Raises:
        ConfigError: An option or the configuration is wrong.
        StartError: A process failed; all others of its run have been ended.
    """
    if options.last < 1:
        raise ConfigError(f"--last: must be >= 1, got {options.last}")
    if len(set(options.seeds)) != len(options.seeds):
        raise ConfigError("--seeds: names a seed twice")
    _refuse_own_keys(options)
    names = _chosen(options, console)
    configs = {
        (seed, name): _config_of(options, seed, TRAININGS[name])
        for seed in options.seeds
        for name in names
    }
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    with ended_by_signals():
        try:
            for (seed, name), config in configs.items():
                outcome = _run(options, seed, name, config, console)
                outcomes[name].append(outcome)
        except KeyboardInterrupt:
            print_interrupted("the same command goes on from here", console)
            return 130
    first = configs[options.seeds[0], names[0]]
    ways = [
        Way(
            name=name,
            title=TRAININGS[name].title,
            text=text_of(name, configs[options.seeds[0], name]),
            outcomes=outcomes[name],
        )
        for name in names
    ]
    reference = next((name for name in ("fedavg", "dense") if name in names), names[0])
    metric, higher = main_metric_of(read_run(options.out / f"seed{options.seeds[0]}" / names[0]))
    found = SideBySide(
        task=f"{Path(first.task.name).stem}, {first.data.partition.num_shards} devices, "
        f"{first.training.rounds} rounds",
        metric=metric,
        higher_is_better=higher,
        last=options.last,
        reference=reference,
        ways=ways,
    )
    facts = [*options.facts, *machine_facts(), ("configuration", dump_config(first).rstrip())]
    show(found, options.out, facts, console)
    return 0


def compare_runs(folders: Sequence[Path], out: Path, last: int, console: Console) -> int:
    """Show runs side by side that were made before, each by its folder's name.

    Raises:
        DataError: A folder holds no run's record, or no model was evaluated; it is named.
        StartError: ``out`` cannot be written.
    """
    if last < 1:
        raise ConfigError(f"--last: must be >= 1, got {last}")
    labels = _labels(folders)
    runs = [read_run(folder) for folder in folders]
    ways = []
    for label, folder, run in zip(labels, folders, runs, strict=True):
        try:
            outcome = outcome_of(run, last=last)
        except DataError as exc:
            raise DataError(f"{folder}: {exc}") from exc
        ways.append(Way(name=label, title=label, text="", outcomes=[outcome]))
    metric, higher = next((m for run in runs if (m := main_metric_of(run))[0]), ("", True))
    found = SideBySide(
        task="Runs side by side",
        metric=metric,
        higher_is_better=higher,
        last=last,
        # What the others are held against has something to hold them against.
        reference=next((way.name for way in ways if any(way.outcomes[0].devices)), labels[0]),
        ways=ways,
    )
    facts = machine_facts()
    if metric:
        told = "each run's own: compare only what was evaluated on the same data"
        console.print(f"Metrics are {told}.", soft_wrap=True)
        facts.insert(0, ("metrics", told))
    show(found, out, facts, console)
    return 0


def show(found: SideBySide, out: Path, facts: Sequence[tuple[str, str]], console: Console) -> None:
    """Print the table, and write it with the plot into a folder.

    Raises:
        StartError: The folder cannot be written.
    """
    pictures = plots.plot(found) if found.metric and plots.can_plot() else {}
    svg = pictures.get("svg", b"").decode()
    files = {
        "compare.md": markdown(found, "compare.png" if pictures else None, facts).encode(),
        "compare.html": html(found, svg or None, facts).encode(),
        "compare.json": msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n",
        **{f"compare.{ending}": picture for ending, picture in pictures.items()},
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (out / name).write_bytes(content)
    except OSError as exc:
        raise StartError(f"--out {out}: cannot be written: {exc.strerror or exc}") from exc
    console.print(console_table(found))
    for line in [*ways_in_words(found), *notes(found)]:
        style = "bold red" if line.startswith("NOTE") else None
        console.print(f"- {line}", style=style, soft_wrap=True, markup=False)
    if not plots.can_plot():
        console.print(plots.MISSING, style="yellow", soft_wrap=True, markup=False)
    console.print(f"The page: {out / 'compare.html'}", soft_wrap=True, markup=False)


def machine_facts() -> list[tuple[str, str]]:
    """Return what a reader has to know of where figures come from."""
    return [
        ("semantic-net", semantic_net.__version__),
        ("machine", f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"),
        ("Python", platform.python_version()),
    ]


_SEEDS = ("task.seed", "data.seed", "data.partition.seed", "training.seed")


def _refuse_own_keys(options: CompareOptions) -> None:
    """Refuse overrides of what a comparison itself decides."""
    flags = dict.fromkeys(_SEEDS, "--seeds") | {"data.partition.shard": "--peers"}
    if options.peers is not None:
        flags["data.partition.num_shards"] = "--peers"
    for override in options.overrides:
        key = override.partition("=")[0].strip()
        if key in flags:
            raise ConfigError(f"--set {key}: a comparison says it itself; use {flags[key]}")
    if "data.partition.validation=none" in options.overrides:
        raise ConfigError("data.partition.validation: none leaves nothing to compare")


def _chosen(options: CompareOptions, console: Console) -> list[str]:
    """Return the ways to run; of the usual ones without those that cannot be run here."""
    names = list(dict.fromkeys(options.ways or DEFAULT_WAYS))
    config = _config_of(options, options.seeds[0], None)
    for name in names.copy():
        if name not in TRAININGS:
            raise ConfigError(f"--ways: unknown way {name!r}; known: {', '.join(TRAININGS)}")
        found = problem(TRAININGS[name], config)
        if found is None:
            continue
        if options.ways is not None:
            raise ConfigError(f"--ways {name}: {found}")
        names.remove(name)
        console.print(f"left out: {TRAININGS[name].title}: {found}", soft_wrap=True, markup=False)
    return names


def _config_of(options: CompareOptions, seed: int, training: Training | None) -> Config:
    peers = options.peers
    if peers is None:
        shards = load_config(options.config, options.overrides).data.partition.num_shards
        peers = shards if shards > 1 else 3
    if peers < 2:
        raise ConfigError(f"--peers must be >= 2, got {peers}")
    overrides = [
        "data.partition.validation=all",
        "data.partition.shard=null",
        # On one machine nobody is out of reach: waiting is for those that evaluate, or are slow.
        f"p2p.listen_timeout_s={PATIENCE_S}",
        "security.mode=open",  # all on this machine
        *options.overrides,
        *(training.overrides if training is not None else ()),
    ]
    return experiment_config(
        options.config, overrides, peers=peers, seed=seed, run=f"compare-{seed}"
    )


def _run(
    options: CompareOptions, seed: int, name: str, config: Config, console: Console
) -> Outcome:
    """Run one way under one seed, unless it has been run; return what has come of it."""
    folder = options.out / f"seed{seed}" / name
    title = f"seed {seed}, {TRAININGS[name].title}"
    made = _made(folder)
    wanted = semantic_net.__version__, dump_config(config), _hash_of_task(config)
    is_there = made is not None and (made.version, made.config, made.task_file) == wanted
    if made is None or not is_there or options.again:
        made = _run_anew(options, folder, name, config, title, console)
        began = "took " + format_duration(made.run_s)
    else:
        began = f"was there, of {made.made_at}"
    outcome = outcome_of(read_run(folder), last=options.last, seed=seed, energy_j=made.energy_j)
    metric, _ = main_metric_of(read_run(folder))
    values = [each[metric] for each in outcome.devices if metric in each]
    shown = format_metric(metric, sum(values) / len(values)) if values else "-"
    console.print(f"{title}: {metric_label(metric)} {shown}, {began}", soft_wrap=True, markup=False)
    return outcome


def _run_anew(
    options: CompareOptions, folder: Path, name: str, config: Config, title: str, console: Console
) -> _Made:
    try:
        if folder.exists():
            if any(folder.iterdir()) and not (folder / CONFIG_FILE).is_file():
                raise StartError(f"{folder}: holds something that is no run's; name another --out")
            _put_away(folder, title, console)
        folder.mkdir(parents=True)
        (folder / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")
    except OSError as exc:
        raise StartError(f"--out {folder}: cannot be used: {exc.strerror or exc}") from exc
    columns = (
        TextColumn("{task.description}"),
        BarColumn(30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    if not console.is_terminal:
        console.print(f"{title}: running", soft_wrap=True, markup=False)
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    began = time.monotonic()
    with (
        reserved_ports(config.data.partition.num_shards) as ports,
        progress,
        EnergyMeter() as meter,
        Children(folder) as children,
    ):
        commands = TRAININGS[name].commands(config, folder, ports)
        bar = progress.add_task(title, total=len(commands) * config.training.rounds)
        for process, arguments in commands:
            children.start(process, [*options.command, *arguments])
        children.wait(lambda: progress.update(bar, completed=_num_rounds(folder)))
    made = _Made(
        version=semantic_net.__version__,
        config=dump_config(config),
        task_file=_hash_of_task(config),
        made_at=time.strftime("%Y-%m-%d %H:%M"),
        energy_j=meter.joules,
        run_s=round(time.monotonic() - began, 2),
    )
    part = folder / f"{RUN_FILE}.part"
    part.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n")
    part.rename(folder / RUN_FILE)
    return made


def _put_away(folder: Path, title: str, console: Console) -> None:
    """Keep a complete run, once: a flag should not cost anyone a trained model."""
    if not (folder / RUN_FILE).exists():
        shutil.rmtree(folder)
        return
    before = folder.with_name(f"{folder.name}.previous")
    if before.exists():
        shutil.rmtree(before)
    folder.rename(before)
    console.print(f"{title}: what was there is in {before}", soft_wrap=True, markup=False)


def _made(folder: Path) -> _Made | None:
    """Return what a complete run was made with; None where there is none."""
    try:
        return msgspec.json.decode((folder / RUN_FILE).read_bytes(), type=_Made)
    except (OSError, msgspec.DecodeError):
        return None


def _hash_of_task(config: Config) -> str:
    path = Path(config.task.name)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix == ".py" else ""
    except OSError as exc:
        raise StartError(f"task.name: {path}: {exc.strerror or exc}") from exc


def _num_rounds(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob(f"*/{ROUNDS_FILE}"))


def _labels(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: its own, and as much of its path as tells it from others."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(len(each) for each in parts) + 1):
        labels = ["/".join(each[-length:]) for each in parts]
        if len(set(labels)) == len(labels):
            return labels
    raise ConfigError("compare: names a run twice")
