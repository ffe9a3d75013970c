"""The doctor beside real peers: what it says of them, and that they learn as without it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes_support import ROOT, free_ports, running, settings
from test_pinned import PACED, devices, flags_of

from semantic_net.cli import main
from semantic_net.transport.device import DeviceIdentity
from semantic_net.transport.probe import ProbeSettings, probe

ROUNDS = 4


def learned(folder: Path, looks: bool) -> list[list[dict[str, Any]]]:
    """Run two paired peers to their end, with looks at one after each of its rounds or without.

    Returns:
        What each round of each came to, as far as it does not depend on the clock.
    """
    paired = devices(folder, 3)

    def each(index: int) -> list[str]:
        return [*flags_of(paired[index]), "--set", f"data.partition.shard={index}", *SHARDS]

    with running(folder, 2, *PACED, rounds=ROUNDS, each=each) as (a, b):
        if looks:
            address, pins = a.wait_until_listening(), paired[2].pins()
            for number in range(1, ROUNDS):
                answer = asyncio.run(probe(address, pins, ProbeSettings(hello_s=60.0)))
                assert (answer.code, answer.device) == (None, paired[0].id)
                a.wait_for_round(number)
        assert [a.wait(), b.wait()] == [0, 0], a.said()
        kept = ("round", "state_digest", "loss", "close_reason", "missing", "rejected", "notes")
        records = [
            [{key: getattr(record, key) for key in kept} for record in peer.rounds]
            for peer in (a, b)
            if peer.read_rounds()
        ]
        log = (a.out / "log.txt").read_text()
        about = [line for line in log.splitlines() if "the peer closed the connection" in line]
        assert (len(about) >= ROUNDS - 1) == looks
        assert all(" DEBUG " in line for line in about), about
    return records


SHARDS = ["--set", "data.partition.num_shards=2"]


def test_a_run_that_is_looked_at_learns_the_same_and_refuses_nobody(tmp_path: Path) -> None:
    with_looks = learned(tmp_path / "with", looks=True)
    assert [len(records) for records in with_looks] == [ROUNDS, ROUNDS]
    assert with_looks == learned(tmp_path / "without", looks=False)


FLAGS = settings("training.device=cpu", "training.batch_size=4")


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code, and what each check found by its name."""
    code = main(["doctor", *FLAGS, *arguments, "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert [set(finding) for finding in findings] == [{"name", "level", "text", "hint"}] * len(
        findings
    )
    return code, {finding["name"]: finding for finding in findings}


def test_all_is_well_beside_a_peer_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (port,) = free_ports(1)
    with running(tmp_path, 1, "p2p.start_timeout_s=0", *PACED, rounds=10_000) as (peer,):
        address = peer.wait_until_listening()
        out = tmp_path / "out"
        own = f"127.0.0.1:{port}"
        code, found = doctor(
            capsys,
            *settings(*PACED),
            *("--listen", own, "--peers", f"{address},{own}", "--out", str(out)),
        )
        assert code == 0, found
        assert "round trip" in found[f"peer {address}"]["text"] or sys.platform != "linux"
        assert f"peer {own}" not in found, "one's own address is left out"
        assert not out.exists(), "nothing is left behind"
        # The folder and the port of a peer that runs are taken.
        code, found = doctor(capsys, *settings(*PACED), "--listen", address, "--out", str(peer.out))
        assert code == 3
        failed = {name for name, finding in found.items() if finding["level"] == "FAIL"}
        assert failed == {"port", "out"}
        peer.send(signal.SIGINT)
        assert peer.wait() == 130


def test_for_people_each_check_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        flags = ["--listen", "127.0.0.1:0", "--out", str(tmp_path / "out"), *FLAGS]
        assert main(["doctor", *flags, "--peers", address]) == 0
    *lines, verdict = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ok    ", "warn  ")) for line in lines)
    (about,) = [line for line in lines if address in line]
    assert about.startswith(f"warn  peer {address}: Connection refused; ")
    assert verdict == f"It would work; see peer {address}"


def test_wrong_usage_is_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--set", "p2p.prot=1"]) == 2
    assert "p2p.port" in capsys.readouterr().err
    for wrong in ("0", "soon"):
        with pytest.raises(SystemExit) as ended:
            main(["doctor", "--wait", wrong])
        assert ended.value.code == 2


def test_two_doctors_measure_the_link_between_paired_devices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = devices(tmp_path, 2)
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "semantic_net.cli", "doctor", "--wait", "60"]
    command += ["--listen", address, "--out", str(tmp_path / "there"), *FLAGS, *flags_of(there)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as waits:
        try:
            assert waits.stdout is not None
            assert waits.stdout.readline().startswith(f"waiting on {address} for ")
            flags = ["--listen", "127.0.0.1:0", "--out", str(tmp_path / "here"), *flags_of(here)]
            code, found = doctor(capsys, "--peers", address, *flags)
            assert code == 0, found
            peer = found[f"peer {address}"]
            assert peer["level"] == "ok", peer
            assert "B/s to it, " in peer["text"]
            assert "B/s from it" in peer["text"]
            assert "(the slowest link measured)" in found["update"]["text"]
            assert "measured; " in waits.stdout.readline()
            waits.send_signal(signal.SIGINT)
            assert waits.wait(30) == 130
        finally:
            waits.kill()


def test_who_waits_needs_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "device"
    flags = ["--listen", "127.0.0.1:0", "--set", "security.mode=pinned"]
    assert main(["doctor", "--wait", "1", *flags, "--set", f"security.folder={folder}"]) == 3
    assert "no key yet" in capsys.readouterr().err
    DeviceIdentity(folder)
    wait = ["doctor", "--wait", "0.01", *FLAGS, *flags, "--set", f"security.folder={folder}"]
    assert main(wait) == 0
    assert capsys.readouterr().out.startswith("waiting on 127.0.0.1:")
