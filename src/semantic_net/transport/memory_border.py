"""Where a network in memory crosses from one process into another.

Each process has some of the machines. What crosses is a message with the instant at which it
arrives: the link's delay is what gives each process the time to go on without the others.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec

from semantic_net.transport.memory_ends import Dial, Item

What = Literal["asked", "answered", "accepted", "arrive", "acknowledge", "break", "over"]


class Message(msgspec.Struct, array_like=True, frozen=True):
    """What one machine sends to another."""

    at_s: float
    """When it arrives."""
    source: str
    target: str
    dial: Dial
    """What it is about."""
    what: What
    args: tuple[Any, ...] = ()


class Border(Protocol):
    """Knows which machines are here, and has a way to the others."""

    def is_here(self, name: str) -> bool:
        """Tell whether a machine is in this process."""
        ...

    def send(self, message: Message) -> None:
        """Bring a message to the process of its target before the instant of its arrival."""
        ...


class NoBorder:
    """Of a network that is in one process."""

    def is_here(self, name: str) -> bool:
        """Tell that every machine is."""
        return True

    def send(self, message: Message) -> None:
        """Do not do what nobody asks for."""
        raise AssertionError(f"{message.target} is here")


class Elsewhere:
    """An end of a connection that is in another process; a `FarEnd`."""

    __slots__ = ("_border", "_dial", "_source", "_target")

    def __init__(self, border: Border, source: str, target: str, dial: Dial) -> None:
        """Take the machine that is here, the one that is not, and their connection."""
        self._border = border
        self._source = source
        self._target = target
        self._dial = dial

    def arrive(self, at_s: float, item: Item, on_line: int, enters_s: float) -> None:
        """Take something from the link; see `FarEnd`."""
        self._send(at_s, "arrive", (item, on_line, enters_s))

    def acknowledge(self, at_s: float, share_bytes_s: float | None) -> None:
        """Learn that something was taken; see `FarEnd`."""
        self._send(at_s, "acknowledge", (share_bytes_s,))

    def break_at(self, at_s: float, reason: str) -> None:
        """Lose the connection; see `FarEnd`."""
        self._send(at_s, "break", (reason,))

    def _send(self, at_s: float, what: What, args: tuple[Any, ...]) -> None:
        self._border.send(Message(at_s, self._source, self._target, self._dial, what, args))
