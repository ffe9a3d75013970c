"""A model that a run has left is used as it was learned, or not at all."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monitoring_support import leave_run, make_record, make_summary
from PIL import Image
from torch import nn

from semantic_net.cli import main
from semantic_net.config import Config, dump_config, load_config
from semantic_net.errors import CheckpointError, OutputError, StartError
from semantic_net.federated import export as export_module
from semantic_net.federated.export import export_onnx, model_card
from semantic_net.federated.trained import load_trained
from semantic_net.federated.weights import save_state_dict
from semantic_net.task import load_task
from semantic_net.training.trainer import make_initial_model

DIGITS = Path(__file__).parents[2] / "examples" / "digits_task.py"
SMALL = {
    "disaster": ["task.name=disaster", "task.disaster.base_channels=4", "task.disaster.depth=2"],
    "netqos": ["task.name=netqos", "task.netqos.hidden=8", "data.num_train=4", "data.num_val=4"],
    "digits": [f"task.name={DIGITS}"],
}


def leave(folder: Path, task: str, *overrides: str) -> Path:
    """Leave what a run of one round leaves, with its first weights."""
    config: Config = load_config(None, ["training.device=cpu", *SMALL[task], *overrides])
    leave_run(folder, [make_record()], make_summary(best_metrics={"miou": 0.5}))
    (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    made = load_task(replace(config.task, data=config.data, observe=True))
    model = make_initial_model(made, 1)
    with torch.no_grad():  # else the forecaster is persistence
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator()))
    save_state_dict(folder / "model.safetensors", model.state_dict(), {})
    return folder


@pytest.mark.parametrize("task", ["disaster", "netqos", "digits"])
def test_onnx_says_what_torch_says(
    tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    run = leave(tmp_path / "run", task)
    assert main(["export", str(run)]) == 0
    out = capsys.readouterr().out
    assert "trtexec --onnx=" in out
    import onnxruntime

    session = onnxruntime.InferenceSession(run / "model.onnx", providers=["CPUExecutionProvider"])
    trained = load_trained(run)
    inputs = torch.randn(5, *trained.example().shape)
    with torch.inference_mode():
        expected = trained.model(inputs).numpy()
    (found,) = session.run(None, {"input": inputs.numpy()})
    assert np.abs(found - expected).max() <= 1e-4 * max(1.0, float(np.abs(expected).max()))
    assert "- digest of the last round: 3fa9c1" in (run / "MODEL_CARD.md").read_text()
    (tmp_path / "folder").mkdir()
    assert main(["export", str(run), "--out", str(tmp_path / "folder")]) == 0
    assert (tmp_path / "folder/model.onnx").exists()


class _Rounding(nn.Module):
    """Exports as something else: a trace keeps the batch that it saw."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).sum(1) + float(len(x))


