"""When an address is dialled again, and when not; in virtual time."""

from __future__ import annotations

import asyncio
import errno
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from transport_support import FACTS, MemoryWorld, Probe, hello_content, play_in_memory, signer

from semantic_net.protocol.address import Address
from semantic_net.protocol.handshake import (
    DUPLICATE_CONNECTION,
    Hello,
    HelloContent,
    Refusal,
    encode_hello,
    encode_refusal,
)
from semantic_net.protocol.identity import PublicKey, Signer
from semantic_net.simulation.virtual_time import run_virtual
from semantic_net.transport.base import (
    Buffer,
    Connected,
    Disconnected,
    Duplicate,
    Refused,
    TransportEvent,
    Unreachable,
)
from semantic_net.transport.connection import Connection
from semantic_net.transport.dialer import (
    STRANGERS_A_SECOND,
    STRANGERS_AT_ONCE,
    STRANGERS_BURST,
    UNPROVEN_S,
    Dialer,
)
from semantic_net.transport.hub import CountedWire, Hub
from semantic_net.transport.memory import MemoryTransport
from semantic_net.transport.settings import TransportSettings
from semantic_net.transport.target import VAIN_DIALS

A, B, C = signer(1), signer(2), signer(3)
SETTINGS = TransportSettings()


def now() -> float:
    return asyncio.get_running_loop().time()


def waits(times: list[float]) -> list[float]:
    """Return the seconds between each dial and the next."""
    return [later - earlier for earlier, later in itertools.pairwise(times)]


class Desert:
    """Nobody is anywhere; who was dialled when is written down."""

    def __init__(self, settings: TransportSettings = SETTINGS) -> None:
        self.times: dict[Address, list[float]] = {}
        self.events: list[TransportEvent] = []
        self.answer: Callable[[], BaseException] = lambda: OSError(errno.ECONNREFUSED, "refused")
        self.hub = Hub(A, hello_content(), settings)
        self.hub.start(self.events.append, ())
        self.dialer = Dialer(self.dial, self.hub, random.Random(0))

    async def dial(self, address: Address) -> Connection:
        self.times.setdefault(address, []).append(now())
        raise self.answer()

    def waits(self, address: str) -> list[float]:
        host, _, port = address.partition(":")
        times = self.times[Address(host, int(port))]
        return waits(times)


def test_waits_double_with_jitter_up_to_a_few_seconds() -> None:
    async def main() -> None:
        desert = Desert()
        desert.dialer.add("h:1", learned=False)
        await asyncio.sleep(200.0)
        await desert.dialer.close()
        waits = desert.waits("h:1")
        for index, wait_s in enumerate(waits):
            longest = min(5.0, 0.1 * 2**index)
            assert 0.49 * longest < wait_s < 1.01 * longest
        assert len(set(waits)) == len(waits), "jitter"
        assert len(waits) > 40

    run_virtual(main())


def test_each_change_of_reason_is_told_once() -> None:
    async def main() -> None:
        desert = Desert()
        desert.dialer.add("h:1", learned=False)
        await asyncio.sleep(10.0)
        desert.answer = lambda: OSError(errno.EHOSTUNREACH, "no route")
        await asyncio.sleep(10.0)
        await desert.dialer.close()
        assert desert.events == [
            Unreachable("h:1", "Connection refused"),
            Unreachable("h:1", "No route to host"),
        ]

    run_virtual(main())


def test_an_address_counts_once_however_it_is_written() -> None:
    async def main() -> None:
        desert = Desert()
        for text in ("Host:1", "host:1", " HOST:1 "):
            desert.dialer.add(text, learned=False)
        await asyncio.sleep(0.01)
        assert [len(times) for times in desert.times.values()] == [1]
        assert desert.dialer.unmet() == ("host:1",)
        await desert.dialer.close()
        desert.dialer.add("other:1", learned=False)
        assert desert.dialer.unmet() == ()

    run_virtual(main())


def test_a_learned_address_where_nobody_answers_is_given_up_soon() -> None:
    async def main() -> None:
        desert = Desert()
        desert.dialer.add("learned:1", learned=True)
        desert.dialer.add("given:1", learned=True)
        desert.dialer.add("given:1", learned=False)  # learned first, then given by the user
        await asyncio.sleep(1000.0)
        assert max(desert.waits("given:1")) <= 5.0
        times = desert.times[Address("learned", 1)]
        assert len(times) == VAIN_DIALS
        assert 10.0 < times[-1] - times[0] < 60.0, "long enough to come back"
        await desert.dialer.close()

    run_virtual(main())


