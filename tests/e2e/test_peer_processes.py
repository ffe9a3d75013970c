"""Real processes over real sockets: each folds the others' bytes, in each mode, come what may."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import safetensors.torch
import torch
from processes_support import ROOT, Hold, PeerProcess, free_ports, running, settings

from semantic_net.protocol.identity import PEER_ID_CHARS

PACED_TASK = f"task.name={ROOT / 'tests' / 'faults' / 'paced_task.py'}"


def assert_one_model(peers: list[PeerProcess]) -> None:
    """All peers have the same digests in each round, and the same weights in the end."""
    assert len({tuple(peer.digests()) for peer in peers}) == 1
    models = [safetensors.torch.load_file(peer.out / "model.safetensors") for peer in peers]
    for model in models[1:]:
        for name, tensor in models[0].items():
            assert torch.equal(model[name], tensor), name


@pytest.mark.parametrize("mode", ["none", "gradients_topk", "weights_quantize"])
def test_three_processes_fold_each_others_bytes(tmp_path: Path, mode: str) -> None:
    with running(tmp_path, 3, f"semantic.mode={mode}") as peers:
        assert [peer.wait() for peer in peers] == [0, 0, 0], peers[0].said()
    assert_one_model(peers)
    assert all(peer.read_rounds() == [1, 2, 3] for peer in peers)
    names = {peer.rounds[0].peer for peer in peers}
    assert {len(name) for name in names} == {PEER_ID_CHARS}
    sent = sum(record.bytes_sent for peer in peers for record in peer.rounds)
    received = sum(record.bytes_received for peer in peers for record in peer.rounds)
    assert sent == pytest.approx(received, rel=0.05), "heartbeats may be under way at a record"
    dense = 4 * 650
    # Each payload reaches two others, of its author or of the other one.
    assert sent > 2 * sum(record.payload_bytes for peer in peers for record in peer.rounds)
    for peer in peers:
        for record in peer.rounds:
            assert set(record.updates_in) == names
            assert record.missing == []
            assert record.dense_bytes == dense
            if mode == "none":
                assert record.payload_bytes == dense
            else:
                assert record.payload_bytes < dense / 4
        summary = peer.summary()
        assert summary["finished"] is True
        assert summary["state_digest"] == peer.digests()[-1]
        assert summary["mode"] == mode
        for name in ("config.yaml", "log.txt", "model_best.safetensors", "checkpoint"):
            assert (peer.out / name).exists(), name
        assert not (peer.out / "address").exists(), "nobody listens there any more"


def test_local_layers_are_each_devices_own(tmp_path: Path) -> None:
    with running(tmp_path, 2, "training.local_layers=[1.bias]") as peers:
        assert [peer.wait() for peer in peers] == [0, 0], peers[0].said()
    assert peers[0].digests() == peers[1].digests()
    one, other = (safetensors.torch.load_file(peer.out / "model.safetensors") for peer in peers)
    assert torch.equal(one["1.weight"], other["1.weight"])
    assert not torch.equal(one["1.bias"], other["1.bias"])
    assert {record.dense_bytes for record in peers[0].rounds} == {4 * 640}


def test_two_processes_learn_more_than_their_first_round(tmp_path: Path) -> None:
    def each(index: int) -> list[str]:
        return ["--set", f"data.partition.shard={index}"]  # the same data in every run

    more = ("training.learning_rate=0.05", "data.partition.num_shards=2")
    with running(tmp_path, 2, *more, rounds=8, each=each) as peers:
        assert [peer.wait() for peer in peers] == [0, 0]
    assert_one_model(peers)
    assert peers[0].rounds[-1].metrics["accuracy"] > peers[0].rounds[0].metrics["accuracy"] + 0.2


def test_a_peer_killed_in_a_round_leaves_the_others_with_one_model(tmp_path: Path) -> None:
    with running(tmp_path, 3, "training.steps=200", rounds=8) as peers:
        killed, *others = peers
        killed.wait_for_round(2)
        killed.kill()
        assert [peer.wait() for peer in others] == [0, 0], others[0].said()
    assert_one_model(others)
    gone = killed.rounds[0].peer
    assert gone not in others[0].rounds[-1].updates_in
    for peer in others:
        assert all(record.exchange_s < 30.0 for record in peer.rounds), "nobody waits for a dead"


def test_stopped_peers_say_goodbye_and_go_on_where_they_stopped(tmp_path: Path) -> None:
    with running(tmp_path, 2, "training.steps=200", rounds=6) as peers:
        for peer in peers:
            peer.wait_for_round(2)
        for peer in peers:
            peer.send(signal.SIGTERM)
        assert [peer.wait() for peer in peers] == [130, 130], peers[0].said()
        assert all(peer.summary()["finished"] is False for peer in peers)
        assert "Traceback" not in peers[0].said() + peers[1].said()
        again = [peer.start_again() for peer in peers]
        try:
            assert [peer.wait() for peer in again] == [0, 0], again[0].said()
        finally:
            for peer in again:
                peer.kill()
    assert len({peer.digests()[-1] for peer in again}) == 1
    for before, after in zip(peers, again, strict=True):
        before.read_rounds()
        numbers = after.read_rounds()
        assert numbers == sorted(set(numbers)), "no round is recorded twice"
        assert numbers[-1] == 6
        assert {r.peer for r in after.rounds} == {before.rounds[0].peer}, "the same key goes on"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_own_update_outlives_the_round_that_it_was_made_in(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Stopped while it waits for others, a peer has learned something all the same."""
    [nobody] = free_ports(1)
    waits = settings("p2p.start_timeout_s=0.2", "p2p.listen_timeout_s=60")
    common = ["--listen", "127.0.0.1:0", "--rounds", "1"]
    peer = PeerProcess(tmp_path / "out", [*common, "--peers", f"127.0.0.1:{nobody}", *waits])
    updates = tmp_path / "out" / "checkpoint" / "updates"
    try:
        peer.wait_until(lambda p: any(updates.glob("*.update")), "kept its update")
        peer.send(number)
        assert peer.wait() == (130 if number is signal.SIGINT else -9)
    finally:
        peer.kill()
    again = PeerProcess(tmp_path / "out", [*common, *settings()])
    assert again.wait() == 0, again.said()
    again.read_rounds()
    [record] = again.rounds
    assert record.updates_in == [record.peer]


