"""Peers find each other by multicast DNS on loopback, whatever else is announced there."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from multicast_support import skip_without_multicast
from protocol_support import signer
from zeroconf import ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from semantic_net.transport import discovery as module
from semantic_net.transport.announcement import SERVICE, Announcement, run_tag
from semantic_net.transport.discovery import CLOSE_S, MAX_OFFERS, Discovery

LIMIT_S = 30.0
ALICE, BOB, CAROL, MALLORY = (signer(n).peer_id for n in ("alice", "bob", "carol", "mallory"))


@pytest.fixture
def run(tmp_path: Path) -> str:
    """Return the name of a run that no other test on this machine is in."""
    return f"{os.getpid()} {tmp_path}"


class Found:
    """Collects what is offered to a peer."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self._news = asyncio.Event()

    def propose(self, address: str) -> None:
        self.addresses.append(address)
        self._news.set()

    async def until(self, address: str) -> None:
        while address not in self.addresses:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), LIMIT_S)


def play(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario; whatever reaches the event loop's own handler fails it."""
    unhandled: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: unhandled.append(what))
        await scenario

    asyncio.run(main())
    assert unhandled == []


def service(name: str, port: int, properties: dict[str, str] | bytes) -> AsyncServiceInfo:
    loopback = [socket.inet_aton("127.0.0.1")]
    return AsyncServiceInfo(
        SERVICE,
        f"{name}.{SERVICE}",
        port=port,
        properties=properties,
        server=f"{name}.local.",
        addresses=loopback,
    )


def test_peers_of_one_run_find_each_other_and_nobody_else(run: str) -> None:
    skip_without_multicast()

    async def scenario() -> None:
        alice, bob, carol = Discovery(run, ALICE), Discovery(run, BOB), Discovery(run + "!", CAROL)
        found = {each: Found() for each in (alice, bob, carol)}
        alice.start("127.0.0.1:5001", found[alice].propose)
        carol.start("127.0.0.1:5003", found[carol].propose)
        bob.start("127.0.0.1:5002", found[bob].propose, known=["127.0.0.1:5009", "no address"])
        await found[alice].until("127.0.0.1:5002")
        await found[bob].until("127.0.0.1:5001")
        # A second run's peers are found too, but by their own.
        dave = Discovery(run + "!", MALLORY)
        dave.start("127.0.0.1:5004", (other := Found()).propose)
        await found[carol].until("127.0.0.1:5004")
        await other.until("127.0.0.1:5003")
        for each in (alice, bob, carol, dave):
            await each.close()
        assert set(found[alice].addresses) == {"127.0.0.1:5002"}
        assert set(found[bob].addresses) == {"127.0.0.1:5001", "127.0.0.1:5009", "no address"}

    play(scenario())


def test_a_peer_says_goodbye_within_a_bounded_time(run: str) -> None:
    skip_without_multicast()

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        changes: asyncio.Queue[ServiceStateChange] = asyncio.Queue()
        name = Announcement(ALICE, run_tag(run)).instance

        def changed(state_change: ServiceStateChange, **what: Any) -> None:
            if what["name"] == name:
                changes.put_nowait(state_change)

        alice = Discovery(run, ALICE)
        async with (
            AsyncZeroconf(["127.0.0.1"]) as mdns,
            AsyncServiceBrowser(mdns.zeroconf, SERVICE, handlers=[changed]),
        ):
            alice.start("127.0.0.1:5001", Found().propose)
            assert await asyncio.wait_for(changes.get(), LIMIT_S) is ServiceStateChange.Added
            began = loop.time()
            await alice.close()
            assert loop.time() - began < 2 * CLOSE_S + 0.5
            while await asyncio.wait_for(changes.get(), LIMIT_S) is not ServiceStateChange.Removed:
                pass
        await alice.close()

    play(scenario())


