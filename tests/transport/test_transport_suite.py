"""What every transport does, on the real network and in memory."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from transport_support import (
    PayloadSource,
    Probe,
    Scenario,
    World,
    control,
    hello_content,
    play_in_memory,
    play_over_tcp,
    play_over_tls,
    play_over_zenoh,
    play_over_zenoh_tls,
    signer,
)

from semantic_net.errors import RemoteProtocolError, StartError, TransportError
from semantic_net.protocol.frames import Kind, encode_header
from semantic_net.protocol.identity import Signer
from semantic_net.transport.base import (
    Buffer,
    Connected,
    Disconnected,
    Received,
    Refused,
    TransportEvent,
    Unreachable,
)
from semantic_net.transport.link import LinkQuality
from semantic_net.transport.quarantine import STRIKES
from semantic_net.transport.settings import TransportSettings

A, B, C = signer(1), signer(2), signer(3)
Play = Callable[[Scenario], None]


@pytest.fixture(
    params=[play_over_tcp, play_over_tls, play_in_memory, play_over_zenoh, play_over_zenoh_tls],
    ids=["tcp", "tls", "memory", "zenoh", "zenoh_tls"],
)
def play(request: pytest.FixtureRequest) -> Play:
    """Return how to play a scenario."""
    player: Play = request.param
    return player


async def pair(world: World) -> tuple[Probe, Probe]:
    """Return two connected peers, the second of which has dialled."""
    a = await world.peer("a", A)
    b = await world.peer("b", B, dial=[a])
    await a.expect(Connected)
    await b.expect(Connected)
    return a, b


async def until_received(probe: Probe, num_bytes: int) -> None:
    """Wait until the chunks that arrived add up to ``num_bytes``."""
    await probe.until(lambda: sum(map(len, probe.bodies(Kind.CHUNK))) >= num_bytes)


def test_peers_connect_and_exchange_frames(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        b = await world.peer("b", B, dial=[a])
        at_a, at_b = await a.expect(Connected), await b.expect(Connected)
        assert (at_a.peer, at_b.peer) == (B.peer_id, A.peer_id)
        assert at_a.hello.facts == at_b.hello.facts
        assert at_b.address == world.address_of(a)
        assert at_b.hello.addresses == [a.transport.address]
        a.send(b, b"from a")
        b.send(a, b"from b")
        await a.until(lambda: a.bodies(Kind.HAVE) == [b"from b"])
        await b.until(lambda: b.bodies(Kind.HAVE) == [b"from a"])

    play(scenario)


def test_what_the_handler_sends_on_connect_arrives_first(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)

        def greet(event: TransportEvent) -> None:
            if isinstance(event, Connected):
                a.transport.send(event.peer, control(b"1"))
                a.transport.send(event.peer, control(b"2"))

        a.on_event = greet
        b = await world.peer("b", B, dial=[a])
        await b.until(lambda: b.bodies(Kind.HAVE) == [b"1", b"2"])

    play(scenario)


def test_another_runs_peer_is_refused_and_both_sides_name_the_fact(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        b = await world.peer("b", B, dial=[a], hello=hello_content(model="other"))
        at_a, at_b = await a.expect(Refused), await b.expect(Refused)
        assert (at_a.code, at_a.reason) == ("facts", "model: ours m, theirs other")
        assert (at_b.code, at_b.reason) == ("facts", "model: ours other, theirs m")
        assert (at_a.address, at_a.peer) == (b.transport.address, b.id), "where it listens"
        assert (at_b.address, at_b.peer) == (world.address_of(a), a.id)
        with pytest.raises(TransportError, match="not connected"):
            a.send(b, b"")

    play(scenario)


def test_control_frames_overtake_bulk(play: Play) -> None:
    class Endless:
        """Goes on until the control frame has arrived: behind it, it never would."""

        stop = False

        def next_frame(self, max_bytes: int) -> Sequence[Buffer] | None:
            if self.stop:
                return None
            return encode_header(Kind.CHUNK, max_bytes), bytes(max_bytes)

    async def scenario(world: World) -> None:
        a, b = await pair(world)
        if hasattr(world, "network"):  # with endless bandwidth time would stand still
            world.network.set_link("a", "b", LinkQuality(bandwidth_bytes_s=1e6))
        source = Endless()
        a.transport.stream(b.id, source)
        await b.until(lambda: len(b.bodies(Kind.CHUNK)) >= 3)
        a.send(b, b"urgent")
        await b.until(lambda: bool(b.bodies(Kind.HAVE)))
        source.stop = True

    play(scenario)


@pytest.mark.parametrize("sizes", [[0], [1], [262_144], [262_145, 0, 7], [3_000_000, 65_536]])
def test_payloads_arrive_whole_and_in_order(play: Play, sizes: list[int]) -> None:
    payloads = [random.Random(size).randbytes(size) for size in sizes]

    async def scenario(world: World) -> None:
        a, b = await pair(world)
        for payload in payloads:
            a.transport.stream(b.id, PayloadSource(payload))
        await until_received(b, sum(sizes))
        got = hashlib.sha256(b"".join(b.bodies(Kind.CHUNK)))
        assert got.digest() == hashlib.sha256(b"".join(payloads)).digest()

    play(scenario)


def test_a_rate_limit_is_for_all_connections_together(play: Play) -> None:
    async def scenario(world: World) -> None:
        settings = TransportSettings(max_rate_bytes_s=2_000_000.0)
        a = await world.peer("a", A, settings=settings)
        others = [await world.peer(n, key, dial=[a]) for n, key in (("b", B), ("c", C))]
        for other in others:
            await other.expect(Connected)
            await a.expect(Connected)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for other in others:
            a.transport.stream(other.id, PayloadSource(bytes(500_000)))
        for other in others:
            await other.until(lambda o=other: sum(map(len, o.bodies(Kind.CHUNK))) == 500_000)  # type: ignore[misc]
        assert loop.time() - began_s > 0.9 * (1_000_000 - 200_000) / 2_000_000
        a.send(others[0], b"urgent all the same")
        await others[0].until(lambda: bool(others[0].bodies(Kind.HAVE)))

    play(scenario)


def test_small_frames_beside_a_payload_that_waits_for_its_rate_set_no_more_alarms(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each set one, and each of those the next, until the payload was through."""

    async def scenario(world: World) -> None:
        a = await world.peer("a", A, settings=TransportSettings(max_rate_bytes_s=20_000.0))
        b = await world.peer("b", B, dial=[a])
        await a.expect(Connected)
        a.transport.stream(b.id, PayloadSource(bytes(100_000)))
        loop = asyncio.get_running_loop()
        call_later, alarms = loop.call_later, 0

        def count(delay: float, callback: Any, *args: Any, **options: Any) -> asyncio.TimerHandle:
            nonlocal alarms
            alarms += "pump" in getattr(callback, "__name__", "")
            return call_later(delay, callback, *args, **options)

        monkeypatch.setattr(loop, "call_later", count)
        began_s = loop.time()
        for _ in range(50):
            a.send(b, b"small")
            await asyncio.sleep(0.02)
        assert alarms < 20 * (loop.time() - began_s) + 10

    play(scenario)


