"""Asks the system where names lead, in threads that nothing else waits for.

A name may take the resolver half a minute, and nobody can break that off. So each name is asked for
once at a time, whoever has gone meanwhile, in so many threads and no more; in asyncio's own threads
such names would hold up whatever else works there.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from typing import Any

Place = tuple[socket.AddressFamily, tuple[Any, ...]]
"""What a socket of this family can be connected to."""


class Names:
    """Names that are asked for."""

    def __init__(self, num_threads: int) -> None:
        """Begin without threads."""
        self._free = num_threads
        self._asked: dict[str, asyncio.Future[list[Place]]] = {}
        self._waiting: list[asyncio.Future[None]] = []

    async def places(self, host: str, port: int) -> list[Place]:
        """Return where a name leads, in the order in which to try.

        Raises:
            OSError: Nobody knows it.
            UnicodeError: It is none.
        """
        loop = asyncio.get_running_loop()
        while (asked := self._asked.get(host)) is None and not self._free:
            turn: asyncio.Future[None] = loop.create_future()
            self._waiting.append(turn)
            await turn
        found = await asyncio.shield(asked or self._ask(loop, host))
        return [(family, (where[0], port, *where[2:])) for family, where in found]

    def _ask(self, loop: asyncio.AbstractEventLoop, host: str) -> asyncio.Future[list[Place]]:
        asked: asyncio.Future[list[Place]] = loop.create_future()
        self._asked[host] = asked
        self._free -= 1

        def ask() -> None:
            answer: list[Place] | OSError | UnicodeError
            try:
                answer = _look_up(host)
            except (OSError, UnicodeError) as exc:
                answer = exc
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
                loop.call_soon_threadsafe(self._answered, host, asked, answer)

        # A daemon: the process does not wait for its end.
        thread = threading.Thread(target=ask, name=f"where is {host}", daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:  # this machine has no more of them
            self._answered(host, asked, OSError(str(exc)))
        return asked

    def _answered(
        self,
        host: str,
        asked: asyncio.Future[list[Place]],
        answer: list[Place] | OSError | UnicodeError,
    ) -> None:
        self._free += 1
        del self._asked[host]
        if isinstance(answer, list):
            asked.set_result(answer)
        else:
            asked.set_exception(answer)
            asked.exception()  # seen, even where nobody waits for it any more
        waiting, self._waiting = self._waiting, []
        for turn in waiting:  # all in their order: some may have gone
            if not turn.done():
                turn.set_result(None)


def numeric_places(host: str, port: int) -> list[Place] | None:
    """Return where a numeric address leads; None for a name.

    Raises:
        OSError: This machine has no such network.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return [(family, (where[0], port, *where[2:])) for family, where in _look_up(host, NUMERIC)]


NUMERIC = socket.AI_NUMERICHOST


def _look_up(host: str, flags: int = 0) -> list[Place]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=flags)
    # asyncio would ask for a host with a scope again: the scope has its own place behind.
    return [(family, (str(where[0]).partition("%")[0], *where[1:])) for family, *_, where in found]
