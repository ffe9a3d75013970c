"""Runs that TensorBoard looks on, from the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from semantic_net.cli import main

TASK = Path(__file__).parents[2] / "examples" / "digits_task.py"
SMALL = (f"task.name={TASK}", "data.num_train=16", "training.steps=1", "training.device=cpu")
PEER = ("peer", "--listen", "127.0.0.1:0", "--quiet")


def run(command: Sequence[str], out: Path, *flags: str, tracks: bool = True) -> int:
    overrides = [*SMALL, *(["monitoring.tensorboard=true"] if tracks else [])]
    settings = [flag for each in overrides for flag in ("--set", each)]
    return main([*command, "--out", str(out), *settings, *flags])


def rounds_of(out: Path) -> list[int]:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(out / "tensorboard"))
    found.Reload()
    return [event.step for event in found.Scalars("metrics/accuracy")]


def test_a_peer_that_goes_on_has_each_round_once(tmp_path: Path) -> None:
    assert run(PEER, tmp_path, "--rounds", "1", tracks=False) == 0
    assert not (tmp_path / "tensorboard").exists()
    assert run(PEER, tmp_path, "--rounds", "2") == 0
    assert rounds_of(tmp_path) == [1, 2]
    assert run(PEER, tmp_path, "--rounds", "3") == 0
    assert rounds_of(tmp_path) == [1, 2, 3]
    assert run(PEER, tmp_path, "--rounds", "1", "--resume", "never") == 0
    assert rounds_of(tmp_path) == [1]
    assert rounds_of(tmp_path / "previous") == [1, 2, 3]


def test_one_device_alone_is_looked_on_as_well(tmp_path: Path) -> None:
    for rounds in (3, 2):
        assert run(("single", "--quiet"), tmp_path, "--rounds", str(rounds)) == 0
        assert rounds_of(tmp_path) == list(range(1, rounds + 1))


@pytest.mark.parametrize(
    ("setting", "missing", "text"),
    [
        ("monitoring.tensorboard=true", "tensorboard.compat.proto", "semantic-net[tracking]"),
        ("monitoring.dashboard=127.0.0.1:0", "uvicorn", "semantic-net[dashboard]"),
        ("monitoring.dashboard=nowhere", "", "'nowhere' is not an address"),
        ("p2p.discovery=mdns", "zeroconf", "semantic-net[mdns]"),
    ],
)
def test_a_missing_extra_costs_no_earlier_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    missing: str,
    text: str,
) -> None:
    assert run(PEER, tmp_path, "--rounds", "1", tracks=False) == 0
    for ours in ("monitoring.dashboard.server", "transport.discovery"):
        monkeypatch.delitem(sys.modules, f"semantic_net.{ours}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    flags = ("--rounds", "1", "--resume", "never", "--set", setting)
    assert run(PEER, tmp_path, *flags, tracks=False) == 2
    assert text in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "rounds.jsonl").exists()
    assert not (tmp_path / "previous").exists()
