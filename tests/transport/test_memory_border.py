"""A network in memory with machines that are elsewhere: the same events, and nothing is kept."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transport_support import PayloadSource, Probe, control, hello_content, raise_failures, signer

from semantic_net.errors import TransportError
from semantic_net.protocol.frames import Kind
from semantic_net.simulation.virtual_time import run_virtual
from semantic_net.transport.base import (
    Connected,
    Disconnected,
    Received,
    TransportEvent,
    Unreachable,
)
from semantic_net.transport.link import LinkQuality
from semantic_net.transport.medium import MachineQuality
from semantic_net.transport.memory import MemoryTransport
from semantic_net.transport.memory_border import Border, Message, NoBorder
from semantic_net.transport.memory_network import MemoryNetwork
from semantic_net.transport.settings import TransportSettings

WINDOW_S = 0.1

MakeNetwork = Callable[[Border], MemoryNetwork]


class Crossing:
    """A border with one machine on this side; what crosses it is taken at the end of a window."""

    def __init__(self, name: str, sides: dict[str, Crossing], make: MakeNetwork) -> None:
        self.network = make(self)
        self._name = name
        self._sides = sides
        sides[name] = self

    def is_here(self, name: str) -> bool:
        return name == self._name

    def send(self, message: Message) -> None:
        loop = asyncio.get_running_loop()
        end_s = (math.floor(loop.time() / WINDOW_S) + 1) * WINDOW_S
        assert message.at_s >= min(end_s, loop.time() + WINDOW_S), "nobody has gone further"
        packed = msgspec.msgpack.encode(message)
        network = self._sides[message.target].network

        def take() -> None:
            network.take(msgspec.msgpack.decode(packed, type=Message))

        before_s = math.nextafter(min(end_s, message.at_s), 0.0)
        loop.call_at(max(before_s, loop.time()), take)


def busy(border: Border) -> MemoryNetwork:
    """Return a network with limits, loss and jitter."""
    network = MemoryNetwork(seed=4, border=border)
    network.set_defaults(
        lambda source, target: LinkQuality(delay_s=WINDOW_S, jitter_s=0.01, loss=0.05),
        lambda name: MachineQuality(up_bytes_s=50_000.0, down_bytes_s=30_000.0),
    )
    return network


class Peers:
    """Peers on one network, or each on its own, and what each of them sees."""

    def __init__(self, names: str, make: MakeNetwork, *, are_apart: bool) -> None:
        self.names = names
        sides: dict[str, Crossing] = {}
        all_of_them = make(NoBorder())
        self.networks = {
            name: Crossing(name, sides, make).network if are_apart else all_of_them
            for name in names
        }
        self.log: dict[str, list[object]] = {name: [] for name in names}

    async def peer(self, name: str, dial: str = "", incarnation: int = 1) -> Probe:
        settings = replace(TransportSettings(), peers=tuple(f"{other}:5000" for other in dial))
        hello = hello_content(incarnation=incarnation)
        key = signer(self.names.index(name))
        rng = random.Random(f"{name}:{incarnation}")  # nonces, too: they are in the log
        transport = MemoryTransport(self.networks[name], name, key, settings, hello, rng)
        probe = Probe(name, key, transport)

        def handle(event: TransportEvent) -> None:
            text = f"{event.frame.kind}" if isinstance(event, Received) else f"{event}"
            self.log[name].append((asyncio.get_running_loop().time(), text))
            probe.handle(event)

        await transport.start(handle)
        return probe

    def everywhere(self, do: Callable[[MemoryNetwork], None]) -> None:
        for network in dict.fromkeys(self.networks.values()):
            do(network)

    def is_anything_kept(self) -> bool:
        return any(network._spread or network._over for network in self.networks.values())


def play(
    scenario: Callable[[Peers], Coroutine[Any, Any, None]],
    names: str = "ab",
    make: MakeNetwork = busy,
) -> None:
    """Play with all on one network, and with each on its own: each peer sees the same."""
    logs = []
    for are_apart in (False, True):
        peers = Peers(names, make, are_apart=are_apart)
        run_virtual(scenario(peers))
        logs.append(peers.log)
    assert any(logs[0].values())
    assert logs[0] == logs[1]


def test_all_that_happens_happens_at_the_same_instant() -> None:
    async def scenario(peers: Peers) -> None:
        a = await peers.peer("a")
        b = await peers.peer("b", dial="a")
        await b.expect(Connected)
        await a.expect(Connected)
        for source, target in ((a, b), (b, a)):
            source.transport.stream(target.id, PayloadSource(bytes(300_000)))
        for number in range(20):
            a.transport.send(b.id, control(b"%d" % number))
            await asyncio.sleep(0.3)
        peers.everywhere(lambda network: network.cut("a", "b"))
        await asyncio.sleep(3.0)
        peers.everywhere(MemoryNetwork.heal)
        await a.until(lambda: sum(map(len, a.bodies(Kind.CHUNK))) == 300_000)
        await b.until(lambda: sum(map(len, b.bodies(Kind.CHUNK))) == 300_000)
        peers.everywhere(lambda network: network.isolate("b"))
        await b.expect(Disconnected)
        peers.everywhere(lambda network: network.rejoin("b"))
        await b.expect(Connected)
        await asyncio.gather(a.transport.close(), b.transport.close())
        raise_failures([a, b])

    play(scenario)


def test_who_listens_no_more_when_a_connection_opens_resets_it() -> None:
    async def scenario(peers: Peers) -> None:
        a = await peers.peer("a")
        b = await peers.peer("b", dial="a")
        await asyncio.sleep(0.25)
        assert isinstance(a.transport, MemoryTransport)
        a.transport.crash()
        assert (await b.expect(Unreachable)).reason == "Connection reset by peer"
        await asyncio.sleep(60.0)

    play(scenario)


@pytest.mark.parametrize("how", ["closed", "crashed", "cut"])
def test_nothing_is_kept_of_a_connection_that_is_over(how: str) -> None:
    async def scenario(peers: Peers) -> None:
        a = await peers.peer("a")
        for incarnation in range(1, 6):
            b = await peers.peer("b", dial="a", incarnation=incarnation)
            await b.expect(Connected)
            await a.expect(Connected)
            a.transport.stream(b.id, PayloadSource(bytes(50_000)))
            await asyncio.sleep(0.2)
            assert isinstance(b.transport, MemoryTransport)
            if how == "cut":
                peers.everywhere(lambda network: network.cut("a", "b"))
                await b.expect(Disconnected)
                peers.everywhere(MemoryNetwork.heal)
            if how == "crashed":
                b.transport.crash(1.0)
            else:
                await b.transport.close()
            await asyncio.sleep(60.0)
        assert not peers.is_anything_kept()

    play(scenario)


def drawn(dice: random.Random, names: str) -> MakeNetwork:
    """Return what makes a network on which much comes at one instant."""
    loss, jitter_s = dice.choice((0.0, 0.0, 0.1)), dice.choice((0.0, 0.0, 0.05))
    bandwidth_bytes_s = dice.choice((None, 40_000.0))
    qualities = {
        (source, target): LinkQuality(
            delay_s=dice.choice((0.1, 0.1, 0.2, 0.25)),
            bandwidth_bytes_s=bandwidth_bytes_s,
            loss=loss,
            jitter_s=jitter_s,
        )
        for source in names
        for target in names
    }
    machines = {
        name: MachineQuality(
            up_bytes_s=dice.choice((None, None, 80_000.0)),
            down_bytes_s=dice.choice((None, 50_000.0, 100_000.0)),
            half_duplex=dice.random() < 0.2,
        )
        for name in names
    }

    def make(border: Border) -> MemoryNetwork:
        network = MemoryNetwork(seed=4, border=border, dead_after_s=1.5)
        network.set_defaults(lambda *pair: qualities[pair], machines.__getitem__)
        return network

    return make


async def talk(peers: Peers, probe: Probe, dice: random.Random, end_s: float) -> None:
    """Send others what is drawn, and answer some of what they send."""
    loop = asyncio.get_running_loop()
    handle = probe.handle

    def answer(event: TransportEvent) -> None:
        handle(event)
        if isinstance(event, Received) and event.frame.kind is Kind.CHUNK and dice.random() < 0.5:
            probe.transport.send(event.peer, control(b"got it"))

    probe.handle = answer  # type: ignore[method-assign]
    ids = {name: signer(number).peer_id for number, name in enumerate(peers.names)}
    while loop.time() < end_s:
        await asyncio.sleep(0.1 * dice.randrange(4))
        name, size = dice.choice(peers.names), dice.choice((0, 500, 20_000, 60_000))
        with contextlib.suppress(TransportError):
            if size:
                probe.transport.stream(ids[name], PayloadSource(bytes(size)))
            else:
                probe.transport.send(ids[name], control(b"hello"))
    peers.log[probe.name].append((probe.transport.traffic(), probe.transport.links()))


@settings(max_examples=20, deadline=None)
@example(23)  # an answer, and room for what waits, at one instant
@given(st.integers(0, 1 << 32))
def test_whatever_is_sent_and_befalls_them_each_sees_the_same(seed: int) -> None:
    names = "abc"

    async def scenario(peers: Peers) -> None:
        dice = random.Random(seed)
        drawn(dice, names)  # what follows shall be the same for all
        probes = [await peers.peer(name, dial=names[:number]) for number, name in enumerate(names)]
        talking = [
            asyncio.ensure_future(talk(peers, probe, random.Random(f"{seed}{probe.name}"), 6.0))
            for probe in probes
        ]
        for _ in range(dice.choice((0, 0, 5))):
            await asyncio.sleep(0.05 * dice.randrange(1, 30))
            one, other = dice.sample(names, 2)
            do = dice.choice(("cut", "mend", "isolate", "rejoin"))
            pair = (one, other) if do in ("cut", "mend") else (one,)
            peers.everywhere(lambda network, do=do, pair=pair: getattr(network, do)(*pair))  # type: ignore[misc]
        peers.everywhere(MemoryNetwork.heal)
        await asyncio.gather(*talking)
        await asyncio.gather(*(probe.transport.close() for probe in probes))
        await asyncio.sleep(30.0)
        assert not peers.is_anything_kept()

    play(scenario, names, drawn(random.Random(seed), names))
