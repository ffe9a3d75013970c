"""Look at who answers at an address, as far as its hello, and no further.

Both ends of a connection say hello at once. Whoever looks reads the other's and says nothing of
its own, so that a running peer has nothing to judge: no session begins there, nothing is refused,
and its log has a line of level debug. What a peer that is turned away would be told is found out
on this side, from the same certificates and the same facts.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from dataclasses import dataclass, replace
from typing import Any

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.address import Address, parse_address
from semantic_net.protocol.frames import MAGIC, UNLIKE_MODES, Frame, Kind
from semantic_net.protocol.handshake import (
    PROTOCOL,
    SECURITY,
    SIGNATURE,
    TIMEOUT,
    Hello,
    decode_hello,
    decode_refusal,
)
from semantic_net.protocol.identity import PeerId, is_endorsed, peer_id_of
from semantic_net.transport.connection import CLOSED, LOST, reason_of
from semantic_net.transport.frame_stream import EndOfStream, FrameStream
from semantic_net.transport.tcp import round_trip_s
from semantic_net.transport.throughput import RefusedMeasurement, Throughput, measure
from semantic_net.transport.tls import Pins, TlsError

UNKNOWN_NAME = "unknown_name"
NO_ROUTE = "no_route"
NOT_LISTENING = "not_listening"
SILENT = "silent"
"""Beside the codes of refusals and `TIMEOUT`, `CLOSED` and `LOST`: why there is no hello."""

DOCTOR = " doctor"
"""How the software of one ends that waits to measure a link."""

MAX_TRIED = 4
"""Addresses of one name that are tried."""

_TLS_RECORDS = (b"\x16\x03", b"\x15\x03")
"""How the answer of an end that speaks TLS begins: its hello, or an alert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """How long each step may take."""

    resolve_s: float = 5.0
    connect_s: float = 5.0
    hello_s: float = 5.0
    """From the open connection to the hello."""
    speaks_first_s: float = 0.3
    """For which one that speaks TLS waits, beside two round trips, for an end that does not."""
    measures: bool = True
    """Whether to measure the link to one who waits for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one look: a hello, or why there is none."""

    code: str | None = None
    """None where there is a hello that may be believed."""
    reason: str = ""
    by_us: bool = True
    """Whether it is this end that would turn the other away."""
    hello: Hello | None = None
    device: PeerId | None = None
    """Which device answered, where TLS has proven one."""
    round_trip_s: float | None = None
    throughput: Throughput | None = None
    not_measured: str = ""
    """Why there is no throughput of one who waits for that."""

    @property
    def is_doctor(self) -> bool:
        """Whether it is no peer but one who waits to measure the link."""
        return self.hello is not None and self.hello.software.endswith(DOCTOR)


class _NoAnswer(Exception):
    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.answer = Answer(code=code, reason=reason)


async def probe(address: str, pins: Pins | None, settings: ProbeSettings) -> Answer:
    """Dial an address, read who is there, and hang up.

    Args:
        address: ``host:port``.
        pins: Whom TLS lets in, and as whom it shows us; None for no TLS.
        settings: How long each step may take.
    """
    try:
        where = parse_address(address)
        sock = await _connect(where, settings)
        answer = await _hello_of(sock, pins, settings)
        if answer.code == SILENT and pins is None and await _speaks_tls(where, settings):
            return Answer(code=SECURITY, reason=UNLIKE_MODES, round_trip_s=answer.round_trip_s)
    except _NoAnswer as exc:
        return exc.answer
    return answer


async def reach(address: str, settings: ProbeSettings) -> Answer:
    """Dial an address and hang up: all that a device can do that nobody knows."""
    try:
        sock = await _connect(parse_address(address), settings)
    except _NoAnswer as exc:
        return exc.answer
    with sock:
        return Answer(round_trip_s=round_trip_s(sock))


async def _connect(address: Address, settings: ProbeSettings) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        found = await asyncio.wait_for(
            loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM),
            settings.resolve_s,
        )
    except asyncio.TimeoutError:
        text = f"no name server answers within {settings.resolve_s:g} s"
        raise _NoAnswer(UNKNOWN_NAME, text) from None
    except OSError as exc:
        raise _NoAnswer(UNKNOWN_NAME, reason_of(exc)) from exc
    failed = _NoAnswer(UNKNOWN_NAME, "the name stands for no address")
    for family, _, _, _, where in found[:MAX_TRIED]:
        try:
            return await _connect_to(family, where, settings.connect_s)
        except _NoAnswer as exc:
            failed = exc
    raise failed


async def _connect_to(family: int, where: tuple[Any, ...], within_s: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, where), within_s)
    except asyncio.TimeoutError:
        sock.close()
        raise _NoAnswer(TIMEOUT, f"no answer within {within_s:g} s") from None
    except OSError as exc:
        sock.close()
        raise _NoAnswer(_CODES.get(exc.errno or 0, LOST), reason_of(exc)) from exc
    except BaseException:
        sock.close()
        raise
    return sock


