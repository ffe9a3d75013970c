"""Over TLS only devices that know each other meet, and whoever is refused is told what to do."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from attackers import forged_certificate
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from transport_support import (
    Probe,
    device,
    hello_content,
    play_over_tcp,
    play_over_tls,
    run_tcp,
    signer,
)

from semantic_net.errors import StartError
from semantic_net.protocol.frames import UNLIKE_MODES, FrameDecoder, Kind, encode_frame
from semantic_net.protocol.handshake import decode_refusal
from semantic_net.protocol.identity import Signer
from semantic_net.transport import common
from semantic_net.transport.ad_hoc import AdHocTransport
from semantic_net.transport.base import Connected, Disconnected, Refused, Unreachable
from semantic_net.transport.certificate import make_certificate
from semantic_net.transport.device import DeviceIdentity
from semantic_net.transport.settings import TransportSettings
from semantic_net.transport.stream_wire import MAX_EMPTY_BYTES
from semantic_net.transport.tls import Pins, TlsChannel, TlsError
from semantic_net.transport.trust import Device

A, B, C = signer(1), signer(2), signer(3)


@dataclass
class Field:
    """Devices in folders of their own, and the peers that run on them."""

    folder: Path
    probes: list[Probe] = field(default_factory=list)

    def device(self, key: Signer) -> DeviceIdentity:
        return device(self.folder, key)

    def pair(self, *keys: Signer) -> None:
        for one in keys:
            for other in keys:
                if one is not other:
                    trust = self.device(one).trust_file
                    trust.pair(Device(self.device(other).certificate))

    async def peer(
        self,
        key: Signer,
        dial: list[Probe] | None = None,
        *,
        device: Signer | None = None,
        endorsed_by: Signer | None = None,
        pins: Callable[[DeviceIdentity], Pins | None] = DeviceIdentity.pins,
        **settings: Any,
    ) -> Probe:
        device = device or key
        peers = tuple(probe.transport.address for probe in dial or [])
        endorsement = self.device(endorsed_by or device).endorse(key.public_key)
        transport = AdHocTransport(
            key,
            TransportSettings(host="127.0.0.1", peers=peers, **settings),
            replace(hello_content(), endorsement=endorsement),
            pins=pins(self.device(device)),
        )
        probe = Probe(key.peer_id, key, transport)
        await transport.start(probe.handle)
        self.probes.append(probe)
        return probe


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Callable[[Field], Coroutine[Any, Any, None]]], None]:
    """Return how to play a scenario with devices."""

    def player(scenario: Callable[[Field], Coroutine[Any, Any, None]]) -> None:
        async def played() -> None:
            world = Field(tmp_path)
            try:
                await scenario(world)
            finally:
                await asyncio.gather(*(probe.transport.close() for probe in world.probes))

        run_tcp(played())

    return player


Play = Callable[[Callable[[Field], Coroutine[Any, Any, None]]], None]


def test_devices_that_are_paired_meet(play: Play) -> None:
    async def scenario(world: Field) -> None:
        world.pair(A, B)
        a = await world.peer(A)
        b = await world.peer(B, [a])
        assert (await a.expect(Connected)).peer == B.peer_id
        await b.expect(Connected)
        b.send(a, b"hello")
        await a.until(lambda: a.bodies(Kind.HAVE) == [b"hello"])

    play(scenario)


@pytest.mark.parametrize("known_by", ["dialler", "listener", "nobody"])
def test_a_device_that_is_not_paired_is_refused_and_both_say_what_to_do(
    play: Play, known_by: str
) -> None:
    async def scenario(world: Field) -> None:
        a_knows, b_knows = known_by == "listener", known_by == "dialler"
        if a_knows:
            world.device(A).trust_file.pair(Device(world.device(B).certificate))
        if b_knows:
            world.device(B).trust_file.pair(Device(world.device(A).certificate))
        a = await world.peer(A)
        b = await world.peer(B, [a])
        at_a, at_b = await a.expect(Refused), await b.expect(Refused)
        assert at_a.code == at_b.code == "unknown_device"
        theirs, ours = "`semantic-net pair` there", "`semantic-net pair` with its invite"
        assert (ours if b_knows else theirs) in at_a.reason or known_by == "nobody"
        assert (theirs if b_knows else ours) in at_b.reason
        assert at_a.peer is None, "nothing that it says of itself was read"
        assert not a.of(Connected)
        assert not b.of(Connected)

    play(scenario)


def test_the_right_name_with_another_key_is_nobody(play: Play, tmp_path: Path) -> None:
    """OpenSSL looks certificates up by name; only the very one that is pinned counts."""

    async def scenario(world: Field) -> None:
        world.pair(A, B)
        a = await world.peer(A)
        impostor = forged_certificate(tmp_path / "forged", name=B.peer_id)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(*impostor)
        host, _, port = a.transport.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        with pytest.raises(ssl.SSLError, match="ALERT"):
            await reader.read()
        writer.transport.abort()
        assert (await a.expect(Refused)).code == "unknown_device"

    play(scenario)


def test_a_key_that_its_device_has_not_endorsed_is_refused(play: Play) -> None:
    async def scenario(world: Field) -> None:
        world.pair(A, B)
        a = await world.peer(A)
        c = await world.peer(C, [a], device=B, endorsed_by=C)
        assert (await a.expect(Refused)).code == "signature"
        assert not a.of(Connected)
        assert not c.of(Connected)

    play(scenario)


def test_several_peers_may_run_on_one_device(play: Play) -> None:
    async def scenario(world: Field) -> None:
        world.pair(A, B)
        a = await world.peer(A)
        await world.peer(B, [a])
        await world.peer(C, [a], device=B)
        connected = {(await a.expect(Connected)).peer for _ in range(2)}
        assert connected == {B.peer_id, C.peer_id}

    play(scenario)


def test_a_device_that_is_revoked_goes_at_once_and_is_told_why(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "TRUST_LOOK_S", 0.01)

    async def scenario(world: Field) -> None:
        world.pair(A, B)
        a = await world.peer(A)
        b = await world.peer(B, [a])
        await a.expect(Connected)
        world.device(A).trust_file.revoke(B.peer_id)
        assert (await a.expect(Disconnected)).code == "revoked"
        assert "the device is revoked" in (await b.expect(Disconnected)).reason
        again = await world.peer(B, [a])
        assert (await again.expect(Refused)).code == "revoked"
        assert len(a.of(Connected)) == 1

    play(scenario)


def test_a_revoked_device_that_is_dialled_is_told_why(play: Play) -> None:
    """The refusal comes with the end of the handshake, before it has said its own hello."""

    async def scenario(world: Field) -> None:
        world.pair(A, B)
        world.device(A).trust_file.revoke(B.peer_id)
        b = await world.peer(B)
        a = await world.peer(A, [b])
        assert (await b.expect(Refused)).code == "revoked"
        assert (await a.expect(Refused)).code == "revoked"

    play(scenario)


def test_a_device_that_is_paired_while_peers_run_gets_in(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "TRUST_LOOK_S", 0.01)

    async def scenario(world: Field) -> None:
        a = await world.peer(A)
        b = await world.peer(B, [a])
        await a.expect(Refused)
        world.pair(A, B)
        await a.expect(Connected)
        await b.expect(Connected)

    play(scenario)


def test_a_trust_file_that_breaks_leaves_things_as_they_were(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(world: Field) -> None:
        world.pair(A, B)
        a = await world.peer(A)
        world.device(A).trust_file.path.write_text("nonsense\n")
        assert isinstance(a.transport, AdHocTransport)
        a.transport._look_at_trust()
        b = await world.peer(B, [a])
        await a.expect(Connected)
        await b.expect(Connected)

    play(scenario)
    assert "trust.txt:1: expected: trusted or revoked" in caplog.text
    assert "what it said before still holds" in caplog.text


@pytest.mark.parametrize("pinned", ["listener", "dialler"])
def test_peers_in_different_security_modes_say_so(play: Play, pinned: str) -> None:
    async def scenario(world: Field) -> None:
        def open_mode(own: DeviceIdentity) -> None:
            return None

        world.pair(A, B)
        modes = [DeviceIdentity.pins, open_mode]
        if pinned == "dialler":
            modes.reverse()
        a = await world.peer(A, pins=modes[0])
        b = await world.peer(B, [a], pins=modes[1])
        at_a, at_b = await a.expect(Refused), await b.expect(Refused)
        assert "one end has security.mode pinned, the other open" in at_a.reason
        assert at_a.reason == at_b.reason

    play(scenario)


def test_who_never_ends_its_tls_handshake_is_dropped_in_time(play: Play) -> None:
    async def scenario(world: Field) -> None:
        a = await world.peer(A, handshake_timeout_s=0.05)
        host, _, port = a.transport.address.rpartition(":")
        connections = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        connections[0][1].write(b"\x16\x03\x01\x02\x00\x01")
        for reader, writer in connections:
            assert await reader.read() == b""
            writer.close()
        assert {(await a.expect(Refused)).code for _ in connections} == {"timeout"}

    play(scenario)


def test_what_is_counted_is_what_the_socket_carries() -> None:
    """What TLS adds is counted, too."""
    num_bytes = []

    async def scenario(world: Any) -> None:
        a = await world.peer("a", A)
        b = await world.peer("b", B, dial=[a])
        await b.expect(Connected)
        b.send(a, bytes(1000))
        await a.until(lambda: bool(a.bodies(Kind.HAVE)))
        await b.transport.close()
        await a.expect(Disconnected)
        at_a, at_b = a.transport.traffic(), b.transport.traffic()
        assert at_b.bytes_sent == at_a.bytes_received
        assert at_b.bytes_received == at_a.bytes_sent
        num_bytes.append(at_b.bytes_sent)

    play_over_tcp(scenario)
    play_over_tls(scenario)
    plain, sealed = num_bytes
    assert sealed > plain + len(make_certificate(Ed25519PrivateKey.from_private_bytes(b"k" * 32)))


def test_a_key_without_its_certificate_says_so(tmp_path: Path) -> None:
    own = device(tmp_path, A)
    own.certificate_file.write_text("nothing")
    with pytest.raises(StartError, match=r"cannot use .* for TLS"):
        own.pins()


def test_the_certificate_is_written_anew_where_it_is_missing(tmp_path: Path) -> None:
    own = device(tmp_path, A)
    before = own.certificate_file.read_bytes()
    own.certificate_file.unlink()
    again = DeviceIdentity(own.folder)
    assert again.certificate_file.read_bytes() == before
    assert again.signer.peer_id == A.peer_id


def test_a_refusal_tells_where_nobody_answers_from_where_nobody_is_let_in(play: Play) -> None:
    async def scenario(world: Field) -> None:
        a = await world.peer(A)
        b = await world.peer(B, [a])
        await b.expect(Refused)
        assert not b.of(Unreachable)

    play(scenario)


# The channel alone, byte by byte.

CLOSE_NOTIFY = bytes.fromhex("15 03 03 00 02 01 00")


@dataclass
class Ends:
    """Both ends of a TLS connection, the network between them by hand."""

    dialler: TlsChannel
    listener: TlsChannel

    def talk(self) -> None:
        """Carry bytes to and fro until nothing more is said."""
        buffer = memoryview(bytearray(100))
        for _ in range(4):
            for one, other in ((self.dialler, self.listener), (self.listener, self.dialler)):
                one.read_into(buffer)
                other.received(one.to_send())


@pytest.fixture
def ends(tmp_path: Path) -> Ends:
    """Return two devices that know each other, before their handshake."""
    world = Field(tmp_path)
    world.pair(A, B)
    dialler, listener = (world.device(key).pins() for key in (A, B))
    return Ends(dialler.channel(dialled=True), listener.channel(dialled=False))


def read_each(channel: TlsChannel, parts: list[bytes]) -> None:
    """Let a channel read what comes part by part."""
    for part in parts:
        channel.read_into(memoryview(bytearray(100)))
        channel.received(part)


def test_whoever_ends_tls_before_it_begins_is_through(ends: Ends) -> None:
    """Nothing is read after it, so nothing more may be kept for it."""
    buffer = memoryview(bytearray(100))
    ends.dialler.read_into(buffer)
    ends.listener.received(ends.dialler.to_send() + CLOSE_NOTIFY)
    with pytest.raises(TlsError) as first:
        read_each(ends.listener, [CLOSE_NOTIFY] * 3)
    with pytest.raises(TlsError) as again:
        ends.listener.read_into(buffer)
    assert again.value is first.value


def test_what_came_before_the_end_of_tls_counts(ends: Ends) -> None:
    ends.talk()
    ends.dialler.write(b"last words")
    with contextlib.suppress(ssl.SSLWantReadError):
        ends.dialler._tls.unwrap()
    ends.listener.received(ends.dialler.to_send())
    buffer = memoryview(bytearray(100))
    assert bytes(buffer[: ends.listener.read_into(buffer)]) == b"last words"
    with pytest.raises(TlsError, match="the peer ended TLS"):
        ends.listener.read_into(buffer)


def test_a_stream_that_was_tampered_with_ends_there(ends: Ends) -> None:
    ends.talk()
    ends.dialler.write(b"fine")
    sealed = bytearray(ends.dialler.to_send())
    sealed[-1] ^= 1
    ends.listener.received(sealed)
    with pytest.raises(TlsError, match="TLS failed: decryption failed or bad record mac"):
        ends.listener.read_into(memoryview(bytearray(100)))


def test_the_other_mode_is_recognised_byte_by_byte(ends: Ends) -> None:
    said = [bytes([byte]) for byte in encode_frame(Kind.HAVE, bytes(20))]
    with pytest.raises(TlsError, match="one end has") as ended:
        read_each(ends.listener, said)
    assert ended.value.refusal.reason == UNLIKE_MODES


def test_a_revoked_device_gets_to_read_why_and_nothing_else(tmp_path: Path) -> None:
    world = Field(tmp_path)
    world.pair(A, B)
    world.device(B).trust_file.revoke(A.peer_id)
    pins = [world.device(key).pins() for key in (A, B)]
    pair = Ends(pins[0].channel(dialled=True), pins[1].channel(dialled=False))
    pair.listener.write(b"our hello")
    with pytest.raises(TlsError, match="the device is revoked"):
        pair.talk()
    pair.dialler.received(pair.listener.to_send())
    buffer = memoryview(bytearray(1000))
    [frame] = FrameDecoder().feed(bytes(buffer[: pair.dialler.read_into(buffer)]))
    assert decode_refusal(frame).code == "revoked"


# The trust file, while peers run.


def test_a_trust_file_that_cannot_be_read_for_a_moment_is_read_later(tmp_path: Path) -> None:
    world = Field(tmp_path)
    world.pair(A, B)
    pins = world.device(A).pins()
    world.device(A).trust_file.revoke(B.peer_id)
    for name in ("stat", "open"):
        with mock.patch.object(Path, name, side_effect=PermissionError(13, "Permission denied")):
            pins.refresh()
        assert pins.objection(B.peer_id) is None
    pins.refresh()
    refusal = pins.objection(B.peer_id)
    assert refusal is not None
    assert refusal.code == "revoked"


def test_a_certificate_that_a_known_device_has_signed_is_not_its_own(tmp_path: Path) -> None:
    world = Field(tmp_path)
    world.pair(A, B)
    refusal = world.device(A).pins()._admit(world.device(C).certificate)
    assert refusal is not None
    assert refusal.code == "unknown_device"


def test_a_device_whose_tls_holds_nothing_is_dropped(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change of keys costs us work and brings no frame: no limit on frames would stop it."""

    async def scenario(world: Field) -> None:
        world.pair(A, B)
        a = await world.peer(A)
        b = await world.peer(B, [a])
        for probe in (a, b):
            await probe.expect(Connected)
        monkeypatch.setattr(TlsChannel, "read_into", lambda channel, buffer: 0)
        for _ in range(MAX_EMPTY_BYTES // 1000):
            b.send(a, bytes(1000))
        assert (await a.expect(Disconnected)).reason == "TLS that holds nothing"

    play(scenario)


def test_a_flood_of_strangers_that_are_refused_does_not_pile_up(play: Play) -> None:
    async def scenario(world: Field) -> None:
        a = await world.peer(A, max_pending=3, flush_s=20)
        assert isinstance(a.transport, AdHocTransport)
        host, _, port = a.transport.address.rpartition(":")
        ends = []
        for number in range(1, 9):
            ends.append(await asyncio.open_connection(host, int(port)))
            ends[-1][1].write(bytes(100))
            await a.until(lambda number=number: len(a.of(Refused)) >= number)  # type: ignore[misc]
        assert len(a.transport._hub.wires()) <= 5
        for _, writer in ends:
            writer.transport.abort()

    play(scenario)
