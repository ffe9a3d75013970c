"""What a library's connections carry: as the kernel counts it, socket by socket."""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
import threading
from types import TracebackType

_BYTES_RECEIVED, _BYTES_SENT, _INFO_BYTES = 128, 200, 208
"""Where Linux has them in its ``tcp_info`` (include/uapi/linux/tcp.h), since 4.19. What had to be
sent again counts again."""

SAMPLE_S = 0.2


class PortTraffic:
    """Sums up the bytes of all connections of this process with one port at one end.

    What a connection carries between the last look and its end is not counted.
    """

    def __init__(self, port: int, *, is_remote: bool = False) -> None:
        """Look every 0.2 s, until `close`.

        Args:
            port: That this process listens on.
            is_remote: It is that of the other end instead.
        """
        self._port, self._is_remote = port, is_remote
        self._of: dict[object, tuple[int, int]] = {}
        self._told = (0, 0)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="port-traffic", daemon=True)
        self._thread.start()

    def __enter__(self) -> PortTraffic:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Look no more."""
        self._closing.set()
        self._thread.join()

    def totals(self) -> tuple[int, int]:
        """Return the bytes sent and received so far."""
        self._look()
        with self._lock:
            return sum(s for s, _ in self._of.values()), sum(r for _, r in self._of.values())

    def since_last(self) -> tuple[int, int]:
        """Return the bytes sent and received since this was asked before."""
        now, before = self.totals(), self._told
        self._told = now
        return now[0] - before[0], now[1] - before[1]

    def _look_on(self) -> None:
        while not self._closing.wait(SAMPLE_S):
            self._look()

    def _look(self) -> None:
        if sys.platform != "linux":
            return
        found = {}
        for name in os.listdir("/proc/self/fd"):
            counted = self._counters(int(name))
            if counted is not None:
                found[counted[0]] = counted[1]
        with self._lock:
            self._of |= found

    def _counters(self, descriptor: int) -> tuple[object, tuple[int, int]] | None:
        """Return both ends, and the bytes sent and received, of a connection with the port."""
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                return None
            own = os.dup(descriptor)
        except OSError:
            return None  # closed meanwhile
        try:
            sock = socket.socket(fileno=own)
        except OSError:
            os.close(own)
            return None
        with sock:
            try:
                if sock.type != socket.SOCK_STREAM or sock.family == socket.AF_UNIX:
                    return None
                ends = sock.getsockname(), sock.getpeername()
                if ends[self._is_remote][1] != self._port:
                    return None
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
            except OSError:
                return None  # it listens, or has ended
        if len(info) < _INFO_BYTES:
            return None  # an old kernel
        sent, received = (
            struct.unpack_from("=Q", info, offset)[0] for offset in (_BYTES_SENT, _BYTES_RECEIVED)
        )
        return ends, (sent, received)
