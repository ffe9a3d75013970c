"""``status``: what a peer that runs, has ended or was killed is at."""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgspec
import pytest

from semantic_net.cli import main
from semantic_net.federated.folder import RunFolder
from semantic_net.monitoring.status_file import StatusFile
from semantic_net.status import STATUS_FILE, Status


def status(phase: str = "collecting") -> Status:
    return Status(
        peer="abcdefgh" * 4,
        pid=77,
        run="field",
        task="disaster",
        address="0.0.0.0:5000",
        written_at=time.time() - 5,
        phase=phase,
        round=3,
        rounds=9,
        doing="waiting for ijkl-mnop, at most 20 s more",
        phase_s=1.5,
    )


def test_of_a_peer_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunFolder(tmp_path):
        StatusFile(tmp_path / STATUS_FILE).write(status(), 0.0)
        assert main(["status", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{tmp_path}: process 77, listening on 0.0.0.0:5000\n")
    assert "round 3 of 9, waiting for ijkl-mnop, at most 20 s more" in printed


@pytest.mark.parametrize(
    ("phase", "how"), [("finished", "it has ended"), ("training", "it was killed, or the power")]
)
def test_of_one_that_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], phase: str, how: str
) -> None:
    with RunFolder(tmp_path):
        StatusFile(tmp_path / STATUS_FILE).write(status(phase), 0.0)
    assert main(["status", str(tmp_path)]) == 1
    assert how in capsys.readouterr().out


def test_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / STATUS_FILE).write_bytes(msgspec.json.encode(status()))
    assert main(["status", str(tmp_path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["is_running"], found["round"], found["phase"]) == (False, 3, "collecting")
    assert found["age_s"] >= 5


def test_where_no_peer_has_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 3
    assert "no peer has run there" in capsys.readouterr().err