class Listener(asyncio.DatagramProtocol):
    """Counts the answers on the group that are about one peer."""

    def __init__(self, peer: str) -> None:
        self.count, self._peer, self._news = 0, peer.encode(), asyncio.Event()

    def datagram_received(self, data: bytes, addr: object) -> None:
        is_answer = data[2] & 0x80
        if is_answer and self._peer in data:
            self.count += 1
            self._news.set()

    async def until(self, count: int) -> None:
        while self.count < count:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), LIMIT_S)


def group_socket() -> socket.socket:
    """Join the group of multicast DNS on loopback, beside whoever else has."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("", 5353))
    membership = socket.inet_aton("224.0.0.251") + socket.inet_aton("127.0.0.1")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    return sock


def test_a_peer_reminds_others_of_itself(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Radios that part and meet tell nobody: who was out of reach has heard nothing yet."""
    skip_without_multicast()
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    monkeypatch.setattr(module, "LOOKS_PER_REMINDER", 2)

    async def scenario() -> None:
        peer = signer(run).peer_id  # of no other test
        loop = asyncio.get_running_loop()
        made = await loop.create_datagram_endpoint(lambda: Listener(peer), sock=group_socket())
        transport, listener = made
        alice = Discovery(run, peer)
        alice.start("127.0.0.1:5001", Found().propose)
        # At the start it says so three times, and once to each of its own few questions.
        await listener.until(12)
        await alice.close()
        transport.close()

    play(scenario())


def test_a_peer_that_never_started_has_nothing_to_close(run: str) -> None:
    play(Discovery(run, ALICE).close())


def test_what_strangers_announce_breaks_nothing(run: str, caplog: pytest.LogCaptureFixture) -> None:
    skip_without_multicast()
    good = Announcement(BOB, run_tag(run))
    strange: list[tuple[str, int, dict[str, str] | bytes]] = [
        ("nothing", 1, b""),
        ("noise", 2, b"\xff\x00\xfenot a text"),
        ("no peer", 3, {"wire": "1", "run": good.run}),
        ("no number", 4, {**good.text(), "wire": "one"}),
        ("no port", 0, good.text()),
        ("other version 1", 5, Announcement(MALLORY, good.run, version=99).text()),
        ("other version 2", 6, Announcement(CAROL, good.run, version=99).text()),
        ("itself", 7, Announcement(ALICE, good.run).text()),
    ]

    async def scenario() -> None:
        alice, found = Discovery(run, ALICE), Found()
        alice.start("127.0.0.1:5001", found.propose)
        async with AsyncZeroconf(["127.0.0.1"]) as mdns:
            infos = [service(f"{os.getpid()} {name}", *rest) for name, *rest in strange]  # type: ignore[arg-type]
            tasks = await asyncio.gather(*map(mdns.async_register_service, infos))
            await asyncio.gather(*tasks)
            last = service(f"{os.getpid()} good", 5002, good.text())
            await (await mdns.async_register_service(last))
            await found.until("127.0.0.1:5002")
        await alice.close()
        assert set(found.addresses) == {"127.0.0.1:5002"}

    with caplog.at_level(logging.DEBUG, "semantic_net"):
        play(scenario())
    said = [record.getMessage() for record in caplog.records]
    assert len([text for text in said if "speaks wire version 99, this one" in text]) == 1
    assert len([text for text in said if text.startswith("an announcement without a valid")]) == 1
    assert not [text for text in said if "has stopped" in text]


