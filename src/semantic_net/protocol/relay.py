"""What waits to be passed on in a large fleet: a moment, so that much goes out together.

By then most neighbours have heard it from somebody else, and are left out. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.messages import HeartbeatMessage

RELAY_S = 0.1
"""Seconds that something waits."""


@dataclass(slots=True)
class Waiting:
    """A heartbeat to pass on."""

    message: HeartbeatMessage
    heard_from: set[PeerId]
    """The neighbours that have told us of it."""


class Relay:
    """The heartbeats that wait, the latest of each peer."""

    def __init__(self) -> None:
        self._waiting: dict[PeerId, Waiting] = {}
        self.due_at: float | None = None
        """When all that waits is to go out."""

    def add(self, origin: PeerId, message: HeartbeatMessage, sender: PeerId, now: float) -> None:
        """Let a heartbeat wait, in the place of an earlier one of its peer."""
        self._waiting[origin] = Waiting(message, {sender})
        if self.due_at is None:
            self.due_at = now + RELAY_S

    def heard_again(self, origin: PeerId, message: HeartbeatMessage, sender: PeerId) -> None:
        """Note that a neighbour has told us of something that is no news any more."""
        waiting = self._waiting.get(origin)
        if waiting is not None and waiting.message == message:
            waiting.heard_from.add(sender)

    def take(self, now: float) -> Iterator[tuple[PeerId, Waiting]]:
        """Yield what is due, by its origin; it waits no more."""
        if self.due_at is not None and now >= self.due_at:
            waiting, self._waiting, self.due_at = self._waiting, {}, None
            yield from waiting.items()