def test_an_address_that_was_given_up_is_dialled_once_when_it_is_told_again() -> None:
    async def main() -> None:
        desert = Desert()
        desert.dialer.add("learned:1", learned=True)
        await asyncio.sleep(1000.0)
        for _ in range(1000):
            desert.dialer.add("learned:1", learned=True)
            await asyncio.sleep(1.0)
        times = desert.times[Address("learned", 1)]
        assert min(waits(times[VAIN_DIALS - 1 :])) >= SETTINGS.refused_backoff_s
        assert len(times) > VAIN_DIALS + 20, "though again and again"
        desert.dialer.add("learned:1", learned=False)
        await asyncio.sleep(0.01)
        assert len(times) > VAIN_DIALS + 20
        assert times[-1] == pytest.approx(now(), abs=0.02), "named, it is dialled at once"
        await desert.dialer.close()

    run_virtual(main())


def test_a_flood_of_made_up_addresses_is_dialled_at_a_bounded_rate_and_then_forgotten() -> None:
    async def main() -> None:
        desert = Desert()
        for number in range(SETTINGS.max_learned):
            assert desert.dialer.add(f"h{number}:1", learned=True)
        num_dials: list[int] = []
        for _ in range(10):
            await asyncio.sleep(60.0)
            num_dials.append(sum(map(len, desert.times.values())))
        assert num_dials[0] <= STRANGERS_BURST + 60 * STRANGERS_A_SECOND
        assert max(waits([float(n) for n in num_dials])) <= 60 * STRANGERS_A_SECOND
        assert num_dials[-1] == num_dials[-3], "and not without end"
        await desert.dialer.close()

    run_virtual(main())


def test_few_dials_of_learned_addresses_are_under_way_and_named_ones_do_not_wait() -> None:
    async def main() -> None:
        desert = Desert(replace(SETTINGS, seeds=("seed:1",)))
        under_way: set[Address] = set()
        most = 0

        async def swallow(address: Address) -> Connection:
            nonlocal most
            under_way.add(address)
            most = max(most, sum(a.host.startswith("h") for a in under_way))
            try:
                await asyncio.Event().wait()
            finally:
                under_way.discard(address)
            raise AssertionError("nobody answers")

        desert.dialer._dial = swallow
        for number in range(500):
            desert.dialer.add(f"h{number}:1", learned=True)
        await asyncio.sleep(1.0)
        desert.dialer.add("named:1", learned=False)
        desert.dialer.add("seed:1", learned=True)
        await asyncio.sleep(0.01)
        assert {Address("named", 1), Address("seed", 1)} < under_way
        await asyncio.sleep(300.0)
        assert most == STRANGERS_AT_ONCE
        await desert.dialer.close()

    run_virtual(main())


def test_addresses_that_were_not_dialled_yet_go_before_those_dialled_in_vain() -> None:
    async def main() -> None:
        desert = Desert()

        async def slow(address: Address) -> Connection:
            desert.times.setdefault(address, []).append(now())
            await asyncio.sleep(1.0)
            raise TimeoutError

        desert.dialer._dial = slow
        for number in range(50):
            desert.dialer.add(f"h{number}:1", learned=True)
        await asyncio.sleep(50 / STRANGERS_AT_ONCE + 1.0)
        assert len(desert.times) == 50
        await desert.dialer.close()

    run_virtual(main())


def test_learned_addresses_are_bounded_and_there_is_room_again() -> None:
    async def main() -> None:
        desert = Desert(replace(SETTINGS, max_learned=2))
        names = ("first:1", "second:1", "third:1")
        assert [desert.dialer.add(name, learned=True) for name in names] == [True, True, False]
        await asyncio.sleep(200.0)
        assert {str(address) for address in desert.times} == {"first:1", "second:1"}
        assert desert.dialer.add("third:1", learned=True)
        desert.dialer.add("given:1", learned=False)
        await asyncio.sleep(1.0)
        assert {str(address) for address in desert.times} == {
            "first:1", "second:1", "third:1", "given:1"
        }  # fmt: skip
        num_dials = sum(map(len, desert.times.values()))
        await desert.dialer.close()
        assert num_dials > 0

    run_virtual(main())