_CODES = {
    errno.ENETUNREACH: NO_ROUTE,
    errno.EHOSTUNREACH: NO_ROUTE,
    errno.ENETDOWN: NO_ROUTE,
    errno.EHOSTDOWN: NO_ROUTE,
    errno.ETIMEDOUT: TIMEOUT,
    errno.ECONNREFUSED: NOT_LISTENING,
}


async def _hello_of(sock: socket.socket, pins: Pins | None, settings: ProbeSettings) -> Answer:
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        tls = None
        if pins is not None:
            await _let_it_speak(reader, round_trip_s(sock) or 0.0, settings)
            tls = pins.channel(dialled=True)
        stream = FrameStream(reader, writer, tls)
        answer = await _first_frame(stream, settings)
        if answer.code is None and answer.is_doctor and settings.measures:
            answer = await _measured(stream, answer)
        return answer
    finally:
        # At once, so that a last word of TLS does not reach the other end: it has none to hear.
        writer.transport.abort()


async def _let_it_speak(
    reader: asyncio.StreamReader, round_trip: float, settings: ProbeSettings
) -> None:
    """Let an end without TLS say its hello: it need not see bytes that mean nothing to it.

    Raises:
        _NoAnswer: It has no TLS.
    """
    wait_s = settings.speaks_first_s + 2 * round_trip
    try:
        first = await asyncio.wait_for(reader.read(len(MAGIC)), wait_s)
    except asyncio.TimeoutError:
        return
    except OSError as exc:
        raise _NoAnswer(LOST, reason_of(exc)) from exc
    if not first:
        raise _NoAnswer(CLOSED, "it closed the connection at once")
    if MAGIC.startswith(first):
        raise _NoAnswer(SECURITY, UNLIKE_MODES)
    raise _NoAnswer(PROTOCOL, "not a semantic-net frame")


async def _first_frame(stream: FrameStream, settings: ProbeSettings) -> Answer:
    trip_s = round_trip_s(stream.sock)
    try:
        frame = await asyncio.wait_for(stream.next_frame(), settings.hello_s)
        trip_s = round_trip_s(stream.sock)
        return _read(frame, stream.device_key, trip_s)
    except asyncio.TimeoutError:
        text = f"it accepts the connection and says nothing within {settings.hello_s:g} s"
        return Answer(code=SILENT, reason=text, round_trip_s=trip_s)
    except EndOfStream:
        text = "it closed the connection before it said who it is"
        return Answer(code=CLOSED, reason=text, round_trip_s=trip_s)
    except TlsError as exc:
        device = None if exc.device_key is None else peer_id_of(exc.device_key)
        refusal = exc.refusal
        return Answer(
            code=refusal.code,
            reason=refusal.reason,
            by_us=refusal.by_us,
            device=device,
            round_trip_s=trip_s,
        )
    except RemoteProtocolError as exc:
        code = SECURITY if str(exc) == UNLIKE_MODES else PROTOCOL
        return Answer(code=code, reason=str(exc), round_trip_s=trip_s)
    except OSError as exc:
        return Answer(code=LOST, reason=reason_of(exc), round_trip_s=trip_s)


def _read(frame: Frame, device_key: bytes | None, trip_s: float | None) -> Answer:
    device = None if device_key is None else peer_id_of(device_key)
    if frame.kind is Kind.REFUSE:
        refusal = decode_refusal(frame)
        return Answer(
            code=refusal.code,
            reason=refusal.reason,
            by_us=False,
            device=device,
            round_trip_s=trip_s,
        )
    if frame.kind is not Kind.HELLO:
        raise RemoteProtocolError(f"a {frame.kind.name} is out of place in the handshake")
    hello = decode_hello(frame)
    answer = Answer(hello=hello, device=device, round_trip_s=trip_s)
    if device_key is None or is_endorsed(device_key, hello.public_key, hello.endorsement):
        return answer
    return Answer(
        code=SIGNATURE,
        reason="its device has not endorsed the key that says hello",
        device=device,
        round_trip_s=trip_s,
    )


async def _measured(stream: FrameStream, answer: Answer) -> Answer:
    why = ""
    throughput = None
    try:
        throughput = await measure(stream)
    except RefusedMeasurement as exc:
        why = str(exc)
    except asyncio.TimeoutError:
        why = "too little came through"
    except EndOfStream:
        why = "it hung up"
    except (RemoteProtocolError, TlsError) as exc:
        why = str(exc)
    except OSError as exc:
        why = reason_of(exc)
    return replace(answer, throughput=throughput, not_measured=why)


async def _speaks_tls(address: Address, settings: ProbeSettings) -> bool:
    """Begin TLS as nobody, and tell whether there is an answer; it ends before anything is said."""
    try:
        sock = await _connect(address, settings)
        reader, writer = await asyncio.open_connection(sock=sock)
    except (_NoAnswer, OSError):
        return False
    try:
        writer.write(_client_hello())
        first = await asyncio.wait_for(reader.readexactly(2), settings.connect_s)
        return first in _TLS_RECORDS
    except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
        return False
    finally:
        writer.transport.abort()


def _client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is said on it
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):  # as it must: the answer is still to come
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()
