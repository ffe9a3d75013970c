"""What a peer tells systemd of itself: that it is up, what it is at, that its loop is alive.

systemd names a datagram socket in ``NOTIFY_SOCKET`` for a unit of ``Type=notify``, and in
``WATCHDOG_USEC`` how long it bears silence. The signs of life come from the event loop, never from
a thread: a loop that hangs must fall silent. Without a socket nothing is said, and no error here
ends a run: what systemd did not take is said again with the next message.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)

MAX_STATUS_CHARS = 200


class ServiceManager:
    """The service manager that started this process, if one did; spoken to from the event loop."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        """Take where it listens and what it expects.

        Args:
            address: A path, ``@`` and a name in Linux's abstract namespace, or empty: none.
            watchdog_s: Longest silence before it ends this process; None bears any.
        """
        self.watchdog_s = watchdog_s
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self._unsaid: dict[str, str] = {}
        self._status = ""
        self._timer: asyncio.TimerHandle | None = None
        self._warned = False

    @classmethod
    def of(cls, environment: Mapping[str, str], pid: int) -> ServiceManager:
        """Return the one that an environment names; one that is told nothing if it names none.

        Args:
            environment: With ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``, if any.
            pid: This process. A watchdog that waits for another one is not this one's business.
        """
        address = environment.get("NOTIFY_SOCKET", "")
        if not address:
            return cls()
        if not address.startswith(("/", "@")) or len(address) < 2:
            log.warning("NOTIFY_SOCKET=%s: neither a path nor @name; systemd is not told", address)
            return cls()
        return cls(address, _watchdog_s(environment, pid))

    def ready(self) -> None:
        """Say that the start is over, and from now on give signs of life; inside the event loop."""
        self._tell(READY="1")
        if self._address and self.watchdog_s is not None and self._timer is None:
            self._beat(asyncio.get_running_loop(), self.watchdog_s / 2)

    def status(self, text: str) -> None:
        """Say in one line what goes on: ``systemctl status`` shows it."""
        line = " ".join(text.split())[:MAX_STATUS_CHARS]
        if line != self._status:
            self._status = line
            self._tell(STATUS=line)

    def stopping(self) -> None:
        """Say that the end has begun; signs of life go on until `close`."""
        self._tell(STOPPING="1", STATUS="stopping")

    def close(self) -> None:
        """Give no more signs of life."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _beat(self, loop: asyncio.AbstractEventLoop, every_s: float) -> None:
        self._tell(WATCHDOG="1")
        self._timer = loop.call_later(every_s, self._beat, loop, every_s)

    def _tell(self, **assignments: str) -> None:
        if not self._address:
            return
        self._unsaid |= assignments
        message = "\n".join(f"{name}={value}" for name, value in self._unsaid.items())
        try:
            if self._socket is None:
                self._socket = socket.socket(
                    socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
                )
                self._socket.setblocking(False)  # the loop waits for nobody
            self._socket.sendto(message.encode(errors="replace"), self._address)
        except OSError as exc:
            if not self._warned:
                self._warned = True
                log.warning("systemd cannot be told, the run goes on: %s", exc.strerror or exc)
        else:
            self._unsaid.clear()


def _watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    text = environment.get("WATCHDOG_USEC", "")
    if not text or environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        log.warning("WATCHDOG_USEC=%s: not a number of microseconds; no signs of life", text)
        return None
    return int(text) / 1e6
