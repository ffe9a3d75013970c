"""A network in memory with machines that are elsewhere: the same events, and nothing is kept."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from transport_support import PayloadSource, Probe, control, hello_content, raise_failures, signer

from semantic_net.protocol.frames import Kind
from semantic_net.simulation.virtual_time import run_virtual
from semantic_net.transport.base import Connected, Disconnected, Received, Unreachable
from semantic_net.transport.link import LinkQuality
from semantic_net.transport.medium import MachineQuality
from semantic_net.transport.memory import MemoryTransport
from semantic_net.transport.memory_border import Border, Here, Message
from semantic_net.transport.memory_network import MemoryNetwork
from semantic_net.transport.settings import TransportSettings


class Crossing:
    """A border with one machine on this side; what crosses it is packed, as between processes."""

    def __init__(self, name: str, sides: dict[str, Crossing]) -> None:
        self.network = made(self)
        self._name = name
        self._sides = sides
        sides[name] = self

    def is_here(self, name: str) -> bool:
        return name == self._name

    def send(self, message: Message) -> None:
        assert message.at_s > asyncio.get_running_loop().time(), "it takes time"
        packed = msgspec.msgpack.encode(message)
        network = self._sides[message.target].network
        network.take(msgspec.msgpack.decode(packed, type=Message))


def made(border: Border) -> MemoryNetwork:
    network = MemoryNetwork(seed=4, border=border)
    network.set_defaults(
        lambda source, target: LinkQuality(delay_s=0.02, jitter_s=0.01, loss=0.05),
        lambda name: MachineQuality(up_bytes_s=50_000.0, down_bytes_s=30_000.0),
    )
    return network


class Two:
    """Peers a and b, on one network or on two."""

    def __init__(self, *, are_apart: bool) -> None:
        sides: dict[str, Crossing] = {}
        both = made(Here())
        self.networks = {
            name: Crossing(name, sides).network if are_apart else both for name in "ab"
        }
        self.log: list[tuple[float, str]] = []

    async def peer(self, name: str, dial: str = "", incarnation: int = 1) -> Probe:
        settings = replace(TransportSettings(), peers=(f"{dial}:5000",) if dial else ())
        hello = hello_content(incarnation=incarnation)
        key = signer("ab".index(name))
        rng = random.Random(f"{name}:{incarnation}")  # nonces, too: they are in the log
        transport = MemoryTransport(self.networks[name], name, key, settings, hello, rng)
        probe = Probe(name, key, transport)

        def handle(event: object) -> None:
            text = f"{event.frame.kind}" if isinstance(event, Received) else f"{event}"
            self.log.append((asyncio.get_running_loop().time(), f"{name}: {text}"))
            probe.handle(event)  # type: ignore[arg-type]  # an event of the transport

        await transport.start(handle)
        return probe

    def on_both(self, do: Callable[[MemoryNetwork], None]) -> None:
        for network in dict.fromkeys(self.networks.values()):
            do(network)


def play(scenario: Callable[[Two], Coroutine[Any, Any, None]]) -> None:
    """Play with both on one network, and with each on its own; see the same events."""
    logs = []
    for are_apart in (False, True):
        two = Two(are_apart=are_apart)
        run_virtual(scenario(two))
        logs.append(two.log)
    assert len(logs[0]) > 1
    assert logs[0] == logs[1]


def test_all_that_happens_happens_at_the_same_instant() -> None:
    async def scenario(two: Two) -> None:
        a = await two.peer("a")
        b = await two.peer("b", dial="a")
        await b.expect(Connected)
        await a.expect(Connected)
        for source, target in ((a, b), (b, a)):
            source.transport.stream(target.id, PayloadSource(bytes(300_000)))
        for number in range(20):
            a.transport.send(b.id, control(b"%d" % number))
            await asyncio.sleep(0.3)
        two.on_both(lambda network: network.cut("a", "b"))
        await asyncio.sleep(3.0)
        two.on_both(MemoryNetwork.heal)
        await a.until(lambda: sum(map(len, a.bodies(Kind.CHUNK))) == 300_000)
        await b.until(lambda: sum(map(len, b.bodies(Kind.CHUNK))) == 300_000)
        two.on_both(lambda network: network.isolate("b"))
        await b.expect(Disconnected)
        two.on_both(lambda network: network.rejoin("b"))
        await b.expect(Connected)
        await asyncio.gather(a.transport.close(), b.transport.close())
        raise_failures([a, b])

    play(scenario)


def test_who_listens_no_more_when_a_connection_opens_resets_it() -> None:
    async def scenario(two: Two) -> None:
        a = await two.peer("a")
        b = await two.peer("b", dial="a")
        await asyncio.sleep(0.05)
        assert isinstance(a.transport, MemoryTransport)
        a.transport.crash()
        assert (await b.expect(Unreachable)).reason == "Connection reset by peer"
        await asyncio.sleep(60.0)

    play(scenario)


@pytest.mark.parametrize("how", ["closed", "crashed", "cut"])
def test_nothing_is_kept_of_a_connection_that_is_over(how: str) -> None:
    async def scenario(two: Two) -> None:
        a = await two.peer("a")
        for incarnation in range(1, 6):
            b = await two.peer("b", dial="a", incarnation=incarnation)
            await b.expect(Connected)
            await a.expect(Connected)
            a.transport.stream(b.id, PayloadSource(bytes(50_000)))
            await asyncio.sleep(0.2)
            assert isinstance(b.transport, MemoryTransport)
            if how == "cut":
                two.on_both(lambda network: network.cut("a", "b"))
                await b.expect(Disconnected)
                two.on_both(MemoryNetwork.heal)
            if how == "crashed":
                b.transport.crash(1.0)
            else:
                await b.transport.close()
            await asyncio.sleep(60.0)
        two.on_both(lambda network: pytest.fail("kept") if network.num_spread else None)

    play(scenario)
