"""Links that break, fall silent, or end one way: seen in seconds, mended without a trace."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from fault_proxy import Trigger
from faults_support import (
    LIVENESS_S,
    assert_no_round_twice,
    assert_one_model,
    held_slots,
    id_of,
    network,
    records,
    show,
)

pytestmark = pytest.mark.faults


def test_both_halves_of_a_partition_are_in_everyones_model(tmp_path: Path) -> None:
    """Protects: both halves go on learning, and when they meet nothing of either is lost."""
    # Compaction would leave each with other files of the same set.
    with network(tmp_path, 4, "p2p.base_every=1000", rounds=32) as net:
        net.peers[0].wait_for_round(2)
        apart = net.cables_between((0, 1), (2, 3))
        for cable in apart:
            cable.sever()
        cut_at = max(peer.read_rounds()[-1] for peer in net.peers.values())
        passed = [cable.passed(i) for cable in apart for i in range(4) if cable in net.cables_of(i)]
        for peer in net.peers.values():
            peer.wait_for_round(cut_at + 7)
        still = [cable.passed(i) for cable in apart for i in range(4) if cable in net.cables_of(i)]
        assert still == passed, "nothing has gone across"
        for cable in apart:
            cable.heal()
        net.wait_all()
        assert_one_model(net)
        assert_no_round_twice(net)
        names = {index: id_of(net, index) for index in net.peers}
        for index in net.peers:
            half = {names[i] for i in ((0, 1) if index in (0, 1) else (2, 3))}
            mine = {record.round: record for record in records(net, index)}
            alone = [mine[number] for number in range(cut_at + 2, cut_at + 8)]
            assert all(set(record.updates_in) == half for record in alone)
            assert set(mine[32].updates_in) == set(names.values()), "all are together again"
        slots = [held_slots(net, index) for index in net.peers]
        assert all(held == slots[0] for held in slots)
        for number in range(1, 33):
            assert len([key for n, key in slots[0] if n == number]) == 4, f"round {number}"


def test_a_stalled_peer_is_missed_in_time_and_comes_back(tmp_path: Path) -> None:
    """Protects: an open connection is no sign of life."""
    with network(tmp_path, 3, rounds=40) as net:
        net.peers[2].wait_for_round(3)
        for cable in net.cables_of(2):
            cable.stall()
        before = net.peers[0].read_rounds()[-1]
        for index in (0, 1):
            net.peers[index].wait_for_round(before + 8)
        after = net.peers[0].read_rounds()[-1]
        for cable in net.cables_of(2):
            cable.heal()
        net.wait_all()
        assert_one_model(net)
        assert_no_round_twice(net)
        name = id_of(net, 2)
        waited = []
        for index in (0, 1):
            of_others = records(net, index)
            assert [r.round for r in of_others] == list(range(1, 41))
            alone = [r for r in of_others if before + 3 <= r.round <= after]
            assert alone
            assert all(name not in r.updates_in for r in alone)
            assert all(r.exchange_s < 1.0 for r in alone), "once gone, it is not waited for"
            waited.append(max(r.exchange_s for r in of_others if before <= r.round <= after))
            assert name in of_others[-1].updates_in
        assert max(waited) < LIVENESS_S + 1.0
        show("stalled: noticed after", s=waited)


def test_connections_that_break_in_every_send_cost_no_update(tmp_path: Path) -> None:
    """Protects: a transfer goes on from its byte offset, however often the connection is gone."""
    rounds, every_bytes = 8, 120_000
    large = ("semantic.mode=none", "task.options={step_s: 0.1, hidden: 1024}")
    with network(tmp_path, 2, *large, "p2p.listen_timeout_s=60", rounds=rounds) as net:
        net.peers[1].wait_for_round(1)
        cable = net.cable(0, 1)
        cable.delay(0.002)
        triggers: list[Trigger] = []

        def cut() -> None:
            cable.cut()
            arm()

        def arm() -> None:
            triggers.append(cable.when_passed(1, every_bytes, cut))

        sent_before = cable.passed(1)
        arm()
        net.wait_all()
        assert_one_model(net)
        assert_no_round_twice(net)
        num_cut = sum(trigger.fired.is_set() for trigger in triggers)
        assert num_cut > 2 * (rounds - 2), "from its start no send would come to its end"
        names = {id_of(net, index) for index in net.peers}
        for index in net.peers:
            of_all = records(net, index)
            assert [r.round for r in of_all] == list(range(1, rounds + 1))
            assert all(set(r.updates_in) == names for r in of_all)
        payloads = sum(r.payload_bytes for r in records(net, 1)[1:])
        again = (cable.passed(1) - sent_before) / payloads
        assert again < 1.9, "a reset takes what the receiver has not read: 64 KiB each at most"
        show("cut in every send", cuts=num_cut, sent_over_payloads=round(again, 2))


@pytest.mark.parametrize("end", [0, 2], ids=["towards the peer", "away from the peer"])
def test_a_half_closed_connection_is_replaced(tmp_path: Path, end: int) -> None:
    """Protects: an end of stream one way ends the session at both ends, and the next one comes."""
    with network(tmp_path, 3, rounds=16) as net:
        for number in (2, 5, 8):
            net.peers[2].wait_for_round(number)
            for index in (0, 1):
                cable = net.cable(index, 2)
                cable.half_close(2 if end == 2 else index)
        net.wait_all()
        assert_one_model(net)
        assert_no_round_twice(net)
        names = {id_of(net, index) for index in net.peers}
        for index in net.peers:
            of_all = records(net, index)
            assert [r.round for r in of_all] == list(range(1, 17))
            assert set(of_all[-1].updates_in) == names
            assert max(r.exchange_s for r in of_all[1:]) < LIVENESS_S + 1.0
        assert net.peers[2].said().count("connected to") >= 8, "two sessions, replaced each time"


def test_a_peer_that_was_stopped_comes_back_like_a_late_joiner(tmp_path: Path) -> None:
    """Protects: a process that slept through its rounds neither repeats one nor holds up others."""
    with network(tmp_path, 3, rounds=48) as net:
        net.peers[2].wait_for_round(3)
        net.peers[2].send(signal.SIGSTOP)
        before = net.peers[0].read_rounds()[-1]
        for index in (0, 1):
            net.peers[index].wait_for_round(before + 26)
        net.peers[2].send(signal.SIGCONT)
        net.wait_all()
        assert_one_model(net)
        assert_no_round_twice(net)
        name = id_of(net, 2)
        for index in (0, 1):
            of_others = records(net, index)
            assert [r.round for r in of_others] == list(range(1, 49))
            without = [r for r in of_others if before < r.round <= before + 26]
            assert sum(r.time_s for r in without) > 10, "long enough to count as gone"
            assert max(r.exchange_s for r in without) < LIVENESS_S + 1.0
            assert all(name not in r.updates_in for r in without[4:])
            assert name in of_others[-1].updates_in, "it is back"
            back = next(r for r in of_others if r.round > before + 26 and name in r.updates_in)
            assert all(name in r.updates_in for r in of_others if r.round > back.round)
            show("back after SIGCONT", rounds=back.round - before - 26)
