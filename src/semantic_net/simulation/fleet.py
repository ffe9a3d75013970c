"""Peers on a network in virtual time: who runs, what befalls them, and when it is over."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from semantic_net.federated.peer import INTERRUPTED
from semantic_net.simulation.faults import Crash, Leave, Start, strike
from semantic_net.simulation.lives import PEER, Life, MakeLife
from semantic_net.simulation.network_plan import NetworkPlan
from semantic_net.transport.memory import MemoryNetwork


@dataclass(slots=True)
class _Running:
    life: Life
    task: asyncio.Task[None]
    crashes: bool = False
    starts_again: bool = False
    """It was to come back before it was quite gone."""


class Fleet:
    """All peers of a simulation; for one run."""

    def __init__(
        self,
        plan: NetworkPlan,
        network: MemoryNetwork,
        names: Sequence[str],
        make_life: MakeLife,
        gone: Callable[[int], None] = lambda index: None,
        interrupted: Callable[[], None] = lambda: None,
        others: Callable[[], Awaitable[float]] | None = None,
    ) -> None:
        """Take the network, and how a peer begins.

        Args:
            plan: Of the network: what befalls it and its peers.
            network: Where they are.
            names: Of the machines, in the order of the peers.
            make_life: Begins a life of a peer whose machine is in this network.
            gone: Told who does not run any more.
            interrupted: Told that all peers are to leave, whatever they are at.
            others: Waits until no peer runs elsewhere, either, where not all are here; returns
                when that was.
        """
        self._plan = plan
        self._network = network
        self._names = names
        self._make_life = make_life
        self._gone = gone
        self._interrupted = interrupted
        self._others = others
        self._running: dict[int, _Running] = {}
        self._done: set[int] = set()
        self._away_since_s = dict.fromkeys(range(plan.num_peers), -math.inf)
        """When those went that are to be away, as the plan says it."""
        self._is_ending = False
        self._all_quiet = asyncio.Event()
        self._failure: Exception | None = None

    async def run(self, until_s: float | None = None) -> float:
        """Run until nobody runs any more and nobody comes back, or until an instant.

        Returns when that was, in virtual seconds.

        Whoever is away when others are through with all rounds has nobody left to meet.

        Args:
            until_s: Virtual seconds; peers that still run then say goodbye.
        """
        faults = asyncio.ensure_future(self._play())
        try:
            await self._until_quiet(faults, until_s)
            over_at_s = asyncio.get_running_loop().time()
            if self._others is not None and self._failure is None:
                over_at_s = await self._others()
        except asyncio.CancelledError:
            self._interrupted()
            raise
        finally:
            self._is_ending = True
            faults.cancel()
            for running in [*self._running.values()]:
                running.task.cancel()
            await asyncio.gather(
                faults,
                *(running.task for running in [*self._running.values()]),
                return_exceptions=True,
            )
        if self._failure is not None:
            raise self._failure
        return over_at_s

    async def _until_quiet(self, faults: asyncio.Future[None], until_s: float | None) -> None:
        try:
            await asyncio.wait_for(self._all_quiet.wait(), until_s)
        except asyncio.TimeoutError:
            faults.cancel()
            self._is_ending = True
            for running in self._running.values():
                running.life.stop.set()
            self._look()
            await self._all_quiet.wait()

    async def _play(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            for index, name in enumerate(self._names):
                if self._network.is_here(name) and self._plan.is_there_at_start(index):
                    self._start(index)
            for fault in self._plan.faults():
                if fault.at_s > loop.time():
                    await asyncio.sleep(fault.at_s - loop.time())
                if isinstance(fault, Start):
                    self._start(fault.peer)
                elif isinstance(fault, Crash | Leave):
                    self._away_since_s[fault.peer] = fault.at_s
                    self._end(fault)
                else:
                    strike(self._network, fault, self._names)
        except Exception as exc:  # of a peer that cannot begin: ends it all
            self._fail(exc)

    def _start(self, index: int) -> None:
        self._away_since_s.pop(index, None)
        if (running := self._running.get(index)) is not None:
            running.starts_again = running.crashes or running.life.stop.is_set()
            return
        if index in self._done or self._is_ending:
            return
        context = contextvars.copy_context()  # for whatever it begins, whoever lets it begin
        context.run(PEER.set, self._names[index])
        life = context.run(self._make_life, index, self._network)
        task = context.run(asyncio.ensure_future, self._live(index, life))
        self._running[index] = _Running(life, task)

    def _end(self, fault: Crash | Leave) -> None:
        running = self._running.get(fault.peer)
        if running is None:
            return
        running.starts_again = False
        if running.crashes:
            return
        if isinstance(fault, Leave):
            running.life.stop.set()
            return
        running.crashes = True
        running.life.transport.crash(self._network.dead_after_s)
        running.task.cancel()

    async def _live(self, index: int, life: Life) -> None:
        how = "left"
        try:
            if await life.peer.run(life.stop) != INTERRUPTED:
                how = "done"
                self._done.add(index)
        except asyncio.CancelledError:
            pass  # a crash, or the end of all
        except Exception as exc:  # of a user's task, or a bug of ours: ends it all
            self._fail(exc)
        finally:
            running = self._running.pop(index)
            try:
                life.close("crashed" if running.crashes else how)
                self._gone(index)
                if running.starts_again:
                    self._start(index)
            except Exception as exc:  # of a disk that is full, or as above
                self._fail(exc)
            self._look()

    def _fail(self, error: Exception) -> None:
        """End it all; what ends in an error because of that is not told."""
        if self._failure is None:
            self._failure = error
        self._is_ending = True
        self._all_quiet.set()

    def _look(self) -> None:
        """See whether it is over."""
        if self._running:
            return
        waits = not (self._is_ending or self._done) and any(
            self._plan.comes(index, away_since_s)
            for index, away_since_s in self._away_since_s.items()
        )
        if not waits:
            self._all_quiet.set()
