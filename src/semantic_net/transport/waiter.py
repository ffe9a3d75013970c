"""The other end of a measurement: listen, say hello as a doctor, and answer those who measure.

It is no peer: whoever says hello to it is turned away for now, and calls again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.address import Address
from semantic_net.protocol.frames import Kind
from semantic_net.protocol.handshake import (
    BUSY,
    NONCE_BYTES,
    PROTOCOL,
    Hello,
    HelloContent,
    Refusal,
    encode_hello,
    encode_refusal,
)
from semantic_net.protocol.identity import Signer
from semantic_net.transport.ad_hoc import BACKLOG, bound_socket
from semantic_net.transport.address import seen_address
from semantic_net.transport.connection import reason_of
from semantic_net.transport.frame_stream import EndOfStream, FrameStream
from semantic_net.transport.throughput import RECEIVE_S, SEND_S, Throughput, answer
from semantic_net.transport.tls import Pins, TlsError

log = logging.getLogger(__name__)

HELLO_S = 10.0
"""Seconds that a caller has until it begins to measure."""

FLUSH_S = 1.0

MAX_CALLERS = 16
"""Connections at a time; one of them measures."""

MAX_FAILURES_TOLD = 20
"""Callers in vain that a person hears of: strangers can call without end."""


@dataclass(frozen=True, slots=True)
class Call:
    """What became of one caller who wanted something."""

    address: str
    throughput: Throughput | None
    reason: str = ""


class Waiter:
    """Answers measurements on a port for as long as it is asked to."""

    def __init__(
        self,
        signer: Signer,
        content: HelloContent,
        pins: Pins | None,
        told: Callable[[Call], None],
    ) -> None:
        """Prepare; nothing is opened before the start.

        Args:
            signer: Whose key the hello has.
            content: What the hello says; its software ends with `probe.DOCTOR`.
            pins: Whom TLS lets in; None lets in anybody.
            told: Hears of each call that came to something.

        Raises:
            LocalProtocolError: The content breaks the limits that others hold it to.
        """
        self._hello = encode_hello(
            Hello(
                public_key=signer.public_key,
                nonce=secrets.token_bytes(NONCE_BYTES),  # a hello that nothing is signed for
                incarnation=content.incarnation,
                addresses=list(content.addresses),
                facts=dict(content.facts),
                software=content.software,
                endorsement=content.endorsement,
            )
        )
        self._pins = pins
        self._told = told
        self._measuring = asyncio.Lock()
        self._callers: dict[asyncio.Task[None], FrameStream] = {}
        self._num_failures = 0
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> str:
        """Listen; return the address.

        Raises:
            StartError: The port is busy or the address is not ours.
        """
        sock = await bound_socket(host, port)
        port = sock.getsockname()[1]
        self._server = await asyncio.start_server(self._called, sock=sock, backlog=BACKLOG)
        return str(Address(host, port))

    async def close(self) -> None:
        """Hang up on everybody, and listen no more."""
        if self._server is None:
            return
        self._server.close()
        for stream in self._callers.values():
            stream.close()  # whatever waits for it ends by that
        await asyncio.gather(*self._callers, return_exceptions=True)
        await self._server.wait_closed()

    async def _called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._callers) >= MAX_CALLERS:
            writer.transport.abort()  # at once: each takes a file descriptor
            return
        if self._pins is not None:
            self._pins.refresh()
        tls = None if self._pins is None else self._pins.channel(dialled=False)
        stream = FrameStream(reader, writer, tls)
        task = asyncio.current_task()
        assert task is not None
        self._callers[task] = stream
        task.add_done_callback(self._callers.pop)
        address = str(seen_address(writer.get_extra_info("peername")))
        try:
            throughput = await self._answer(stream)
        except EndOfStream:
            log.debug("%s: looked, and hung up", address)
        except asyncio.TimeoutError:
            self._failed(address, "it takes too long")
        except (RemoteProtocolError, TlsError) as exc:
            stream.flush()  # why it is not let in
            self._failed(address, str(exc))
            await stream.finish(FLUSH_S)
        except OSError as exc:
            self._failed(address, reason_of(exc))
        else:
            if throughput is not None:
                self._told(Call(address, throughput))
            await stream.finish(FLUSH_S)
        finally:
            stream.close()

    def _failed(self, address: str, why: str) -> None:
        self._num_failures += 1
        if self._num_failures == MAX_FAILURES_TOLD:
            why += "; further callers in vain are not told of"
        if self._num_failures <= MAX_FAILURES_TOLD:
            self._told(Call(address, None, why))

    async def _answer(self, stream: FrameStream) -> Throughput | None:
        stream.write(self._hello)
        frame = await asyncio.wait_for(stream.next_frame(), HELLO_S)
        if frame.kind is Kind.HELLO:
            text = "a doctor waits here (semantic-net doctor --wait) and no peer: start the peer"
            stream.write(encode_refusal(Refusal(BUSY, text)))
            return None
        if frame.kind is not Kind.MEASURE:
            text = f"a {frame.kind.name} is out of place before a hello"
            stream.write(encode_refusal(Refusal(PROTOCOL, text)))
            raise RemoteProtocolError(text)
        if self._measuring.locked():
            stream.write(encode_refusal(Refusal(BUSY, "another device is measuring: try again")))
            return None
        async with self._measuring:
            return await asyncio.wait_for(answer(stream, bytes(frame.body)), RECEIVE_S + SEND_S + 5)
