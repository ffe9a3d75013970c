"""`compare` runs each way by the commands of a user, once; the commands here are stand-ins."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from monitoring_support import leave_run, make_record, make_summary
from rich.console import Console

import semantic_net
from semantic_net.cli import main
from semantic_net.config import load_config
from semantic_net.errors import ConfigError, DataError, StartError
from semantic_net.federated import trainings
from semantic_net.federated.compare import CompareOptions, compare_runs, run_comparison
from semantic_net.monitoring import plots
from semantic_net.records import NOISE

HERE = Path(__file__).parent
FAKE = (sys.executable, str(HERE / "compare_fake_cli.py"))


@pytest.fixture(autouse=True)
def support_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stand-in import what the tests do, wherever they have it from."""
    source = Path(semantic_net.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (HERE.parent, source))))
    monkeypatch.setattr(trainings, "has_flower", lambda: True)


@pytest.fixture
def options(tmp_path: Path) -> CompareOptions:
    return CompareOptions(
        overrides=("training.rounds=2",), peers=2, out=tmp_path / "out", command=FAKE
    )


def run(options: CompareOptions) -> tuple[int, str]:
    output = io.StringIO()
    code = run_comparison(options, Console(file=output, width=200))
    return code, output.getvalue()


def calls(options: CompareOptions) -> list[str]:
    path = options.out.parent / "calls"
    return sorted(path.read_text().splitlines()) if path.exists() else []


def test_every_way_from_start_to_page(options: CompareOptions) -> None:
    code, text = run(replace(options, seeds=(0, 4)))
    assert code == 0
    one_seed = [
        "alone single",
        "alone single",
        "compressed peer",
        "compressed peer",
        "dense peer",
        "dense peer",
        "fedavg client",
        "fedavg client",
        "fedavg server",
        "pooled single",
    ]
    assert calls(options) == [f"seed{s} {call}" for s in (0, 4) for call in one_seed]
    found = json.loads((options.out / "compare.json").read_text())
    assert [way["name"] for way in found["ways"]] == list(trainings.DEFAULT_WAYS)
    assert (found["metric"], found["reference"]) == ("accuracy", "fedavg")
    # A model that all hold is evaluated once; of those that are alone, each.
    assert [len(list(filter(None, way["outcomes"][0]["devices"]))) for way in found["ways"]] == [
        2,
        1,
        1,
        1,
        1,
    ]
    assert [outcome["seed"] for outcome in found["ways"][0]["outcomes"]] == [0, 4]
    assert "seed 4, FedAvg over Flower: accuracy 75.0, took " in text
    assert re.search(r"all data in one place +90\.00 \(90\.00 to 90\.00\)", text)
    for name in ("compare.md", "compare.html", "compare.svg", "compare.png"):
        assert (options.out / name).stat().st_size > 1000


def test_ways_differ_in_what_they_say_and_in_nothing_else(options: CompareOptions) -> None:
    run(replace(options, ways=("fedavg", "dense", "dense_momentum", "compressed"), seeds=(3,)))
    fedavg, dense, momentum, compressed = (
        load_config(options.out / "seed3" / name / "config.yaml")
        for name in ("fedavg", "dense", "dense_momentum", "compressed")
    )
    assert fedavg == dense
    assert (dense.semantic.mode, dense.aggregation.outer_momentum) == ("none", 0)
    assert replace(dense, aggregation=compressed.aggregation) == momentum
    assert replace(momentum, semantic=compressed.semantic) == compressed
    assert compressed.data.partition.validation == "all"
    assert compressed.p2p.listen_timeout_s == 3600  # for the one that evaluates, as a server waits
    assert {compressed.task.seed, compressed.data.seed, compressed.training.seed} == {3}


@pytest.mark.parametrize(
    "overrides", [("data.partition.validation=own",), ("training.local_layers=['*.bias']",)]
)
def test_each_device_evaluates_where_models_or_data_differ(
    options: CompareOptions, overrides: tuple[str, ...]
) -> None:
    run(replace(options, overrides=("training.rounds=2", *overrides), ways=("compressed",)))
    for peer in ("peer1", "peer2"):
        lines = (options.out / "seed0/compressed" / peer / "rounds.jsonl").read_text()
        assert "accuracy" in lines


def test_what_was_run_is_not_run_again_unless_it_would_differ(options: CompareOptions) -> None:
    small = replace(options, ways=("alone", "compressed"))
    run(small)
    before = calls(options)
    _, text = run(replace(small, last=2))
    assert calls(options) == before
    assert "seed 0, each device alone: accuracy 37.5, was there, of 2" in text  # of both rounds
    _, text = run(replace(small, overrides=("training.rounds=3",)))
    assert len(calls(options)) == 2 * len(before)
    assert f"what was there is in {options.out}/seed0/alone.previous" in text
    kept = (options.out / "seed0/alone.previous/device1/rounds.jsonl").read_text()
    assert kept.count("\n") == 2
    run(replace(small, overrides=("training.rounds=3",), again=True))
    assert len(calls(options)) == 3 * len(before)


