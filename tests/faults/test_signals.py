"""Ctrl-C and SIGTERM end a peer soon and in good order, whatever it is at."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from faults_support import id_of, journal, network, show, wait_for
from processes_support import PeerProcess

pytestmark = pytest.mark.faults

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def seconds_to_end(peer: PeerProcess, number: signal.Signals) -> float:
    """Send a signal; return after how long the peer has ended."""
    began = time.monotonic()
    peer.send(number)
    assert peer.wait() == 130, peer.said()
    return time.monotonic() - began


def assert_left_in_good_order(peer: PeerProcess) -> None:
    """It has said what it does, and left a checkpoint and a summary."""
    assert "stopping: goodbye and a checkpoint" in peer.said()
    assert "Traceback" not in peer.said()
    assert peer.summary()["finished"] is False
    assert list((peer.out / "checkpoint").glob("*.safetensors"))
    assert not (peer.out / "address").exists()


@SIGNALS
def test_a_signal_in_training_ends_a_peer_within_five_seconds(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Protects: a goodbye that the others hear, a checkpoint, and no waiting for long steps."""
    with network(tmp_path, 2, "task.options={step_s: 1.5}", rounds=50) as net:
        peer, other = net.peers[0], net.peers[1]
        peer.wait_for_round(1)
        took_s = seconds_to_end(peer, number)
        assert took_s < 5.0
        assert_left_in_good_order(peer)
        goodbye = f"{id_of(net, 0)[:4]}-{id_of(net, 0)[4:8]} has left"
        other.wait_until(lambda p: goodbye in p.said(), "heard the goodbye")
        show("ended in training", signal=number.name, s=round(took_s, 2))


@SIGNALS
def test_a_signal_in_a_slow_send_ends_a_peer_within_five_seconds(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Protects: no link is so slow that a peer cannot leave, and what it signed goes on later."""
    large = ("semantic.mode=none", "task.options={step_s: 0.1, hidden: 4096}")
    with network(tmp_path, 2, *large, "p2p.listen_timeout_s=60", rounds=50) as net:
        peer, other = net.peers[0], net.peers[1]
        peer.wait_for_round(1)
        net.cable(0, 1).throttle(50_000, 0)
        begun = net.cable(0, 1).when_passed(0, 200_000, lambda: None)
        wait_for(begun)
        took_s = seconds_to_end(peer, number)
        assert took_s < 5.0
        assert_left_in_good_order(peer)
        signed = journal(net, 0)[-1]
        assert list((peer.out / "checkpoint" / "updates").glob(f"*{signed.id[:32]}.update"))
        net.cable(0, 1).heal()
        again = net.start(0)
        again.wait_until(lambda p: p.read_rounds()[-1] > signed.round, "went on")
        other.wait_for_round(signed.round + 1)
        [cut] = [record for record in other.rounds if record.round == signed.round]
        assert id_of(net, 0) in {*cut.updates_in, *cut.missing}
        show("ended in a send", signal=number.name, s=round(took_s, 2))


@SIGNALS
def test_a_second_signal_ends_a_peer_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """Protects: whoever means it need not wait for a step that takes minutes."""
    with network(tmp_path, 1, "task.options={step_s: 60}", rounds=2) as net:
        peer = net.peers[0]
        peer.wait_until_listening()
        peer.send(number)
        peer.wait_until(lambda p: "once more ends at once" in p.said(), "took the first signal")
        assert seconds_to_end(peer, number) < 1.0
