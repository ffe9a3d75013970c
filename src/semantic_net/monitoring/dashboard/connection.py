"""One connection to the page, held to what a browser does: it asks at once, and takes what it gets.

The page shares the peer's file descriptors. Whoever opens connections and says nothing on them
must not keep the peer from its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

MAX_CONNECTIONS = 64

ASK_S = 10.0
"""Seconds that a connection may take to ask for something, at least."""

TAKE_S = 30.0
"""Seconds after which a reader that takes nothing of what it is sent is gone."""


class Connection(H11Protocol):
    """A connection that ends when it is of no use, or when another one is of more."""

    _answered: RequestResponseCycle | None = None
    """The last request, at the last look."""
    _look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; of too many, end the one that has been without a request for longest."""
        super().connection_made(transport)
        self._made_at = self.loop.time()
        others = [c for c in self.connections if isinstance(c, Connection) and c._is_open]
        if len(others) > MAX_CONNECTIONS:
            idle = (c for c in others if c._is_idle and c is not self)
            min(idle, key=lambda c: c._made_at, default=self).transport.abort()
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    @property
    def _is_open(self) -> bool:
        return not self.transport.is_closing()

    @property
    def _is_idle(self) -> bool:
        # Its type says otherwise: there is none before the first request.
        return self.cycle is None or self.cycle.response_complete

    def _look_later(self) -> None:
        self._look = self.loop.call_later(ASK_S, self._look_now)

    def _look_now(self) -> None:
        if self._is_idle and self.cycle is self._answered:
            self.transport.abort()
            return
        self._answered = self.cycle
        self._look_later()


def bear_no_silence(listening: socket.socket) -> None:
    """Have the kernel end each connection whose other end acknowledges or takes nothing."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        with contextlib.suppress(OSError):  # then TCP's own patience is what there is
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * TAKE_S))