def test_a_forgotten_address_is_dialled_no_more_unless_it_was_named() -> None:
    async def main() -> None:
        desert = Desert()
        desert.dialer.add("learned:1", learned=True)
        desert.dialer.add("named:1", learned=False)
        await asyncio.sleep(1.0)
        for name in ("Learned:1", "named:1", "unknown:1"):
            desert.dialer.forget(name)
        before = {address: len(times) for address, times in desert.times.items()}
        await asyncio.sleep(100.0)
        after = {address: len(times) for address, times in desert.times.items()}
        assert after[Address("learned", 1)] == before[Address("learned", 1)]
        assert after[Address("named", 1)] > before[Address("named", 1)]
        desert.dialer.add("learned:1", learned=True)
        await asyncio.sleep(0.01)
        assert len(desert.times[Address("learned", 1)]) == before[Address("learned", 1)] + 1
        await desert.dialer.close()

    run_virtual(main())


def test_what_hears_of_a_vain_dial_may_forget_its_address() -> None:
    async def main() -> None:
        desert = Desert()
        desert.hub.start(lambda event: desert.dialer.forget("h:1"), ())
        desert.dialer.add("h:1", learned=True)
        await asyncio.sleep(100.0)
        assert len(desert.times[Address("h", 1)]) == 1
        await desert.dialer.close()

    run_virtual(main())


def test_an_address_that_no_resolver_takes_is_unreachable() -> None:
    async def main() -> None:
        desert = Desert()
        desert.answer = lambda: UnicodeError("label empty or too long")
        desert.dialer.add("h:1", learned=True)
        await asyncio.sleep(10.0)
        assert desert.events == [Unreachable("h:1", "label empty or too long")]
        assert len(desert.times[Address("h", 1)]) > 1
        assert not desert.hub.failure.done()
        await desert.dialer.close()

    run_virtual(main())


def test_a_bug_in_dialling_surfaces() -> None:
    async def main() -> None:
        desert = Desert()
        desert.answer = lambda: KeyError("our bug")
        desert.dialer.add("h:1", learned=False)
        with pytest.raises(KeyError, match="our bug"):
            await desert.hub.failure
        await desert.dialer.close()

    run_virtual(main())


def play(scenario: Callable[[MemoryWorld], object]) -> None:
    play_in_memory(scenario)  # type: ignore[arg-type]  # the world is a MemoryWorld


async def dial_times(probe: Probe) -> list[float]:
    """Write down when a memory transport dials from now on."""
    transport, times = probe.transport, []
    assert isinstance(transport, MemoryTransport)
    real = transport._dialer._dial

    async def dial(address: Address) -> Connection:
        times.append(now())
        return await real(address)

    transport._dialer._dial = dial
    return times


def test_a_session_that_lasted_is_dialled_again_at_once() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a = await world.peer("a", A)
        b = await world.peer("b", B, dial=[a])
        await b.expect(Connected)
        times = await dial_times(b)
        for _ in range(5):
            await asyncio.sleep(6.0)
            world.network.reset("a", "b")
            lost = now()
            await b.expect(Disconnected)
            await b.expect(Connected)
            assert times[-1] == pytest.approx(lost)

    play(scenario)


def test_a_session_that_flaps_is_not_dialled_in_a_tight_loop() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a = await world.peer("a", A)
        a.on_event = lambda event: (
            a.transport.disconnect(B.peer_id, "nonsense", "we do not like it")
            if isinstance(event, Connected)
            else None
        )
        b = await world.peer("b", B, dial=[a])
        times = await dial_times(b)
        await asyncio.sleep(300.0)
        assert 10 < len(times) < 30
        assert min(waits(times)) > 0.4

    play(scenario)


def test_short_sessions_that_break_are_dialled_with_growing_waits() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a = await world.peer("a", A)
        b = await world.peer("b", B, dial=[a])
        times = await dial_times(b)
        for _ in range(10):
            await b.expect(Connected)
            world.network.reset("a", "b")
        await b.expect(Connected)
        assert waits(times)[0] < 0.2, "the first at once"
        assert 2.0 < waits(times)[-1] < 5.1

    play(scenario)


