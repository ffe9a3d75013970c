"""Work that takes virtual seconds: done at once, and waited for as long as a device would take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpeed:
    """How long a device takes, in seconds."""

    step_s: float = 0.05
    """A step of the optimiser."""
    encode_s: float = 0.02
    """Encoding, a million parameters."""
    fold_s: float = 0.005
    """Decoding and folding an update, a million parameters."""
    evaluate_s: float = 0.5
    """An evaluation."""


class VirtualRunner:
    """Where a simulated peer's work is done: a `Runner` of one event loop in virtual time.

    What a piece of work costs, whoever does it adds to the runner while doing it.
    """

    def __init__(self) -> None:
        self._cost_s = 0.0
        self._learning = asyncio.Lock()

    def spend(self, seconds: float) -> None:
        """Let the work that is being done take that much longer."""
        self._cost_s += seconds

    async def learn(self, work: Callable[[], T]) -> T:
        """Do a piece of the learner's work, one after the other."""
        async with self._learning:
            return await self._timed(work)

    async def check(self, work: Callable[[], T]) -> T:
        """Hash and parse something that has arrived, while the learner may be busy."""
        return await self._timed(work)

    async def _timed(self, work: Callable[[], T]) -> T:
        self._cost_s = 0.0
        done = work()
        cost_s, self._cost_s = self._cost_s, 0.0
        if cost_s:
            await asyncio.sleep(cost_s)
        return done
