"""Whether datagrams to a group come back on this machine's loopback, as multicast DNS needs."""

from __future__ import annotations

import functools
import socket

import pytest

GROUP = "239.255.77.77"
WAIT_S = 2.0


@functools.cache
def obstacle() -> str | None:
    """Return why multicast does not work on loopback here; None if it does."""
    loopback = socket.inet_aton("127.0.0.1")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("", 0))
            membership = socket.inet_aton(GROUP) + loopback
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
            sock.settimeout(WAIT_S)
            sock.sendto(b"anyone?", (GROUP, sock.getsockname()[1]))
            sock.recv(16)
    except OSError as exc:
        return f"no multicast on loopback: {exc}"
    return None


def skip_without_multicast() -> None:
    """Skip the calling test, saying why, where groups do not work on loopback."""
    if (why := obstacle()) is not None:
        pytest.skip(why)
