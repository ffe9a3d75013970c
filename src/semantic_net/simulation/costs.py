"""Work that takes virtual seconds: it is waited for as long as a device would take for it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar, cast

from semantic_net.simulation.virtual_time import VirtualTimeLoop

T = TypeVar("T")


class VirtualRunner:
    """Where a simulated peer's work is done: a `Runner` of an event loop in virtual time.

    What a piece of work costs, whoever does it adds to the runner before any of it goes elsewhere.
    """

    def __init__(self, begin: Callable[[Any], Future[Any]] | None = None) -> None:
        """Prepare.

        Args:
            begin: Starts a piece of the learner's work that may go on elsewhere; None does it all
                at once, here.
        """
        self._begin = begin
        self._cost_s = 0.0
        self._learning = asyncio.Lock()

    def spend(self, seconds: float) -> None:
        """Let the work that is being done take that much longer."""
        self._cost_s += seconds

    async def learn(self, work: Callable[[], T]) -> T:
        """Do a piece of the learner's work, one after the other."""
        async with self._learning:
            if self._begin is None:
                return await self._timed(functools.partial(_interruptible, work))
            self._cost_s = 0.0
            future = self._begin(work)
            await self._sleep()
            return cast("T", _interruptible(future.result))

    async def check(self, work: Callable[[], T]) -> T:
        """Hash and parse something that has arrived, while the learner may be busy."""
        return await self._timed(work)

    async def _timed(self, work: Callable[[], T]) -> T:
        self._cost_s = 0.0
        done = work()
        await self._sleep()
        return done

    async def _sleep(self) -> None:
        cost_s, self._cost_s = self._cost_s, 0.0
        if cost_s:
            await asyncio.sleep(cost_s)


def _interruptible(work: Callable[[], T]) -> T:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    with loop.long_work():
        return work()
