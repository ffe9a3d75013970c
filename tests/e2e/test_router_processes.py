"""Peers as processes that know nothing but the address of a router."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest
from processes_support import PeerProcess, free_ports, settings

pytest.importorskip("zenoh")
from semantic_net.transport.zenoh_router import Router


def test_peers_find_each_other_at_a_router_and_learn_one_model(tmp_path: Path) -> None:
    [port] = free_ports(1)
    router = Router(f"127.0.0.1:{port}")
    router.start()
    with contextlib.ExitStack() as stack:
        stack.callback(router.close)
        peers = []
        for number in range(3):
            arguments = settings("p2p.transport=zenoh", f"p2p.routers=[127.0.0.1:{port}]")
            arguments += ["--rounds", "3"]
            peers.append(PeerProcess(tmp_path / f"peer{number}", arguments))
            stack.callback(peers[-1].kill)
        assert [peer.wait() for peer in peers] == [0, 0, 0], peers[0].said()
    assert len({tuple(peer.digests()) for peer in peers}) == 1
    names = {peer.rounds[0].peer for peer in peers}
    for peer in peers:
        assert all(set(record.updates_in) == names for record in peer.rounds), peer.said()


def test_a_peer_may_be_the_router_itself(tmp_path: Path) -> None:
    [port] = free_ports(1)
    with contextlib.ExitStack() as stack:
        peers = []
        for number, where in enumerate(("", f"127.0.0.1:{port}")):
            arguments = settings("p2p.transport=zenoh", f"p2p.routers=[{where}]")
            arguments += ["--listen", f"127.0.0.1:{port}", "--rounds", "2"]
            peers.append(PeerProcess(tmp_path / f"peer{number}", arguments))
            stack.callback(peers[-1].kill)
        assert [peer.wait() for peer in peers] == [0, 0], peers[0].said()
    assert peers[0].digests() == peers[1].digests()


def test_without_a_router_a_peer_says_so_and_can_be_interrupted(tmp_path: Path) -> None:
    [port] = free_ports(1)
    arguments = settings("p2p.transport=zenoh", f"p2p.routers=[127.0.0.1:{port}]")
    peer = PeerProcess(tmp_path / "peer", [*arguments, "--rounds", "2"])
    try:
        peer.wait_until(lambda p: "no way to other peers over Zenoh" in p.said(), "warned")
        peer.send(signal.SIGTERM)
        assert peer.wait() == 130, peer.said()
    finally:
        peer.kill()
