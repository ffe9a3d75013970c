"""Where a peer's heavy work is done: two threads beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class ThreadRunner:
    """One thread learns (train, encode, fold, evaluate), another checks what arrives."""

    def __init__(self) -> None:
        self._learn = ThreadPoolExecutor(max_workers=1, thread_name_prefix="learn")
        self._check = ThreadPoolExecutor(max_workers=1, thread_name_prefix="check")

    def learn(self, work: Callable[[], T]) -> Awaitable[T]:
        """Do a piece of the learner's work, one after the other."""
        return asyncio.get_running_loop().run_in_executor(self._learn, work)

    def check(self, work: Callable[[], T]) -> Awaitable[T]:
        """Hash and parse something that has arrived, while the learner may be busy."""
        return asyncio.get_running_loop().run_in_executor(self._check, work)

    def close(self) -> None:
        """Wait for what is running; begin nothing new."""
        self._learn.shutdown(wait=True, cancel_futures=True)
        self._check.shutdown(wait=True, cancel_futures=True)
