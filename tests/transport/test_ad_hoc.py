"""What only a real socket can show: strangers, ports, address families, kernels."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from protocol_support import Book
from transport_support import (
    PayloadSource,
    Probe,
    RawClient,
    World,
    hello_content,
    play_over_tcp,
    raw_client,
    run_tcp,
    signer,
)

from semantic_net.errors import ConfigError, LocalProtocolError, StartError
from semantic_net.protocol.frames import (
    HEADER,
    MAGIC,
    MAX_BODY_BYTES,
    VERSION,
    Frame,
    Kind,
    encode_frame,
    encode_header,
)
from semantic_net.protocol.handshake import Established, Handshake, decode_refusal
from semantic_net.protocol.identity import Signer
from semantic_net.protocol.packing import Packer, Unpacker
from semantic_net.transport import tcp
from semantic_net.transport.ad_hoc import AdHocTransport
from semantic_net.transport.base import (
    Buffer,
    Connected,
    Disconnected,
    Refused,
    TransportEvent,
    Unreachable,
)
from semantic_net.transport.connection import Connection, Owner, Wire
from semantic_net.transport.settings import TransportSettings
from semantic_net.transport.stream_wire import BUSY_S, FRAMES_A_TURN

A, B, C = signer(1), signer(2), signer(3)


async def shake_hands(client: RawClient, key: Signer, *, unpacks: bool = True) -> None:
    """Become a peer on a bare connection."""
    handshake = Handshake(
        key,
        replace(hello_content(), unpacks=unpacks),
        secrets.token_bytes(32),
        dialled=True,
        book=Book(),
    )
    client.writer.write(handshake.start())
    outcome = None
    while outcome is None:
        reply, outcome = handshake.receive(await client.frame())
        client.writer.write(reply)
    assert isinstance(outcome, Established)


# Strangers.


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: peer\r\n\r\n", "not a semantic-net frame"),
        (HEADER.pack(MAGIC, VERSION, Kind.CHUNK, 0, 1 << 40), "is over the limit"),
        (encode_frame(Kind.HAVE, b""), "a HAVE is out of place in the handshake"),
        (encode_frame(Kind.HELLO, b"?"), "a malformed HELLO"),
        (HEADER.pack(MAGIC, 9, Kind.HELLO, 0, 0), "wire version 9"),
    ],
    ids=["http", "oversized", "early", "malformed", "version"],
)
def test_garbage_ends_its_own_connection_only(garbage: bytes, reason: str) -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        b = await world.peer("b", B, dial=[a])
        await b.expect(Connected)
        async with raw_client(a) as client:
            assert (await client.frame()).kind is Kind.HELLO
            client.writer.write(garbage)
            refusal = decode_refusal(await client.frame())
            assert refusal.code == "protocol"
            assert reason in refusal.reason
            assert await client.rest() == b""
        event = await a.expect(Refused)
        assert event.code == "protocol"
        assert reason in event.reason
        b.send(a, b"still here")
        await a.until(lambda: a.bodies(Kind.HAVE) == [b"still here"])

    play_over_tcp(scenario)


def test_garbage_within_a_session_ends_it() -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        async with raw_client(a) as client:
            await shake_hands(client, B)
            await a.expect(Connected)
            client.writer.write(encode_frame(Kind.HAVE, b"fine") + b"and then nonsense")
            ended = await a.expect(Disconnected)
            assert (ended.code, ended.reason) == ("protocol", "not a semantic-net frame")
            assert a.bodies(Kind.HAVE) == [b"fine"]
            assert decode_refusal(await client.frame()).code == "protocol"

    play_over_tcp(scenario)


def test_packed_frames_go_to_those_only_who_say_that_they_unpack_them() -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        for key, unpacks in ((B, True), (C, False)):
            async with raw_client(a) as client:
                await shake_hands(client, key, unpacks=unpacks)
                peer = (await a.expect(Connected)).peer
                a.transport.send(peer, encode_frame(Kind.HAVE, b"hello"))
                frame = await client.frame()
                assert frame.kind is (Kind.PACKED if unpacks else Kind.HAVE)
                (inner,) = Unpacker().unpack(frame)
                assert bytes(inner.body) == b"hello"
                # It reads both, whoever sends them.
                client.writer.write(Packer().pack(encode_frame(Kind.HAVE, b"packed")))
                client.writer.write(encode_frame(Kind.HAVE, b"plain"))
                await a.until(lambda: a.bodies(Kind.HAVE)[-2:] == [b"packed", b"plain"])

    play_over_tcp(scenario)


def test_a_broken_pack_ends_its_session() -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        async with raw_client(a) as client:
            await shake_hands(client, B)
            await a.expect(Connected)
            client.writer.write(encode_frame(Kind.PACKED, b"\xff" * 8))
            ended = await a.expect(Disconnected)
            assert ended.code == "protocol"
            assert "a malformed PACKED" in ended.reason

    play_over_tcp(scenario)


def test_what_comes_after_the_end_of_a_connection_does_not_count() -> None:
    """The other end may have sent it before it heard of the end."""

    async def scenario() -> None:
        owner = Mock(spec=Owner)
        wire = Mock(spec=Wire)
        handshake = Handshake(
            A, hello_content(), secrets.token_bytes(32), dialled=False, book=Book()
        )
        connection = Connection(owner, wire, handshake, "there:1", dialled=False)
        connection.refuse("protocol", "enough")
        connection.frame_received(Frame(Kind.HAVE, b"too late"))
        owner.received.assert_not_called()
        owner.refused.assert_called_once()
        connection.frame_received(Frame(Kind.HELLO, b"nonsense"))

    asyncio.run(scenario())


def test_a_peer_takes_only_so_many_sessions_and_those_that_it_dials() -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A, settings=TransportSettings(max_sessions=1))
        b = await world.peer("b", B, dial=[a])
        await b.expect(Connected)
        async with raw_client(a) as client:
            assert (await client.frame()).kind is Kind.HELLO
            handshake = Handshake(
                C, hello_content(), secrets.token_bytes(32), dialled=True, book=Book()
            )
            client.writer.write(handshake.start())
            assert decode_refusal(await client.frame()).code == "busy"
        c = await world.peer("c", C)
        a.transport.add_address(c.transport.address)
        await c.expect(Connected)

    play_over_tcp(scenario)


def test_a_silent_session_makes_room_for_who_calls() -> None:
    async def scenario(world: World) -> None:
        full = TransportSettings(max_sessions=1, liveness_s=0.05)
        a = await world.peer("a", A, settings=full)
        async with raw_client(a) as silent:
            await shake_hands(silent, B)
            await a.expect(Connected)
            c = await world.peer("c", C, dial=[a])
            await c.expect(Connected)
            assert a.of(Disconnected)[0].reason == "silent, and others call"

    play_over_tcp(scenario)


def test_many_small_frames_are_taken_in_turns() -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        async with raw_client(a) as client:
            await shake_hands(client, B)
            await a.expect(Connected)
            num_frames, turns = 5_000, 0
            loop = asyncio.get_running_loop()

            def turn() -> None:
                nonlocal turns
                turns += 1
                loop.call_soon(turn)

            turn()
            client.writer.write(encode_frame(Kind.WANT, b"x") * num_frames)
            await a.until(lambda: len(a.bodies(Kind.WANT)) == num_frames)
            assert turns >= num_frames / FRAMES_A_TURN

    play_over_tcp(scenario)


@pytest.mark.parametrize("is_large", [False, True])
def test_a_flood_that_takes_long_to_check_gets_a_share_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    """A hundred frames are little, unless each has a signature to verify."""
    waits: list[float] = []

    async def scenario(world: World) -> None:
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def noted(delay: float, call: Any, *arguments: Any) -> asyncio.TimerHandle:
            if getattr(call, "__name__", "") == "_take_more":
                waits.append(delay)
            return call_later(delay, call, *arguments)

        monkeypatch.setattr(loop, "call_later", noted)
        a = await world.peer("a", A)
        handle = a.handle

        def slow(event: TransportEvent) -> None:
            time.sleep(
                0.001
            )  # stands in for a signature to verify: it takes, and waits for nothing
            handle(event)

        monkeypatch.setattr(a.transport._hub, "_handler", slow)  # type: ignore[attr-defined]
        async with raw_client(a) as client:
            await shake_hands(client, B)
            await a.expect(Connected)
            # In large reads many small frames come at once, of large ones only a few.
            size = MAX_BODY_BYTES[Kind.WANT] if is_large else 1
            client.writer.write(encode_frame(Kind.WANT, bytes(size)) * 3 * FRAMES_A_TURN)
            await a.until(lambda: len(a.bodies(Kind.WANT)) == 3 * FRAMES_A_TURN)

    play_over_tcp(scenario)
    assert max(waits) > 2 * BUSY_S, "a quarter of the time: three times as long as it took"
    assert sum(waits) > 0.001 * 3 * FRAMES_A_TURN


def test_two_peers_that_name_each_other_meet_however_full_both_are() -> None:
    async def scenario(world: World) -> None:
        full = TransportSettings(max_sessions=1)
        a, b = [await world.peer(n, key, settings=full) for n, key in (("a", A), ("b", B))]
        for probe, stranger in ((a, C), (b, signer(4))):
            await world.peer(f"at {probe.name}", stranger, dial=[probe])
            await probe.expect(Connected)
        for probe, other in ((a, b), (b, a)):
            named = world.address_of(other)
            probe.transport._dialer.add(named, learned=False)  # type: ignore[attr-defined]  # as by --peers
        await a.until(lambda: b.id in [event.peer for event in a.of(Connected)])

    play_over_tcp(scenario)


def test_what_a_refused_stranger_goes_on_sending_is_counted_and_discarded() -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        async with raw_client(a) as client:
            client.writer.write(bytes(300_000))
            await a.expect(Refused)
            with contextlib.suppress(ConnectionError):
                await client.writer.drain()
                client.writer.write_eof()
            await client.rest()
        await a.transport.close()
        assert a.transport.traffic().bytes_received == 300_000

    play_over_tcp(scenario)


def test_a_stranger_that_says_nothing_is_dropped() -> None:
    async def scenario(world: World) -> None:
        settings = TransportSettings(handshake_timeout_s=0.05)
        a = await world.peer("a", A, settings=settings)
        async with raw_client(a) as client:
            client.writer.write(encode_header(Kind.HELLO, 500))  # and never the body
            event = await a.expect(Refused)
            assert (event.code, event.reason) == ("timeout", "no handshake within 0.05 s")
            assert Kind(client_kind(await client.rest())) is Kind.HELLO

    play_over_tcp(scenario)


def client_kind(data: bytes) -> int:
    kind: int = HEADER.unpack(data[: HEADER.size])[2]
    return kind


def test_an_address_that_says_nothing_is_unreachable() -> None:
    async def scenario(world: World) -> None:
        accepted: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(lambda _, w: accepted.append(w), "127.0.0.1", 0)
        a = await world.peer("a", A, settings=TransportSettings(handshake_timeout_s=0.05))
        host, port = server.sockets[0].getsockname()
        a.transport.add_address(f"{host}:{port}")
        assert (await a.expect(Unreachable)).reason == "no handshake within 0.05 s"
        assert a.transport.unmet_addresses() == (), "it was learned, nobody waits for it"
        await a.transport.close()
        server.close()
        for writer in accepted:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    play_over_tcp(scenario)


def test_strangers_hold_a_bounded_number_of_connections() -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A, settings=TransportSettings(max_pending=2))
        async with raw_client(a) as first, raw_client(a) as second, raw_client(a) as third:
            event = await a.expect(Refused)
            assert event.code == "busy"
            assert (await first.rest())[:4] == MAGIC, "the oldest goes, after its hello"
            for client in (second, third):
                assert (await client.frame()).kind is Kind.HELLO
            b = await world.peer("b", B, dial=[a])
            await b.expect(Connected)

    play_over_tcp(scenario)


def test_a_flood_of_silent_strangers_does_not_cost_a_caller_its_turn() -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A, settings=TransportSettings(max_pending=2))
        async with raw_client(a) as honest:
            handshake = Handshake(
                B, hello_content(), secrets.token_bytes(32), dialled=True, book=Book()
            )
            honest.writer.write(handshake.start())
            reply, _ = handshake.receive(await honest.frame())
            async with raw_client(a), raw_client(a), raw_client(a):
                for _ in range(2):
                    assert (await a.expect(Refused)).code == "busy"
                honest.writer.write(reply)  # on a slow link, it took a while
                outcome = None
                while outcome is None:
                    reply, outcome = handshake.receive(await honest.frame())
                    honest.writer.write(reply)
                assert (await a.expect(Connected)).peer == B.peer_id

    play_over_tcp(scenario)


def test_a_peer_that_does_not_read_grows_no_memory() -> None:
    async def scenario(world: World) -> None:
        limit = 256 * 1024
        a = await world.peer("a", A, settings=TransportSettings(max_control_bytes=limit))
        async with raw_client(a) as client:
            await shake_hands(client, B)
            await a.expect(Connected)
            source = PayloadSource(bytes(64_000_000))
            a.transport.stream(B.peer_id, source)
            frame = encode_frame(Kind.HAVE, bytes(1000))
            while not a.of(Disconnected):  # whatever the kernel's buffers hold
                for _ in range(100):
                    with contextlib.suppress(Exception):
                        a.transport.send(B.peer_id, frame)
                await asyncio.sleep(0)
            (ended,) = a.of(Disconnected)
            assert (ended.code, ended.reason) == (
                "unread",
                "the peer does not read what it is sent",
            )
            assert sum(source.sizes) < 32_000_000, "no more than the kernel took was pulled"

    play_over_tcp(scenario)


# Ports and addresses.


def start_error(settings: TransportSettings) -> str:
    async def start() -> str:
        transport = AdHocTransport(A, settings, hello_content())
        with pytest.raises(StartError) as caught:
            await transport.start(lambda event: None)
        await transport.close()
        return str(caught.value)

    return run_tcp(start())


def test_a_busy_port_is_a_start_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert start_error(TransportSettings(host="127.0.0.1", port=port)) == (
            f"cannot listen on 127.0.0.1:{port}: "
            "the port is in use: stop the other program, or choose another port"
        )


def test_a_port_taken_between_bind_and_listen_is_a_start_error() -> None:
    async def start() -> None:
        first, second = (
            AdHocTransport(key, TransportSettings(host="127.0.0.1", port=port), hello_content())
            for key, port in ((A, 0), (B, 0))
        )
        first_server = await first._bind()
        port = first_server.sockets[0].getsockname()[1]
        second._settings = TransportSettings(host="127.0.0.1", port=port)
        listening = asyncio.Event()
        real_bind = second._bind

        async def bind_then_lose_the_race() -> asyncio.Server:
            server = await real_bind()
            await first_server.start_serving()
            listening.set()
            return server

        second._bind = bind_then_lose_the_race  # type: ignore[method-assign]  # the race, scripted
        with pytest.raises(StartError, match="the port is in use"):
            await second.start(lambda event: None)
        assert listening.is_set()
        first_server.close()
        await first_server.wait_closed()

    run_tcp(start())


def test_a_foreign_address_is_a_start_error() -> None:
    message = start_error(TransportSettings(host="192.0.2.1", port=0))
    assert message.startswith("cannot listen on 192.0.2.1:0: no network interface has")


def test_an_unknown_name_is_a_start_error() -> None:
    message = start_error(TransportSettings(host="no-such-host.invalid", port=0))
    assert message.startswith("cannot listen on no-such-host.invalid:0: ")


def test_a_peer_that_is_no_address_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="peers: 'nonsense' is not an address"):
        AdHocTransport(A, TransportSettings(peers=("nonsense",)), hello_content())


def test_a_wildcard_cannot_be_dialled() -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        for address in ("0.0.0.0:5000", ":5000", "10.0.0.1:0", "nonsense"):
            with pytest.raises(ValueError, match="address|dialled"):  # noqa: RUF043  # a choice
                a.transport.add_address(address)

    play_over_tcp(scenario)


@pytest.mark.parametrize(
    ("listens", "named", "is_own"),
    [
        ("127.0.0.1", "127.0.0.1:{port}", True),
        ("0.0.0.0", "127.0.0.1:{port}", True),
        ("0.0.0.0", "192.0.2.1:{port}", False),
        ("0.0.0.0", "localhost:{port}", False),  # names are asked of nobody
        ("127.0.0.1", "127.0.0.1:1", False),
    ],
)
def test_an_own_address_is_not_even_waited_for(listens: str, named: str, is_own: bool) -> None:
    async def start() -> tuple[str, ...]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        peer = named.format(port=port)
        settings = TransportSettings(host=listens, port=port, peers=(peer,))
        transport = AdHocTransport(A, settings, hello_content())
        await transport.start(lambda event: None)
        unmet = transport.unmet_addresses()
        await transport.close()
        return tuple(address.replace(str(port), "{port}") for address in unmet)

    assert run_tcp(start()) == (() if is_own else (named,))


def test_own_addresses_that_others_tell_of_are_not_dialled() -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A, settings=TransportSettings(host=""))
        assert isinstance(a.transport, AdHocTransport)
        for number in range(1, 9):
            a.transport.add_address(f"127.0.0.{number}{a.transport.address}")
        assert not a.transport._dialer._targets

    play_over_tcp(scenario)


def test_listening_everywhere_is_said_as_a_port() -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A, settings=TransportSettings(host=""))
        port = a.transport.address.rpartition(":")[2]
        assert a.transport.address == f":{port}"
        b = await world.peer("b", B)
        b.transport.add_address(f"localhost:{port}")
        connected = await b.expect(Connected)
        assert connected.hello.addresses == [f":{port}"]
        assert connected.address == f"localhost:{port}"

    play_over_tcp(scenario)


def test_ipv6_works_alike() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError as exc:
        pytest.skip(f"needs IPv6 on loopback: {exc}")

    async def scenario(world: World) -> None:
        a = await world.peer("a", A, settings=TransportSettings(host="::1"))
        assert a.transport.address.startswith("[::1]:")
        b = await world.peer("b", B)
        b.transport.add_address(a.transport.address)
        await b.expect(Connected)
        assert (await a.expect(Connected)).address.startswith("[::1]:")

    play_over_tcp(scenario)


def test_a_name_that_nobody_knows_is_unreachable() -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        a.transport.add_address("no-such-host.invalid:1")
        event = await a.expect(Unreachable)
        assert event.address == "no-such-host.invalid:1"
        assert event.reason

    play_over_tcp(scenario)


def test_a_hello_that_no_peer_would_take_fails_the_start() -> None:
    async def start() -> None:
        settings = TransportSettings(host="127.0.0.1")
        transport = AdHocTransport(A, settings, hello_content(key="v" * 5000))
        with pytest.raises(LocalProtocolError, match="our own hello"):
            await transport.start(lambda event: None)
        await transport.close()

    run_tcp(start())


# Kernels, and what is left behind.


def test_close_leaves_no_socket_behind() -> None:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("needs /proc")

    async def scenario(world: World) -> None:
        probes: list[Probe] = []
        for number in range(1, 6):
            probes.append(await world.peer(f"p{number}", signer(number), dial=probes))
        for probe in probes:
            await probe.until(lambda: len(probe.of(Connected)) == 4)  # noqa: B023  # awaited here
        probes[0].transport.stream(probes[1].id, PayloadSource(bytes(10_000_000)))

    gc.collect()
    before = len(list(folder.iterdir()))
    play_over_tcp(scenario)
    gc.collect()
    assert len(list(folder.iterdir())) == before


def test_closing_does_not_wait_for_one_who_does_not_read() -> None:
    async def scenario(world: World) -> None:
        a = await world.peer("a", A, settings=TransportSettings(flush_s=0.05))
        async with raw_client(a) as client:
            await shake_hands(client, B)
            await a.expect(Connected)
            source = PayloadSource(bytes(64_000_000))
            a.transport.stream(B.peer_id, source)
            await client.frame()  # the payload is under way
            await a.transport.close()

    play_over_tcp(scenario)


@dataclass
class PickySocket:
    """Knows some options, and refuses one."""

    refuses: int
    taken: list[int] = field(default_factory=list)

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        if option == self.refuses:
            raise OSError(2, "No such file or directory")
        self.taken.append(option)


def test_a_platform_that_lacks_an_option_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT", raising=False)
    monkeypatch.setattr(socket, "TCP_CONGESTION", 13, raising=False)
    sock = PickySocket(refuses=13)
    with caplog.at_level(logging.DEBUG):
        tcp.tune(sock, 10.0)  # type: ignore[arg-type]  # as much of a socket as it takes
    assert socket.TCP_NODELAY in sock.taken
    assert "this platform has no TCP_USER_TIMEOUT" in caplog.text
    assert "cannot set TCP_CONGESTION: [Errno 2]" in caplog.text


def test_real_sockets_notice_dead_links_in_seconds() -> None:
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        pytest.skip("needs TCP_USER_TIMEOUT")
    with socket.socket() as sock:
        tcp.tune(sock, 10.0)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        idle = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        step = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
        count = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
        assert idle + step * count <= 10


def test_a_payload_is_pulled_only_as_the_socket_takes_it() -> None:
    """One frame at most waits in this process, whatever the other end does."""

    class Watched:
        most = 0

        def __init__(self, probe: Probe) -> None:
            self.left = 200
            self.probe = probe

        def next_frame(self, max_bytes: int) -> Sequence[Buffer] | None:
            (wire,) = self.probe.transport._hub.wires()  # type: ignore[attr-defined]  # looks inside
            self.most = max(self.most, wire._transport.get_write_buffer_size())
            self.left -= 1
            return (encode_header(Kind.CHUNK, max_bytes), bytes(max_bytes)) if self.left else None

    async def scenario(world: World) -> None:
        a = await world.peer("a", A)
        b = await world.peer("b", B, dial=[a])
        await b.expect(Connected)
        source = Watched(b)
        b.transport.stream(a.id, source)
        await a.until(lambda: len(a.bodies(Kind.CHUNK)) == 199)
        assert source.most == 0, "nothing was left over when the next frame was pulled"
        assert source.left == 0

    play_over_tcp(scenario)
