"""What is said to systemd, on sockets that stand in for it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from semantic_net.monitoring.sd_notify import MAX_STATUS_CHARS, ServiceManager


@contextlib.contextmanager
def listening(address: str | bytes) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address)
        server.settimeout(30)
        yield server


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with listening(str(tmp_path / "notify")) as server:
        yield server


def manager_of(server: socket.socket, **more: str) -> ServiceManager:
    return ServiceManager.of({"NOTIFY_SOCKET": server.getsockname(), **more}, os.getpid())


def said(server: socket.socket) -> str:
    return server.recv(4096).decode()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": ""}, None),
    ],
)
def test_the_watchdog_is_what_the_environment_says_of_this_process(
    environment: dict[str, str], expected: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert ServiceManager.of({"NOTIFY_SOCKET": "/x", **environment}, 7).watchdog_s == expected
    assert caplog.messages == []


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "soon", "\u0663"])
def test_a_watchdog_that_is_no_number_is_a_warning(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert ServiceManager.of({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": text}, 7).watchdog_s is None
    assert "not a number of microseconds" in caplog.text


@pytest.mark.parametrize("address", ["vsock:2:1234", "relative", "@", "/"])
def test_an_address_of_another_kind_is_a_warning(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    manager = ServiceManager.of({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1"}, 7)
    assert manager.watchdog_s is None
    assert "systemd is not told" in caplog.text
    manager.stopping()
    assert len(caplog.messages) == 1


def test_without_a_socket_nothing_is_said_and_nothing_is_left_running(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = ServiceManager.of({"WATCHDOG_USEC": "1000"}, os.getpid())
    manager.ready()  # no loop runs: it would need one for signs of life
    manager.status("round 1/2: training")
    manager.stopping()
    manager.close()
    assert caplog.messages == []


def test_a_socket_in_the_abstract_namespace() -> None:
    name = f"semantic-net-test-{os.getpid()}"
    with listening(f"\0{name}") as server:
        manager = ServiceManager.of({"NOTIFY_SOCKET": f"@{name}"}, os.getpid())
        manager.ready()
        assert said(server) == "READY=1"
        manager.close()


def test_a_status_is_one_line_and_said_once(systemd: socket.socket) -> None:
    manager = manager_of(systemd)
    manager.status("round 1/2:\n training")
    manager.status("round 1/2: training")
    manager.status("x" * 1000)
    manager.stopping()
    manager.close()
    assert said(systemd) == "STATUS=round 1/2: training"
    assert said(systemd) == "STATUS=" + MAX_STATUS_CHARS * "x"
    assert said(systemd) == "STOPPING=1\nSTATUS=stopping"


def test_signs_of_life_come_while_the_loop_runs_and_not_while_it_hangs(
    systemd: socket.socket,
) -> None:
    manager = manager_of(systemd, WATCHDOG_USEC="20000", WATCHDOG_PID=str(os.getpid()))

    async def run() -> None:
        loop = asyncio.get_running_loop()
        systemd.setblocking(False)
        manager.ready()
        for expected in (b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"WATCHDOG=1"):
            assert await asyncio.wait_for(loop.sock_recv(systemd, 100), 30) == expected
        beats_at = manager._timer
        assert beats_at is not None
        while loop.time() < beats_at.when() + 0.1:  # the loop hangs for five beats
            with pytest.raises(BlockingIOError):
                systemd.recv(100)
        assert await asyncio.wait_for(loop.sock_recv(systemd, 100), 30) == b"WATCHDOG=1"
        manager.close()
        assert manager._timer is None

    asyncio.run(run())


def test_what_could_not_be_said_is_said_with_the_next_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "notify"
    manager = ServiceManager.of({"NOTIFY_SOCKET": str(path)}, os.getpid())
    with caplog.at_level(logging.WARNING):
        manager.ready()
        manager.status("round 1/2: training")
    assert caplog.messages == [
        f"systemd cannot be told, the run goes on: {os.strerror(errno.ENOENT)}"
    ]
    with listening(str(path)) as server:
        manager.status("round 1/2: folding")
        assert said(server) == "READY=1\nSTATUS=round 1/2: folding"
        manager.stopping()
        assert said(server) == "STOPPING=1\nSTATUS=stopping"
    manager.close()