def test_a_refusal_is_told_once_and_dialled_more_and_more_rarely() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a = await world.peer("a", A)
        b = await world.peer("b", B, dial=[a], hello=hello_content(model="other"))
        times = await dial_times(b)
        await asyncio.sleep(600.0)
        assert len(b.of(Refused)) == 1
        assert 20 < len(times) < 50
        assert times[-1] - times[-2] > 14.0
        assert b.transport.unmet_addresses() == ("a:5000",), "who refuses us is not met"
        assert b.transport.refused_addresses() == {"a:5000"}
        await a.transport.close()
        await asyncio.sleep(30.0)
        assert b.transport.refused_addresses() == set(), "it may come back as one that fits"

    play(scenario)


def test_addresses_to_wait_for_are_met_by_a_hello() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a = await world.peer("a", A)
        settings = replace(SETTINGS, peers=("a:5000", "b:5000", "nobody:5000"))
        transport = MemoryTransport(world.network, "b", B, settings, hello_content())
        b = Probe("b", B, transport)
        await transport.start(b.handle)
        assert transport.unmet_addresses() == ("a:5000", "nobody:5000")
        await b.expect(Connected)
        await asyncio.sleep(1.0)
        assert transport.unmet_addresses() == ("nobody:5000",), "and we are not others"
        await transport.close()
        await a.transport.close()

    play(scenario)


def claiming(*addresses: str) -> HelloContent:
    """Return the hello of somebody who says that it can be dialled there."""
    return replace(hello_content(), addresses=addresses)


def test_where_a_stranger_says_it_is_others_are_dialled_all_the_same() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a = await world.peer("a", A)
        a.transport.add_address("b:5000")
        await world.peer("c", C, dial=[a], hello=claiming("b:5000"))
        assert (await a.expect(Connected)).peer == C.peer_id
        await world.peer("b", B)
        found = await a.expect(Connected)
        assert (found.peer, found.address, found.dialled) == (B.peer_id, "b:5000", True)
        assert now() < 10.0, "though the stranger is still there"

    play(scenario)


def test_peers_find_each_other_again_whoever_claims_their_addresses() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a = await world.peer("a", A)
        b = await world.peer("b", B, dial=[a])
        await b.expect(Connected)
        a.transport.add_address("b:5000")
        await a.expect(Duplicate)
        c = await world.peer("c", C, dial=[a], hello=claiming("b:5000"))
        d = await world.peer("d", signer(4), dial=[b], hello=claiming("a:5000"))
        await c.expect(Connected)
        await d.expect(Connected)
        await asyncio.sleep(10.0)
        world.reset(a, b)
        lost = now()
        await b.expect(Disconnected)
        await b.until(lambda: len([e for e in b.of(Connected) if e.peer == A.peer_id]) == 2)
        assert now() < lost + 1.0

    play(scenario)


LOWER, HIGHER = sorted((A, B), key=lambda key: key.peer_id)
"""The lower one decides, and so refuses a second connection after the other's proof."""


@pytest.mark.parametrize(
    ("ours", "theirs", "claims"),
    [(LOWER, HIGHER, "other-name:5000"), (HIGHER, LOWER, "b:5000")],
    ids=["it has proven its key", "its session says the same"],
)
def test_a_dial_of_who_is_connected_ends_as_a_duplicate_and_is_not_tried_again(
    ours: Signer, theirs: Signer, claims: str
) -> None:
    async def scenario(world: MemoryWorld) -> None:
        a = await world.peer("a", ours)
        b = await world.peer("b", theirs, dial=[a], hello=claiming(claims))
        await a.expect(Connected)
        await b.expect(Connected)
        assert [event.dialled for event in (*a.of(Connected), *b.of(Connected))] == [False, True]
        times = await dial_times(a)
        a.transport.add_address("b:5000")
        assert await a.expect(Duplicate) == Duplicate("b:5000", theirs.peer_id)
        await asyncio.sleep(300.0)
        assert len(times) == len(a.of(Duplicate)) == 1
        assert not a.of(Disconnected)
        world.reset(a, b)
        await a.expect(Disconnected)
        await a.expect(Connected)

    play(scenario)


