"""Whole training runs where packets get lost."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from namespaces_support import skip_where_not_permitted
from processes_support import PeerProcess, settings
from relay_support import Radio, radio_cell

pytestmark = pytest.mark.network

ROUNDS = 20
RADIO = Radio(rate_bit_s=1_000_000, delay_s=0.02, loss=0.02)


def test_three_peers_on_slow_lossy_links_end_with_one_model(tmp_path: Path) -> None:
    skip_where_not_permitted()
    with radio_cell(3, RADIO) as (hosts, relay), contextlib.ExitStack() as stack:
        addresses = [f"{host.address}:5000" for host in hosts]
        peers = []
        for index, host in enumerate(hosts):
            arguments = ["--listen", addresses[index], "--peers", ",".join(addresses)]
            arguments += [
                "--rounds",
                str(ROUNDS),
                *settings("semantic.mode=none", "security.mode=open"),
            ]
            peers.append(PeerProcess(tmp_path / f"peer{index}", arguments, host.prefix()))
            stack.callback(peers[-1].kill)
        assert [peer.wait() for peer in peers] == [0, 0, 0], peers[0].said()
    assert all(peer.read_rounds() == list(range(1, ROUNDS + 1)) for peer in peers)
    exchanges = sorted(record.exchange_s for peer in peers for record in peer.rounds)
    print(f"\n{relay.counts}; exchanges {exchanges[0]:.2f} to {exchanges[-1]:.2f} s")
    assert len({tuple(peer.digests()) for peer in peers}) == 1
    assert len({peer.summary()["state_digest"] for peer in peers}) == 1
    names = {peer.rounds[0].peer for peer in peers}
    for peer in peers:
        assert all(set(record.updates_in) == names for record in peer.rounds)
        assert all(record.missing == [] for record in peer.rounds)
    assert relay.counts.lost > relay.counts.delivered / 200, "packets did get lost"