def test_payloads_flow_both_ways_at_once(play: Play) -> None:
    payload = random.Random(0).randbytes(5_000_000)

    async def scenario(world: World) -> None:
        a, b = await pair(world)
        a.transport.stream(b.id, PayloadSource(payload))
        b.transport.stream(a.id, PayloadSource(payload))
        for probe in (a, b):
            await until_received(probe, len(payload))
            assert b"".join(probe.bodies(Kind.CHUNK)) == payload

    play(scenario)


def test_both_counters_agree_and_stay_within_two_percent_of_the_payload(play: Play) -> None:
    payload = bytes(4_000_000)

    async def scenario(world: World) -> None:
        a, b = await pair(world)
        a.transport.stream(b.id, PayloadSource(payload))
        await until_received(b, len(payload))
        a.send(b, b"end")
        await b.until(lambda: bool(b.bodies(Kind.HAVE)))
        at_a, at_b = a.transport.traffic(), b.transport.traffic()
        assert at_a.bytes_sent == at_b.bytes_received
        assert at_a.bytes_received == at_b.bytes_sent
        assert len(payload) < at_a.bytes_sent < 1.02 * len(payload)

    play(scenario)


def test_a_link_is_measured_by_what_has_arrived(play: Play) -> None:
    payload = bytes(3_000_000)

    async def scenario(world: World) -> None:
        a, b = await pair(world)
        b.send(a, b"a word")
        await a.until(lambda: bool(a.bodies(Kind.HAVE)))
        assert b.transport.links()[a.id].sent_bytes == 0, "no payload"
        before = a.transport.links()[b.id]
        a.transport.stream(b.id, PayloadSource(payload))
        await until_received(b, len(payload))
        b.send(a, b"thanks")  # says at the latest that everything has arrived
        await a.until(lambda: len(a.bodies(Kind.HAVE)) == 2)
        after = a.transport.links()[b.id]
        sent = after.sent_bytes - before.sent_bytes
        assert len(payload) < sent < 1.02 * len(payload)
        assert 0 <= after.busy_s - before.busy_s < 30  # loopback may take less than a tick
        assert 0 <= after.lost_bytes - before.lost_bytes < len(payload)
        b.transport.disconnect(a.id, "test", "over")
        await a.expect(Disconnected)
        assert a.transport.links() == {}

    play(scenario)


