"""A run as others see it: `status`, and a page on one peer that shows the others' rounds."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from processes_support import ROOT, Hold, PeerProcess, running

from semantic_net.cli import main

HELD = f"task.name={ROOT / 'tests' / 'faults' / 'paced_task.py'}"


def status_of(peer: PeerProcess, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main(["status", str(peer.out), "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found


def test_status_says_whom_a_round_waits_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hold = Hold(tmp_path / "held")

    def each(index: int) -> list[str]:
        return ["--set", f"task.options={{held_by: {tmp_path / 'held'}}}"] if index else []

    with running(tmp_path, 2, HELD, rounds=10_000, each=each) as (free, slow):
        free.wait_for_round(2)
        hold.begin()

        def waits(peer: PeerProcess) -> bool:
            code, found = status_of(peer, capsys)
            others = [other["waited_for"] for other in found["peers"]]
            return (code, found["phase"], others) == (0, "collecting", ["it is training"])

        free.wait_until(waits, "said that the other trains")
        assert main(["status", str(free.out)]) == 0
        assert "waited for: it is training" in capsys.readouterr().out
        hold.end()
        free.send(signal.SIGTERM)
        assert free.wait() == 130
        code, found = status_of(free, capsys)
        assert (code, found["is_running"], found["phase"]) == (1, False, "finished")
        slow.kill()
        code, found = status_of(slow, capsys)
        assert (code, found["is_running"]) == (1, False)
        assert found["phase"] != "finished"


def test_one_page_shows_the_rounds_of_all(tmp_path: Path) -> None:
    """Of those, too, that are heard through another peer alone."""

    def each(index: int) -> list[str]:
        return ["--set", "monitoring.dashboard=127.0.0.1:0"] if index == 0 else []

    with running(tmp_path, 3, "p2p.topology=line", rounds=10_000, each=each) as (first, _, last):
        first.wait_until(lambda peer: "page at " in peer.said(), "told where its page is")
        url = re.search(r"page at (\S+)", first.said())
        assert url is not None
        last.wait_for_round(1)

        def shows(peer: PeerProcess) -> bool:
            with urllib.request.urlopen(url[1] + "status.json", timeout=10) as response:
                found = {p["peer"]: p for p in json.load(response)["peers"]}
            told = found.get(last.rounds[0].peer)
            return told is not None and told["last"] is not None and not told["is_connected"]

        first.wait_until(shows, "shown the last round of a peer that it is not connected to")
    quiet = [
        peer for peer in ("peer1", "peer2") if "page at" in (tmp_path / f"{peer}.log").read_text()
    ]
    assert quiet == []


def test_a_page_that_cannot_be_is_said_at_the_start(tmp_path: Path) -> None:
    for where, code, text in (
        ("nowhere", 2, "monitoring.dashboard: 'nowhere' is not an address"),
        ("192.0.2.1:80", 3, "monitoring.dashboard: cannot listen on 192.0.2.1:80"),
    ):
        peer = PeerProcess(
            tmp_path / where, ["--rounds", "1", "--listen", "127.0.0.1:0", "--set",
                               f"monitoring.dashboard={where}", "--set", HELD],
        )  # fmt: skip
        try:
            assert peer.wait() == code, peer.said()
        finally:
            peer.kill()
        assert text in peer.said()
