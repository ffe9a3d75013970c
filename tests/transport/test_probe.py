"""A look at a peer tells what is wrong with the link, and the peer never takes it for a caller."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transport_support import FACTS, Probe, device, hello_content, run_tcp, signer

from semantic_net.protocol.frames import HEADER, MAGIC, VERSION, Kind, encode_frame
from semantic_net.protocol.handshake import (
    BUSY,
    PROTOCOL,
    REVOKED,
    SECURITY,
    SIGNATURE,
    TIMEOUT,
    UNKNOWN_DEVICE,
)
from semantic_net.protocol.identity import Signer
from semantic_net.transport import throughput, waiter
from semantic_net.transport.ad_hoc import AdHocTransport
from semantic_net.transport.base import Refused
from semantic_net.transport.connection import CLOSED, LOST
from semantic_net.transport.device import DeviceIdentity
from semantic_net.transport.frame_stream import EndOfStream, FrameStream
from semantic_net.transport.probe import (
    DOCTOR,
    NO_ROUTE,
    NOT_LISTENING,
    SILENT,
    UNKNOWN_NAME,
    ProbeSettings,
    probe,
)
from semantic_net.transport.settings import TransportSettings
from semantic_net.transport.tls import Pins
from semantic_net.transport.trust import Device
from semantic_net.transport.waiter import Call, Waiter

A, B = signer(1), signer(2)
QUICK = ProbeSettings(hello_s=10.0, speaks_first_s=0.05)
IMPATIENT = ProbeSettings(connect_s=1.0, hello_s=0.2, speaks_first_s=0.05)
"""For ends that never say what is waited for."""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[str]:
    """Listen with what ``serve`` makes of each connection."""

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except OSError:
            pass  # the doctor has hung up
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@contextlib.asynccontextmanager
async def peer(
    key: Signer, pins: Pins | None = None, endorsed_by: DeviceIdentity | None = None
) -> AsyncIterator[Probe]:
    """Run a peer's transport."""
    endorsement = b"" if endorsed_by is None else endorsed_by.endorse(key.public_key)
    hello = replace(hello_content(), endorsement=endorsement)
    transport = AdHocTransport(key, TransportSettings(host="127.0.0.1"), hello, pins=pins)
    running = Probe("peer", key, transport)
    await transport.start(running.handle)
    try:
        yield running
    finally:
        await transport.close()


async def all_gone(running: Probe) -> None:
    """Wait until a peer has seen the end of every connection."""
    hub = running.transport._hub  # type: ignore[attr-defined]  # what no event shows
    while hub.wires():
        hub._all_gone.clear()
        await hub._all_gone.wait()


def paired(folder: Path) -> tuple[DeviceIdentity, DeviceIdentity]:
    """Return two devices that let each other in."""
    a, b = device(folder, A), device(folder, B)
    a.trust_file.pair(Device(b.certificate))
    b.trust_file.pair(Device(a.certificate))
    return a, b


def test_the_hello_of_a_peer_is_read_and_the_peer_sees_nobody() -> None:
    async def scenario() -> None:
        async with peer(A) as running:
            answer = await probe(running.transport.address, None, QUICK)
            assert answer.code is None
            assert answer.hello is not None
            assert answer.hello.peer_id == A.peer_id
            assert answer.hello.facts == FACTS
            assert answer.round_trip_s is None or 0 < answer.round_trip_s < 5
            assert not answer.is_doctor
            await all_gone(running)
            assert running.events == []

    run_tcp(scenario())


def test_over_tls_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        a, b = paired(tmp_path)
        async with peer(A, a.pins(), a) as running:
            answer = await probe(running.transport.address, b.pins(), QUICK)
            assert (answer.code, answer.device) == (None, a.id)
            await all_gone(running)
            assert running.events == []

    run_tcp(scenario())


