"""Whose turn it is to be dialled, among addresses that were learned.

Anybody may tell of any address, of thousands a second: of this machine's open files and processor
they get a share, and of what they lead to others hear little. Those that were dialled in vain least
often go first, and among these chance decides, so that whoever tells of many makes others wait and
keeps nobody out. What the user has named waits for none of this.
"""

from __future__ import annotations

import asyncio
import math
import random


class DialTurns:
    """Lets few dials be under way at a time, and not too many begin one after another."""

    def __init__(
        self,
        at_once: int,
        rng: random.Random,
        *,
        burst: float = math.inf,
        a_second: float = 0.0,
    ) -> None:
        """Begin with nobody waiting.

        Args:
            at_once: Most dials that are under way.
            rng: Decides among equals.
            burst: Most dials that begin at once, later on as well if few have been meanwhile.
            a_second: Dials that may begin after these.
        """
        self._free = at_once
        self._rng = rng
        self._burst, self._a_second = burst, a_second
        self._left, self._counted_at = burst, -math.inf
        self._waiting: dict[asyncio.Future[bool], tuple[int, float]] = {}
        self._next: asyncio.TimerHandle | None = None

    async def take(self, num_vain: int, longest_s: float | None = None) -> bool:
        """Wait for a turn, which is to be given back; tell whether there is one.

        Args:
            num_vain: Dials in vain so far.
            longest_s: When to wait no more, if ever.
        """
        loop = asyncio.get_running_loop()
        if not self._waiting and self._may_begin(loop.time()):
            self._begin()
            return True
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiting[waiter] = num_vain, self._rng.random()
        self._let_begin()
        late = None if longest_s is None else loop.call_later(longest_s, _too_late, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.result():
                self.give_back()  # it came too late
            raise
        finally:
            self._waiting.pop(waiter, None)
            if late is not None:
                late.cancel()

    def give_back(self) -> None:
        """Note that a dial is over."""
        self._free += 1
        self._let_begin()

    def close(self) -> None:
        """Let nobody begin by itself any more."""
        if self._next is not None:
            self._next.cancel()

    def _may_begin(self, now: float) -> bool:
        if self._a_second:
            grown = self._a_second * (now - self._counted_at)
            self._left, self._counted_at = min(self._left + grown, self._burst), now
        return self._free > 0 and self._left >= 1

    def _begin(self) -> None:
        self._free -= 1
        self._left -= 1

    def _let_begin(self) -> None:
        loop = asyncio.get_running_loop()
        while waiting := [waiter for waiter in self._waiting if not waiter.done()]:
            if not self._may_begin(loop.time()):
                self._look_again(loop)
                return
            self._begin()
            first = min(waiting, key=lambda waiter: self._waiting[waiter])
            del self._waiting[first]
            first.set_result(True)

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look again when another dial may begin, if it is not dials under way that hold it up."""
        if self._next is not None:
            self._next.cancel()
        if self._free > 0:
            wait_s = (1 - self._left) / self._a_second
            self._next = loop.call_later(wait_s + CLOCK_S, self._let_begin)


CLOCK_S = 0.001
"""Seconds by which a timer may be early."""


def _too_late(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)
