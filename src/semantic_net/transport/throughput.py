"""What a link carries a second, each way: random bytes between two doctors, for a few seconds.

    dialler: MEASURE ... MEASURE, an empty one      for at most SEND_S seconds and MAX_BYTES
    other:   what of it came, and in which time; then the same in its turn

What has arrived is what counts: the first frame starts the clock of whoever receives, and is not
counted. Both ends hold the other to these limits.
"""

from __future__ import annotations

import asyncio
import os
import struct
from dataclasses import dataclass

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.frames import Kind, encode_frame
from semantic_net.protocol.handshake import decode_refusal
from semantic_net.transport.frame_stream import FrameStream

SEND_S = 3.0
"""Seconds that each end sends, at most."""

MAX_BYTES = 64 * 1000 * 1000
"""And bytes."""

FRAME_BYTES = 8 * 1024
"""Of a frame: a link of a kilobyte a second brings one in as many seconds as it is sent for."""

RECEIVE_S = 2 * SEND_S
"""Seconds after which what has come by then is all that counts: a slow link has much under way."""

_CARRIED = struct.Struct(">QQ")
_END = encode_frame(Kind.MEASURE, b"")


@dataclass(frozen=True, slots=True)
class Carried:
    """What arrived at one end of a link."""

    num_bytes: int
    microseconds: int

    @property
    def bytes_s(self) -> float:
        """Bytes a second; 0 where too little came to tell."""
        return 1e6 * self.num_bytes / self.microseconds if self.microseconds else 0.0


@dataclass(frozen=True, slots=True)
class Throughput:
    """What a link carries, as the dialling end sees it."""

    up: Carried
    down: Carried


class RefusedMeasurement(Exception):
    """The other end does not want to measure now."""


async def measure(stream: FrameStream) -> Throughput:
    """Measure a link to one who waits for it; at the dialling end.

    Raises:
        RefusedMeasurement: The other end turns us away.
        RemoteProtocolError: It breaks the limits.
        EndOfStream: It has gone.
        OSError: The connection broke.
        TlsError: It broke in TLS.
        asyncio.TimeoutError: Nothing came for too long.
    """
    await _send(stream)
    body = await asyncio.wait_for(_measured(stream), RECEIVE_S)
    if len(body) != _CARRIED.size:
        raise RemoteProtocolError("no account of what has come")
    up = Carried(*_CARRIED.unpack(body))
    return Throughput(up, await _receive(stream))


async def answer(stream: FrameStream, first: bytes) -> Throughput:
    """Do the other end's part, once its first frame is here.

    Raises:
        RemoteProtocolError: As `measure`; so are the others.
    """
    arrived = await _receive(stream, first)
    await stream.send(
        encode_frame(Kind.MEASURE, _CARRIED.pack(arrived.num_bytes, arrived.microseconds))
    )
    await _send(stream)
    return Throughput(arrived, Carried(0, 0))


async def _send(stream: FrameStream) -> None:
    loop = asyncio.get_running_loop()
    until, left = loop.time() + SEND_S, MAX_BYTES
    while left > 0 and (rest_s := until - loop.time()) > 0:
        try:
            await asyncio.wait_for(
                stream.send(encode_frame(Kind.MEASURE, os.urandom(FRAME_BYTES))), rest_s
            )
        except asyncio.TimeoutError:
            break  # the kernel has it all the same, and sends it
        left -= FRAME_BYTES
    stream.write(_END)


async def _receive(stream: FrameStream, first: bytes | None = None) -> Carried:
    loop = asyncio.get_running_loop()
    until = loop.time() + RECEIVE_S
    num_bytes, began, latest = 0, 0.0, 0.0
    is_first = first is None
    if first is not None:
        began = latest = loop.time()
    while (rest_s := until - loop.time()) > 0:
        try:
            body = await asyncio.wait_for(_measured(stream), rest_s)
        except asyncio.TimeoutError:
            break
        latest = loop.time()
        if not body:
            break
        if is_first:
            began, is_first = latest, False
            continue
        num_bytes += len(body)
        if num_bytes > MAX_BYTES:
            raise RemoteProtocolError(f"more than {MAX_BYTES} bytes to measure a link")
    return Carried(num_bytes, round(1e6 * (latest - began)) if num_bytes else 0)


async def _measured(stream: FrameStream) -> bytes:
    frame = await stream.next_frame()
    if frame.kind is Kind.REFUSE:
        raise RefusedMeasurement(decode_refusal(frame).reason)
    if frame.kind is not Kind.MEASURE:
        raise RemoteProtocolError(f"a {frame.kind.name} is out of place in a measurement")
    return bytes(frame.body)