def test_a_device_that_we_do_not_know_hears_nothing_of_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        a, b = device(tmp_path, A), device(tmp_path, B)
        a.trust_file.pair(Device(b.certificate))
        async with peer(A, a.pins(), a) as running:
            answer = await probe(running.transport.address, b.pins(), QUICK)
            assert (answer.code, answer.by_us) == (UNKNOWN_DEVICE, True)
            assert "not in the trust file here" in answer.reason
            await all_gone(running)
            assert running.events == []

    run_tcp(scenario())


def test_a_device_that_does_not_know_us_says_so_and_tells_its_owner(tmp_path: Path) -> None:
    async def scenario() -> None:
        a, b = device(tmp_path, A), device(tmp_path, B)
        b.trust_file.pair(Device(a.certificate))
        async with peer(A, a.pins(), a) as running:
            answer = await probe(running.transport.address, b.pins(), QUICK)
            assert (answer.code, answer.by_us) == (UNKNOWN_DEVICE, False)
            assert "pair` there" in answer.reason
            assert (await running.expect(Refused)).code == UNKNOWN_DEVICE

    run_tcp(scenario())


@pytest.mark.parametrize("by_us", [True, False])
def test_a_revoked_device(tmp_path: Path, by_us: bool) -> None:
    async def scenario() -> None:
        a, b = paired(tmp_path)
        (b if by_us else a).trust_file.revoke((a if by_us else b).id)
        async with peer(A, a.pins(), a) as running:
            answer = await probe(running.transport.address, b.pins(), QUICK)
            assert (answer.code, answer.by_us) == (REVOKED, by_us)

    run_tcp(scenario())


def test_a_key_that_its_device_has_not_endorsed(tmp_path: Path) -> None:
    async def scenario() -> None:
        a, b = paired(tmp_path)
        async with peer(A, a.pins()) as running:
            assert (await probe(running.transport.address, b.pins(), QUICK)).code == SIGNATURE

    run_tcp(scenario())


def test_unlike_modes_are_told_and_the_peer_has_nothing_to_refuse(tmp_path: Path) -> None:
    async def scenario() -> None:
        a, b = paired(tmp_path)
        # It waits for the hello at once; a busy machine needs more than a moment.
        patient = replace(QUICK, speaks_first_s=10.0)
        async with peer(A) as running:
            answer = await probe(running.transport.address, b.pins(), patient)
            assert answer.code == SECURITY
            await all_gone(running)
            assert running.events == []
        async with peer(A, a.pins(), a) as running:
            answer = await probe(running.transport.address, None, replace(QUICK, hello_s=0.3))
            assert answer.code == SECURITY
            await all_gone(running)
            assert running.events == []

    run_tcp(scenario())


def test_an_open_peer_that_is_slow_to_speak_is_told_of_all_the_same(tmp_path: Path) -> None:
    async def answers_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)  # the hello of TLS is here: nobody waits for ours any more
        writer.write(encode_frame(Kind.HELLO, b""))
        await reader.read()

    async def scenario() -> None:
        _, b = paired(tmp_path)
        async with serving(answers_late) as address:
            assert (await probe(address, b.pins(), QUICK)).code == SECURITY

    run_tcp(scenario())


def test_nobody_listens_there() -> None:
    async def scenario() -> None:
        with socket.socket() as taken:  # bound, and not listening
            taken.bind(("127.0.0.1", 0))
            answer = await probe(f"127.0.0.1:{taken.getsockname()[1]}", None, QUICK)
        assert answer.code == NOT_LISTENING

    run_tcp(scenario())


def test_a_name_that_stands_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async def unknown(*args: Any, **settings: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
        answer = await probe("nobody.invalid:5000", None, QUICK)
        assert answer.code == UNKNOWN_NAME
        assert answer.reason == "Name or service not known"

    run_tcp(scenario())


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENETUNREACH, NO_ROUTE),
        (errno.EHOSTUNREACH, NO_ROUTE),
        (errno.ETIMEDOUT, TIMEOUT),
        (errno.ECONNRESET, LOST),
    ],
)
def test_what_the_network_says(monkeypatch: pytest.MonkeyPatch, number: int, code: str) -> None:
    async def scenario() -> None:
        async def fails(sock: socket.socket, where: Any) -> None:
            raise OSError(number, "no")

        monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", fails)
        assert (await probe("192.0.2.1:5000", None, QUICK)).code == code

    run_tcp(scenario())