def test_a_flood_of_services_gives_no_flood_of_addresses(
    run: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def never(self: Discovery) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        alice, found = Discovery(run, ALICE), Found()
        alice.start("127.0.0.1:5001", found.propose)
        text = Announcement(MALLORY, run_tag(run)).text()
        for port in range(1, 2 * MAX_OFFERS):
            alice._found(service("flood", port, text))
        await alice.close()
        assert len(found.addresses) == MAX_OFFERS

    monkeypatch.setattr(Discovery, "_serve", never)
    with caplog.at_level(logging.WARNING, "semantic_net"):
        play(scenario())
    [record] = caplog.records
    assert record.getMessage() == "this network announces more peers than are dialled"


def test_a_storm_of_services_is_let_go_of(
    run: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    skip_without_multicast()
    monkeypatch.setattr(module, "MAX_ADDED", 3)

    async def scenario() -> None:
        opened: asyncio.Queue[AsyncZeroconf] = asyncio.Queue()
        is_open = module._open

        def told(host: str) -> AsyncZeroconf:
            opened.put_nowait(made := is_open(host))
            return made

        monkeypatch.setattr(module, "_open", told)
        monkeypatch.setattr(module, "LOOK_S", 0.2)
        alice = Discovery(run, ALICE)
        alice.start("127.0.0.1:5001", Found().propose)
        first = await asyncio.wait_for(opened.get(), LIMIT_S)
        for index in range(4):  # all within one look
            name = f"storm{index}.{SERVICE}"
            alice._changed(first.zeroconf, SERVICE, name, ServiceStateChange.Added)
        await asyncio.wait_for(opened.get(), LIMIT_S)
        assert first.zeroconf.done
        await alice.close()

    with caplog.at_level(logging.WARNING, "semantic_net"):
        play(scenario())
    assert "this network announces more services than can be followed" in caplog.messages


def test_without_multicast_a_peer_warns_once_and_tries_again(
    run: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    skip_without_multicast()
    tries = []

    def busy_at_first(host: str) -> AsyncZeroconf:
        tries.append(host)
        if len(tries) < 4:
            raise OSError(errno.EADDRINUSE, "busy")
        return AsyncZeroconf([host])

    async def scenario() -> None:
        alice, bob = Discovery(run, ALICE), Discovery(run, BOB)
        monkeypatch.setattr(module, "LOOK_S", 0.05)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_open", busy_at_first)
            alice.start("127.0.0.1:5001", (found := Found()).propose)
            bob.start("127.0.0.1:5002", Found().propose)
            await found.until("127.0.0.1:5002")
        await alice.close()
        await bob.close()

    with caplog.at_level(logging.INFO, "semantic_net"):
        play(scenario())
    said = [record.getMessage() for record in caplog.records]
    warning = (
        "no discovery on this network (p2p.discovery mdns): Address already in use; the run goes "
        "on without, and tries again"
    )
    assert sorted(set(said)) == ["discovery works now", warning]
    assert said.count(warning) == 2, "one of each peer"


def test_a_goodbye_that_is_broken_off_leaves_no_socket_open(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_multicast()
    opened: list[AsyncZeroconf] = []
    began = asyncio.Event()

    def open_and_note(host: str) -> AsyncZeroconf:
        opened.append(AsyncZeroconf([host]))
        began.set()
        return opened[-1]

    async def never_ends(self: AsyncZeroconf) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        monkeypatch.setattr(module, "_open", open_and_note)
        monkeypatch.setattr(module, "CLOSE_S", 0.05)
        monkeypatch.setattr(AsyncZeroconf, "async_close", never_ends)
        alice = Discovery(run, ALICE)
        alice.start("127.0.0.1:5001", Found().propose)
        await began.wait()
        await opened[0].zeroconf.async_wait_for_start()
        await alice.close()
        assert all(each.transport.is_closing() for each in opened[0].zeroconf.engine.readers)
        assert len(opened) == 1

    play(scenario())


def test_who_closes_before_it_has_begun_leaves_nothing_behind(
    run: str, caplog: pytest.LogCaptureFixture
) -> None:
    skip_without_multicast()

    async def scenario() -> None:
        for turns in range(40):
            alice = Discovery(run, ALICE)
            alice.start("127.0.0.1:5001", Found().propose)
            for _ in range(turns // 2):
                await asyncio.sleep(0)
            if turns % 2:
                await asyncio.get_running_loop().run_in_executor(None, lambda: None)
            await alice.close()
            del alice
            gc.collect()  # a task whose exception nobody has asked for tells when it goes

    gc.freeze()  # what other tests have left takes longer to look through than this one
    try:
        with caplog.at_level(logging.WARNING, "semantic_net"):
            play(scenario())
    finally:
        gc.unfreeze()
    assert caplog.messages == []
