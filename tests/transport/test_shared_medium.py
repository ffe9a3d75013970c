"""What connections share: turns that are fair, no more than there is, and no needless waking."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transport_support import MemoryWorld, PayloadSource, Probe, play_in_memory, signer

from semantic_net.protocol.frames import Kind
from semantic_net.simulation.virtual_time import run_virtual
from semantic_net.transport.bandwidth import RateTrace
from semantic_net.transport.base import Connected
from semantic_net.transport.link import LinkQuality
from semantic_net.transport.medium import Flow, MachineQuality, Medium

MB = 1_000_000


def play(scenario: Callable[[MemoryWorld], Coroutine[Any, Any, None]]) -> None:
    """Play in memory; the scenario knows it."""
    play_in_memory(scenario)  # type: ignore[arg-type]  # the world is a MemoryWorld


def now() -> float:
    return asyncio.get_running_loop().time()


async def star(world: MemoryWorld, num_leaves: int) -> tuple[Probe, list[Probe]]:
    """Connect leaves to a hub in the middle."""
    world.network.set_defaults(lambda source, target: LinkQuality(delay_s=0.02))
    hub = await world.peer("hub", signer(1))
    leaves = [await world.peer(f"l{i}", signer(2 + i), dial=[hub]) for i in range(num_leaves)]
    for leaf in leaves:
        await leaf.expect(Connected)
        await hub.expect(Connected)
    return hub, leaves


def received(probe: Probe) -> int:
    return sum(map(len, probe.bodies(Kind.CHUNK)))


def has_received(probe: Probe, num_bytes: int) -> bool:
    return received(probe) == num_bytes


def test_an_uplink_is_shared_fairly() -> None:
    async def scenario(world: MemoryWorld) -> None:
        hub, leaves = await star(world, 4)
        world.network.set_machine("hub", MachineQuality(up_bytes_s=1.0 * MB))
        began = now()
        for delay_s, leaf in enumerate(leaves[:3]):  # one after the other, with other chunks
            hub.transport.stream(leaf.id, PayloadSource(bytes(10 * MB)))
            await asyncio.sleep(delay_s)
        before = [received(leaf) for leaf in leaves]
        await asyncio.sleep(6.0)
        got = [received(leaf) - had for leaf, had in zip(leaves, before, strict=True)]
        assert got == pytest.approx([2 * MB, 2 * MB, 2 * MB, 0], rel=0.1)
        asked = now()
        hub.send(leaves[3], b"seldom")
        await leaves[3].until(lambda: bool(leaves[3].bodies(Kind.HAVE)))
        assert now() - asked < 0.3, "it waits for no queue"
        for leaf in leaves[:3]:
            await leaf.until(partial(has_received, leaf, 10 * MB))
        assert now() - began == pytest.approx(30.0, rel=0.01)

    play(scenario)


def test_a_downlink_is_shared_fairly_and_holds_its_senders() -> None:
    async def scenario(world: MemoryWorld) -> None:
        hub, leaves = await star(world, 3)
        world.network.set_machine("hub", MachineQuality(down_bytes_s=1.0 * MB))
        sources = [PayloadSource(bytes(6 * MB)) for _ in leaves]
        began = now()
        for leaf, source in zip(leaves, sources, strict=True):
            leaf.transport.stream(hub.id, source)
        await asyncio.sleep(9.0)
        pulled = [sum(source.sizes) for source in sources]
        assert pulled == pytest.approx([3 * MB] * 3, rel=0.1)
        assert sum(pulled) - received(hub) < 0.5 * MB, "no more is under way than the line needs"
        asked = now()
        leaves[0].send(hub, b"urgent")
        await hub.until(lambda: bool(hub.bodies(Kind.HAVE)))
        assert now() - asked < 0.5
        await hub.until(lambda: received(hub) == 18 * MB)
        assert now() - began == pytest.approx(18.0, rel=0.02)

    play(scenario)


PLAIN = MachineQuality(up_bytes_s=0.1 * MB, down_bytes_s=0.1 * MB, is_fifo=True)


def test_in_a_plain_queue_everything_waits() -> None:
    async def scenario(world: MemoryWorld) -> None:
        hub, leaves = await star(world, 3)
        world.network.set_machine("hub", PLAIN)
        for leaf in leaves[:2]:
            hub.transport.stream(leaf.id, PayloadSource(bytes(MB)))
        await asyncio.sleep(3.0)
        asked = now()
        hub.send(leaves[2], b"seldom")
        await leaves[2].until(lambda: bool(leaves[2].bodies(Kind.HAVE)))
        assert now() - asked > 0.2, "behind what others have under way"
        for leaf in leaves[:2]:
            await leaf.until(partial(has_received, leaf, MB))

    play(scenario)


def test_acknowledgements_wait_in_the_plain_queue_of_the_other_direction() -> None:
    took_s = []

    async def scenario(world: MemoryWorld, *, is_used: bool) -> None:
        hub, leaves = await star(world, 2)
        # Much slower up than down: what the hub sends the one delays what the other sends the hub.
        up_bytes_s, down_bytes_s = 0.02 * MB, 1.0 * MB
        quality = MachineQuality(up_bytes_s=up_bytes_s, down_bytes_s=down_bytes_s, is_fifo=True)
        world.network.set_machine("hub", quality)
        if is_used:
            hub.transport.stream(leaves[0].id, PayloadSource(bytes(MB)))
            await asyncio.sleep(1.0)
        began = now()
        leaves[1].transport.stream(hub.id, PayloadSource(bytes(MB // 2)))
        await hub.until(lambda: received(hub) == MB // 2)
        took_s.append(now() - began)

    for is_used in (False, True):
        play(partial(scenario, is_used=is_used))
    assert took_s[0] == pytest.approx(0.5, rel=1.0)
    assert took_s[1] > 3 * took_s[0]


@pytest.mark.parametrize("is_fifo", [False, True])
def test_a_plain_queue_loses_nothing_in_a_cut(is_fifo: bool) -> None:
    async def scenario(world: MemoryWorld) -> None:
        hub, [leaf] = await star(world, 1)
        world.network.set_machine("hub", MachineQuality(down_bytes_s=0.5 * MB, is_fifo=is_fifo))
        began = now()
        leaf.transport.stream(hub.id, PayloadSource(bytes(MB)))
        await asyncio.sleep(1.0)
        world.network.cut("hub", "l0")
        await asyncio.sleep(5.0)
        had = received(hub)
        world.network.mend("hub", "l0")
        await hub.until(lambda: received(hub) == MB)
        assert had < MB
        assert 6.5 < now() - began < 9.0

    play(scenario)


@pytest.mark.parametrize(
    ("quality", "expected_s"),
    [
        (MachineQuality(up_bytes_s=1.0 * MB, down_bytes_s=1.0 * MB), 4.0),
        (MachineQuality(up_bytes_s=1.0 * MB, down_bytes_s=1.0 * MB, half_duplex=True), 8.0),
        (MachineQuality(up_bytes_s=1.0 * MB, channel="air"), 8.0),
    ],
    ids=["duplex", "half_duplex", "channel"],
)
def test_both_ways_at_once(quality: MachineQuality, expected_s: float) -> None:
    async def scenario(world: MemoryWorld) -> None:
        hub, [leaf] = await star(world, 1)
        world.network.set_machine("hub", quality)
        if quality.channel is not None:
            world.network.set_machine("l0", quality)
        began = now()
        hub.transport.stream(leaf.id, PayloadSource(bytes(4 * MB)))
        leaf.transport.stream(hub.id, PayloadSource(bytes(4 * MB)))
        await hub.until(lambda: received(hub) == 4 * MB)
        await leaf.until(lambda: received(leaf) == 4 * MB)
        assert now() - began == pytest.approx(expected_s, rel=0.05)

    play(scenario)


def test_the_narrowest_of_three_sets_the_pace() -> None:
    async def scenario(world: MemoryWorld) -> None:
        hub, [leaf] = await star(world, 1)
        world.network.set_machine("l0", MachineQuality(up_bytes_s=2.0 * MB))
        world.network.set_machine("hub", MachineQuality(down_bytes_s=1.5 * MB))
        world.network.set_link("l0", "hub", LinkQuality(bandwidth_bytes_s=1.0 * MB, delay_s=0.3))
        began = now()
        leaf.transport.stream(hub.id, PayloadSource(bytes(8 * MB)))
        await hub.until(lambda: received(hub) == 8 * MB)
        assert now() - began == pytest.approx(8.3, rel=0.01)
        busy_s = leaf.transport.links()[hub.id].busy_s
        assert busy_s == pytest.approx(now() - began, rel=0.05)

    play(scenario)


def test_a_long_way_to_a_slow_downlink_is_kept_full() -> None:
    async def scenario(world: MemoryWorld) -> None:
        hub, [leaf] = await star(world, 1)
        world.network.set_link("l0", "hub", LinkQuality(delay_s=0.5))
        world.network.set_machine("hub", MachineQuality(down_bytes_s=1.0 * MB))
        began = now()
        leaf.transport.stream(hub.id, PayloadSource(bytes(10 * MB)))
        await hub.until(lambda: received(hub) == 10 * MB)
        assert now() - began == pytest.approx(10.5, rel=0.05)

    play(scenario)


def test_a_link_that_is_shaped_by_tc_takes_as_long() -> None:
    """8 MiB at 5 Mbit/s: 13.4 s for the payload, 0.6 s for its headers."""

    async def scenario(world: MemoryWorld) -> None:
        hub, [leaf] = await star(world, 1)
        shaped = LinkQuality(bandwidth_bytes_s=625_000.0, header_bytes=66)
        world.network.set_link("l0", "hub", shaped)
        sent, began = leaf.transport.traffic().bytes_sent, now()
        leaf.transport.stream(hub.id, PayloadSource(bytes(8 * 1024 * 1024)))
        await hub.until(lambda: received(hub) == 8 * 1024 * 1024)
        assert now() - began == pytest.approx(13.42 * 1514 / 1448, rel=0.002)
        assert leaf.transport.traffic().bytes_sent - sent < 8.01 * 1024 * 1024, "no headers"

    play(scenario)


def test_an_uplink_follows_its_trace() -> None:
    async def scenario(world: MemoryWorld) -> None:
        hub, [leaf] = await star(world, 1)
        trace = RateTrace([(10.0, 0.5 * MB), (5.0, 0.0)])  # 5 MB in 15 s
        world.network.set_machine("l0", MachineQuality(up_bytes_s=trace))
        began = now()
        leaf.transport.stream(hub.id, PayloadSource(bytes(12 * MB)))
        await hub.until(lambda: received(hub) == 12 * MB)
        assert began < 1.0
        assert now() == pytest.approx(34.0, abs=0.5)

    play(scenario)


def test_a_cut_while_something_passes_the_downlink_loses_nothing() -> None:
    async def scenario(world: MemoryWorld) -> None:
        hub, [leaf] = await star(world, 1)
        world.network.set_machine("hub", MachineQuality(down_bytes_s=0.1 * MB))
        leaf.transport.stream(hub.id, PayloadSource(bytes(2 * MB)))
        for _ in range(6):
            await asyncio.sleep(1.05)
            world.network.isolate("hub")
            before = received(hub)
            await asyncio.sleep(3.0)
            assert received(hub) == before
            world.network.rejoin("hub")
        await hub.until(lambda: received(hub) == 2 * MB)
        assert now() == pytest.approx(20.0 + 6 * 3.0, rel=0.15)

    play(scenario)


# The medium alone.

sends = st.lists(
    st.tuples(st.integers(0, 4), st.floats(0.0, 3.0), st.integers(1, 3000)), max_size=40
)


@settings(deadline=None)
@given(sends)
def test_no_more_than_there_is_and_nobody_is_forgotten(
    wanted: list[tuple[int, float, int]],
) -> None:
    """Flows want to send at some times; what is through by then fits, in order in each flow."""

    async def scenario() -> list[tuple[float, int, int]]:
        medium, through = Medium(), list[tuple[float, int, int]]()
        queues: list[list[int]] = [[] for _ in range(5)]
        flows: list[Flow] = []

        def send(index: int) -> None:
            while queues[index] and medium.is_free_for(flows[index], now()):
                size = queues[index].pop(0)
                through.append((medium.carry(flows[index], 1000.0, size, now()), index, size))

        def want(index: int, size: int) -> None:
            queues[index].append(size)
            send(index)

        flows.extend(Flow(partial(send, index)) for index in range(5))
        for index, at_s, size in wanted:
            asyncio.get_running_loop().call_at(at_s, want, index, size)
        await asyncio.sleep(200.0)
        assert not any(queues)
        return through

    through = run_virtual(scenario())
    assert len(through) == len(wanted)
    passed = 0
    for at_s, _, size in through:
        passed += size
        assert passed <= 1000.0 * at_s + 1e-6
    if wanted:
        earliest_s = min(at_s for _, at_s, _ in wanted)
        total_s = sum(size for *_, size in wanted) / 1000.0
        assert through[-1][0] <= max(at_s for _, at_s, _ in wanted) + total_s + 1e-6
        assert through[-1][0] >= earliest_s + total_s - 1e-6


def test_whoever_always_sends_gets_as_much_whatever_its_chunks() -> None:
    async def scenario() -> list[int]:
        medium, turns = Medium(), random.Random(1)
        chunks, sent, woken, num_chunks = [100, 1000, 3000], [0, 0, 0], [0], [0]

        def send(index: int) -> None:
            woken[0] += 1
            while medium.is_free_for(flows[index], now()):
                num_chunks[0] += 1
                size = turns.randrange(1, 2 * chunks[index])
                sent[index] += size
                medium.carry(flows[index], 1000.0, size, now())

        flows = [Flow(partial(send, index)) for index in range(3)]
        for index in range(3):
            send(index)
        await asyncio.sleep(1000.0)
        assert woken[0] - num_chunks[0] <= 3, "one is woken a chunk, and not all"
        return sent

    sent = run_virtual(scenario())
    assert sent == pytest.approx([333_333] * 3, rel=0.02)