def test_who_is_only_said_to_be_somewhere_is_looked_for_there_rarely() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a = await world.peer("a", HIGHER)
        b = await world.peer("b", LOWER, dial=[a], hello=claiming("other-name:5000"))
        await a.expect(Connected)
        times = await dial_times(a)
        a.transport.add_address("b:5000")
        await asyncio.sleep(3600.0)
        assert 5 < len(times) < 25
        assert max(waits(times)) <= UNPROVEN_S
        assert not a.of(Duplicate), "it has proven nothing"
        assert not a.of(Refused)
        await b.transport.close()
        await a.expect(Disconnected)
        ended = now()
        await a.expect(Unreachable)
        assert now() - ended < 1.0, "now it may be somebody else"

    play(scenario)


class Liar:
    """Whoever answers a dial with the hello of somebody else, and a refusal."""

    def __init__(self, world: MemoryWorld, name: str, key: PublicKey, code: str) -> None:
        hello = Hello(key, bytes(32), 1, [], {**FACTS}, "test")
        self._said = [encode_hello(hello), encode_refusal(Refusal(code, "no"))]
        self._world, self._address = world, Address(name, 5000)
        self._hub = Hub(signer(9), hello_content(), SETTINGS)
        self._hub.adopt = self._adopt  # type: ignore[method-assign]  # it lies
        self._hub.start(lambda event: None, ())
        world.network.listen(self._address, self._hub)

    def _adopt(self, wire: CountedWire, address: str, *, dialled: bool) -> Connection:
        connection = Hub.adopt(self._hub, _Mute(wire), address, dialled=dialled)
        wire.write(self._said)
        return connection

    def go(self) -> None:
        """Be there no more."""
        self._world.network.stop_listening(self._address, self._hub)


class _Mute:
    """A wire on which its owner says nothing."""

    def __init__(self, wire: CountedWire) -> None:
        self._wire = wire

    def write(self, buffers: Sequence[Buffer], *, is_bulk: bool = False) -> None:
        """Say nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wire, name)


@pytest.mark.parametrize("peer", [LOWER, HIGHER], ids=["it would decide", "we would"])
def test_nobody_is_taken_to_be_where_a_stranger_says_so(peer: Signer) -> None:
    async def scenario(world: MemoryWorld) -> None:
        a = await world.peer("a", HIGHER if peer is LOWER else LOWER)
        await world.peer("b", peer, dial=[a])
        await a.expect(Connected)
        Liar(world, "c", peer.public_key, DUPLICATE_CONNECTION)
        a.transport.add_address("c:5000")
        await asyncio.sleep(60.0)
        assert not a.of(Duplicate)
        assert isinstance(a.transport, MemoryTransport)
        (target,) = a.transport._dialer._targets.values()
        assert target.peer is None

    play(scenario)


def test_whoever_says_that_it_is_we_keeps_nobody_from_its_address() -> None:
    async def scenario(world: MemoryWorld) -> None:
        echo = Liar(world, "b", A.public_key, "self")
        settings = replace(SETTINGS, peers=("b:5000",))
        transport = MemoryTransport(world.network, "a", A, settings, hello_content())
        a = Probe("a", A, transport)
        await transport.start(a.handle)
        times = await dial_times(a)
        await asyncio.sleep(600.0)
        assert transport.unmet_addresses() == (), "nobody waits for oneself"
        assert 5 < len(times) < 20, "rarely: an own address under another name stays one"
        echo.go()
        await world.peer("b", B)
        began = now()
        await a.expect(Connected)
        assert now() - began <= 600.0, "as long again"
        await transport.close()

    play(scenario)


def test_an_own_address_that_is_known_is_not_dialled() -> None:
    async def scenario(world: MemoryWorld) -> None:
        settings = replace(SETTINGS, peers=("a:5000",))
        transport = MemoryTransport(world.network, "a", A, settings, hello_content())
        a = Probe("a", A, transport)
        await transport.start(a.handle)
        times = await dial_times(a)
        transport.add_address("a:5000")
        await asyncio.sleep(60.0)
        assert times == []
        await transport.close()

    play(scenario)


def test_who_only_calls_is_not_waited_for_where_it_says_it_is() -> None:
    async def scenario(world: MemoryWorld) -> None:
        transport = MemoryTransport(
            world.network, "b", B, replace(SETTINGS, peers=("hidden:5000",)), hello_content()
        )
        b = Probe("b", B, transport)
        await transport.start(b.handle)
        await world.peer("c", C, dial=[b], hello=claiming("hidden:5000"))
        await b.expect(Connected)
        assert transport.unmet_addresses() == (), "nobody can dial it, but it is there"
        await transport.close()

    play(scenario)
