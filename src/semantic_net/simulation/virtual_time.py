"""An asyncio event loop whose clock jumps to the next timer instead of sleeping.

Hours of a simulated network pass in as long as its events take to compute, and two runs of the
same program see the same times. One thread only: real threads and sockets have clocks of their
own and are refused. When nothing is ready and nothing is scheduled nothing can ever happen again:
that is a `DeadlockError`, not a hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
import signal
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, NoReturn, TypeVar

from semantic_net.transport.memory_ends import Rank

T = TypeVar("T")

OWN_RANK: Rank = (2, "", "")
"""Of timers that have none: behind all that has one."""


class DeadlockError(RuntimeError):
    """Every task waits and no timer is left that could wake one."""


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """An event loop in virtual time, starting at 0.0 s."""

    _ready: deque[asyncio.Handle]
    """BaseEventLoop's own queue of what is due."""
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._home = threading.get_ident()
        # By time, by rank, and in the order in which they were set. BaseEventLoop's own heap
        # compares handles, which takes several times as long, and a fleet sets millions of them.
        self._timers: list[tuple[float, Rank, int, asyncio.TimerHandle]] = []
        self._num_timers = itertools.count()
        self._main: asyncio.Task[Any] | None = None
        self._takes_long = False
        self._is_interrupted = False

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._now_s

    def call_at(  # type: ignore[override]  # typeshed's takes Python 3.11 to write down
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """Call back at a virtual time."""
        return self._set(when, OWN_RANK, callback, args, context)

    def call_in_rank(
        self, when: float, rank: Rank, callback: Callable[..., object], *args: Any
    ) -> asyncio.TimerHandle:
        """Call back at a virtual time, among all that is due then in the order of the ranks.

        For what comes from elsewhere: in what order it was set is chance, and its rank is not.
        What has no rank comes behind.
        """
        return self._set(when, rank, callback, args, None)

    def _set(
        self,
        when: float,
        rank: Rank,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Any,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, rank, next(self._num_timers), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: it is dropped when its time has come."""

    def _run_once(self) -> None:
        """Call what is ready; if nothing is, let the time pass until the next timer.

        Raises:
            DeadlockError: There is none.
        """
        timers, ready = self._timers, self._ready
        if not ready and not self._stopping:
            self._now_s = max(self._now_s, self._next_s())
        while timers and timers[0][0] <= self._now_s:
            ready.append(heapq.heappop(timers)[3])
        for _ in range(len(ready)):  # what these make ready comes with the next turn
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _next_s(self) -> float:
        """Return when there is something to do again.

        Raises:
            DeadlockError: Never.
        """
        if (next_s := self._next_timer_s()) < math.inf:
            return next_s
        waiting = sorted(task.get_name() for task in asyncio.all_tasks(self))
        raise DeadlockError(
            "nothing is ready and nothing is scheduled; waiting: " + ", ".join(waiting)
        )

    def _next_timer_s(self) -> float:
        """Return when the next timer is due; infinity without one."""
        timers = self._timers
        while timers and timers[0][3]._cancelled:
            heapq.heappop(timers)
        return timers[0][0] if timers else math.inf

    @contextlib.contextmanager
    def long_work(self) -> Iterator[None]:
        """Let an interruption end what is being done here at once."""
        self._takes_long = True
        try:
            yield
        finally:
            self._takes_long = False

    @contextlib.contextmanager
    def orderly_interruptions(self) -> Iterator[None]:
        """Let `KeyboardInterrupt` end what `run_main` runs, and not what a signal just meets.

        Raised in the middle of a callback it would leave a task with an error that nobody asks
        for, a coroutine that nobody awaits, or a lock that nobody frees. For signals that have a
        handler which raises it; in the main thread alone, as no other gets signals.

        Raises:
            KeyboardInterrupt: It has come, if only when all was over.
        """

        def orderly(handler: Callable[[int, FrameType | None], object]) -> Callable[..., None]:
            def handle(number: int, frame: FrameType | None) -> None:
                try:
                    handler(number, frame)
                except KeyboardInterrupt:
                    if self._takes_long:
                        raise
                    self._is_interrupted = True
                    self._ready.appendleft(asyncio.Handle(self.interrupt, (), self))

            return handle

        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if callable(handler := signal.getsignal(number)):
                    before[number] = handler
                    signal.signal(number, orderly(handler))
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._is_interrupted:
            raise KeyboardInterrupt

    def interrupt(self) -> None:
        """Cancel what `run_main` runs, if it still does."""
        if self._main is not None:
            self._main.cancel()

    def run_main(self, main: Coroutine[Any, Any, T]) -> T:
        """Run ``main`` to its end, or until it is interrupted.

        Raises:
            KeyboardInterrupt: Instead of `asyncio.CancelledError`, where a signal has done it.
        """
        self._main = task = self.create_task(main)
        try:
            return self.run_until_complete(task)
        except asyncio.CancelledError as exc:
            if self._is_interrupted:
                raise KeyboardInterrupt from exc
            raise

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

    def _write_to_self(self) -> None:
        # What `call_soon_threadsafe` wakes the loop with; from this thread it is awake already.
        if threading.get_ident() != self._home:
            self._refuse_threads()


def run_virtual(main: Coroutine[Any, Any, T], loop: VirtualTimeLoop | None = None) -> T:
    """Run ``main`` to its end in virtual time, then cancel what is left, as `asyncio.run` does.

    Args:
        main: What to run.
        loop: A new one that runs it, if not a plain one; it is closed.

    Raises:
        DeadlockError: ``main`` waits for something that cannot happen.
        KeyboardInterrupt: A signal has interrupted it; what is left has been cancelled.
    """
    loop = loop or VirtualTimeLoop()
    with loop.orderly_interruptions():
        try:
            return loop.run_main(main)
        finally:
            loop.run_until_complete(_cancel_others())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
