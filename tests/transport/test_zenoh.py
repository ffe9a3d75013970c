"""What is special about peers that meet at a router: finding, restarts, and whom to trust."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509 import load_der_x509_certificate
from transport_support import Probe, device, hello_content, raise_failures, run_tcp, signer

from semantic_net.errors import ConfigError, RemoteProtocolError, StartError
from semantic_net.protocol.frames import Kind
from semantic_net.protocol.identity import Signer, endorse
from semantic_net.transport import common, target, zenoh_directory
from semantic_net.transport.base import Connected, Disconnected, Found, Refused, Unreachable
from semantic_net.transport.certificate import (
    CERTIFICATE_BYTES,
    device_of,
    make_certificate,
    make_link_certificate,
)
from semantic_net.transport.segment import (
    Flags,
    Route,
    Segment,
    decode_segment,
    encode_segment,
)
from semantic_net.transport.settings import TransportSettings
from semantic_net.transport.trust import Device, TrustFile
from semantic_net.transport.zenoh_config import ZenohSettings, zenoh_config
from semantic_net.transport.zenoh_place import Keys, Place, read_place

zenoh = pytest.importorskip("zenoh")
from zenoh_world import free_port  # noqa: E402

from semantic_net.transport import zenoh as zenoh_transport  # noqa: E402  # of the extra
from semantic_net.transport import zenoh_session  # noqa: E402
from semantic_net.transport.tls import Pins  # noqa: E402
from semantic_net.transport.zenoh import ZenohTransport  # noqa: E402
from semantic_net.transport.zenoh_router import Router, main  # noqa: E402

A, B, C, ROUTER = signer(1), signer(2), signer(3), signer(9)
QUICK = TransportSettings(dead_after_s=0.2, connect_timeout_s=0.2)


class Site:
    """A router on loopback and the peers around it, each with a trust file of its own."""

    def __init__(self, folder: Path | None = None) -> None:
        """Take where devices lie; None for no TLS."""
        self.folder = folder
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.router = Router(self.address, folder=self.device_folder(ROUTER))
        self.probes: list[Probe] = []

    def device_folder(self, key: Signer) -> Path | None:
        """Return a device's folder, with a trust file that lets everybody in."""
        if self.folder is None:
            return None
        own = device(self.folder, key)
        for other in (A, B, C, ROUTER):
            if other is not key:
                own.trust_file.pair(Device(device(self.folder, other).certificate))
        return own.folder

    def trust_of(self, key: Signer) -> TrustFile:
        """Return a device's trust file."""
        folder = self.device_folder(key)
        assert folder is not None
        return TrustFile(folder / "trust.txt")

    async def peer(
        self,
        name: str,
        key: Signer,
        *,
        incarnation: int = 1,
        settings: TransportSettings = QUICK,
        distrusts: Signer | None = None,
        dials_found: bool = True,
    ) -> Probe:
        """Start a peer that dials whom it finds."""
        pins = None
        folder = self.device_folder(key)
        if folder is not None and self.folder is not None:
            own = device(self.folder, key)
            if distrusts is not None:
                own.trust_file.revoke(distrusts.peer_id)
            pins = Pins(own.key, own.certificate_file, own.trust_file)
        hello = replace(
            hello_content(incarnation),
            endorsement=endorse(key, key.public_key),
        )
        transport = ZenohTransport(
            ZenohSettings(run="site", routers=(self.address,), dials_found=dials_found),
            key,
            settings,
            hello,
            pins=pins,
        )
        probe = Probe(name, key, transport)
        await transport.start(probe.handle)
        self.probes.append(probe)
        return probe

    async def close(self) -> None:
        """Close all."""
        await asyncio.gather(*(probe.transport.close() for probe in self.probes))
        self.router.close()
        raise_failures(self.probes)


def play(scenario: Callable[[Site], Awaitable[None]], folder: Path | None = None) -> None:
    """Play a scenario around a router that runs."""

    async def played() -> None:
        site = Site(folder)
        site.router.start()
        try:
            await scenario(site)
        finally:
            await site.close()

    run_tcp(played())


@contextmanager
def plain_session(address: str) -> Iterator[Any]:
    """Be someone at the router who is no peer."""
    session = zenoh.open(zenoh.Config.from_json5(zenoh_config(connect=[address])))
    with session:
        yield session


def test_peers_of_a_run_find_each_other() -> None:
    async def scenario(site: Site) -> None:
        probes = [await site.peer(n, key) for n, key in (("a", A), ("b", B), ("c", C))]
        for probe in probes:
            await probe.until(lambda p=probe: len(p.of(Connected)) == 2)  # type: ignore[misc]
        probes[0].send(probes[1], b"hello")
        await probes[1].until(lambda: probes[1].bodies(Kind.HAVE) == [b"hello"])
        assert not any(probe.of(Refused) for probe in probes)

    play(scenario)


