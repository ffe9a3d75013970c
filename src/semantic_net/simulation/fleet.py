"""Peers on a network in virtual time: who runs, what befalls them, and when it is over."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from semantic_net.federated.peer import INTERRUPTED
from semantic_net.simulation.faults import Crash, Fault, Leave, Start, strike
from semantic_net.simulation.lives import Life, MakeLife
from semantic_net.simulation.network_plan import NetworkPlan
from semantic_net.transport.memory import MemoryNetwork

PEER: contextvars.ContextVar[str] = contextvars.ContextVar("peer")
"""The name of the peer that does something, for the log."""


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
    ) -> None:
        """Take the network, and how a peer begins.

        Args:
            plan: Of the network: what befalls it and its peers.
            network: Where they are.
            names: Of the machines, in the order of the peers.
            make_life: Begins a life.
            gone: Told who does not run any more.
        """
        self._plan = plan
        self._network = network
        self._names = names
        self._make_life = make_life
        self._gone = gone
        self._running: dict[int, _Running] = {}
        self._done: set[int] = set()
        self._all_quiet = asyncio.Event()
        self._failure: BaseException | None = None

    async def run(self, until_s: float | None = None) -> None:
        """Run until nobody runs any more, or until an instant.

        Whoever is away then, and would come back, has nobody left to meet.

        Args:
            until_s: Virtual seconds; peers that still run then say goodbye.
        """
        for index in range(self._plan.num_peers):
            if self._plan.is_there_at_start(index):
                self._start(index)
        faults = asyncio.ensure_future(self._play(self._plan.faults()))
        try:
            await asyncio.wait_for(self._all_quiet.wait(), until_s)
        except asyncio.TimeoutError:
            for running in self._running.values():
                running.life.stop.set()
            await self._all_quiet.wait()
        finally:
            faults.cancel()
            for running in [*self._running.values()]:
                running.task.cancel()
            await asyncio.gather(faults, return_exceptions=True)
            await asyncio.gather(
                *(running.task for running in [*self._running.values()]), return_exceptions=True
            )
        if self._failure is not None:
            raise self._failure

    async def _play(self, faults: Iterable[Fault]) -> None:
        loop = asyncio.get_running_loop()
        for fault in faults:
            if fault.at_s > loop.time():
                await asyncio.sleep(fault.at_s - loop.time())
            if isinstance(fault, Start):
                self._start(fault.peer)
            elif isinstance(fault, Crash):
                self._crash(fault.peer)
            elif isinstance(fault, Leave):
                if (running := self._running.get(fault.peer)) is not None:
                    running.life.stop.set()
            else:
                strike(self._network, fault, self._names)

    def _start(self, index: int) -> None:
        if (running := self._running.get(index)) is not None:
            running.starts_again = running.crashes or running.life.stop.is_set()
            return
        if index in self._done:
            return
        life = self._make_life(index, self._network)
        task = asyncio.ensure_future(self._live(index, life))
        self._running[index] = _Running(life, task)

    def _crash(self, index: int) -> None:
        running = self._running.get(index)
        if running is not None and not running.crashes:
            running.crashes = True
            running.life.transport.crash(self._network.dead_after_s)
            running.task.cancel()

    async def _live(self, index: int, life: Life) -> None:
        how = "left"
        PEER.set(self._names[index])
        try:
            if await life.peer.run(life.stop) != INTERRUPTED:
                how = "done"
                self._done.add(index)
        except asyncio.CancelledError:
            pass  # a crash, or the end of all
        except Exception as exc:  # of a user's task, or a bug of ours: ends it all
            self._failure = exc
            self._all_quiet.set()
        finally:
            running = self._running.pop(index)
            life.close("crashed" if running.crashes else how)
            self._gone(index)
            if running.starts_again and self._failure is None:
                self._start(index)
            if not self._running:
                self._all_quiet.set()