def test_a_task_that_was_changed_is_run_again(options: CompareOptions) -> None:
    task = options.out.parent / "task.py"
    task.write_text("first = 1")
    own = replace(options, ways=("alone",), overrides=(f"task.name={task}", "training.rounds=1"))
    run(own)
    run(own)
    assert len(calls(options)) == 2
    task.write_text("second = 2")
    run(own)
    assert len(calls(options)) == 4
    task.unlink()
    with pytest.raises(StartError, match=r"task\.name: .*task\.py: No such file"):
        run(own)


def test_an_interrupted_comparison_goes_on_where_it_was(options: CompareOptions) -> None:
    both = replace(options, ways=("alone", "compressed"))
    breaking = options.out.parent / "break"
    breaking.write_text("peer interrupt")
    code, text = run(both)
    assert code == 130
    assert "interrupted; the same command goes on from here" in text
    breaking.unlink()
    code, text = run(both)
    assert code == 0
    assert "each device alone: accuracy 50.0, was there" in text
    assert "peer-to-peer, compressed: accuracy 70.0, took" in text


def test_a_run_that_was_not_completed_displaces_none_that_was(options: CompareOptions) -> None:
    run(replace(options, ways=("compressed",)))
    longer = replace(options, ways=("compressed",), overrides=("training.rounds=3",))
    (options.out.parent / "break").write_text("peer interrupt")
    for _ in range(2):
        assert run(longer)[0] == 130
    kept = options.out / "seed0/compressed.previous"
    assert (kept / "peer1/rounds.jsonl").read_text().count("\n") == 2


def test_a_process_that_fails_is_named_and_what_was_run_stays(options: CompareOptions) -> None:
    both = replace(options, ways=("alone", "compressed"))
    (options.out.parent / "break").write_text("peer crash")
    with pytest.raises(StartError, match=r"peer \d failed with exit code 1: error: the data is go"):
        run(both)
    assert (options.out / "seed0/alone/run.json").exists()
    assert not (options.out / "seed0/compressed/run.json").exists()


def test_a_folder_of_somebody_elses_is_left_alone(options: CompareOptions) -> None:
    theirs = options.out / "seed0/alone/thesis.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("years of work")
    with pytest.raises(StartError, match="holds something that is no run's"):
        run(replace(options, ways=("alone",)))
    assert theirs.exists()


def test_a_folder_that_cannot_be_used_is_named(options: CompareOptions) -> None:
    options.out.write_text("a file")
    with pytest.raises(StartError, match=r"--out .*: cannot be used: Not a directory"):
        run(replace(options, ways=("alone",)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"last": 0}, "--last: must be >= 1"),
        ({"seeds": (1, 1)}, "--seeds: names a seed twice"),
        ({"peers": 1}, "--peers must be >= 2"),
        ({"ways": ("alone", "pol")}, "--ways: unknown way 'pol'; known: alone, pooled, "),
        ({"overrides": ("training.round=1",)}, "training.rounds"),
        ({"overrides": ("task.seed=9",)}, "--set task.seed: a comparison says it itself; use --s"),
        ({"overrides": ("data.partition.num_shards=1",)}, "num_shards: .*; use --peers"),
        ({"overrides": ("data.partition.validation=none",)}, "leaves nothing to compare"),
    ],
)
def test_wrong_options_start_nothing(
    options: CompareOptions, changes: dict[str, object], message: str
) -> None:
    changed = {name: getattr(options, name) for name in options.__slots__} | changes
    with pytest.raises(ConfigError, match=message):
        run(CompareOptions(**changed))
    assert calls(options) == []


def test_a_way_that_cannot_be_run_here_is_left_out_and_said(
    options: CompareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "has_flower", lambda: False)
    _, text = run(options)
    assert "left out: FedAvg over Flower: Flower is not installed: pip install" in text
    assert not any("fedavg" in call for call in calls(options))
    assert json.loads((options.out / "compare.json").read_text())["reference"] == "dense"
    with pytest.raises(ConfigError, match="--ways fedavg: Flower is not installed"):
        run(replace(options, ways=("fedavg",)))


@pytest.mark.parametrize(
    ("overrides", "way", "message"),
    [
        (("semantic.mode=auto", "semantic.budget_s=1"), "fedavg_encoded", "knows no links"),
        (("privacy.noise_multiplier=1",), "fedavg", "a client has no privacy.noise_multiplier"),
    ],
)
def test_what_the_classic_mode_does_not_do_is_said_before(
    options: CompareOptions, overrides: tuple[str, ...], way: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"--ways {way}: .*{message}"):
        run(replace(options, overrides=overrides, ways=(way,)))


