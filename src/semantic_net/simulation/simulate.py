"""A whole simulation: from a scenario to the files of its peers and a verdict.

What it leaves is what the peers of a real run leave, a folder each, so that whatever reads a run
reads a simulation.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from semantic_net.config import Config, dump_config
from semantic_net.disk import remove_named
from semantic_net.errors import StartError
from semantic_net.monitoring.presence import SIMULATION_FILE
from semantic_net.simulation.engines import Engine, Jobs
from semantic_net.simulation.fleet import Fleet
from semantic_net.simulation.lives import LearningPeers, Life, MakeLife, NoisePeers
from semantic_net.simulation.progress import Listener, Progress, Reports, RoundOfAll
from semantic_net.simulation.scenario import PEER_NAME, Scenario
from semantic_net.simulation.spread import Part, PartLoop, spread
from semantic_net.simulation.virtual_time import run_virtual
from semantic_net.transport.memory import MemoryNetwork

log = logging.getLogger(__name__)

ALIVE_S = 10.0
"""Real seconds after which something is to be seen, whether or not a round has been closed."""

FILES_A_PEER = 4
"""Descriptors that a peer that learns keeps open."""

MakeEngine = Callable[[Config], Engine]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a simulation has come to."""

    rounds: list[RoundOfAll]
    virtual_s: float
    real_s: float


def simulate(
    scenario: Scenario,
    out: Path,
    make_engine: MakeEngine,
    *,
    until_s: float | None = None,
    show: Callable[[RoundOfAll], None] = lambda round_of_all: None,
    begin: Callable[[], None] = lambda: None,
    show_alive: Callable[[float, int], None] = lambda virtual_s, num_running: None,
    num_parts: int = 1,
) -> Outcome:
    """Run a simulation to its end.

    Args:
        scenario: Everything that it depends on.
        out: Gets a folder a peer; those of an earlier simulation there are removed.
        make_engine: Makes where peers train, if they do.
        until_s: Virtual seconds after which peers that still run say goodbye; None: no limit.
        show: Told of each round that all running peers are through with.
        begin: Told that all is well, before anything is removed.
        show_alive: Told every `ALIVE_S` in which no round was shown how late it is, and how many
            peers run; from a thread of its own.
        num_parts: Processes among which the peers are spread, where nothing is learned and the
            network does not keep them together.

    Raises:
        StartError: The folder is not usable, or the data; or a process has ended.
        ConfigError: The configuration does not fit the task.
    """
    _refuse_anothers(out)
    progress = Progress(show)
    began = time.monotonic()

    def run_part(part: Part) -> None:
        reports = Reports(part)
        with _lives(scenario, out, make_engine, reports) as (make_life, stop_training):
            main = _run(scenario, make_life, stop_training, reports, until_s, part)
            run_virtual(main, PartLoop(part))

    with (
        _lives(scenario, out, make_engine, progress) as (make_life, stop_training),
        _undisturbed_by_gc(),
        _parts(scenario, num_parts, run_part) as part,
        _alive(progress, show_alive),
    ):
        begin()
        _make_fresh(out, scenario.config)
        main = _run(scenario, make_life, stop_training, progress, until_s, part)
        virtual_s = run_virtual(main, PartLoop(part) if part else None)
    progress.over()
    rounds = [progress.rounds[number] for number in sorted(progress.rounds)]
    return Outcome(rounds, virtual_s, time.monotonic() - began)


@contextlib.contextmanager
def _parts(
    scenario: Scenario, num_parts: int, run: Callable[[Part], None]
) -> Iterator[Part | None]:
    """Yield this process' part of the simulation, if others have theirs."""
    num_parts = min(num_parts, scenario.num_peers)
    if num_parts == 1:
        yield None
        return
    if scenario.payload_bytes is None or scenario.plan.keeps_together:
        raise ValueError("peers that train, or that share more than links, are in one process")
    with spread(scenario.names, num_parts, scenario.plan.min_delay_s, run) as part:
        yield part


async def _run(
    scenario: Scenario,
    make_life: MakeLife,
    stop_training: Callable[[], None],
    listener: Listener,
    until_s: float | None,
    part: Part | None,
) -> float:
    """Run all peers of this process; return when the last of all has ended."""
    listener.now = asyncio.get_running_loop().time
    network = MemoryNetwork(seed=f"{scenario.seed}:network", border=part)
    others = None
    if part is not None:
        part.take, others = network.take, part.all_quiet
        if isinstance(listener, Progress):
            part.report = listener.hear
    scenario.plan.apply_to(network, scenario.names)
    fleet = Fleet(
        scenario.plan, network, scenario.names, make_life, listener.gone, stop_training, others
    )
    return await fleet.run(until_s)


@contextlib.contextmanager
def _lives(
    scenario: Scenario, out: Path, make_engine: MakeEngine, listener: Listener
) -> Iterator[tuple[MakeLife, Callable[[], None]]]:
    """Yield how a peer's life begins, and what lets no further training begin."""
    with contextlib.ExitStack() as stack:
        make: MakeLife
        if scenario.payload_bytes is not None:
            engine = Engine([], is_elsewhere=False)
            make = NoisePeers(scenario, out, listener.closed)
        else:
            _allow_files(FILES_A_PEER * scenario.num_peers)
            engine = stack.enter_context(make_engine(scenario.config))
            engine.call("state", 0)  # what does not fit the task is found before all that it costs
            jobs = stack.enter_context(contextlib.closing(Jobs())) if engine.is_elsewhere else None
            make = LearningPeers(scenario, engine, jobs, out, listener.closed)
            # After an error nobody is told of what is under way, and it may take long.
            stack.push(lambda kind, error, trace: None if kind is None else engine.kill())

        def begin(index: int, network: MemoryNetwork) -> Life:
            listener.begun(index)
            return make(index, network)

        yield begin, engine.stop


@contextlib.contextmanager
def _alive(progress: Progress, tell: Callable[[float, int], None]) -> Iterator[None]:
    """Tell every now and then that it goes on, in real time: virtual time may stand still."""
    over = threading.Event()

    def watch() -> None:
        wait_s = ALIVE_S
        while not over.wait(wait_s):
            wait_s = progress.told_at + ALIVE_S - time.monotonic()
            if wait_s <= 0:
                tell(progress.now(), progress.num_running)
                progress.told_at, wait_s = time.monotonic(), ALIVE_S

    thread = threading.Thread(target=watch, name="alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _refuse_anothers(out: Path) -> None:
    """Refuse a folder that holds something else than an earlier simulation."""
    try:
        if out.exists() and any(out.iterdir()) and not (out / SIMULATION_FILE).is_file():
            raise StartError(
                f"--out {out}: holds something that is no simulation's; name another folder"
            )
    except OSError as exc:
        raise StartError(f"--out {out}: cannot be used: {exc.strerror or exc}") from exc


def _make_fresh(out: Path, config: Config) -> None:
    """Make the folder, or remove what the peers of an earlier simulation have left in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        remove_named(out, PEER_NAME)
        (out / SIMULATION_FILE).write_text(dump_config(config), encoding="utf-8")
    except OSError as exc:
        raise StartError(f"--out {out}: cannot be used: {exc.strerror or exc}") from exc


def _allow_files(number: int) -> None:
    """Let this process open as many files as it needs, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + 256
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


@contextlib.contextmanager
def _undisturbed_by_gc() -> Iterator[None]:
    """Look for cycles seldom: millions of objects live as long as the simulation."""
    before = gc.get_threshold()
    gc.set_threshold(200_000, 100, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
