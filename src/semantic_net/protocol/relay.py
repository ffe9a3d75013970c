"""What a peer of a large fleet passes on, a while after it has come: much goes out together.

By then it has heard the same from most of its neighbours, and leaves those out. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.messages import HeartbeatMessage


@dataclass(slots=True)
class Waiting:
    """A heartbeat to pass on."""

    message: HeartbeatMessage
    heard_from: set[PeerId]
    """The neighbours that have told us of it."""
    due_at: float


class Relay:
    """The heartbeats that wait, the latest of each peer."""

    def __init__(self) -> None:
        self._waiting: dict[PeerId, Waiting] = {}
        self.next_due = math.inf
        """When something has to go out."""

    def add(self, origin: PeerId, message: HeartbeatMessage, sender: PeerId, due_at: float) -> None:
        """Let a heartbeat wait until then, in the place of an earlier one of its peer."""
        self._waiting[origin] = Waiting(message, {sender}, due_at)
        self.next_due = min(self.next_due, due_at)

    def heard_again(self, origin: PeerId, message: HeartbeatMessage, sender: PeerId) -> None:
        """Note that a neighbour has told us of something that is no news any more."""
        waiting = self._waiting.get(origin)
        if waiting is not None and waiting.message == message:
            waiting.heard_from.add(sender)

    def take(self, now: float) -> Iterator[tuple[PeerId, Waiting]]:
        """Yield what waits, by its origin, if something of it is due; it waits no more."""
        if now >= self.next_due:
            waiting, self._waiting, self.next_due = self._waiting, {}, math.inf
            yield from waiting.items()
