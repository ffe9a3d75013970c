"""Which connection is the one session with a peer, and what became of earlier ones.

The judgement that the handshake asks for, shared by every transport. One session a peer: a second
connection is refused unless the other end says that it lost the first, or it is another instance
of a peer that has been silent. When there are many sessions, whom we dial or were told of still
gets one. Time comes in as ``now``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from semantic_net.protocol.handshake import (
    BUSY,
    DUPLICATE_CONNECTION,
    DUPLICATE_KEY,
    MAX_LOST_SESSIONS,
    Established,
    Refusal,
)
from semantic_net.protocol.identity import PeerId, short_id
from semantic_net.transport.quarantine import Quarantine

MAX_OF_DEVICE = 8
"""Most sessions with peers of one device that call us: each costs memory."""

MAX_PEERS_WITH_LOST = 1024
"""Peers whose lost sessions are remembered; strangers can invent any number of peers. Of sessions
that were, and of those that perhaps were, each: who only says a name displaces no session of its
owner's."""


class LiveConnection(Protocol):
    """What the table must know of a connection."""

    @property
    def heard_at(self) -> float:
        """When the last byte arrived."""
        ...

    @property
    def device(self) -> PeerId | None:
        """Which device it has proven to come from."""
        ...


C = TypeVar("C", bound=LiveConnection)


class SessionTable(Generic[C]):
    """The live session of each peer; a `SessionBook` for handshakes."""

    def __init__(
        self,
        max_sessions: int,
        liveness_s: float,
        clock: Callable[[], float],
        is_named: Callable[[PeerId], bool] = lambda peer: False,
    ) -> None:
        """Take the limits, the clock, and who always gets a session."""
        self._max_sessions = max_sessions
        self._is_named = is_named
        self._liveness_s = liveness_s
        self._clock = clock
        self._live: dict[PeerId, tuple[Established, C]] = {}
        self._quarantine = Quarantine()
        self._lost: dict[PeerId, bytes] = {}
        self._perhaps_lost: dict[PeerId, deque[bytes]] = {}

    def __contains__(self, peer: object) -> bool:
        return peer in self._live

    def get(self, peer: PeerId) -> C | None:
        """Return the connection that carries the session with ``peer``."""
        entry = self._live.get(peer)
        return entry[1] if entry else None

    def __len__(self) -> int:
        return len(self._live)

    def connections(self) -> dict[PeerId, C]:
        """Return what carries each session."""
        return {peer: connection for peer, (_, connection) in self._live.items()}

    def silent(self) -> list[C]:
        """Return the connections of sessions that show no life."""
        now = self._clock()
        return [c for _, c in self._live.values() if now - c.heard_at > self._liveness_s]

    def lost_sessions(self, peer: PeerId) -> Sequence[bytes]:
        """Return ids of sessions lost since the last one with ``peer`` that held."""
        perhaps = self._perhaps_lost.get(peer, ())
        lost = (self._lost[peer],) if peer in self._lost else ()
        return (*perhaps, *lost)[-MAX_LOST_SESSIONS:]

    def objection(
        self, peer: PeerId, incarnation: int, *, dialled: bool, device: PeerId | None = None
    ) -> Refusal | None:
        """Refuse whom we keep out, another instance of a live peer, or one caller too many."""
        if (refusal := self._quarantine.objection(device or peer, self._clock())) is not None:
            return refusal
        if (entry := self._live.get(peer)) is None:
            if not dialled and self._num_of(device) >= MAX_OF_DEVICE:
                return Refusal(BUSY, f"{MAX_OF_DEVICE} peers of this device are connected")
            if dialled or len(self._live) < self._max_sessions or self._is_named(peer):
                return None
            return Refusal(BUSY, f"{self._max_sessions} peers are connected, as many as may call")
        established, connection = entry
        if established.hello.incarnation == incarnation:
            return None
        if self._clock() - connection.heard_at > self._liveness_s:
            return None
        return Refusal(
            DUPLICATE_KEY, f"another instance of {short_id(peer)} is connected and alive"
        )

    def _num_of(self, device: PeerId | None) -> int:
        if device is None:
            return 0
        return sum(connection.device == device for _, connection in self._live.values())

    def no_room(self, candidate: Established) -> Refusal | None:
        """Refuse a second connection, unless the other end lost the first or is a new instance."""
        if (entry := self._live.get(candidate.peer)) is None:
            return None
        established = entry[0]
        if established.hello.incarnation != candidate.hello.incarnation:
            return None  # `objection` has let it pass: the old instance is silent
        if established.session_id in candidate.lost_sessions:
            return None
        return Refusal(DUPLICATE_CONNECTION, "there is a session between these peers already")

    def begin(self, established: Established, connection: C) -> C | None:
        """Make ``connection`` the session with its peer; return the one that it replaces."""
        replaced = self.get(established.peer)
        self._live[established.peer] = (established, connection)
        self._lost.pop(established.peer, None)
        self._perhaps_lost.pop(established.peer, None)
        return replaced

    def end(self, peer: PeerId, connection: C) -> bool:
        """Take ``connection`` out; return whether it was the session with ``peer``."""
        if self.get(peer) is not connection:
            return False
        del self._live[peer]
        return True

    def broke_protocol(self, peer: PeerId, device: PeerId | None, reason: str) -> None:
        """Note that a peer has broken the protocol within a session."""
        self._quarantine.strike(device or peer, reason, self._clock())

    def clear(self) -> None:
        """Forget every session."""
        self._live.clear()

    def note_lost(self, peer: PeerId, session_id: bytes, *, is_proven: bool) -> None:
        """Remember a session that the other end may still believe in.

        Args:
            peer: With whom.
            session_id: Which.
            is_proven: It was one. Else somebody said to be ``peer``, and went before it proved so:
                perhaps the proof was on its way.
        """
        if is_proven:
            self._lost[peer] = session_id  # there was one: each that begins ends those before
            _make_room(self._lost)
        else:
            none: deque[bytes] = deque(maxlen=MAX_LOST_SESSIONS)
            self._perhaps_lost.setdefault(peer, none).append(session_id)
            _make_room(self._perhaps_lost)


def _make_room(lost: dict[PeerId, Any]) -> None:
    if len(lost) > MAX_PEERS_WITH_LOST:
        del lost[next(iter(lost))]  # the one first noted
