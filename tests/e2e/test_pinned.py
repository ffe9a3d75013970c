"""Real processes over TLS: who is paired learns with the others, and nobody else does."""

from __future__ import annotations

import signal
from pathlib import Path

from processes_support import ROOT, PeerProcess, running, settings

from semantic_net.transport.device import DeviceIdentity
from semantic_net.transport.trust import Device

PACED = (
    "training.steps=5",
    "task.options={step_s: 0.06}",
    f"task.name={ROOT / 'tests' / 'faults' / 'paced_task.py'}",
)
"""Steps that take time and no CPU: something else has to happen meanwhile."""


def devices(folder: Path, count: int) -> list[DeviceIdentity]:
    """Return devices that are paired with each other."""
    made = [DeviceIdentity(folder / f"device{index}") for index in range(count)]
    for one in made:
        for other in made:
            if one is not other:
                one.trust_file.pair(Device(other.certificate))
    return made


def flags_of(device: DeviceIdentity) -> list[str]:
    return ["--set", "security.mode=pinned", "--set", f"security.folder={device.folder}"]


def test_paired_devices_learn_one_model_and_a_stranger_does_not_disturb(tmp_path: Path) -> None:
    paired = devices(tmp_path, 2)
    stranger = DeviceIdentity(tmp_path / "stranger")

    def each(index: int) -> list[str]:
        return flags_of(paired[index])

    def turned_away(peer: PeerProcess) -> bool:
        return "semantic-net pair" in peer.said()

    def has_counted(peer: PeerProcess) -> bool:
        peer.read_rounds()
        return any(record.rejected.get("unknown_device") for record in peer.rounds)

    # More rounds than it takes: nobody knows how long the stranger needs to start.
    with running(tmp_path, 2, *PACED, rounds=10_000, each=each) as (a, b):
        flags = ["--listen", "127.0.0.1:0", "--peers", a.wait_until_listening()]
        more = settings("p2p.start_timeout_s=1", "p2p.listen_timeout_s=1")
        knocking = PeerProcess(tmp_path / "alone", [*flags, *more, *flags_of(stranger)])
        try:
            knocking.wait_until(turned_away, "turned away")
            a.wait_until(has_counted, "counted the stranger")
            knocking.wait_for_round(1)
        finally:
            knocking.kill()
        last = a.read_rounds()[-1] + 1
        for peer in (a, b):
            peer.wait_for_round(last)
    assert a.digests()[:last] == b.digests()[:last]
    names = {record.peer for record in a.rounds + b.rounds}
    assert len(names) == 2
    assert all(set(record.updates_in) == names for record in a.rounds[:last])
    assert all(record.updates_in == [record.peer] for record in knocking.rounds)


def test_whoever_is_let_in_later_was_not_turned_away_to_the_end(tmp_path: Path) -> None:
    one, other = devices(tmp_path, 2)
    known = other.trust_file.path.read_bytes()
    other.trust_file.path.unlink()

    def each(index: int) -> list[str]:
        return flags_of((one, other)[index])

    def turned_away(peer: PeerProcess) -> bool:
        return "refuses us" in peer.said()

    def both(peer: PeerProcess) -> bool:
        peer.read_rounds()
        return bool(peer.rounds) and len(peer.rounds[-1].updates_in) == 2

    with running(tmp_path, 2, *PACED, rounds=10_000, each=each) as (a, b):
        a.wait_until(turned_away, "turned away")
        other.trust_file.path.write_bytes(known)
        a.wait_until(both, "let in")
        for peer in (a, b):
            peer.send(signal.SIGINT)
        assert [peer.wait() for peer in (a, b)] == [130, 130], a.said()
    assert a.summary()["refused_by"] == b.summary()["refused_by"] == []


def test_one_device_takes_back_for_all_what_another_has_taught(tmp_path: Path) -> None:
    paired = devices(tmp_path, 3)

    def each(index: int) -> list[str]:
        return flags_of(paired[index])

    with running(tmp_path, 3, *PACED, "p2p.base_every=64", rounds=25, each=each) as (a, b, gone):
        gone.wait_for_round(6)
        paired[0].trust_file.revoke(paired[2].id, void_from=2)
        assert [peer.wait() for peer in (a, b)] == [0, 0], a.said()
        gone.kill()
    assert a.digests()[-1] == b.digests()[-1]
    assert gone.rounds[0].peer not in a.rounds[-1].updates_in
    for peer in (a, b):
        assert "counts from round 2 on: revoked on" in peer.said()
        standing = {device["id"]: device["out_from"] for device in peer.summary()["devices"]}
        assert standing == {paired[0].id: None, paired[1].id: None, paired[2].id: 2}
        assert "rounds from 2 on are folded anew" in peer.said()


def test_a_device_that_is_revoked_in_a_run_is_left_behind(tmp_path: Path) -> None:
    paired = devices(tmp_path, 3)

    def each(index: int) -> list[str]:
        return flags_of(paired[index])

    with running(tmp_path, 3, *PACED, rounds=25, each=each) as (a, b, gone):
        gone.wait_for_round(2)
        for device in paired[:2]:
            device.trust_file.revoke(paired[2].id)
        assert [peer.wait() for peer in (a, b)] == [0, 0], a.said()
        gone.send(signal.SIGINT)
        assert gone.wait() == 130
    assert a.digests()[-1] == b.digests()[-1]
    assert gone.rounds[0].peer not in a.rounds[-1].updates_in
    assert "the device is revoked" in gone.said()
    assert "turned away to the end by" in gone.said(), "it has not simply done its rounds"
    assert len(gone.summary()["refused_by"]) == 2
    assert a.summary()["refused_by"] == []
