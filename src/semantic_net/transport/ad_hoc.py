"""The transport for real networks: TCP between peers that listen and dial.

Owns the listening socket and the dialling; what a connection becomes is the hub's.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import os
import socket
from collections.abc import Sequence
from typing import Any

from semantic_net.errors import StartError
from semantic_net.protocol.address import Address
from semantic_net.transport.base import TransportHandler
from semantic_net.transport.common import HubTransport
from semantic_net.transport.connection import Connection, reason_of
from semantic_net.transport.names import Names, Place, numeric_places
from semantic_net.transport.tcp import SocketWire

BACKLOG = 128

ACCEPT_TURNS = 3
"""Turns of the event loop until a connection that asyncio has accepted is handed to us."""

NAMED_THREADS, LEARNED_THREADS = 8, 2
"""Names that are asked for at a time, of those that the user gave and of those that were learned:
of these anybody may make up some that no resolver has an answer for."""

_BIND_HINTS = {
    errno.EADDRINUSE: "the port is in use: stop the other program, or choose another port",
    errno.EADDRNOTAVAIL: "no network interface has this address: give one of this machine's",
    errno.EACCES: "not permitted: choose a port over 1023",
}


class AdHocTransport(HubTransport):
    """Moves frames over TCP, or over TLS on it; a `Transport`."""

    _server: asyncio.Server | None = None
    _address: Address

    @functools.cached_property
    def _names(self) -> Names:
        return Names(NAMED_THREADS)

    @functools.cached_property
    def _learned_names(self) -> Names:
        return Names(LEARNED_THREADS)

    @property
    def address(self) -> str:
        """Where this peer listens, as ``host:port``; valid once started."""
        return str(self._address)

    async def start(self, handler: TransportHandler) -> None:
        """Listen and begin to dial.

        Raises:
            StartError: The port is busy or the address is not ours.
        """
        self._server = await self._bind()
        port = self._server.sockets[0].getsockname()[1]
        self._address = Address(self._settings.host, port)
        named = f":{port}" if self._address.is_wildcard else str(self._address)
        self._hub.start(handler, (named,))
        try:
            await self._server.start_serving()
        except OSError as exc:  # another program began to listen since we bound
            await self.close()
            raise _start_error(self._settings.host, self._settings.port, exc) from exc
        self._dial_peers()
        self._watch_trust()

    async def _bind(self) -> asyncio.Server:
        sock = await bound_socket(self._settings.host, self._settings.port)
        return await asyncio.get_running_loop().create_server(
            lambda: SocketWire(self._hub, None, self._pins),
            sock=sock,
            backlog=BACKLOG,
            start_serving=False,
        )

    def _is_own(self, address: Address) -> bool:
        return is_own(address, self._address)

    async def _dial(self, address: Address) -> Connection:
        host, port = address.host, address.port
        places = numeric_places(host, port)
        if places is None:
            names = self._names if self._dialer.is_named(address) else self._learned_names
            places = await names.places(host, port)
        sock = await _connected_socket(places)
        _, wire = await asyncio.get_running_loop().create_connection(
            lambda: SocketWire(self._hub, str(address), self._pins), sock=sock
        )
        return wire.connection

    async def close(self) -> None:
        """Flush the control lane within a bounded time, then close every connection."""
        self._stop_watching_trust()
        if self._server is not None:
            self._server.close()
        await self._dialer.close()
        for _ in range(ACCEPT_TURNS):
            await asyncio.sleep(0)
        await self._hub.close()
        if self._server is not None:
            await self._server.wait_closed()


async def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound and does not listen yet.

    Raises:
        StartError: The port is busy or the address is not ours.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            host or "0.0.0.0",  # nosec B104  # a peer is there to be reached
            port,
            type=socket.SOCK_STREAM,
        )
        # The first address only: a name with several would get several ports for port 0.
        return _bound_socket(found[0][0], found[0][4])
    except OSError as exc:
        raise _start_error(host, port, exc) from exc


async def _connected_socket(places: Sequence[Place]) -> socket.socket:
    """Connect to the first place where somebody answers.

    Raises:
        OSError: Nobody does.
    """
    failure = OSError("the name leads nowhere")
    for family, where in places:
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, where)
            return sock
        except OSError as exc:
            failure = exc
            if sock is not None:
                sock.close()
        except BaseException:  # broken off: nobody has the socket
            if sock is not None:
                sock.close()
            raise
    raise failure


def _start_error(host: str, port: int, exc: OSError) -> StartError:
    hint = _BIND_HINTS.get(exc.errno or 0, reason_of(exc))
    return StartError(f"cannot listen on {Address(host, port)}: {hint}")


def _bound_socket(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two programs share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def is_own(address: Address, listening: Address) -> bool:
    """Tell whether a numeric address leads to whoever listens at another on this machine."""
    if address.port != listening.port:
        return False
    return address == listening or (
        listening.is_wildcard and _belongs_to_this_machine(address.host)
    )


def _belongs_to_this_machine(host: str) -> bool:
    """Tell whether a numeric address is one of this machine's; of a name nobody is asked."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((host, 0))
    except (ValueError, OSError):
        return False
    return True