def test_refused_connections_count_as_traffic(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        b = await world.peer("b", B, dial=[a], hello=hello_content(model="other"))
        await a.expect(Refused)
        await b.expect(Refused)
        assert a.transport.traffic().bytes_received > 0
        assert b.transport.traffic().bytes_sent > 0

    play(scenario)


@pytest.mark.parametrize("repetition", range(50))
def test_both_dialling_at_once_ends_with_one_connection(play: Play, repetition: int) -> None:
    async def scenario(world: World) -> None:
        a, b = await world.peer("a", A), await world.peer("b", B)
        a.transport.add_address(world.address_of(b))
        b.transport.add_address(world.address_of(a))
        await a.expect(Connected)
        await b.expect(Connected)
        a.send(b, b"over a's")  # whichever is kept, both ends keep the same
        b.send(a, b"over b's")
        await a.until(lambda: a.bodies(Kind.HAVE) == [b"over b's"])
        await b.until(lambda: b.bodies(Kind.HAVE) == [b"over a's"])
        for probe in (a, b):
            assert not probe.of(Disconnected)
            assert not probe.of(Refused)
            assert len(probe.of(Connected)) == 1

    play(scenario)


def test_a_lost_session_is_dialled_again(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await pair(world)
        for _ in range(3):
            world.reset(a, b)
            for probe in (a, b):
                assert (await probe.expect(Disconnected)).code == "lost"
                await probe.expect(Connected)
        a.send(b, b"again")
        await b.until(lambda: b.bodies(Kind.HAVE) == [b"again"])

    play(scenario)


@pytest.mark.parametrize(("key", "other_key"), [(A, B), (B, A)], ids=["ab", "ba"])
def test_a_half_dead_session_is_replaced_at_once(
    play: Play, key: Signer, other_key: Signer
) -> None:
    async def scenario(world: World) -> None:
        settings = TransportSettings(flush_s=0.05)  # the old connection's end will not answer
        old = await world.peer("old", other_key, settings=settings)
        new = await world.peer("new", key, dial=[old])
        await old.expect(Connected)
        await new.expect(Connected)
        world.lose(new, old)
        assert (await new.expect(Disconnected)).code == "lost"
        assert (await old.expect(Disconnected)).code == "replaced"
        await old.expect(Connected)
        await new.expect(Connected)
        old.send(new, b"hello again")
        await new.until(lambda: new.bodies(Kind.HAVE) == [b"hello again"])

    play(scenario)


def test_disconnect_tells_the_other_side_why(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await pair(world)
        a.send(b, b"last words")
        a.transport.disconnect(b.id, "quarantine", "sends nonsense")
        with pytest.raises(TransportError):
            a.send(b, b"")
        assert not a.of(Disconnected), "no event from within a call of ours"
        at_a, at_b = await a.expect(Disconnected), await b.expect(Disconnected)
        assert (at_a.code, at_a.reason) == ("quarantine", "sends nonsense")
        assert (at_b.code, at_b.reason) == ("quarantine", "the peer ended it: sends nonsense")
        assert b.bodies(Kind.HAVE) == [b"last words"]
        a.transport.disconnect(signer(9).peer_id, "x", "nobody: no session, nothing to do")

    play(scenario)


def test_what_the_handler_objects_to_ends_that_session_only(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)

        def object_to_b(event: TransportEvent) -> None:
            if isinstance(event, Received) and event.peer == B.peer_id:
                raise RemoteProtocolError("out of turn")

        a.on_event = object_to_b
        b = await world.peer("b", B, dial=[a])
        c = await world.peer("c", C, dial=[a])
        await b.expect(Connected)
        await c.expect(Connected)
        b.send(a, b"bad")
        ended = await b.expect(Disconnected)
        assert (ended.code, ended.reason) == ("protocol", "the peer ended it: out of turn")
        assert (await a.expect(Disconnected)).code == "protocol"
        c.send(a, b"good")
        await a.until(lambda: b"good" in a.bodies(Kind.HAVE))
        assert not c.of(Disconnected)

    play(scenario)


def test_a_bug_in_the_handler_surfaces(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await pair(world)

        def fail(event: TransportEvent) -> None:
            raise KeyError("our bug")

        a.on_event = fail
        b.send(a, b"anything")
        with pytest.raises(KeyError, match="our bug"):
            await a.transport.failed
        num_events = len(a.events)
        a.transport.disconnect(b.id, "bug", "our own")
        await b.expect(Disconnected)
        assert len(a.events) == num_events, "no event follows a bug"

    with pytest.raises(KeyError):  # and closing the test's world finds it again
        play(scenario)


def test_a_bug_in_a_payload_source_surfaces(play: Play) -> None:
    class Broken:
        def next_frame(self, max_bytes: int) -> Sequence[Buffer] | None:
            raise ZeroDivisionError("our bug")

    async def scenario(world: World) -> None:
        a, b = await pair(world)
        a.transport.stream(b.id, Broken())
        with pytest.raises(ZeroDivisionError):
            await a.transport.failed

    with pytest.raises(ZeroDivisionError):
        play(scenario)


def test_an_objection_to_anything_but_a_frame_is_a_bug(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)

        def fail(event: TransportEvent) -> None:
            raise RemoteProtocolError("whose?")

        a.on_event = fail
        await world.peer("b", B, dial=[a])
        with pytest.raises(RemoteProtocolError, match="whose"):
            await a.transport.failed

    with pytest.raises(RemoteProtocolError):
        play(scenario)


def test_close_flushes_what_was_queued(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await pair(world)
        for index in range(1000):
            a.send(b, b"%d" % index)
        await a.transport.close()
        assert (await b.expect(Disconnected)).code == "closed"
        assert b.bodies(Kind.HAVE) == [b"%d" % index for index in range(1000)]
        assert not a.of(Disconnected)
        with pytest.raises(TransportError):
            a.send(b, b"")
        assert a.transport.traffic().bytes_sent == b.transport.traffic().bytes_received

    play(scenario)


def test_close_is_harmless_at_any_time(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        b = await world.peer("b", B, dial=[a])  # in the midst of dialling, or of the handshake
        await b.transport.close()
        await b.transport.close()
        b.transport.add_address(world.address_of(a))  # dials no more

    play(scenario)


def test_whoever_breaks_the_protocol_again_and_again_is_kept_out_and_told(play: Play) -> None:
    def breaks(event: TransportEvent) -> None:
        if isinstance(event, Received):
            raise RemoteProtocolError("that makes no sense")

    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        a.on_event = breaks
        b = await world.peer("b", B, dial=[a], settings=TransportSettings(refused_backoff_s=0.02))
        for _ in range(STRIKES):
            await b.expect(Connected)
            b.send(a, b"nonsense")
            assert (await a.expect(Disconnected)).code == "protocol"
        refused = await b.expect(Refused)
        assert refused.code == "quarantined"
        assert "that makes no sense" in refused.reason
        assert (await a.expect(Refused)).peer == B.peer_id
        await world.peer("c", C, dial=[a])
        assert (await a.expect(Connected)).peer == C.peer_id, "others come and go as before"

    play(scenario)


def test_a_session_that_ends_for_another_reason_is_no_breach(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        quick = TransportSettings(refused_backoff_s=0.02)
        b = await world.peer("b", B, dial=[a], settings=quick)
        for _ in range(STRIKES + 1):
            await b.expect(Connected)
            await a.expect(Connected)
            b.transport.disconnect(A.peer_id, "busy", "another time")
            await a.expect(Disconnected)

    play(scenario)


def test_our_own_address_among_the_peers_is_ignored(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        a.transport.add_address(world.address_of(a))
        b = await world.peer("b", B)
        a.transport.add_address(world.address_of(b))
        await a.expect(Connected)
        await b.expect(Connected)
        a.transport.add_address(world.address_of(a))
        assert not a.of(Refused)
        assert not a.of(Unreachable)
        assert [event.peer for event in a.of(Connected)] == [B.peer_id]

    play(scenario)


def test_a_second_live_instance_of_a_key_is_refused(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await pair(world)
        before = a.of(Disconnected)  # on a busy machine a first dial may have timed out
        twin = await world.peer("twin", B, dial=[a], hello=hello_content(incarnation=2))
        for probe in (a, twin):
            assert (await probe.expect(Refused)).code == "duplicate_key"
        assert a.of(Disconnected) == before
        b.transport.add_address(world.address_of(twin))  # the two of them meet
        assert (await b.expect(Refused)).reason == "another running peer holds the same key"

    play(scenario)


def test_a_new_instance_replaces_a_silent_one(play: Play) -> None:
    async def scenario(world: World) -> None:
        settings = TransportSettings(liveness_s=0.0)
        a = await world.peer("a", A, settings=settings)
        await world.peer("b", B, dial=[a])
        await a.expect(Connected)
        again = await world.peer("again", B, dial=[a], hello=hello_content(incarnation=2))
        assert (await a.expect(Disconnected)).code == "replaced"
        assert (await a.expect(Connected)).hello.incarnation == 2
        await again.expect(Connected)

    play(scenario)


def test_an_address_that_does_not_answer_is_reported_once(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        a.transport.add_address("127.0.0.1:1")
        event = await a.expect(Unreachable)
        assert (event.address, event.reason) == ("127.0.0.1:1", "Connection refused")

    play(scenario)


def test_a_forgotten_address_is_dialled_no_more_and_its_session_stays(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        b = await world.peer("b", B)
        c = await world.peer("c", C)
        b.transport.add_address(world.address_of(a))
        await b.expect(Connected)
        b.transport.forget(world.address_of(a))
        b.send(a, b"still here")
        await a.until(lambda: a.bodies(Kind.HAVE) == [b"still here"])
        world.reset(a, b)
        await b.expect(Disconnected)
        b.transport.add_address(world.address_of(c))
        await b.expect(Connected)
        assert len(b.of(Connected)) == 2, "with a once only: at once is when it was dialled again"
        b.transport.add_address(world.address_of(a))
        assert (await b.expect(Connected)).peer == a.id, "forgotten is not refused"

    play(scenario)


def test_what_was_never_dialled_may_be_forgotten(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        a.transport.forget("10.0.0.9:5000")
        with pytest.raises(ValueError, match="is not an address"):
            a.transport.forget("nowhere")

    play(scenario)


def test_an_address_in_use_is_a_start_error(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        settings = TransportSettings(port=world.port_in_use(a))
        with pytest.raises(StartError, match="the port is in use"):
            await world.peer("a", C, settings=settings)

    play(scenario)
