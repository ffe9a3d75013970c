"""Power cuts and restarts: whoever is left goes on, whoever comes back goes on where it was."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from faults_support import (
    LISTEN_S,
    Net,
    assert_no_round_twice,
    assert_one_model,
    id_of,
    journal,
    network,
    records,
    show,
    wait_for,
)

pytestmark = pytest.mark.faults

LARGE = ("semantic.mode=none", "task.options={step_s: 0.3, hidden: 4096}")
LARGE_BYTES = 4 * (64 * 4096 + 4096 + 4096 * 10 + 10)
SMALL = ("semantic.mode=none", "task.options={step_s: 0.1, hidden: 128}")
SMALL_BYTES = 4 * (64 * 128 + 128 + 128 * 10 + 10)


def test_a_peer_killed_in_the_middle_of_a_send_leaves_nothing_half(tmp_path: Path) -> None:
    """Protects: half an update is no update, and whoever waits for the other half stops waiting.

    The survivors end the round in time, without the author, on one model, and finish the run.
    """
    with network(tmp_path, 3, *LARGE, rounds=6) as net:
        victim, *survivors = (net.peers[index] for index in (2, 0, 1))
        for cable in net.cables_of(2):
            cable.throttle(2_000_000, 2)
        for peer in net.peers.values():
            peer.wait_for_round(2)  # the others hold the victim's, and it trains
        cables = net.cables_of(2)
        before = [cable.passed(2) for cable in cables]
        wait_for(cables[0].when_passed(2, LARGE_BYTES // 2, victim.kill))
        assert [peer.wait() for peer in survivors] == [0, 0], survivors[0].said()
        signed = journal(net, 2)[-1].round
        author = id_of(net, 2)
        sent = [cable.passed(2) - count for cable, count in zip(cables, before, strict=True)]
        assert all(num_bytes < LARGE_BYTES for num_bytes in sent), "killed too late"
        assert sent[0] >= LARGE_BYTES // 2
        # It may have closed that round itself: the others' updates are not throttled.
        assert victim.read_rounds()[-1] in (signed - 1, signed)
        del net.peers[2]
        assert_one_model(net)
        assert survivors[0].digests()[1:] == survivors[1].digests()[1:]
        for peer in survivors:
            assert peer.read_rounds() == [1, 2, 3, 4, 5, 6]
            cut = peer.rounds[signed - 1]
            assert cut.missing == [author]
            assert cut.exchange_s < LISTEN_S + 1
            assert all(author not in r.updates_in for r in peer.rounds if r.round >= signed)
            assert all(author in r.updates_in for r in peer.rounds[1 : signed - 1])
            assert all(not r.rejected for r in peer.rounds)
        show(
            "killed at half a send: the survivors waited",
            s=[p.rounds[signed - 1].exchange_s for p in survivors],
        )


def test_twenty_kills_in_a_row_cost_no_round_twice(tmp_path: Path) -> None:
    """Protects: rule 2.6, an author's rounds strictly increase, wherever the power goes.

    A peer dies in training, at half a send, at half of what it is sent, and in its start; after
    twenty times everybody holds one model, and nobody two updates of one round and author.
    """
    with network(tmp_path, 3, *SMALL, rounds=1000) as net:
        net.peers[0].wait_for_round(1)
        for kill in range(20):
            KILLS[kill % len(KILLS)](net)
            assert net.peers[2].wait() == -signal.SIGKILL
            net.start(2)
        net.peers[2].wait_until(_publishes(net), "published again")
        for peer in net.peers.values():
            peer.send(signal.SIGTERM)
        assert [peer.wait() for peer in net.peers.values()] == [130] * 3
        last = max(records(net, index)[-1].round for index in net.peers) + 4
        for index in net.peers:
            net.start(index, "--rounds", str(last))
        net.wait_all()
        assert_one_model(net)
        assert_no_round_twice(net)
        authors = {id_of(net, index) for index in net.peers}
        assert all(set(records(net, index)[-1].updates_in) == authors for index in net.peers)
        assert all(not r.rejected for i in (0, 1) for r in records(net, i)), "nobody is refused"
        show("twenty kills", rounds=last, signed=len(journal(net, 2)))


def _publishes(net: Net) -> Callable[[object], bool]:
    """Wait for the restarted peer's next update."""
    before = len(journal(net, 2))
    return lambda _: len(journal(net, 2)) > before


def _in_training(net: Net) -> None:
    victim = net.peers[2]
    before = len(records(net, 2))
    victim.wait_until(lambda _: len(records(net, 2)) > before, "recorded another round")
    victim.kill()


def _at_half_a_send(net: Net) -> None:
    victim = net.peers[2]
    victim.wait_until(_publishes(net), "published again")
    wait_for(net.cable(0, 2).when_passed(2, SMALL_BYTES // 2, victim.kill))


def _at_half_a_receipt(net: Net) -> None:
    victim = net.peers[2]
    victim.wait_until(_publishes(net), "published again")
    wait_for(net.cable(0, 2).when_passed(0, SMALL_BYTES // 2, victim.kill))


def _in_its_start(net: Net) -> None:
    """A few hundred bytes are the handshake, and the first words after it."""
    wait_for(net.cable(0, 2).when_passed(2, 900, net.peers[2].kill))


KILLS = (_in_training, _at_half_a_send, _at_half_a_receipt, _in_its_start)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_restarted_peer_goes_on_after_its_last_round(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Protects: the same folder is the same peer, and nobody refuses it for good."""
    with network(tmp_path, 3, rounds=24) as net:
        net.peers[2].wait_for_round(4)
        net.peers[2].send(number)
        assert net.peers[2].wait() == (130 if number is signal.SIGTERM else -9)
        before = records(net, 2)
        again = net.start(2)
        again.wait_until(lambda _: len(records(net, 2)) > len(before), "went on")
        net.wait_all()
        assert_one_model(net)
        assert_no_round_twice(net)
        after = records(net, 2)
        assert [r.round for r in after[: len(before)]] == [r.round for r in before]
        assert {r.peer for r in after} == {before[0].peer}
        assert after[-1].round == 24
        for index in (0, 1):
            assert before[0].peer in records(net, index)[-1].updates_in
            assert all(not record.rejected for record in records(net, index))
            assert "refused" not in net.peers[index].said()