def test_in_a_mesh_who_is_found_is_told_of_and_dialled_once_that_is_wanted() -> None:
    async def scenario(site: Site) -> None:
        a = await site.peer("a", A, dials_found=False)
        b = await site.peer("b", B, dials_found=False)
        assert (await a.expect(Found)).address == b.transport.address
        found = await b.expect(Found)
        assert not a.of(Connected)
        b.transport.add_address(found.address)
        assert (await b.expect(Connected)).peer == a.id

    play(scenario)


def test_a_peer_may_start_before_its_router(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        site = Site()
        try:
            a, b = await site.peer("a", A), await site.peer("b", B)
            assert "no way to other peers over Zenoh" in caplog.text
            site.router.start()
            await a.expect(Connected)
            await b.expect(Connected)
        finally:
            await site.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zenoh_session, "REOPEN_S", 0.05)
        run_tcp(scenario())


def test_a_session_outlives_its_router() -> None:
    async def scenario(site: Site) -> None:
        a = await site.peer("a", A, settings=replace(QUICK, dead_after_s=20.0))
        b = await site.peer("b", B, settings=replace(QUICK, dead_after_s=20.0))
        await a.expect(Connected)
        await b.expect(Connected)
        site.router.close()
        a.send(b, b"into the void")
        site.router.start()
        await b.until(lambda: b.bodies(Kind.HAVE) == [b"into the void"])
        assert not a.of(Disconnected)
        assert not b.of(Disconnected)

    play(scenario)


def test_whose_token_is_gone_for_a_while_is_gone() -> None:
    async def scenario(site: Site) -> None:
        a = await site.peer("a", A)
        b = await site.peer("b", B)
        await a.expect(Connected)
        session = b.transport._session  # type: ignore[attr-defined]
        session._stop.set()  # as a crash: nobody says goodbye
        session.look()
        assert (await a.expect(Disconnected)).reason == "Connection timed out"

    play(scenario)


def test_a_peer_that_starts_anew_is_found_again() -> None:
    async def scenario(site: Site) -> None:
        a = await site.peer("a", A)
        b = await site.peer("b", B)
        await a.expect(Connected)
        await b.transport.close()
        await a.expect(Disconnected)
        await site.peer("b again", B, incarnation=2)
        assert (await a.expect(Connected)).hello.incarnation == 2

    play(scenario)


def test_who_is_no_peer_can_say_what_it_likes() -> None:
    async def scenario(site: Site) -> None:
        a = await site.peer("a", A)
        place: Place = a.transport._place  # type: ignore[attr-defined]
        inbox = Keys("site").inbox(place.instance)
        route = Route(secrets.token_bytes(16), secrets.token_bytes(16))
        calls = b"%s/5000/%s" % (B.peer_id.encode(), route.source.hex().encode())
        with plain_session(site.address) as session:
            for message in (
                b"",
                b"noise" * 100,
                *(
                    b"".join(encode_segment(route, segment))
                    for segment in (
                        Segment(Flags.OPEN, data=(b"../../**",)),
                        Segment(Flags.OPEN, data=(str(place).encode(),)),
                        Segment(number=1, data=(b"no stream",)),
                        Segment(Flags.OPEN, data=(calls,)),
                        Segment(number=1, data=(b"GET / HTTP/1.1\r\n\r\n",)),
                    )
                ),
            ):
                session.put(inbox, message)
            assert (await a.expect(Refused)).code == "protocol"
            token = f"{Keys('site').token(place)}0"  # of no process
            session.liveliness().declare_token(token)
            b = await site.peer("b", B)
            assert (await a.expect(Connected)).peer == b.id

    play(scenario)


def place_of(probe: Probe) -> Place:
    """Return where a peer is."""
    place: Place = probe.transport._place  # type: ignore[attr-defined]
    return place


def knows(probe: Probe, place: Place) -> bool:
    """Tell whether a peer would call a process."""
    return place in probe.transport._directory  # type: ignore[attr-defined]


def make_up(session: Any, *places: Place) -> list[Any]:
    """Say of processes that they are there, for as long as what is returned exists."""
    return [session.liveliness().declare_token(Keys("site").token(place)) for place in places]


