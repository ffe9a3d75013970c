"""Peers that come late, and peers that come back from elsewhere."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from faults_support import (
    assert_no_round_twice,
    assert_one_model,
    id_of,
    network,
    records,
    show,
)
from processes_support import free_ports

pytestmark = pytest.mark.faults


def test_a_peer_that_joins_at_round_five_counts_within_two_rounds(tmp_path: Path) -> None:
    """Protects: nobody has to be there from the start, and nobody waits for who was not."""
    with network(tmp_path, 3, rounds=30, num_started=2) as net:
        early = net.peers[0]
        early.wait_for_round(5)
        late = net.start(2)
        late.wait_until(lambda p: p.said().count("connected to") == 2, "met both others")
        recorded = early.read_rounds()[-1]
        net.wait_all()
        assert_one_model(net)
        assert_no_round_twice(net)
        name = id_of(net, 2)
        firsts = []
        for index in (0, 1):
            of_others = records(net, index)
            assert [r.round for r in of_others] == list(range(1, 31)), "no round is left out"
            first = next(r.round for r in of_others if name in r.updates_in)
            firsts.append(first)
            open_then = recorded + 1
            assert 5 < first <= open_then + 2, f"round {open_then} was open when it had started"
            assert all(name in r.updates_in for r in of_others if r.round > first)
            assert all(r.exchange_s < 2.0 for r in of_others if r.round > 5), "delays nobody"
        show("joined late", open_when_connected=recorded + 1, first_update_in=firsts)


def test_a_peer_at_another_address_is_found_again(tmp_path: Path) -> None:
    """Protects: a key is who a peer is, an address is only where it was last."""
    with network(tmp_path, 3, rounds=24) as net:
        net.peers[2].wait_for_round(3)
        net.peers[2].send(signal.SIGTERM)
        assert net.peers[2].wait() == 130
        [elsewhere] = free_ports(1)
        last = records(net, 2)[-1].round
        again = net.start(2, port=elsewhere)
        assert again.wait_until_listening() == f"127.0.0.1:{elsewhere}"
        again.wait_until(lambda _: records(net, 2)[-1].round > last, "went on")
        back = records(net, 2)[-1].round
        net.wait_all()
        assert_one_model(net)
        assert_no_round_twice(net)
        name = id_of(net, 2)
        assert back < 20, "there are rounds left to take part in"
        for index in (0, 1):
            later = [r for r in records(net, index) if r.round > back + 2]
            assert later
            assert all(name in record.updates_in for record in later)
            assert all(not record.rejected for record in later)