def test_a_host_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async def never(*args: Any, **settings: Any) -> None:
            await asyncio.Event().wait()

        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patch:
            patch.setattr(loop, "sock_connect", never)
            answer = await probe("192.0.2.1:5000", None, replace(QUICK, connect_s=0.05))
            assert (answer.code, answer.reason) == (TIMEOUT, "no answer within 0.05 s")
        monkeypatch.setattr(loop, "getaddrinfo", never)
        answer = await probe("slow.invalid:5000", None, replace(QUICK, resolve_s=0.05))
        assert answer.code == UNKNOWN_NAME

    run_tcp(scenario())


def test_one_that_accepts_and_says_nothing(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def scenario() -> None:
        _, b = paired(tmp_path)
        async with serving(silent) as address:
            for pins in (None, b.pins()):
                assert (await probe(address, pins, IMPATIENT)).code == SILENT

    run_tcp(scenario())


@pytest.mark.parametrize(
    ("said", "code", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", PROTOCOL, "not a semantic-net frame"),
        (HEADER.pack(MAGIC, VERSION + 1, Kind.HELLO, 0, 0), PROTOCOL, "wire version 2"),
        (encode_frame(Kind.HELLO, b"\x90"), PROTOCOL, "malformed HELLO"),
        (encode_frame(Kind.HAVE, b""), PROTOCOL, "out of place"),
        (b"", CLOSED, "before it said who it is"),
    ],
)
def test_whoever_is_no_peer_of_this_version(said: bytes, code: str, reason: str) -> None:
    async def speaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.write_eof()
        await reader.read()

    async def scenario() -> None:
        async with serving(speaks) as address:
            answer = await probe(address, None, QUICK)
            assert answer.code == code
            assert reason in answer.reason

    run_tcp(scenario())


@pytest.mark.parametrize("said", [b"220 mail.example.org ESMTP\r\n", b""])
def test_whoever_speaks_no_tls(tmp_path: Path, said: bytes) -> None:
    async def speaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.write_eof()
        await reader.read()

    async def scenario() -> None:
        _, b = paired(tmp_path)
        async with serving(speaks) as address:
            answer = await probe(address, b.pins(), replace(QUICK, speaks_first_s=10.0))
            assert answer.code == (PROTOCOL if said else CLOSED)

    run_tcp(scenario())


def test_garbage_where_tls_should_be(tmp_path: Path) -> None:
    async def speaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async def scenario() -> None:
        _, b = paired(tmp_path)
        async with serving(speaks) as address:
            answer = await probe(address, b.pins(), QUICK)
            assert answer.code == PROTOCOL
            assert "TLS failed" in answer.reason

    run_tcp(scenario())


# Measuring.


@contextlib.asynccontextmanager
async def waiting(
    key: Signer, pins: Pins | None = None, endorsed_by: DeviceIdentity | None = None
) -> AsyncIterator[tuple[str, asyncio.Queue[Call]]]:
    """Wait for doctors on a free port."""
    endorsement = b"" if endorsed_by is None else endorsed_by.endorse(key.public_key)
    content = replace(hello_content(), software="test" + DOCTOR, endorsement=endorsement)
    calls: asyncio.Queue[Call] = asyncio.Queue()
    waits = Waiter(key, content, pins, calls.put_nowait)
    address = await waits.start("127.0.0.1", 0)
    try:
        yield address, calls
    finally:
        await waits.close()


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send for a moment only."""
    monkeypatch.setattr(throughput, "SEND_S", 0.1)


@pytest.mark.parametrize("mode", ["open", "pinned"])
def test_the_link_to_one_who_waits_is_measured_both_ways(
    tmp_path: Path, briefly: None, mode: str
) -> None:
    async def scenario() -> None:
        a, b = paired(tmp_path)
        theirs, ours = (None, None) if mode == "open" else (a.pins(), b.pins())
        async with waiting(A, theirs, a) as (address, calls):
            answer = await probe(address, ours, QUICK)
            assert answer.is_doctor
            assert answer.code is None
            assert answer.not_measured == ""
            assert answer.throughput is not None
            for carried in (answer.throughput.up, answer.throughput.down):
                assert 0 < carried.num_bytes <= throughput.MAX_BYTES
                assert 0 < carried.microseconds < 1e6 * throughput.RECEIVE_S
            call = await calls.get()
            assert call.throughput is not None
            assert call.throughput.up == answer.throughput.up

    run_tcp(scenario())


PACE_BYTES, PACE_S = 4096, 0.02


def test_a_slow_link_is_told_by_what_arrives(
    briefly: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel takes at once is a multiple of what gets through in the time."""

    async def pace(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(PACE_BYTES):
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(PACE_S)

    async def scenario() -> None:
        monkeypatch.setattr(throughput, "RECEIVE_S", 1.0)
        async with waiting(A) as (behind, calls):
            relays: list[asyncio.Task[None]] = []

            async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.current_task()
                assert task is not None
                relays.append(task)
                host, _, port = behind.rpartition(":")
                inner, outer = await asyncio.open_connection(host, int(port))
                ways = [
                    asyncio.ensure_future(w) for w in (pace(reader, outer), pace(inner, writer))
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                outer.transport.abort()
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

            async with serving(relay) as address:
                answer = await probe(address, None, QUICK)
                await calls.get()
                await asyncio.wait(relays)  # else the loop's end would cut them short
        assert answer.throughput is not None, answer
        for carried in (answer.throughput.up, answer.throughput.down):
            assert 0 < carried.bytes_s < 1.3 * PACE_BYTES / PACE_S

    run_tcp(scenario())


def test_no_more_is_sent_than_was_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(throughput, "MAX_BYTES", 10 * throughput.FRAME_BYTES)
        async with waiting(A) as (address, _):
            answer = await probe(address, None, QUICK)
            assert answer.throughput is not None
            # The first frame starts the clock.
            assert answer.throughput.up.num_bytes == 9 * throughput.FRAME_BYTES
            assert answer.throughput.down.num_bytes == 9 * throughput.FRAME_BYTES

    run_tcp(scenario())


def test_who_sends_more_is_hung_up_on(briefly: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with waiting(A) as (address, calls):
            stream = await dialled(address)
            await stream.next_frame()
            monkeypatch.setattr(throughput, "MAX_BYTES", 3 * throughput.FRAME_BYTES)
            frame = encode_frame(Kind.MEASURE, bytes(throughput.FRAME_BYTES))
            with contextlib.suppress(OSError):  # it hangs up before all is sent
                for _ in range(6):
                    await stream.send(frame)
            call = await calls.get()
            assert call.throughput is None
            assert "more than" in call.reason
            stream.close()

    run_tcp(scenario())


def test_one_measures_at_a_time(briefly: None) -> None:
    async def scenario() -> None:
        async with waiting(A) as (address, _):
            first = await dialled(address)
            await first.next_frame()
            await first.send(encode_frame(Kind.MEASURE, b"1"))  # and it goes on, for all we know
            second = await probe(address, None, QUICK)
            while not second.not_measured:  # the first one's frame may not have come yet
                second = await probe(address, None, QUICK)
            assert second.not_measured == "another device is measuring: try again"
            assert second.throughput is None
            first.close()

    run_tcp(scenario())


def test_of_many_callers_most_are_hung_up_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiter, "MAX_CALLERS", 2)
    monkeypatch.setattr(waiter, "FLUSH_S", 60.0)

    async def scenario() -> None:
        async with waiting(A) as (address, _):
            callers = [await dialled(address) for _ in range(2)]
            for each in callers:
                assert (await each.next_frame()).kind is Kind.HELLO
            loop, port = asyncio.get_running_loop(), int(address.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port)) as late:
                late.setblocking(False)
                assert await loop.sock_recv(late, 1) == b""
                with pytest.raises(OSError, match=r"Broken pipe|reset"):
                    await drip(late)
            for each in callers:
                each.close()

    run_tcp(scenario())


def test_callers_in_vain_are_told_of_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiter, "MAX_FAILURES_TOLD", 2)

    async def scenario() -> None:
        async with waiting(A) as (address, calls):
            for _ in range(4):
                stream = await dialled(address)
                await stream.next_frame()
                stream.write(b"noise that is no frame of ours")
                with contextlib.suppress(EndOfStream, ConnectionResetError):
                    await stream.next_frame()
                stream.close()
            told = [calls.get_nowait().reason for _ in range(calls.qsize())]
            assert told == [
                "not a semantic-net frame",
                "not a semantic-net frame; further callers in vain are not told of",
            ]

    run_tcp(scenario())


def test_a_peer_that_calls_one_who_waits_is_turned_away_for_now(tmp_path: Path) -> None:
    async def scenario() -> None:
        a, b = paired(tmp_path)
        async with waiting(A, a.pins(), a) as (address, calls):
            transport = AdHocTransport(
                B,
                TransportSettings(host="127.0.0.1", peers=(address,)),
                replace(hello_content(), endorsement=b.endorse(B.public_key)),
                pins=b.pins(),
            )
            calling = Probe("b", B, transport)
            await transport.start(calling.handle)
            refused = await calling.expect(Refused)
            assert (refused.code, refused.by_us) == (BUSY, False)
            assert "start the peer" in refused.reason
            assert transport.refused_addresses() == frozenset(), "it calls again"
            await transport.close()
            assert calls.empty()

    run_tcp(scenario())


def test_a_stranger_is_told_why_it_cannot_measure(tmp_path: Path) -> None:
    async def scenario() -> None:
        a, b = device(tmp_path, A), device(tmp_path, B)
        b.trust_file.pair(Device(a.certificate))
        async with waiting(A, a.pins(), a) as (address, calls):
            answer = await probe(address, b.pins(), QUICK)
            assert (answer.code, answer.by_us) == (UNKNOWN_DEVICE, False)
            assert "semantic-net pair" in (await calls.get()).reason
            a.trust_file.pair(Device(b.certificate))  # read anew for each caller
            assert (await probe(address, b.pins(), replace(QUICK, measures=False))).code is None

    run_tcp(scenario())


@pytest.mark.parametrize("ends", ["hangs up", "says something else", "sends no account"])
def test_a_link_whose_other_end_gives_up_is_not_measured(briefly: None, ends: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with waiting(A) as (address, _):  # for its hello
            stream = await dialled(address)
            hello = await stream.next_frame()
            stream.close()
        writer.write(encode_frame(Kind.HELLO, bytes(hello.body)))
        await reader.read(1)
        if ends == "says something else":
            writer.write(encode_frame(Kind.HAVE, b""))
        if ends == "sends no account":
            writer.write(encode_frame(Kind.MEASURE, b"?"))
        writer.write_eof()
        await reader.read()

    async def scenario() -> None:
        async with serving(serve) as address:
            answer = await probe(address, None, QUICK)
            assert answer.code is None
            assert answer.throughput is None
            assert answer.not_measured

    run_tcp(scenario())


async def drip(sock: socket.socket) -> None:
    """Send what whoever still reads would take."""
    for _ in range(10_000):
        await asyncio.get_running_loop().sock_sendall(sock, b"x")


async def dialled(address: str) -> FrameStream:
    """Return a connection to an open port."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    return FrameStream(reader, writer, None)
