"""Names that take the resolver long, and what does not wait for them; on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from transport_support import Probe, hello_content, run_tcp, signer

from semantic_net.protocol.address import parse_address
from semantic_net.transport.ad_hoc import LEARNED_THREADS, AdHocTransport
from semantic_net.transport.base import Connected
from semantic_net.transport.names import Names, numeric_places
from semantic_net.transport.settings import TransportSettings

A, B = signer(1), signer(2)


class Resolver:
    """Knows one name, and has no answer for others until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = socket.getaddrinfo
        self._answers = threading.Event()
        self._asked = threading.Semaphore(0)
        self.asked: list[str] = []
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: str | None, port: Any, *args: Any, **more: Any) -> Any:
        if host == "known.example":
            return self._real("127.0.0.1", port, *args, **more)
        if host is not None and host.endswith(".example"):
            self.asked.append(host)
            self._asked.release()
            self._answers.wait()
            raise socket.gaierror(socket.EAI_NONAME, "nobody knows it")
        return self._real(host, port, *args, **more)

    async def was_asked(self, times: int) -> None:
        """Wait until it was asked so often."""
        for _ in range(times):
            await asyncio.to_thread(self._asked.acquire)

    def let_go(self) -> None:
        """Answer what waits: there is no such name."""
        self._answers.set()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver(monkeypatch)
    yield made
    made.let_go()


async def started(key: Any, **settings: Any) -> Probe:
    transport = AdHocTransport(
        key, TransportSettings(host="127.0.0.1", **settings), hello_content()
    )
    probe = Probe("", key, transport)
    await transport.start(probe.handle)
    return probe


def test_made_up_names_hold_up_neither_named_ones_nor_other_work(resolver: Resolver) -> None:
    async def main() -> None:
        b = await started(B)
        a = await started(A)
        for number in range(40):
            a.transport.add_address(f"made-up-{number}.example:1")
        await resolver.was_asked(LEARNED_THREADS)
        port = parse_address(b.transport.address).port
        assert isinstance(a.transport, AdHocTransport)
        a.transport._dialer.add(f"known.example:{port}", learned=False)
        assert (await a.expect(Connected)).peer == B.peer_id
        assert await asyncio.to_thread(lambda: 1) == 1
        assert len(resolver.asked) == LEARNED_THREADS
        await a.transport.close()
        await b.transport.close()

    run_tcp(main())


def test_a_name_is_asked_for_once_whoever_has_gone_meanwhile(resolver: Resolver) -> None:
    async def main() -> None:
        names = Names(1)
        first = asyncio.ensure_future(names.places("slow.example", 1))
        await resolver.was_asked(1)
        first.cancel()
        again = asyncio.ensure_future(names.places("slow.example", 2))
        behind = asyncio.ensure_future(names.places("other.example", 3))
        for _ in range(3):
            await asyncio.sleep(0)
        assert resolver.asked == ["slow.example"]
        resolver.let_go()
        for each in (again, behind):
            with pytest.raises(socket.gaierror):
                await each
        assert resolver.asked == ["slow.example", "other.example"]
        with contextlib.suppress(asyncio.CancelledError):
            await first
        assert await names.places("known.example", 7) == [(socket.AF_INET, ("127.0.0.1", 7))]

    run_tcp(main())


def test_numeric_addresses_are_asked_of_nobody(resolver: Resolver) -> None:
    assert numeric_places("127.0.0.1", 5) == [(socket.AF_INET, ("127.0.0.1", 5))]
    assert numeric_places("::1", 5) == [(socket.AF_INET6, ("::1", 5, 0, 0))]
    assert numeric_places("made-up.example", 5) is None
    assert not resolver.asked


def test_a_machine_without_threads_asks_again_later(
    monkeypatch: pytest.MonkeyPatch, resolver: Resolver
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        names = Names(1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(OSError, match="can't start new thread"):
                await names.places("known.example", 7)
        assert await names.places("known.example", 7) == [(socket.AF_INET, ("127.0.0.1", 7))]

    run_tcp(main())
