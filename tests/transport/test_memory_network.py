"""Faults on a network in memory, and how sessions live through them."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transport_support import (
    MemoryWorld,
    PayloadSource,
    Probe,
    control,
    hello_content,
    play_in_memory,
    signer,
)

from semantic_net.errors import TransportError
from semantic_net.protocol.frames import Kind
from semantic_net.transport.base import Buffer, Connected, Disconnected, Unreachable
from semantic_net.transport.link import LinkQuality
from semantic_net.transport.medium import MachineQuality
from semantic_net.transport.memory import MemoryTransport
from semantic_net.transport.memory_wire import MemoryWire
from semantic_net.transport.settings import TransportSettings

A, B, C = signer(1), signer(2), signer(3)


def play(scenario: Callable[[MemoryWorld], Coroutine[Any, Any, None]]) -> None:
    """Play in memory; the scenario knows it."""
    play_in_memory(scenario)  # type: ignore[arg-type]  # the world is a MemoryWorld


def now() -> float:
    return asyncio.get_running_loop().time()


async def pair(world: MemoryWorld) -> tuple[Probe, Probe]:
    a = await world.peer("a", A)
    b = await world.peer("b", B, dial=[a])
    await a.expect(Connected)
    await b.expect(Connected)
    return a, b


def test_a_payload_takes_the_time_its_size_and_the_link_ask_for() -> None:
    async def scenario(world: MemoryWorld) -> None:
        world.network.set_link("a", "b", LinkQuality(bandwidth_bytes_s=625_000, delay_s=0.05))
        a, b = await pair(world)
        began = now()
        source = PayloadSource(bytes(8_000_000))
        a.transport.stream(b.id, source)
        await b.until(lambda: sum(map(len, b.bodies(Kind.CHUNK))) == 8_000_000)
        assert now() - began == pytest.approx(8_000_000 / 625_000 + 0.05, rel=0.01)
        assert source.sizes[-10] == pytest.approx(62_500, rel=0.1), "0.1 s each"

    play(scenario)


def test_a_control_frame_waits_for_one_chunk_at_most() -> None:
    async def scenario(world: MemoryWorld) -> None:
        world.network.set_link("a", "b", LinkQuality(bandwidth_bytes_s=1_000_000, delay_s=0.01))
        a, b = await pair(world)
        a.transport.stream(b.id, PayloadSource(bytes(10_000_000)))
        await b.until(lambda: len(b.bodies(Kind.CHUNK)) > 20)
        sent = now()
        a.send(b, b"urgent")
        await b.until(lambda: bool(b.bodies(Kind.HAVE)))
        assert now() - sent < 0.2
        assert sum(map(len, b.bodies(Kind.CHUNK))) < 10_000_000

    play(scenario)


def test_what_waits_together_leaves_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, int, bool]] = []
    write = MemoryWire.write

    def note(wire: MemoryWire, buffers: Sequence[Buffer], *, is_bulk: bool = False) -> None:
        written.append((wire.source, len(buffers), is_bulk))
        write(wire, buffers, is_bulk=is_bulk)

    async def scenario(world: MemoryWorld) -> None:
        a, b = await pair(world)
        monkeypatch.setattr(MemoryWire, "write", note)
        a.send(b, b"said")
        a.transport.send(b.id, control(b"passed on"), b"key")
        for _ in range(3):
            a.transport.stream(b.id, PayloadSource(bytes(1000)))
        await b.until(lambda: len(b.bodies(Kind.CHUNK)) == 3 and len(b.bodies(Kind.HAVE)) == 2)
        assert written == [("a", 1 + 3 * 2, True)], "a part of the stream, and three chunks"

    play(scenario)


def test_what_is_said_in_a_large_fleet_does_not_wait_for_the_rate_of_payloads() -> None:
    async def scenario(world: MemoryWorld) -> None:
        settings = TransportSettings(max_rate_bytes_s=20_000.0, cork_s=0.02)
        a = await world.peer("a", A, settings=settings)
        b = await world.peer("b", B, dial=[a])
        await a.expect(Connected)
        a.transport.stream(b.id, PayloadSource(bytes(100_000)))
        await b.until(lambda: bool(b.bodies(Kind.CHUNK)))
        sent = now()
        a.send(b, b"urgent")
        await b.until(lambda: bool(b.bodies(Kind.HAVE)))
        assert now() - sent < 0.1

    play(scenario)


def test_a_short_cut_delays_and_loses_nothing() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = await pair(world)
        a.send(b, b"in the air")
        world.network.cut("a", "b")
        a.send(b, b"waiting")
        await asyncio.sleep(5.0)
        assert not b.bodies(Kind.HAVE)
        world.network.heal()
        await b.until(lambda: b.bodies(Kind.HAVE) == [b"in the air", b"waiting"])
        assert not a.of(Disconnected)

    play(scenario)


def test_a_long_cut_breaks_and_a_heal_reconnects_within_seconds() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = await pair(world)
        began = now()
        world.network.partition(["a"], ["b"])
        for probe in (a, b):
            assert (await probe.expect(Disconnected)).reason == "Connection timed out"
        assert now() - began == pytest.approx(10.0)
        assert (await b.expect(Unreachable)).reason == "no answer within 5 s"
        await asyncio.sleep(300.0)
        assert len(b.of(Unreachable)) == 1, "reported once, however often it was tried"
        healed = now()
        world.network.heal()
        await b.expect(Connected)
        await a.expect(Connected)
        assert now() - healed < 10.0

    play(scenario)


def test_a_link_that_flaps_is_dead_only_after_one_long_cut() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = await pair(world)
        for _ in range(5):
            world.network.cut("a", "b")
            await asyncio.sleep(8.0)
            world.network.heal()
            await asyncio.sleep(1.0)
        assert not a.of(Disconnected)
        assert not b.of(Disconnected)

    play(scenario)


def test_machines_in_no_group_stay_together() -> None:
    async def scenario(world: MemoryWorld) -> None:
        network = world.network
        network.partition(["a"], ["b", "c"])
        assert network.is_cut("a", "b")
        assert not network.is_cut("b", "c")
        assert network.is_cut("a", "rest")
        assert not network.is_cut("rest", "others")

    play(scenario)


def test_each_fault_is_undone_by_itself() -> None:
    async def scenario(world: MemoryWorld) -> None:
        network = world.network
        network.cut("a", "b")
        network.isolate("c")
        network.partition(["a", "b", "c"], ["d"])
        network.mend("a", "b")
        assert [network.is_cut(*pair) for pair in (("a", "b"), ("a", "c"), ("a", "d"))] == [
            False,
            True,
            True,
        ]
        network.rejoin("c")
        network.partition()
        assert not any(network.is_cut(*pair) for pair in PAIRS)
        network.cut("a", "b")
        network.isolate("c")
        network.heal()
        assert not any(network.is_cut(*pair) for pair in PAIRS)

    play(scenario)


def test_an_isolated_machine_loses_its_sessions_and_no_other() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = await pair(world)
        c = await world.peer("c", C, dial=[a, b])
        for probe in (a, b):
            await probe.expect(Connected)
        world.network.isolate("a")
        await asyncio.sleep(5.0)
        b.send(c, b"still here")
        b.send(a, b"later")
        await c.until(lambda: c.bodies(Kind.HAVE) == [b"still here"])
        world.network.rejoin("a")
        await a.until(lambda: a.bodies(Kind.HAVE) == [b"later"])
        world.network.isolate("a")
        for probe in (b, c):
            assert (await probe.expect(Disconnected)).peer == a.id
        await asyncio.sleep(1.0)
        assert len(a.of(Disconnected)) == 2
        assert len(b.of(Disconnected)) == len(c.of(Disconnected)) == 1

    play(scenario)


def test_a_connection_is_dead_after_its_own_cut_and_no_earlier_one() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = await pair(world)
        world.network.cut("a", "b")
        await asyncio.sleep(1.0)
        world.network.reset("a", "b")
        await asyncio.sleep(1.0)
        world.network.heal()
        for probe in (a, b):
            await probe.expect(Disconnected)
            await probe.expect(Connected)
        world.network.cut("a", "b")
        began = now()
        await a.expect(Disconnected)
        assert now() - began == pytest.approx(10.0)

    play(scenario)


def test_links_and_machines_are_made_as_they_are_used() -> None:
    async def scenario(world: MemoryWorld) -> None:
        asked: list[tuple[str, ...]] = []

        def quality_of(source: str, target: str) -> LinkQuality:
            asked.append((source, target))
            return LinkQuality(delay_s=1.0 if source == "a" else 2.0)

        def machine_quality_of(name: str) -> MachineQuality:
            asked.append((name,))
            return MachineQuality()

        world.network.set_defaults(quality_of, machine_quality_of)
        await world.peer("unused", C)
        a, b = await pair(world)
        for number in range(3):
            b.send(a, b"%d" % number)
        began = now()
        await a.until(lambda: len(a.bodies(Kind.HAVE)) == 3)
        assert now() - began == pytest.approx(2.0)
        assert sorted(asked) == [("a",), ("a", "b"), ("b",), ("b", "a")]

    play(scenario)


def test_dropped_frames_are_lost_while_the_session_lives() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = await pair(world)
        world.network.drop([("b", "a")])  # a never hears b
        b.send(a, b"lost")
        a.send(b, b"heard")
        await b.until(lambda: b.bodies(Kind.HAVE) == [b"heard"])
        await asyncio.sleep(60.0)
        world.network.drop([("b", "a")], kinds=[Kind.CHUNK])
        b.transport.stream(a.id, PayloadSource(b"dropped, too"))
        await asyncio.sleep(1.0)
        b.send(a, b"heard again")
        await a.until(lambda: a.bodies(Kind.HAVE) == [b"heard again"])
        assert not a.bodies(Kind.CHUNK)
        assert not a.of(Disconnected)

    play(scenario)


def test_loss_delays_and_hopeless_loss_breaks() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = await pair(world)
        world.network.set_link("a", "b", LinkQuality(loss=0.3), both_ways=False)
        for number in range(50):
            a.send(b, b"%d" % number)
            await asyncio.sleep(0)  # frames of one turn of the loop travel together
        await b.until(lambda: len(b.bodies(Kind.HAVE)) == 50)
        assert b.bodies(Kind.HAVE) == [b"%d" % number for number in range(50)]
        assert now() > 0.2, "some came a retransmission later"
        world.network.set_link("a", "b", LinkQuality(loss=1.0), both_ways=False)
        a.send(b, b"never")
        assert (await a.expect(Disconnected)).code == "lost"
        assert (await b.expect(Disconnected)).code == "lost"

    play(scenario)


@pytest.mark.parametrize("detect_s", [0.0, 30.0])
def test_a_crash_is_noticed_when_it_is(detect_s: float) -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = await pair(world)
        began = now()
        assert isinstance(b.transport, MemoryTransport)
        b.transport.crash(detect_s)
        num_events = len(b.events)
        ended = await a.expect(Disconnected)
        assert (ended.code, ended.reason) == ("lost", "Connection timed out")
        assert now() - began == pytest.approx(detect_s)
        with pytest.raises(TransportError):
            b.send(a, b"")
        await asyncio.sleep(100.0)
        assert len(b.events) == num_events, "a crashed peer does nothing"

    play(scenario)


def test_a_crashed_peer_comes_back_under_its_address() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = await pair(world)
        b.transport.add_address("a:5000")
        a.transport.add_address("b:5000")
        assert isinstance(b.transport, MemoryTransport)
        b.transport.crash()
        await a.expect(Disconnected)
        assert (await a.expect(Unreachable)).reason == "Connection refused"
        await asyncio.sleep(100.0)
        began = now()
        await world.peer("b", B, hello=hello_content(incarnation=2))
        assert (await a.expect(Connected)).hello.incarnation == 2
        assert now() - began < 31.0

    play(scenario)


def test_a_cut_while_a_connection_opens_only_delays_it() -> None:
    async def scenario(world: MemoryWorld) -> None:
        world.network.set_link("a", "b", LinkQuality(delay_s=1.0))
        a = await world.peer("a", A)
        b = await world.peer("b", B, dial=[a])
        await asyncio.sleep(0.5)
        world.network.cut("a", "b")
        await asyncio.sleep(3.0)
        world.network.heal()
        await a.expect(Connected)
        await b.expect(Connected)

    play(scenario)


def test_a_connection_opens_as_tcp_does() -> None:
    async def scenario(world: MemoryWorld) -> None:
        world.network.set_link("a", "b", LinkQuality(delay_s=0.5))
        a = await world.peer("a", A)
        b = await world.peer("b", B, dial=[a])
        await b.expect(Connected)
        assert now() == pytest.approx(4 * 0.5), "asked, answered, accepted, and hello"
        await a.expect(Connected)
        assert now() == pytest.approx(5 * 0.5), "and confirmed"

    play(scenario)


def test_who_listens_no_more_when_a_connection_opens_resets_it() -> None:
    async def scenario(world: MemoryWorld) -> None:
        world.network.set_link("a", "b", LinkQuality(delay_s=0.5))
        a = await world.peer("a", A)
        b = await world.peer("b", B, dial=[a])
        await asyncio.sleep(1.2)  # the answer is there, and what says so is under way
        assert isinstance(a.transport, MemoryTransport)
        a.transport.crash()
        assert (await b.expect(Unreachable)).reason == "Connection reset by peer"
        assert now() == pytest.approx(2.0)
        assert not a.events

    play(scenario)


@pytest.mark.parametrize("how", ["crash", "reset"])
def test_who_has_dialled_may_be_gone_before_the_other_end_opens(how: str) -> None:
    async def scenario(world: MemoryWorld) -> None:
        world.network.set_link("a", "b", LinkQuality(delay_s=0.5))
        a = await world.peer("a", A)
        b = await world.peer("b", B, dial=[a])
        await asyncio.sleep(1.2)
        if how == "crash":
            assert isinstance(b.transport, MemoryTransport)
            b.transport.crash()
        else:
            world.network.reset("a", "b")
            assert (await b.expect(Unreachable)).reason == "Connection reset by peer"
        await asyncio.sleep(1.0)
        assert not a.events
        await world.peer("c", C, dial=[a])
        await a.expect(Connected)

    play(scenario)


def test_a_connection_that_opens_in_a_cut_waits_for_its_end() -> None:
    async def scenario(world: MemoryWorld) -> None:
        world.network.set_link("a", "b", LinkQuality(delay_s=0.5))
        a = await world.peer("a", A)
        b = await world.peer("b", B, dial=[a])
        await asyncio.sleep(1.2)
        world.network.cut("a", "b")
        await asyncio.sleep(4.0)
        assert not a.events
        world.network.heal()
        await a.expect(Connected)
        await b.expect(Connected)

    play(scenario)


def test_a_cut_off_machine_does_not_answer() -> None:
    async def scenario(world: MemoryWorld) -> None:
        settings = TransportSettings(connect_timeout_s=100.0)
        a = await world.peer("a", A, settings=settings)
        world.network.partition(["a"])
        a.transport.add_address("nowhere:1")
        event = await a.expect(Unreachable)
        assert (event.reason, round(now())) == ("Connection timed out", 63), "as kernels do"

    play(scenario)


# Whatever happens, a network that heals ends with one session a pair that both ends agree on.

NAMES = ["a", "b", "c", "d"]
PAIRS = list(itertools.combinations(NAMES, 2))
faults = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "cut",
                "mend",
                "isolate",
                "rejoin",
                "heal",
                "reset",
                "lose",
                "lose_back",
                "partition",
                "crash",
            ]
        ),
        st.sampled_from(PAIRS),
        st.floats(0.0, 15.0),
    ),
    max_size=12,
)


async def strike(world: MemoryWorld, fault: str, pair: tuple[str, str], seed: int) -> None:
    network = world.network
    actions: dict[str, Callable[[], None]] = {
        "cut": lambda: network.cut(*pair),
        "mend": lambda: network.mend(*pair),
        "isolate": lambda: network.isolate(pair[0]),
        "rejoin": lambda: network.rejoin(pair[0]),
        "heal": network.heal,
        "reset": lambda: network.reset(*pair),
        "lose": lambda: network.lose(*pair),
        "lose_back": lambda: network.lose(*reversed(pair)),
        "partition": lambda: network.partition(pair),
    }
    if fault != "crash":
        actions[fault]()
        return
    name = pair[0]
    old = world.probes[name]
    assert isinstance(old.transport, MemoryTransport)
    old.transport.crash(detect_s=random.Random(seed).choice([0.0, 5.0]))
    await old.transport.close()
    key = signer(NAMES.index(name) + 1)
    world.probes[name] = await world.peer(name, key, hello=hello_content(incarnation=seed))
    dial_all(world, name)


def dial_all(world: MemoryWorld, name: str) -> None:
    for other in NAMES:
        world.probes[name].transport.add_address(f"{other}:5000")


@settings(max_examples=25, deadline=None)
@given(faults)
def test_after_any_faults_each_pair_has_one_session(
    struck: list[tuple[str, tuple[str, str], float]],
) -> None:
    async def scenario(world: MemoryWorld) -> None:
        world.network.set_link("a", "b", LinkQuality(delay_s=0.3, jitter_s=0.2, loss=0.1))
        world.network.set_machine("c", MachineQuality(up_bytes_s=9e3, down_bytes_s=5e3))
        world.network.set_machine("d", MachineQuality(up_bytes_s=9e3, down_bytes_s=5e3))
        for index, name in enumerate(NAMES, start=1):
            world.probes[name] = await world.peer(name, signer(index))
        for name in NAMES:
            dial_all(world, name)
        for number, (fault, pair, wait_s) in enumerate(struck, start=2):
            await strike(world, fault, pair, number)
            await asyncio.sleep(wait_s)
        world.network.heal()
        for name in NAMES:  # neighbours tell again of addresses that were given up meanwhile
            dial_all(world, name)
        await asyncio.sleep(60.0)
        for one, other in PAIRS:
            at_one, at_other = (
                world.probes[x].transport._hub.table._live[world.probes[y].id][0]  # type: ignore[attr-defined]  # what no event shows
                for x, y in ((one, other), (other, one))
            )
            assert at_one.session_id == at_other.session_id
        for one, other in itertools.permutations(NAMES, 2):
            body = f"{one} to {other}".encode()
            world.probes[one].send(world.probes[other], body)
        await asyncio.sleep(10.0)
        for name in NAMES:
            expected = {f"{other} to {name}".encode() for other in NAMES if other != name}
            assert set(world.probes[name].bodies(Kind.HAVE)) == expected

    play(scenario)
