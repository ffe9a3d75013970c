"""A whole simulation: from a scenario to the files of its peers and a verdict.

What it leaves is what the peers of a real run leave, a folder each, so that whatever reads a run
reads a simulation.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import re
import resource
import shutil
import threading
import time
from collections import Counter
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

ALIVE_S = 10.0
"""Real seconds after which something is to be seen, whether or not a round has been closed."""

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
        return len(self._published)

    @property
    def _published(self) -> set[str]:
        return {record.peer for record in self.records.values() if record.payload_bytes > 0}

    @property
    def missing(self) -> tuple[float, str]:
        """How many updates each lacks, on average, that were published or expected, and why most.

        What a peer did not expect it lacks as well: where all are cut off, nobody expects any.
        """
        published, why, total = self._published, Counter[str](), 0
        for record in self.records.values():
            if num := len(published.union(record.missing).difference(record.updates_in)):
                total += num
                why[_why_missing(record.close_reason)] += num
        return total / len(self.records), why.most_common(1)[0][0] if why else ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a simulation has come to."""

    rounds: list[RoundOfAll]
    virtual_s: float
    real_s: float


def _why_missing(close_reason: str) -> str:
    """Return why a round was closed without some updates, without how many a peer missed."""
    if close_reason == "all in":
        return "not expected"
    return re.sub(r"^\d+ |, \d+ missing$|^deadline, (?=cut)", "", close_reason)


class Progress:
    """Gathers what peers record, and tells when all that run are through with a round."""

    def __init__(self, show: Callable[[RoundOfAll], None]) -> None:
        """Take what shows a round to a person."""
        self.rounds: dict[int, RoundOfAll] = {}
        self._show = show
        self._shown = 0
        self._latest: dict[int, int] = {}  # round of each peer that runs; 0: none so far
        self.now: Callable[[], float] = time.monotonic
        self.told_at = time.monotonic()
        """When a person has last seen anything."""

    @property
    def num_running(self) -> int:
        """How many peers run."""
        return len(self._latest)

    def begun(self, index: int) -> None:
        """Note a peer that runs."""
        self._latest[index] = 0

    def gone(self, index: int) -> None:
        """Note a peer that runs no more."""
        del self._latest[index]
        self._look()

    def closed(self, index: int, record: RoundRecord) -> None:
        """Note a record."""
        found = self.rounds.setdefault(record.round, RoundOfAll(record.round, {}))
        found.records[index] = record
        found.closed_at_s = self.now()
        self._latest[index] = max(self._latest[index], record.round)
        self._look()

    def over(self) -> None:
        """Show what is left: nobody runs any more."""
        self._show_through(max(self.rounds, default=0))

    def _look(self) -> None:
        # Who has skipped a round, or came later, never closes it, and is past it all the same.
        if self._latest:  # else they may come back
            self._show_through(min(self._latest.values()))

    def _show_through(self, number: int) -> None:
        while self._shown < number:
            self._shown += 1
            if (found := self.rounds.get(self._shown)) is not None:
                self.told_at = time.monotonic()
                self._show(found)


def simulate(
    scenario: Scenario,
    out: Path,
    make_engine: MakeEngine,
    *,
    until_s: float | None = None,
    show: Callable[[RoundOfAll], None] = lambda round_of_all: None,
    begin: Callable[[], None] = lambda: None,
    show_alive: Callable[[float, int], None] = lambda virtual_s, num_running: None,
) -> Outcome:
    """Run a simulation to its end.

    Args:
        scenario: Everything that it depends on.
        out: Gets a folder a peer; what an earlier simulation left there is removed.
        make_engine: Makes where peers train, if they do.
        until_s: Virtual seconds after which peers that still run say goodbye; None: no limit.
        show: Told of each round that all running peers are through with.
        begin: Told that all is well, before anything is removed.
        show_alive: Told every `ALIVE_S` in which no round was shown how late it is, and how many
            peers run; from a thread of its own.

    Raises:
        StartError: The folder is not usable, or the data.
        ConfigError: The configuration does not fit the task.
    """
    _refuse_anothers(out)
    progress = Progress(show)
    began = time.monotonic()
    with (
        _lives(scenario, out, make_engine, progress) as (make_life, stop_training),
        _alive(progress, show_alive),
        _undisturbed_by_gc(),
    ):
        begin()
        _make_fresh(out, scenario.config)
        virtual_s = run_virtual(_run(scenario, make_life, stop_training, progress, until_s))
    progress.over()
    rounds = [progress.rounds[number] for number in sorted(progress.rounds)]
    return Outcome(rounds, virtual_s, time.monotonic() - began)


async def _run(
    scenario: Scenario,
    make_life: MakeLife,
    stop_training: Callable[[], None],
    progress: Progress,
    until_s: float | None,
) -> float:
    loop = asyncio.get_running_loop()
    progress.now = loop.time
    network = MemoryNetwork(seed=f"{scenario.seed}:network")
    scenario.plan.apply_to(network, scenario.names)
    fleet = Fleet(scenario.plan, network, scenario.names, make_life, progress.gone, stop_training)
    await fleet.run(until_s)
    return loop.time()


@contextlib.contextmanager
def _lives(
    scenario: Scenario, out: Path, make_engine: MakeEngine, progress: Progress
) -> Iterator[tuple[MakeLife, Callable[[], None]]]:
    """Yield how a peer's life begins, and what lets no further training begin."""
    with contextlib.ExitStack() as stack:
        make: MakeLife
        if scenario.payload_bytes is not None:
            engine = Engine([], is_elsewhere=False)
            make = NoisePeers(scenario, out, progress.closed)
        else:
            _allow_files(FILES_A_PEER * scenario.num_peers)
            engine = stack.enter_context(make_engine(scenario.config))
            engine.call("state", 0)  # what does not fit the task is found before all that it costs
            jobs = stack.enter_context(contextlib.closing(Jobs())) if engine.is_elsewhere else None
            make = LearningPeers(scenario, engine, jobs, out, progress.closed)
            # After an error nobody is told of what is under way, and it may take long.
            stack.push(lambda kind, error, trace: None if kind is None else engine.kill())

        def begin(index: int, network: MemoryNetwork) -> Life:
            progress.begun(index)
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