def test_rounds_recorded_after_the_last_checkpoint_are_not_lost(tmp_path: Path) -> None:
    more = ("p2p.checkpoint_every=5", "training.steps=300")
    with running(tmp_path, 1, *more, rounds=12) as [peer]:
        peer.wait_for_round(7)
        peer.kill()
        before = peer.read_rounds()
        assert before[-1] % 5, "beyond a checkpoint"
        again = peer.start_again()
        assert again.wait() == 0, again.said()
    rounds = again.read_rounds()
    assert rounds[: len(before)] == before
    assert rounds == sorted(set(rounds))
    assert rounds[-1] == 12
    assert again.summary()["payload_bytes"] == sum(r.payload_bytes for r in again.rounds)


@pytest.mark.parametrize("topology", ["ring", "line", "random-2"])
def test_updates_reach_everyone_in_any_graph(tmp_path: Path, topology: str) -> None:
    more = ("semantic.mode=none", f"p2p.topology={topology}")
    with running(tmp_path, 5, *more, rounds=3) as peers:
        assert [peer.wait() for peer in peers] == [0] * 5, peers[0].said()
    assert_one_model(peers)
    for peer in peers:
        assert all(len(record.updates_in) == 5 for record in peer.rounds)
        num_neighbours = peer.said().count("connected to ")
        assert num_neighbours <= 2, "and no others are dialled"


def test_a_second_peer_started_late_is_waited_for(tmp_path: Path) -> None:
    with running(tmp_path, 2, rounds=2) as peers:
        early, late = peers
        late.kill()
        early.wait_until(lambda p: "waiting for" in p.said(), "said whom it waits for")
        late = late.start_again()
        try:
            assert [late.wait(), early.wait()] == [0, 0], early.said()
        finally:
            late.kill()
    assert_one_model([early, late])
    assert all(len(record.updates_in) == 2 for record in late.rounds)


