"""What a peer of a large fleet passes on, a while after it has come: much goes out together.

By then it has heard the same from most of its neighbours, and leaves those out. Pure.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.messages import HeartbeatMessage

RELAY_WAIT = 0.03
"""Share of its life that a sign of life may wait in a large fleet, at each of some ten peers on its
way, to be passed on with others."""

NEWS_WAIT = 0.05
"""Share of a round that the news of a turn in a later one may wait at each of them."""


@dataclass(slots=True)
class Waiting:
    """A heartbeat to pass on."""

    message: HeartbeatMessage
    heard_from: set[PeerId]
    """The neighbours that have told us of it."""
    due_at: float


class Relay:
    """The heartbeats that wait, the latest of each peer."""

    def __init__(self, me: PeerId, liveness_s: float) -> None:
        """Wait for nothing.

        Args:
            me: This peer.
            liveness_s: Seconds of silence after which a peer counts as gone.
        """
        self._liveness_s = liveness_s
        self._leisure = _leisure(me)
        self._waiting: dict[PeerId, Waiting] = {}
        self.next_due = math.inf
        """When something has to go out."""

    def wait_s(self, round_s: float, *, is_news: bool, is_now: bool) -> float:
        """Return the seconds that a heartbeat may wait for others to go out with.

        Args:
            round_s: Seconds that a round takes.
            is_news: It says of a turn what was not known.
            is_now: That turn is in the round that is open.
        """
        wait_s = self._leisure * RELAY_WAIT * self._liveness_s
        if not is_news:
            return wait_s
        return 0.0 if is_now else min(wait_s, self._leisure * NEWS_WAIT * round_s)

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


def _leisure(me: PeerId) -> float:
    """Return by how much of the usual a peer waits to pass on, 0.5 to 1.5.

    Two that waited alike would both tell each other; now one has heard it by then.
    """
    return 0.5 + int.from_bytes(hashlib.sha256(me.encode()).digest()[:4], "big") / (1 << 32)
