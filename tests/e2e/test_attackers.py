"""Honest peers learn on in time whoever else is on the network, and count what was tried."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import attackers
from attackers import Insider
from processes_support import PeerProcess, running
from test_pinned import PACED, devices, flags_of

from semantic_net.protocol.handshake import Refusal
from semantic_net.transport.identity import load_or_create_key

NUM_SLOW = 50


async def attack(
    address: str, insider: Insider, twin: Insider, forged: tuple[Path, Path], round_index: int
) -> None:
    """Try everything, some of it at once, around a round that is open."""
    dribbling = asyncio.create_task(attackers.dribble(address, NUM_SLOW))
    await attackers.blob(address)
    assert await insider.replay() == "signature"
    async with twin.line() as on:
        refusal = await twin.shake_hands(on)
        assert isinstance(refusal, Refusal)
        assert refusal.code == "duplicate_key"
    async with attackers.line(address, attackers.tls(*forged)) as on:
        await on.ended()
    assert await insider.break_protocol(attackers.oversized) == "protocol"
    assert await insider.break_protocol(attackers.bomb) == "protocol"
    assert await insider.bring_from_another_run(round_index + 20) == "protocol"
    async with insider.line() as on:
        refusal = await insider.shake_hands(on)
        assert isinstance(refusal, Refusal)
        assert refusal.code == "quarantined"
    await dribbling


def rejected(peer: PeerProcess) -> Counter[str]:
    """Return what a peer has counted so far."""
    peer.read_rounds()
    counts: Counter[str] = Counter()
    for record in peer.rounds:
        counts.update(record.rejected)
    return counts


def test_whoever_means_harm_delays_nobody_and_is_counted(tmp_path: Path) -> None:
    paired = devices(tmp_path, 3)

    def each(index: int) -> list[str]:
        return flags_of(paired[index])

    with running(tmp_path, 2, *PACED, rounds=10_000, each=each) as (a, b):
        address = a.wait_until_listening()
        for peer in (a, b):
            peer.wait_for_round(1)
        insider = Insider(paired[2], address)
        twin = Insider(paired[1], address, load_or_create_key(b.out / "key.pem"))
        forged = attackers.forged_certificate(tmp_path / "forged", paired[1].id)
        begun = attack(address, insider, twin, forged, a.read_rounds()[-1])
        asyncio.run(asyncio.wait_for(begun, 60))
        expected = {
            "timeout": NUM_SLOW,  # the slow ones
            "protocol": 4,  # the noise, and three that end a session
            "signature": 1,
            "duplicate_key": 1,
            "unknown_device": 1,
            "quarantined": 1,
        }
        a.wait_until(lambda peer: rejected(peer) >= Counter(expected), "counted all of it")
        last = a.read_rounds()[-1] + 1
        for peer in (a, b):
            peer.wait_for_round(last)
    assert a.digests()[:last] == b.digests()[:last]
    both = {a.rounds[0].peer, b.rounds[0].peer}
    for record in a.rounds[:last] + b.rounds[:last]:
        assert set(record.updates_in) == both
        assert record.close_reason == "all in"
