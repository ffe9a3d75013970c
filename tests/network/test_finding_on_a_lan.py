"""Peers find each other on a network of several machines, by the addresses that each has there."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from namespaces_support import lan, run, skip_where_not_permitted
from processes_support import PeerProcess, settings

pytestmark = pytest.mark.network

RATE_BIT_S = 5_000_000


def test_a_peer_is_found_once_its_network_is_there(tmp_path: Path) -> None:
    """As a device is that was switched on before its radio had an address."""
    skip_where_not_permitted()
    with lan(2, RATE_BIT_S) as network, contextlib.ExitStack() as stack:
        late = network.hosts[1]
        run("ip", "-n", late.namespace, "addr", "flush", "dev", late.interface)
        peers = []
        for number, host in enumerate(network.hosts):
            arguments = ["--listen", "0.0.0.0:5000", "--rounds", "2"]
            arguments += settings("p2p.discovery=mdns", "security.mode=open")
            peers.append(PeerProcess(tmp_path / f"peer{number}", arguments, host.prefix()))
            stack.callback(peers[-1].kill)
        for peer in peers:
            peer.wait_until(lambda p: "looking for peers" in p.said(), "looked for others")
        peers[1].wait_until(lambda p: "no discovery on this network" in p.said(), "warned")
        address = f"{late.address}/24"
        run("ip", "-n", late.namespace, "addr", "add", address, "dev", late.interface)
        assert [peer.wait() for peer in peers] == [0, 0], peers[1].said()
    assert "no network interface has an address" in peers[1].said()
    assert "discovery works now" in peers[1].said()
    assert peers[0].digests() == peers[1].digests()
    assert len(set(peers[0].rounds[0].updates_in)) == 2


@pytest.mark.parametrize("listen", ["0.0.0.0:5000", "[::]:5000"])
def test_peers_on_one_switch_meet_without_a_list(tmp_path: Path, listen: str) -> None:
    skip_where_not_permitted()
    with lan(3, RATE_BIT_S) as network, contextlib.ExitStack() as stack:
        peers = []
        for number, host in enumerate(network.hosts):
            # As Docker does: the same address on every machine, which leads nowhere else.
            run("ip", "-n", host.namespace, "link", "add", "docker0", "type", "bridge")
            run("ip", "-n", host.namespace, "addr", "add", "172.17.0.1/16", "dev", "docker0")
            run("ip", "-n", host.namespace, "link", "set", "docker0", "up")
            if listen.startswith("["):  # link-local addresses are all that there is
                run("ip", "-n", host.namespace, "addr", "flush", "dev", "eth0", "scope", "global")
            arguments = ["--listen", listen, "--rounds", "3"]
            arguments += settings("p2p.discovery=mdns", "security.mode=open")
            peers.append(PeerProcess(tmp_path / f"peer{number}", arguments, host.prefix()))
            stack.callback(peers[-1].kill)
        assert [peer.wait() for peer in peers] == [0, 0, 0], peers[0].said()
    assert len({tuple(peer.digests()) for peer in peers}) == 1
    names = {peer.rounds[0].peer for peer in peers}
    assert len(names) == 3
    for peer in peers:
        assert all(set(record.updates_in) == names for record in peer.rounds), peer.said()
        assert "does not answer" not in peer.said()
        assert "172.17.0.1" not in (peer.out / "log.txt").read_text()
