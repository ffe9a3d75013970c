"""What a peer of a large fleet passes on when it looks at what has come: much goes out together.

By then it has heard the same from most of its neighbours, and leaves those out. Pure.
"""

from __future__ import annotations

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


class Relay:
    """The heartbeats that wait, the latest of each peer."""

    def __init__(self) -> None:
        self._waiting: dict[PeerId, Waiting] = {}

    def add(self, origin: PeerId, message: HeartbeatMessage, sender: PeerId) -> None:
        """Let a heartbeat wait, in the place of an earlier one of its peer."""
        self._waiting[origin] = Waiting(message, {sender})

    def heard_again(self, origin: PeerId, message: HeartbeatMessage, sender: PeerId) -> None:
        """Note that a neighbour has told us of something that is no news any more."""
        waiting = self._waiting.get(origin)
        if waiting is not None and waiting.message == message:
            waiting.heard_from.add(sender)

    def take(self) -> Iterator[tuple[PeerId, Waiting]]:
        """Yield what waits, by its origin; it waits no more."""
        waiting, self._waiting = self._waiting, {}
        yield from waiting.items()
