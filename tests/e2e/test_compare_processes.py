"""`compare` with real processes: the same data and steps for all, judged on common ground."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from semantic_net.cli import main

pytest.importorskip("flwr")

TASK = Path(__file__).parents[1] / "federated" / "demo_task.py"  # each shard has one class alone


def test_each_way_of_training_is_run_and_judged_on_the_same_data(tmp_path: Path) -> None:
    flags = ["--set", f"task.name={TASK}", "--set", "training.learning_rate=0.05"]
    flags += ["--set", "training.batch_size=4", "--peers", "2", "--rounds", "3"]
    assert main(["compare", *flags, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "compare.json").read_text())
    ways = {way["name"]: way["outcomes"][0] for way in found["ways"]}
    assert list(ways) == ["alone", "pooled", "fedavg", "dense", "compressed"]
    assert all(outcome["notes"] == [] for outcome in ways.values())
    accuracy = {
        name: [metrics["accuracy"] for metrics in outcome["devices"] if metrics]
        for name, outcome in ways.items()
    }
    # Alone, a device has seen one side of a line and knows 5 or 6 of 11 points at best.
    assert max(accuracy["alone"]) < 0.6 < accuracy["pooled"][0]
    # Without a server, plain averaging is what it is with one.
    assert ways["dense"]["curve"] == ways["fedavg"]["curve"]
    for name in ("fedavg", "dense", "compressed"):
        assert ways[name]["is_common"]
        assert len(accuracy[name]) == 1  # one evaluates for all
        assert ways[name]["bytes_sent"] > 0
    assert ways["fedavg"]["server_bytes"] > 0
    assert ways["alone"]["bytes_sent"] == 0
