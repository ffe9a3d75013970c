"""A TCP connection as a `Wire`, and the socket options that make it fit for bad networks.

The kernel's counters say what a connection has carried, and little waits in the kernel unsent.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys

from semantic_net.transport.base import LinkTotals
from semantic_net.transport.hub import Hub
from semantic_net.transport.link_meter import Reading
from semantic_net.transport.stream_wire import StreamWire
from semantic_net.transport.tls import Pins

log = logging.getLogger(__name__)

UNSENT_BYTES = (16 * 1024, 64 * 1024)
"""Fewest and most bytes that may wait in the kernel unsent. They delay every control frame behind
them, so a slow link gets few; many spare a fast one some work."""


class SocketWire(StreamWire):
    """One TCP connection, with TLS on it or without."""

    def __init__(self, hub: Hub, dialled: str | None, pins: Pins | None = None) -> None:
        """Wait for the connection; see `StreamWire`."""
        super().__init__(hub, dialled, pins)
        self._unsent_bytes = UNSENT_BYTES[0]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        tune(transport.get_extra_info("socket"), self._hub.settings.dead_after_s)
        super().connection_made(transport)

    def _read_counters(self) -> Reading | None:
        reading = tcp_counters(self._transport.get_extra_info("socket"))
        if reading is None:
            return None
        totals, has_arrived = reading
        return totals, has_arrived and not self._transport.get_write_buffer_size()

    def _fit_unsent(self, frame_bytes: int) -> None:
        fewest, most = UNSENT_BYTES
        wanted = min(max(frame_bytes // 2, fewest), most)
        if not self._unsent_bytes / 2 < wanted < self._unsent_bytes * 2:
            self._unsent_bytes = wanted
            set_option(self._transport.get_extra_info("socket"), *unsent_option(wanted))


_RTT, _UNACKED, _NOT_SENT = 68, 24, 144
_BYTES_ACKED, _BUSY_TIME, _BYTES_RETRANS, _INFO_BYTES = 120, 168, 208, 216
"""Where Linux has them in its ``tcp_info`` (include/uapi/linux/tcp.h), since 4.19."""


def tcp_counters(sock: socket.socket) -> Reading | None:
    """Return what Linux counts of a TCP connection; None where it does not."""
    info = _tcp_info(sock)
    if info is None:
        return None
    acked, busy_us, lost = (
        struct.unpack_from("=Q", info, offset)[0]
        for offset in (_BYTES_ACKED, _BUSY_TIME, _BYTES_RETRANS)
    )
    under_way = sum(struct.unpack_from("=I", info, at)[0] for at in (_UNACKED, _NOT_SENT))
    return LinkTotals(acked, busy_us / 1e6, lost), not under_way


def round_trip_s(sock: socket.socket) -> float | None:
    """Return the seconds of a round trip, smoothed, as Linux has seen it; None where it has not."""
    info = _tcp_info(sock)
    if info is None:
        return None
    microseconds: int = struct.unpack_from("=I", info, _RTT)[0]
    return microseconds / 1e6 or None


def _tcp_info(sock: socket.socket) -> bytes | None:
    option = getattr(socket, "TCP_INFO", None)
    if option is None or sys.platform != "linux":
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, option, _INFO_BYTES)
    except OSError as exc:
        log.debug("no TCP_INFO: %s", exc)
        return None
    return info if len(info) >= _INFO_BYTES else None  # less: an old kernel


Option = tuple[int, str, int | bytes]


def tune(sock: socket.socket, dead_after_s: float) -> None:
    """Set what makes a dead link seen in seconds and a slow one fast; all of it optional."""
    probe_s = max(1, round(dead_after_s / 4))
    wanted: list[Option] = [
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", probe_s),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", probe_s),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", round(1000 * dead_after_s)),
        (socket.IPPROTO_TCP, "TCP_RTO_MAX_MS", 1000 * probe_s // 2),
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.IPPROTO_TCP, "TCP_CONGESTION", b"bbr"),  # bears loss that is not congestion
        unsent_option(UNSENT_BYTES[0]),
    ]
    for option in wanted:
        set_option(sock, *option)


_NUMBERS = {"TCP_RTO_MAX_MS": 44}
"""Options of Linux that Python has no name for yet. TCP doubles its wait after every
retransmission in vain: without an upper limit a link that is back after 5 s may stay silent for
another 5. Kernels before 6.15 do not have it."""


def unsent_option(num_bytes: int) -> Option:
    """Return what bounds the bytes that wait in the kernel unsent."""
    return socket.IPPROTO_TCP, "TCP_NOTSENT_LOWAT", num_bytes


def set_option(sock: socket.socket, level: int, name: str, value: int | bytes) -> None:
    """Set a socket option where the platform and the kernel have it."""
    option = getattr(socket, name, _NUMBERS.get(name) if sys.platform == "linux" else None)
    if option is None:
        log.debug("this platform has no %s", name)
        return
    try:
        sock.setsockopt(level, option, value)
    except OSError as exc:
        log.debug("cannot set %s: %s", name, exc)
