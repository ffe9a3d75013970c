"""A whole simulation: from a scenario to the files of its peers and a verdict.

What it leaves is what the peers of a real run leave, a folder each, so that whatever reads a run
reads a simulation.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from semantic_net.config import Config, dump_config
from semantic_net.errors import StartError
from semantic_net.monitoring.digests import Agreement, agreement
from semantic_net.monitoring.presence import SIMULATION_FILE
from semantic_net.records import RoundRecord
from semantic_net.simulation.engines import Engine, Jobs
from semantic_net.simulation.fleet import Fleet
from semantic_net.simulation.lives import LearningPeers, Life, MakeLife, NoisePeers
from semantic_net.simulation.scenario import Scenario
from semantic_net.simulation.virtual_time import run_virtual
from semantic_net.transport.memory import MemoryNetwork

log = logging.getLogger(__name__)

FILES_A_PEER = 4
"""Descriptors that a peer that learns keeps open."""

MakeEngine = Callable[[Config], Engine]


@dataclass(slots=True)
class RoundOfAll:
    """One round, as far as peers have closed it."""

    number: int
    records: dict[int, RoundRecord]
    """The last of each peer."""
    closed_at_s: float = 0.0
    """Virtual seconds at which the last of them did."""

    @property
    def agreement(self) -> Agreement:
        """Whether those that have closed it hold one model."""
        return agreement([*self.records.values()])

    @property
    def num_participants(self) -> int:
        """How many have published."""
        return sum(record.payload_bytes > 0 for record in self.records.values())


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a simulation has come to."""

    rounds: list[RoundOfAll]
    virtual_s: float
    real_s: float


class Progress:
    """Gathers what peers record, and tells when all that run have closed a round."""

    def __init__(self, show: Callable[[RoundOfAll], None]) -> None:
        """Take what shows a round to a person."""
        self.rounds: dict[int, RoundOfAll] = {}
        self._show = show
        self._shown = 0
        self._running: set[int] = set()
        self.now: Callable[[], float] = time.monotonic

    def begun(self, index: int) -> None:
        """Note a peer that runs."""
        self._running.add(index)

    def gone(self, index: int) -> None:
        """Note a peer that runs no more."""
        self._running.discard(index)

    def closed(self, index: int, record: RoundRecord) -> None:
        """Note a record."""
        found = self.rounds.setdefault(record.round, RoundOfAll(record.round, {}))
        found.records[index] = record
        found.closed_at_s = self.now()
        following = self.rounds.get(self._shown + 1)
        while following is not None and self._running <= following.records.keys():
            self._shown = following.number
            self._show(following)
            following = self.rounds.get(self._shown + 1)


def simulate(
    scenario: Scenario,
    out: Path,
    make_engine: MakeEngine,
    *,
    until_s: float | None = None,
    show: Callable[[RoundOfAll], None] = lambda round_of_all: None,
    begin: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run a simulation to its end.

    Args:
        scenario: Everything that it depends on.
        out: Gets a folder a peer; what an earlier simulation left there is removed.
        make_engine: Makes where peers train, if they do.
        until_s: Virtual seconds after which peers that still run say goodbye; None: no limit.
        show: Told of each round that all running peers have closed.
        begin: Told that all is well, before anything is removed.

    Raises:
        StartError: The folder is not usable, or the data.
        ConfigError: The configuration does not fit the task.
    """
    _refuse_anothers(out)
    progress = Progress(show)
    began = time.monotonic()
    with _lives(scenario, out, make_engine, progress) as make_life, _undisturbed_by_gc():
        begin()
        _make_fresh(out, scenario.config)
        virtual_s = run_virtual(_run(scenario, make_life, progress, until_s))
    rounds = [progress.rounds[number] for number in sorted(progress.rounds)]
    return Outcome(rounds, virtual_s, time.monotonic() - began)


async def _run(
    scenario: Scenario, make_life: MakeLife, progress: Progress, until_s: float | None
) -> float:
    loop = asyncio.get_running_loop()
    progress.now = loop.time
    rng = random.Random(f"{scenario.seed}:network")  # reproducible, not secret  # nosec B311
    network = MemoryNetwork(rng=rng)
    scenario.plan.apply_to(network, scenario.names)
    fleet = Fleet(scenario.plan, network, scenario.names, make_life, progress.gone)
    await fleet.run(until_s)
    return loop.time()


@contextlib.contextmanager
def _lives(
    scenario: Scenario, out: Path, make_engine: MakeEngine, progress: Progress
) -> Iterator[MakeLife]:
    with contextlib.ExitStack() as stack:
        make: MakeLife
        if scenario.payload_bytes is not None:
            make = NoisePeers(scenario, out, progress.closed)
        else:
            _allow_files(FILES_A_PEER * scenario.num_peers)
            engine = stack.enter_context(make_engine(scenario.config))
            engine.call("state", 0)  # what does not fit the task is found before all that it costs
            jobs = stack.enter_context(contextlib.closing(Jobs())) if engine.is_elsewhere else None
            make = LearningPeers(scenario, engine, jobs, out, progress.closed)

        def begin(index: int, network: MemoryNetwork) -> Life:
            progress.begun(index)
            return make(index, network)

        yield begin


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
    """Empty the folder of an earlier simulation, or make it."""
    try:
        if out.exists():
            shutil.rmtree(out)
        out.mkdir(parents=True)
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
