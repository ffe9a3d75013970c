"""The bytes of a library's connections are those that the sockets carry."""

from __future__ import annotations

import socket
import sys

import pytest

from semantic_net.federated.port_traffic import PortTraffic

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="as Linux counts")


def test_both_ends_count_the_same() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with PortTraffic(port) as server, PortTraffic(port, is_remote=True) as client:
            with socket.create_connection(("127.0.0.1", port)) as dialled:
                accepted, _ = listening.accept()
                with accepted:
                    dialled.sendall(b"x" * 5000)
                    assert len(accepted.recv(5000, socket.MSG_WAITALL)) == 5000
                    accepted.sendall(b"y" * 70)
                    assert len(dialled.recv(70, socket.MSG_WAITALL)) == 70
                    assert server.since_last() == (70, 5000)
                    assert client.since_last() == (5000, 70)
                    assert server.since_last() == (0, 0)
            assert server.totals() == (70, 5000), "what has ended stays counted"


def test_looking_leaves_no_descriptor_open() -> None:
    import os

    before = len(os.listdir("/proc/self/fd"))
    with PortTraffic(1) as traffic:
        for _ in range(50):
            assert traffic.totals() == (0, 0)
    assert len(os.listdir("/proc/self/fd")) == before