def instances(place: Place, number: int) -> list[Place]:
    """Return other processes at the address of one."""
    return [replace(place, instance=secrets.token_bytes(16)) for _ in range(number)]


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what no event tells of."""
    while True:
        if holds():
            return
        await asyncio.sleep(0.001)


def test_who_was_met_is_called_first_whoever_else_is_said_to_be_there() -> None:
    async def scenario(site: Site) -> None:
        # To call those that nobody is behind would take ten times as long as a test may.
        a = await site.peer("a", A, settings=replace(QUICK, connect_timeout_s=15.0))
        b = await site.peer("b", B, dials_found=False)
        await a.expect(Connected)
        last = Place(C.peer_id, 1, bytes(16))
        with plain_session(site.address) as session:
            tokens = make_up(session, *instances(place_of(b), 20), last)
            await until(lambda: knows(a, last))
            a.transport.disconnect(B.peer_id, "busy", "another time")
            assert (await a.expect(Connected)).peer == B.peer_id
            del tokens

    play(scenario)


@pytest.mark.parametrize("port", [None, 1])
def test_who_is_pushed_out_by_what_is_made_up_comes_back(
    monkeypatch: pytest.MonkeyPatch, port: int | None
) -> None:
    monkeypatch.setattr(zenoh_transport, "LOOK_S", 0.02)
    monkeypatch.setattr(zenoh_directory, "MAX_ADDRESSES", 4)
    monkeypatch.setattr(target, "VAIN_DIALS", 1000)  # as often as it may be told of
    settings = replace(QUICK, refused_backoff_s=0.1)

    async def scenario(site: Site) -> None:
        a = await site.peer("a", A, settings=settings, dials_found=False)
        b = await site.peer("b", B, settings=settings, dials_found=False)
        await until(lambda: knows(a, place_of(b)))
        flood = instances(place_of(b), 12)
        if port is not None:  # of other addresses
            flood = [replace(place, port=port + index) for index, place in enumerate(flood)]
        with plain_session(site.address) as session:
            tokens = make_up(session, *flood)
            await until(lambda: not knows(a, place_of(b)))
            a.transport.add_address(b.transport.address)
            assert (await a.expect(Connected)).peer == B.peer_id
            del tokens

    play(scenario)


def test_who_answers_and_says_nothing_costs_a_share_of_the_time() -> None:
    settings = replace(QUICK, connect_timeout_s=1.0, handshake_timeout_s=4.0)

    async def scenario(site: Site) -> None:
        a = await site.peer("a", A, settings=settings, dials_found=False)
        address = Place(B.peer_id, 5000, secrets.token_bytes(16))
        with plain_session(site.address) as session:

            def answer(sample: Any) -> None:
                route, segment = decode_segment(sample.payload.to_bytes())
                if segment.flags & Flags.OPEN:
                    back = Route(address.instance, route.stream)
                    answered = b"".join(encode_segment(back, Segment()))
                    session.put(Keys("site").inbox(route.source), answered)

            session.declare_subscriber(Keys("site").inbox(address.instance), answer)
            other = instances(address, 1)[0]
            tokens = make_up(session, other, address)
            await until(lambda: knows(a, address) and knows(a, other))
            began = asyncio.get_running_loop().time()
            a.transport.add_address(str(address.address))
            await a.expect(Unreachable)
            took_s = asyncio.get_running_loop().time() - began
            assert 1.0 <= took_s < 3.0, "not the four seconds of an only one"
            del tokens

    play(scenario)


# Over TLS.


def test_who_is_not_paired_is_refused_before_a_frame_is_read(tmp_path: Path) -> None:
    """The router lets it in: what a router says of others counts for nothing."""

    async def scenario(site: Site) -> None:
        site.trust_of(A)
        a = await site.peer("a", A, distrusts=C)
        await site.peer("c", C)
        refused = await a.expect(Refused)
        assert (refused.code, refused.device) == ("revoked", C.peer_id)
        assert refused.peer is None, "its hello was not read"
        assert not a.of(Connected)

    play(scenario, tmp_path)


def test_a_router_that_lies_is_nobody_else(tmp_path: Path) -> None:
    async def scenario(site: Site) -> None:
        a = await site.peer("a", A)
        # What a router could do: have C answer where B is looked for.
        c = await site.peer("c", C)
        await a.expect(Connected)
        await c.expect(Connected)
        a.transport.disconnect(C.peer_id, "busy", "another time")
        place: Place = c.transport._place  # type: ignore[attr-defined]
        a.transport._seen(replace(place, peer=B.peer_id), True)  # type: ignore[attr-defined]
        assert (await a.expect(Connected)).peer == C.peer_id, "by its key, whatever its address"

    play(scenario, tmp_path)


def test_a_device_that_is_revoked_meanwhile_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "TRUST_LOOK_S", 0.02)

    async def scenario(site: Site) -> None:
        a, b = await site.peer("a", A), await site.peer("b", B)
        await a.expect(Connected)
        await b.expect(Connected)
        device(tmp_path, A).trust_file.revoke(B.peer_id)
        assert (await a.expect(Disconnected)).code == "revoked"
        assert (await b.expect(Disconnected)).code == "revoked"

    play(scenario, tmp_path)


def test_a_router_that_is_not_paired_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(common, "TRUST_LOOK_S", 0.02)
    monkeypatch.setattr(zenoh_session, "REOPEN_S", 0.05)

    async def scenario(site: Site) -> None:
        a = await site.peer("a", A, distrusts=ROUTER)
        assert "no way to other peers over Zenoh" in caplog.text
        own = device(tmp_path, A)
        own.trust_file.pair(Device(device(tmp_path, ROUTER).certificate), again=True)
        await site.peer("b", B)
        await a.expect(Connected)

    play(scenario, tmp_path)


def test_the_router_of_a_session_is_judged_anew_when_trust_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(common, "TRUST_LOOK_S", 0.02)

    async def scenario(site: Site) -> None:
        a, b = await site.peer("a", A), await site.peer("b", B)
        await a.expect(Connected)
        await b.expect(Connected)
        device(tmp_path, A).trust_file.revoke(ROUTER.peer_id)
        await b.expect(Disconnected)
        assert "is no device that is paired with this one" in caplog.text

    play(scenario, tmp_path)


def test_the_certificate_for_links_is_the_other_one_but_for_its_first_day() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    pinned, link = make_certificate(key), make_link_certificate(key)
    assert len(link) == len(pinned) == CERTIFICATE_BYTES
    ours, known = load_der_x509_certificate(link), load_der_x509_certificate(pinned)
    assert (ours.subject, ours.issuer) == (known.subject, known.issuer)
    key.public_key().verify(ours.signature, ours.tbs_certificate_bytes)
    with pytest.raises(ValueError, match="not as those of devices"):
        device_of(link)  # nobody pins it


# Parts.


def test_a_place_is_read_as_it_is_written() -> None:
    place = Place(A.peer_id, 5000, bytes(range(16)))
    assert read_place(str(place)) == place
    assert Keys("run").place_of(Keys("run").token(place)) == place
    assert str(place.address) == f"{A.peer_id}.zenoh:5000"


@pytest.mark.parametrize(
    "text",
    ["", "a/b/c", f"{A.peer_id}/0/{'0' * 32}", f"{A.peer_id}/65536/{'0' * 32}", "*/5000/**"],
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        read_place(text)


def test_a_runs_name_is_in_no_key() -> None:
    place = Place(A.peer_id, 5000, bytes(16))
    keys = Keys("*/secret/**")
    for key in (keys.all_tokens, keys.token(place), keys.inbox(bytes(16))):
        assert "secret" not in key
    assert Keys("other").all_tokens != keys.all_tokens


@pytest.mark.parametrize("router", ["nonsense", "0.0.0.0:7447", "10.0.0.1:0", ":7447"])
def test_a_router_that_is_no_address_is_a_wrong_setting(router: str) -> None:
    settings = ZenohSettings(run="site", routers=(router,))
    with pytest.raises(ConfigError, match=r"^p2p\.routers: "):
        ZenohTransport(settings, A, TransportSettings(), hello_content())


def test_an_ipv6_router_needs_a_name_with_tls(tmp_path: Path) -> None:
    settings = ZenohSettings(run="site", routers=("[::1]:7447",))
    ZenohTransport(settings, A, TransportSettings(), hello_content())
    own = device(tmp_path, A)
    with pytest.raises(ConfigError, match="give it a name"):
        ZenohTransport(settings, A, TransportSettings(), hello_content(), pins=own.pins())


def test_zenoh_finds_nobody_by_itself() -> None:
    config = json.loads(zenoh_config(connect=["10.0.0.1:7447"]))
    assert config["mode"] == "client"
    assert not config["scouting"]["multicast"]["enabled"]
    assert not config["scouting"]["gossip"]["enabled"]
    assert not config["transport"]["shared_memory"]["enabled"]
    assert config["transport"]["link"]["protocols"] == ["tcp"]


# The router.


def test_a_busy_port_is_an_error_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    site = Site()
    site.router.start()
    with pytest.raises(StartError, match=r"^cannot listen on 127\.0\.0\.1:\d+: the port is in use"):
        Router(site.address).start()
    assert main(["--listen", site.address]) == 3
    assert capsys.readouterr().err.startswith(f"error: cannot listen on {site.address}: the port")
    assert main(["--listen", "nonsense"]) == 2
    site.router.close()
    site.router.close()
