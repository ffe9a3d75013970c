"""An asyncio event loop whose clock jumps to the next timer instead of sleeping.

Hours of a simulated network pass in as long as its events take to compute, and two runs of the
same program see the same times. One thread only: real threads and sockets have clocks of their
own and are refused. When nothing is ready and nothing is scheduled nothing can ever happen again:
that is a `DeadlockError`, not a hang.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class DeadlockError(RuntimeError):
    """Every task waits and no timer is left that could wake one."""


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """An event loop in virtual time, starting at 0.0 s."""

    _scheduled: list[asyncio.TimerHandle]
    """BaseEventLoop's own heap of timers."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._home = threading.get_ident()
        self._selector = _Jump(self)  # what BaseEventLoop waits with

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._now_s

    def jump(self, timeout_s: float | None) -> None:
        """Let the time pass that the loop would have slept.

        Raises:
            DeadlockError: It would have slept for ever.
        """
        if timeout_s is None:
            waiting = sorted(task.get_name() for task in asyncio.all_tasks(self))
            raise DeadlockError(
                "nothing is ready and nothing is scheduled; waiting: " + ", ".join(waiting)
            )
        if timeout_s > 0:
            # The very time of the next timer, and no timer ahead of its time: several of those that
            # come too early, find nothing to do and try again would keep the clock from moving.
            self._now_s = self._scheduled[0].when()
            self._clock_resolution = math.ulp(self._now_s)  # BaseEventLoop wants some

    def run_in_executor(  # type: ignore[override]  # typeshed's takes Python 3.11 to write down
        self, executor: Any, func: Any, *args: Any
    ) -> NoReturn:
        """Refuse: a thread would run in real time."""
        self._refuse_threads()

    def _refuse_threads(self) -> NoReturn:
        raise RuntimeError(
            "a VirtualTimeLoop runs no threads, they live in real time: "
            "call the function directly, or use a fake that takes virtual time"
        )

    def _process_events(self, event_list: list[Any]) -> None:
        assert not event_list, "there are no sockets in virtual time"

    def _write_to_self(self) -> None:
        # What `call_soon_threadsafe` wakes the loop with; from this thread it is awake already.
        if threading.get_ident() != self._home:
            self._refuse_threads()


class _Jump:
    """In the place of a selector: no files to watch, and no sleep."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        self._loop.jump(timeout)
        return []


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end in virtual time, then cancel what is left, as `asyncio.run` does.

    Raises:
        DeadlockError: ``main`` waits for something that cannot happen.
    """
    loop = VirtualTimeLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(_cancel_others())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
