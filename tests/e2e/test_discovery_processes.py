"""Real peers that are told of nobody find each other, and learn one model."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from multicast_support import skip_without_multicast
from processes_support import PeerProcess, running, settings

ROUNDS = 3


def test_peers_that_are_told_of_nobody_meet_and_end_with_one_model(tmp_path: Path) -> None:
    skip_without_multicast()
    run = f"field {os.getpid()}"
    common = ["--listen", "127.0.0.1:0", "--rounds", str(ROUNDS)]
    common += settings("p2p.discovery=mdns", "p2p.liveness_s=4")
    with contextlib.ExitStack() as stack:

        def start(name: str, *arguments: str) -> PeerProcess:
            peer = PeerProcess(tmp_path / name, [*common, *arguments])
            stack.callback(peer.kill)
            return peer

        # Of another run: it waits for its own, all the time that the others take.
        stranger = start("stranger", "--set", f"p2p.run={run} too")
        where = stranger.wait_until_listening()
        peers = [start(f"peer{index}", "--set", f"p2p.run={run}") for index in range(3)]
        assert [peer.wait() for peer in peers] == [0, 0, 0], peers[0].said()
        assert stranger.process.poll() is None, stranger.said()
        assert "connected" not in stranger.said()
        assert "looking for peers, at most 40 s" in stranger.said()
    assert len({tuple(peer.digests()) for peer in peers}) == 1
    names = {peer.rounds[0].peer for peer in peers}
    assert len(names) == 3
    for peer in peers:
        assert [set(record.updates_in) for record in peer.rounds] == [names] * ROUNDS
        log = (peer.out / "log.txt").read_text()
        assert "transport.discovery: found 127.0.0.1:" in log
        assert where not in log, "of another run"


def test_one_with_discovery_meets_one_with_a_list(tmp_path: Path) -> None:
    skip_without_multicast()

    def each(index: int) -> list[str]:
        return ["--set", "p2p.discovery=mdns"] if index else []

    with running(tmp_path, 2, f"p2p.run=list {os.getpid()}", each=each) as peers:
        assert [peer.wait() for peer in peers] == [0, 0], peers[1].said()
    assert re.search(r"waiting for 127.0.0.1:\d+ and looking for peers, at most", peers[1].said())
    assert peers[0].digests() == peers[1].digests()
    assert len(set(peers[0].rounds[0].updates_in)) == 2
