"""What the two ends of a connection in memory are to each other, and the clock that both go by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import IntEnum, auto
from typing import Any, Protocol, cast

Dial = tuple[str, int]
"""A connection: who has dialled, and which of its dials it was."""

Rank = tuple[int, str, str]
"""In what order things come that come at one instant: what crosses a link (0, sender, receiver),
then what senders go on with (1), then the rest (2)."""


class Clock(Protocol):
    """What the network needs of the event loop: that of a simulation."""

    def time(self) -> float:
        """Return the seconds since it began."""
        ...

    def call_soon(self, callback: Callable[..., object], *args: Any) -> asyncio.Handle:
        """Call back at once, but not from within the caller."""
        ...

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any
    ) -> asyncio.TimerHandle:
        """Call back at an instant."""
        ...

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any
    ) -> asyncio.TimerHandle:
        """Call back after some seconds."""
        ...

    def call_in_rank(
        self, when: float, rank: Rank, callback: Callable[..., object], *args: Any
    ) -> asyncio.TimerHandle:
        """Call back at an instant, in an order that does not depend on who has asked first."""
        ...


class Mark(IntEnum):
    """What is no frame but arrives in order behind them."""

    END = auto()
    RESET = auto()


Item = bytes | Mark
"""What is sent at once."""


class FarEnd(Protocol):
    """The other end of a connection; what it is told it knows at an instant to come."""

    def arrive(self, at_s: float, item: Item, on_line: int, enters_s: float) -> None:
        """Take something from the link.

        Args:
            at_s: When the last of it is there.
            item: What it is.
            on_line: Its bytes, headers included.
            enters_s: When the first of it is there.
        """
        ...

    def acknowledge(self, at_s: float, share_bytes_s: float | None) -> None:
        """Learn that the oldest of what is under way was taken, and of the downlink our share."""
        ...

    def break_at(self, at_s: float, reason: str) -> None:
        """Lose the connection."""
        ...


def clock() -> Clock:
    """Return the loop that runs."""
    return cast("Clock", asyncio.get_running_loop())
