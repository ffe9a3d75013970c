"""One device alone leaves what a peer leaves."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from semantic_net.cli import main
from semantic_net.federated.single import Single
from semantic_net.records import RoundRecord

DIGITS = str(Path(__file__).parents[2] / "examples" / "digits_task.py")


def test_each_pass_over_the_data_is_a_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--task", DIGITS, "--epochs", "3", "--out", str(tmp_path), "--set", "training.seed=1"]
    assert main(["single", *flags]) == 0
    records = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == [1, 2, 3]
    assert records[0]["loss"] > records[-1]["loss"]
    assert all(record["updates_in"] == ["single"] for record in records)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["finished"] is True
    assert summary["metrics"] == records[-1]["metrics"]
    assert summary["compression_ratio"] == 1.0
    assert (tmp_path / "model.safetensors").stat().st_size > 2000
    assert (tmp_path / "model_best.safetensors").exists()
    assert "round 3/3" in capsys.readouterr().out


def test_the_console_may_have_json_or_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["single", "--task", DIGITS, "--epochs", "1", "--out", str(tmp_path)]
    assert main([*flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(
        (tmp_path / "rounds.jsonl").read_text()
    )
    assert main([*flags, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    with pytest.raises(SystemExit):
        main([*flags, "--quiet", "--json"])


def test_one_begun_with_ctrl_c_ignored_is_interrupted_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Single) -> Iterator[RoundRecord]:
        os.kill(os.getpid(), signal.SIGINT)
        yield from ()

    monkeypatch.setattr(Single, "rounds", interrupted)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background job
    try:
        assert main(["single", "--task", DIGITS, "--out", str(tmp_path)]) == 130
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_epochs_and_rounds_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["single", "--epochs", "1", "--rounds", "1"]) == 2
    assert "give one of --epochs and --rounds" in capsys.readouterr().err
    assert main(["single", "--epochs", "1", "--set", "training.steps=2"]) == 2
    assert "--epochs: says training.steps as well" in capsys.readouterr().err