def test_an_export_that_differs_is_not_kept(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    trained = load_trained(leave(tmp_path / "run", "digits"))
    with pytest.raises(OutputError, match=r"differ from torch's by .* the export is not kept"):
        export_onnx(replace(trained, model=_Rounding()), tmp_path / "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


class _Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such thing")


def test_a_model_that_cannot_be_exported_is_said(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    trained = load_trained(leave(tmp_path / "run", "digits"))
    with pytest.raises(OutputError, match="cannot be exported to ONNX: no such thing"):
        export_onnx(replace(trained, model=_Random()), tmp_path / "model.onnx")


def test_what_is_missing_for_an_export_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "NEEDS", ("onnx_of_another_world",))
    trained = load_trained(leave(tmp_path / "run", "digits"))
    with pytest.raises(StartError, match=r"pip install 'semantic-net\[export\]'"):
        export_onnx(trained, tmp_path / "model.onnx")


def test_a_card_tells_of_the_weights_that_it_goes_with(tmp_path: Path) -> None:
    run = leave(tmp_path, "digits")
    last = model_card(load_trained(run, "last"), run)
    assert "| miou | 0.412 |" in last
    (run / "model_best.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    best = model_card(load_trained(run), run)
    assert "| miou | 0.5 |" in best
    assert "- weights: model_best.safetensors" in best
    assert "- peers that taught it: 3 (" in best


def test_models_by_name_by_file_and_none(tmp_path: Path) -> None:
    run = leave(tmp_path / "run", "digits")
    assert load_trained(run).weights.name == "model.safetensors"  # there is no best one
    other = tmp_path / "other.safetensors"
    other.write_bytes((run / "model.safetensors").read_bytes())
    assert load_trained(run, str(other)).weights == other
    (run / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no round has closed"):
        load_trained(run)
    with pytest.raises(StartError, match=r"no run's folder: it has no config\.yaml"):
        load_trained(tmp_path)
    with pytest.raises(CheckpointError, match="--model bset: neither best nor last, nor a file"):
        load_trained(run, "bset")
    leave(tmp_path / "all/peer1", "digits")
    (tmp_path / "all/config.yaml").write_text("")
    with pytest.raises(StartError, match="of several processes; give one of them: peer1"):
        load_trained(tmp_path / "all")


def test_a_peers_own_region_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A synthetic region follows from the peer's id, and so do the figures of its records."""
    flags = ["--listen", "127.0.0.1:0", "--rounds", "1", "--out", str(tmp_path), "--json"]
    small = ["training.device=cpu", "training.steps=1", "data.num_train=2", "data.num_val=2"]
    sets = [flag for item in [*SMALL["disaster"], *small] for flag in ("--set", item)]
    assert main(["peer", *flags, *sets]) == 0
    recorded = json.loads(capsys.readouterr().out)["metrics"]
    assert main(["evaluate", str(tmp_path), "--json", str(tmp_path / "metrics.json")]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text()) == pytest.approx(recorded)


def test_evaluate_prints_what_the_task_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, figures = leave(tmp_path / "run", "digits"), tmp_path / "metrics.json"
    assert main(["evaluate", str(run), "--json", str(figures)]) == 0
    accuracy = json.loads(figures.read_text())["accuracy"]
    out = capsys.readouterr().out
    assert "on 500 examples" in out
    assert f"accuracy  {100 * accuracy:.1f} %" in out
    assert main(["evaluate", str(run), "--json", str(tmp_path)]) == 3
    assert "--json" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(40, 25), (64, 64), (100, 150), (7, 300)])
def test_pictures_of_any_size_get_classes_and_an_overlay(
    tmp_path: Path, size: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    run = leave(tmp_path / "run", "disaster", "data.max_side=120")
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    out = tmp_path / "out"
    assert main(["predict", str(run), str(tmp_path / "photo.png"), "--out", str(out)]) == 0
    with (
        Image.open(out / "photo_classes.png") as classes,
        Image.open(out / "photo_overlay.png") as overlay,
    ):
        assert (classes.mode, classes.size) == ("P", size[::-1])
        assert np.asarray(classes).max() < 11
        assert (overlay.mode, overlay.size) == ("RGB", size[::-1])
    assert "photo_overlay.png" in capsys.readouterr().out


def test_traces_get_forecasts(tmp_path: Path) -> None:
    run = leave(tmp_path / "run", "netqos", "data.csv.features=[rtt_ms]", "data.source=csv")
    with (tmp_path / "drive.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trace_id", "t_s", "rtt_ms"])
        writer.writerows(["a", 1.7e9 + 0.2 * n, 20 + n] for n in range(30))
        writer.writerows(["short", 0.2 * n, 20] for n in range(5))
    assert main(["predict", str(run), str(tmp_path / "drive.csv"), "--out", str(tmp_path)]) == 0
    with (tmp_path / "drive_forecast.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30 - 10 + 1  # from the tenth sample on, of the one that is long enough
    assert rows[0]["trace_id"] == "a"
    assert float(rows[0]["t_s"]) == pytest.approx(1.7e9 + 1.8, abs=1e-3)
    assert (float(rows[0]["rtt_ms"]), float(rows[0]["truth"])) == (29, 34)
    assert rows[-1]["truth"] == ""  # not known yet
    assert 0 < float(rows[0]["rtt_ms_forecast"]) < 200


def test_one_file_that_is_broken_does_not_keep_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = leave(tmp_path / "run", "disaster")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "sound.png")
    files = [str(tmp_path / name) for name in ("broken.jpg", "sound.png")]
    assert main(["predict", str(run), *files, "--out", str(tmp_path / "out")]) == 3
    assert (tmp_path / "out/sound_classes.png").exists()
    told = capsys.readouterr().err
    assert "broken.jpg: cannot be read as an image" in told
    assert "1 of 2 files could not be used" in told
    assert main(["predict", str(run), files[0], "--out", str(tmp_path / "out")]) == 3
    told = capsys.readouterr().err
    assert "broken.jpg: cannot be read as an image" in told
    assert "could not be used" not in told  # there is one file alone


def test_predictions_do_not_overwrite_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = leave(tmp_path / "run", "disaster")
    assert main(["predict", str(run), "a/photo.jpg", "b/photo.png"]) == 2
    assert "two files are called photo" in capsys.readouterr().err
    assert main(["predict", str(leave(tmp_path / "other", "digits")), "x.png"]) == 2
    assert "its Task has no predict" in capsys.readouterr().err
