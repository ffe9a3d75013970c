"""``status``: what a peer that runs, has ended or was killed is at; and as a health check."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from pathlib import Path

import msgspec
import pytest
from monitoring_support import make_record, make_status

from semantic_net.cli import main
from semantic_net.federated.folder import LOCK_WAIT_S, RunFolder
from semantic_net.monitoring.recorder import Recorder
from semantic_net.monitoring.status_file import StatusFile
from semantic_net.status import STATUS_FILE, Status


def status(phase: str = "collecting", address: str = "0.0.0.0:5000") -> Status:
    return make_status(phase=phase, address=address, written_at=time.time() - 5)


def say(folder: Path, told: Status) -> None:
    StatusFile(folder / STATUS_FILE).write(told, 0.0)


def test_of_a_peer_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunFolder(tmp_path):
        assert main(["status", str(tmp_path)]) == 1
        assert capsys.readouterr().out == f"{tmp_path}: a peer is starting there\n"
        assert main(["status", str(tmp_path), "--json"]) == 1
        assert json.loads(capsys.readouterr().out) == {"is_running": True}
        say(tmp_path, status("starting", address=""))
        assert main(["status", str(tmp_path)]) == 1
        assert "listening on nothing yet" in capsys.readouterr().out
        say(tmp_path, status())
        assert main(["status", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{tmp_path}: process 77, listening on 0.0.0.0:5000\n")
    assert "round 3 of 9, waiting for ijkl-mnop, at most 20 s more" in printed


def test_one_that_has_closed_no_round_for_long_is_not_well(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        say(tmp_path, status())
        folder.address.write_text("0.0.0.0:5000\n")
        recorder = Recorder(tmp_path)
        recorder.record(make_record(round=3))
        recorder.close()
        check = ["status", str(tmp_path), "--max-age", "3600"]
        assert main(check) == 0
        os.utime(folder.rounds, (1e9, 1e9))
        assert main(check) == 0, "it has just started"
        os.utime(folder.address, (1e9, 1e9))
        assert main(check) == 1
        assert main(check[:2]) == 0


@pytest.mark.parametrize(
    ("phase", "how"), [("finished", "it has ended"), ("training", "it was killed, or the power")]
)
def test_of_one_that_does_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], phase: str, how: str
) -> None:
    with RunFolder(tmp_path):
        say(tmp_path, status(phase))
    assert main(["status", str(tmp_path)]) == 1
    assert how in capsys.readouterr().out


def test_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / STATUS_FILE).write_bytes(msgspec.json.encode(status()))
    assert main(["status", str(tmp_path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["is_running"], found["round"], found["phase"]) == (False, 3, "collecting")
    assert found["age_s"] >= 5
    assert found["idle_s"] is None


def test_where_no_peer_has_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 3
    assert "no peer has run there" in capsys.readouterr().err
    assert main(["status", str(tmp_path / "no")]) == 3
    assert "no such folder; name the --out of a peer" in capsys.readouterr().err
    assert main(["status", str(tmp_path / ("x" * 300))]) == 3, "as one that may not be looked at"
    assert "cannot be read: File name too long" in capsys.readouterr().err


def test_of_a_peer_that_was_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "simulation.yaml").touch()
    peer = tmp_path / "peer0"
    peer.mkdir()
    for folder in (tmp_path, peer):
        assert main(["status", str(folder)]) == 3
        assert f"{folder}: was simulated, and simulated peers leave no" in capsys.readouterr().err


def test_who_looks_keeps_no_peer_from_starting(tmp_path: Path) -> None:
    with RunFolder(tmp_path):
        pass
    with (tmp_path / ".lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        timer = threading.Timer(LOCK_WAIT_S / 2, fcntl.flock, (lock, fcntl.LOCK_UN))
        timer.start()
        with RunFolder(tmp_path):
            timer.join()
