"""Those who mean harm: strangers on a peer's port, and paired devices that break the rules."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import secrets
import ssl
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from protocol_support import Book, update

from semantic_net.protocol.frames import HEADER, MAGIC, VERSION, Frame, Kind, encode_frame
from semantic_net.protocol.handshake import (
    Established,
    Handshake,
    Hello,
    HelloContent,
    Outcome,
    decode_refusal,
)
from semantic_net.protocol.identity import Signer
from semantic_net.protocol.messages import (
    Have,
    HaveEntry,
    decode_message,
    encode_message,
)
from semantic_net.protocol.packing import Packer
from semantic_net.transport.certificate import make_certificate
from semantic_net.transport.device import DeviceIdentity


@dataclass
class Line:
    """One connection to the victim."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    said: list[bytes] = field(default_factory=list)
    """Frames of ours, as they went out."""

    def say(self, data: bytes) -> None:
        """Send something."""
        self.said.append(data)
        self.writer.write(data)

    async def frame(self) -> Frame:
        """Return the next frame of the victim."""
        header = await self.reader.readexactly(HEADER.size)
        _, _, kind, _, length = HEADER.unpack(header)
        return Frame(Kind(kind), await self.reader.readexactly(length))

    async def refusal(self) -> str:
        """Return the code with which the victim ends the session."""
        while (frame := await self.frame()).kind is not Kind.REFUSE:
            pass
        return decode_refusal(frame).code

    async def ended(self) -> None:
        """Wait until the victim hangs up, whatever it says."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while await self.reader.read(65536):
                pass


@contextlib.asynccontextmanager
async def line(address: str, context: ssl.SSLContext | None = None) -> AsyncIterator[Line]:
    """Connect, with TLS if there is a context."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        yield Line(reader, writer)
    finally:
        writer.transport.abort()


def tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the TLS of somebody who takes anyone for the victim."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(certificate, key)
    return context


class Insider:
    """A device that the victim trusts, and a peer on it that it makes up."""

    def __init__(self, device: DeviceIdentity, address: str, peer: Signer | None = None) -> None:
        self.device, self.address = device, address
        self.peer = peer or Signer(secrets.token_bytes(32))
        self.context = tls(device.certificate_file, device.key)

    def line(self) -> contextlib.AbstractAsyncContextManager[Line]:
        """Connect, and say nothing yet."""
        return line(self.address, self.context)

    async def shake_hands(self, on: Line) -> Outcome:
        """Say hello with whatever facts the victim has; return what came of it."""
        theirs = await on.frame()
        if theirs.kind is Kind.REFUSE:
            return decode_refusal(theirs)
        facts = msgspec.msgpack.decode(theirs.body, type=Hello).facts
        endorsement = self.device.endorse(self.peer.public_key)
        content = HelloContent(
            facts, secrets.randbits(60), "none", unpacks=False, endorsement=endorsement
        )
        nonce = secrets.token_bytes(32)
        handshake = Handshake(self.peer, content, nonce, dialled=True, book=Book())
        on.say(handshake.start())
        frame, outcome = theirs, None
        while True:
            reply, outcome = handshake.receive(frame)
            if reply:
                on.say(reply)
            if outcome is not None:
                return outcome
            frame = await on.frame()

    async def break_protocol(self, act: Callable[[Line], None]) -> str:
        """Begin a session, do something that is not allowed, and return what the victim says."""
        async with self.line() as on:
            outcome = await self.shake_hands(on)
            assert isinstance(outcome, Established), outcome
            act(on)
            return await on.refusal()

    async def replay(self) -> str:
        """Say again, on a new connection, what an earlier session began with."""
        async with self.line() as on:
            assert isinstance(await self.shake_hands(on), Established)
            heard = on.said
        async with self.line() as on:
            for data in heard:
                on.say(data)
            return await on.refusal()

    async def bring_from_another_run(self, round_index: int) -> str:
        """Announce an update, and serve one that was signed for another run."""
        foreign = update(self.peer, round_index, "z" * 40, run=b"another run's id")
        async with self.line() as on:
            assert isinstance(await self.shake_hands(on), Established)
            entry = HaveEntry(foreign.round, foreign.author, foreign.id)
            on.say(encode_message(Have((entry,), True)))
            while True:
                frame = await on.frame()
                if frame.kind is Kind.REFUSE:
                    return decode_refusal(frame).code
                if frame.kind is Kind.WANT and decode_message(frame).id == foreign.id:  # type: ignore[union-attr]
                    on.say(encode_message(foreign.message))


def oversized(on: Line) -> None:
    """Announce a frame of 2^64 - 1 bytes."""
    on.say(HEADER.pack(MAGIC, VERSION, Kind.CHUNK, 0, (1 << 64) - 1))


def bomb(on: Line) -> None:
    """Send frames packed into a few kB that unpack to a hundred MB."""
    deflate = Packer()._deflate
    frame = encode_frame(Kind.HAVE, bytes(256 * 1024))
    packed = b"".join(deflate.compress(frame) for _ in range(400))
    packed += deflate.flush(zlib.Z_SYNC_FLUSH)
    for start in range(0, len(packed), 16 * 1024):
        on.say(encode_frame(Kind.PACKED, packed[start : start + 16 * 1024]))


async def dribble(address: str, num_lines: int) -> None:
    """Open connections that begin TLS and never go on; wait until the victim has ended them."""
    async with contextlib.AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(line(address)) for _ in range(num_lines)]
        for each in lines:
            each.say(b"\x16\x03\x01\x02\x00\x01")
        await asyncio.gather(*(each.ended() for each in lines))


async def blob(address: str) -> None:
    """Send a megabyte of noise."""
    async with line(address) as on:
        on.say(secrets.token_bytes(1_000_000))
        await on.ended()


def forged_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the certificate of some key in the name of another device, and the key."""
    key = Ed25519PrivateKey.from_private_bytes(b"f" * 32)
    genuine = x509.load_der_x509_certificate(make_certificate(key))
    common_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    forged = (
        x509.CertificateBuilder()
        .subject_name(common_name)
        .issuer_name(common_name)
        .public_key(key.public_key())
        .serial_number(genuine.serial_number)
        .not_valid_before(datetime.datetime(2000, 1, 1))
        .not_valid_after(datetime.datetime(9999, 1, 1))
        .sign(key, None)
    )
    folder.mkdir()
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(forged.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths
