"""Whether a peer runs, from its folder alone: for a person, and as a health check."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from monitoring_support import make_record

from semantic_net.cli import main
from semantic_net.federated.folder import RunFolder
from semantic_net.monitoring.recorder import Recorder


def test_a_peer_is_well_once_it_listens_and_until_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunFolder(tmp_path) as folder:
        assert main(["status", str(tmp_path)]) == 1  # it has the folder, and does not listen yet
        assert capsys.readouterr().out == "does not listen\n"
        folder.address.write_text("127.0.0.1:5000\n")
        assert main(["status", str(tmp_path)]) == 0
        assert capsys.readouterr().out == "listens on 127.0.0.1:5000\n"
        folder.config.write_text("training:\n  rounds: 7\n")
        recorder = Recorder(tmp_path)
        recorder.record(make_record(round=3))
        recorder.close()
        assert main(["status", str(tmp_path), "--max-age", "3600"]) == 0
        assert "round 3/7  loss" in capsys.readouterr().out
        os.utime(folder.rounds, (1e9, 1e9))
        assert main(["status", str(tmp_path), "--max-age", "3600"]) == 0  # it has just started
        os.utime(folder.address, (1e9, 1e9))
        assert main(["status", str(tmp_path), "--max-age", "3600"]) == 1
        assert main(["status", str(tmp_path)]) == 0
    capsys.readouterr()
    folder.address.write_text("127.0.0.1:5000\n")  # as a power cut leaves it
    assert main(["status", str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith("does not listen\nround 3/7")


def test_a_folder_that_is_not_there_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(tmp_path / "no")]) == 3
    assert "no such folder; name the --out of a peer" in capsys.readouterr().err
