"""Two peers that dial each other at the same moment, over and over, on real sockets."""

from __future__ import annotations

import asyncio
import functools

import pytest
from transport_support import World, play_over_tcp, signer

from semantic_net.protocol.frames import Kind
from semantic_net.transport.ad_hoc import AdHocTransport
from semantic_net.transport.base import Connected, Disconnected, Refused

pytestmark = pytest.mark.faults

REPETITIONS = 200
POLL_S = 0.001


def test_peers_that_dial_each_other_at_once_end_with_one_session() -> None:
    """Protects: one session a pair, the same one at both ends, whoever was first."""
    duplicates = 0

    async def scenario(world: World, repetition: int) -> None:
        nonlocal duplicates
        a = await world.peer("a", signer(1 + repetition))
        b = await world.peer("b", signer(1 + (repetition + 7) % REPETITIONS))
        a.transport.add_address(world.address_of(b))
        b.transport.add_address(world.address_of(a))
        await a.expect(Connected)
        await b.expect(Connected)
        duplicates += any(num_connections(probe.transport) > 1 for probe in (a, b))
        # No event tells of the end of a refused connection.
        while any(num_connections(probe.transport) != 1 for probe in (a, b)):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        a.send(b, b"over a's")
        b.send(a, b"over b's")
        await a.until(lambda: a.bodies(Kind.HAVE) == [b"over b's"])
        await b.until(lambda: b.bodies(Kind.HAVE) == [b"over a's"])
        for probe in (a, b):
            assert num_connections(probe.transport) == 1
            assert len(probe.of(Connected)) == 1
            assert not probe.of(Disconnected)
            assert not probe.of(Refused)

    for repetition in range(REPETITIONS):
        play_over_tcp(functools.partial(scenario, repetition=repetition))
    assert duplicates > REPETITIONS / 10, "they did dial at once"


def num_connections(transport: object) -> int:
    """Return the connections that are not closed for good, refused ones included."""
    assert isinstance(transport, AdHocTransport)
    return len(transport._hub.wires())