def test_a_budget_is_one_of_the_compressed_way_alone(options: CompareOptions) -> None:
    budget = ("training.rounds=1", "semantic.mode=auto", "semantic.budget_bytes=1000")
    run(replace(options, overrides=budget, ways=("fedavg", "dense", "compressed")))
    dense, compressed = (
        load_config(options.out / "seed0" / name / "config.yaml")
        for name in ("dense", "compressed")
    )
    assert (dense.semantic.mode, dense.semantic.budget_bytes) == ("none", None)
    assert compressed.semantic.budget_bytes == 1000


def test_the_number_of_devices_is_that_of_the_shards(options: CompareOptions) -> None:
    run(replace(options, peers=None, ways=("alone",)))
    assert len(calls(options)) == 3
    run(replace(options, peers=None, ways=("alone",), overrides=("data.partition.num_shards=4",)))
    assert len(calls(options)) == 3 + 4


def test_runs_that_were_made_before(tmp_path: Path) -> None:
    rmse = {"metrics": {"rmse": 2.0}}
    for name, loss in (("a/out", 1.0), ("b/out", 2.0)):
        leave_run(
            tmp_path / name,
            [make_record(loss=loss, **rmse)],
            make_summary(metric="rmse", higher_is_better=False),
        )
    output = io.StringIO()
    folders = [tmp_path / "a/out", tmp_path / "b/out"]
    assert compare_runs(folders, tmp_path / "cmp", 1, Console(file=output, width=120)) == 0
    found = json.loads((tmp_path / "cmp/compare.json").read_text())
    assert [way["title"] for way in found["ways"]] == ["a/out", "b/out"]
    assert (found["metric"], found["higher_is_better"]) == ("rmse", False)
    assert "Of RMSE, lower is better." in output.getvalue()
    with pytest.raises(ConfigError, match="names a run twice"):
        compare_runs([folders[0], folders[0]], tmp_path / "cmp", 1, Console(file=output))
    with pytest.raises(ConfigError, match="--last"):
        compare_runs(folders, tmp_path / "cmp", 0, Console(file=output))
    with pytest.raises(DataError, match="no run's record"):
        compare_runs([tmp_path / "c"], tmp_path / "cmp", 1, Console(file=output))
    with pytest.raises(StartError, match="cannot be written"):
        compare_runs(folders, folders[0] / "rounds.jsonl", 1, Console(file=output))


def test_a_run_of_which_no_model_was_evaluated_is_named(tmp_path: Path) -> None:
    leave_run(tmp_path / "good", [make_record()], make_summary())
    bad = leave_run(tmp_path / "bad", [make_record(metrics={})], None)
    with pytest.raises(DataError, match=f"^{bad}: bad: no device has evaluated a model"):
        compare_runs([tmp_path / "good", bad], tmp_path / "cmp", 1, Console(file=io.StringIO()))


def test_noise_beside_a_run_that_learns_is_not_held_against(tmp_path: Path) -> None:
    summary = make_summary(task=NOISE, mode=NOISE, metric="")
    leave_run(tmp_path / "noise", [make_record(metrics={}, loss=None)], summary)
    leave_run(tmp_path / "learns", [make_record()], make_summary())
    folders = [tmp_path / "noise", tmp_path / "learns"]
    assert compare_runs(folders, tmp_path / "cmp", 1, Console(file=io.StringIO())) == 0
    found = json.loads((tmp_path / "cmp/compare.json").read_text())
    assert (found["metric"], found["reference"]) == ("miou", "learns")
    assert compare_runs(folders[:1], tmp_path / "one", 1, Console(file=io.StringIO())) == 0
    assert json.loads((tmp_path / "one/compare.json").read_text())["metric"] == ""
    assert not (tmp_path / "one/compare.svg").exists(), "there is no curve to draw"


def test_a_run_without_a_summary_is_shown_by_its_first_metric(tmp_path: Path) -> None:
    leave_run(tmp_path / "run", [make_record()], None)
    assert compare_runs([tmp_path / "run"], tmp_path / "cmp", 1, Console(file=io.StringIO())) == 0
    assert json.loads((tmp_path / "cmp/compare.json").read_text())["metric"] == "miou"


def test_without_matplotlib_there_is_no_plot_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "can_plot", lambda: False)
    leave_run(tmp_path / "run", [make_record()], make_summary())
    output = io.StringIO()
    compare_runs([tmp_path / "run"], tmp_path / "cmp", 1, Console(file=output, width=200))
    assert "no plots without matplotlib: pip install" in output.getvalue()
    assert sorted(path.name for path in (tmp_path / "cmp").iterdir()) == [
        "compare.html",
        "compare.json",
        "compare.md",
    ]


def test_flags_that_go_with_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path), "--rounds", "3"]) == 2
    assert "take --rounds away" in capsys.readouterr().err
    assert main(["compare", str(tmp_path), "--seeds", "1"]) == 2
    assert "take --seeds away" in capsys.readouterr().err
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "cmp")]) == 3
    assert "no run's record" in capsys.readouterr().err