def test_weights_given_by_hand_are_taken_over_by_the_others(tmp_path: Path) -> None:
    with running(tmp_path / "first", 2, rounds=2) as peers:
        assert [peer.wait() for peer in peers] == [0, 0]
    weights = peers[0].out / "model.safetensors"

    def given(index: int) -> list[str]:
        return ["--init", str(weights)] if index == 0 else []

    with running(tmp_path / "second", 2, rounds=1, each=given) as peers:
        assert [peer.wait() for peer in peers] == [0, 0], peers[1].said()
    assert_one_model(peers)
    assert "starting weights taken over" in peers[1].said()


def test_a_lone_peer_neither_waits_nor_fails(tmp_path: Path) -> None:
    peer = PeerProcess(tmp_path / "lone", ["--listen", "127.0.0.1:0", "--rounds", "2", *settings()])
    try:
        assert peer.wait() == 0, peer.said()
    finally:
        peer.kill()
    assert peer.read_rounds() == [1, 2]
    assert [record.close_reason for record in peer.rounds] == ["nobody expected"] * 2


def test_what_all_hold_is_compacted_and_a_late_joiner_starts_from_the_snapshot(
    tmp_path: Path,
) -> None:
    """It contributes by the third round that it closes, and delays nobody."""
    # Steps that take time and no CPU: a busy machine is no slow device.
    hold = Hold(tmp_path / "held")
    options = f"task.options={{step_s: 0.06, held_by: {tmp_path / 'held'}}}"
    paced = ("p2p.base_every=2", "training.steps=5", options, PACED_TASK)
    with running(tmp_path, 2, *paced, rounds=30) as (a, b):
        peers = f"{a.wait_until_listening()},{b.wait_until_listening()}"
        a.wait_for_round(5)
        hold.begin()  # or the two would be through, where a process takes long to start
        flags = ["--listen", "127.0.0.1:0", "--peers", peers, "--rounds", "30", *settings(*paced)]
        late = PeerProcess(tmp_path / "late", flags)
        try:
            late.wait_until(lambda peer: peer.said().count("connected to") == 2, "met both")
            hold.end()
            assert [peer.wait() for peer in (late, a, b)] == [0, 0, 0], late.said()
        finally:
            late.kill()
    snapshot = re.search(r"snapshot \w+ through round (\d+)", late.said())
    assert snapshot is not None, late.said()
    assert len({peer.digests()[-1] for peer in (a, b, late)}) == 1
    first = late.rounds[0]
    assert first.round > 5
    # Counted in rounds that it closes: how many pass meanwhile is the machine's doing.
    assert any(first.peer in record.updates_in for record in late.rounds[:3])
    assert not [record for record in a.rounds if record.close_reason.startswith("deadline")]
    updates = sorted((late.out / "checkpoint" / "updates").glob("*.update"))
    fetched = {int(path.name.partition("-")[0]) for path in updates}
    assert min(fetched) > int(snapshot[1]), "nothing that the snapshot includes"
    for peer in (a, b, late):
        assert len(list((peer.out / "checkpoint").glob("base-*.snapshot"))) <= 4


def test_an_observer_without_data_is_the_way_between_two_peers(tmp_path: Path) -> None:
    """It relays their updates, folds and records, and publishes nothing."""
    nowhere = ("task.name=netqos", "data.source=csv", f"data.path={tmp_path / 'no.csv'}")
    traces = tmp_path / "traces.csv"
    rows = [f"{i // 60},{i % 60},{20 + i % 7}" for i in range(600)]
    traces.write_text("\n".join(["trace_id,t_s,rtt_ms", *rows]) + "\n")
    csv = ("task.name=netqos", "data.source=csv", f"data.path={traces}", "p2p.topology=line")

    def each(index: int) -> list[str]:
        return ["--observe", *settings(*nowhere, "p2p.topology=line")] if index == 1 else []

    with running(tmp_path, 3, *csv, each=each) as (one, observer, two):
        peers = (one, two)
        assert [peer.wait() for peer in (observer, *peers)] == [0, 0, 0], observer.said()
    assert len({peer.digests()[-1] for peer in (observer, *peers)}) == 1
    assert all(len(record.updates_in) == 2 for record in one.rounds)
    for record in observer.rounds:
        assert (record.payload_bytes, record.num_examples, record.metrics) == (0, 0, {})
        assert record.peer not in record.updates_in
    assert (observer.out / "model.safetensors").exists()
