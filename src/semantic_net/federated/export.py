"""A trained model as ONNX (extra ``export``), checked against torch before it is left anywhere."""

from __future__ import annotations

import importlib.util
import inspect
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semantic_net.errors import OutputError, StartError
from semantic_net.federated.trained import MODELS, Trained
from semantic_net.monitoring.runs import read_run

TOLERANCE = 1e-4
"""Largest difference between onnxruntime's outputs and torch's, relative to the largest output."""

OPSET = 17
"""Of ONNX: TensorRT 8.6 (JetPack 6) and later read it."""

_BATCHES = (1, 3)
"""Sizes of the batches that are compared."""

NEEDS = ("onnx", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export has left, and how near it came."""

    path: Path
    difference: float
    input_shape: tuple[int, ...]
    """Of one example."""


def export_onnx(trained: Trained, path: Path) -> Exported:
    """Write a model as ONNX; its first dimension, the batch, stays open.

    Raises:
        StartError: onnx or onnxruntime is missing.
        OutputError: The model cannot be exported, differs from torch's by more than `TOLERANCE`,
            or the file cannot be written; nothing is left then.
    """
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise StartError(f"{missing[0]} is not installed: pip install 'semantic-net[export]'")
    example = trained.example()
    model = trained.model.cpu()
    part = path.with_name(path.name + ".part")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _export(model, example, part)
        except OSError as exc:
            raise OutputError(f"{path}: cannot be written: {exc.strerror or exc}") from exc
        except Exception as exc:  # the exporter raises what it likes
            reason = " ".join(str(exc).split())[:300]
            raise OutputError(f"the model cannot be exported to ONNX: {reason}") from exc
        difference = max(_difference(model, part, example, size) for size in _BATCHES)
        if not difference <= TOLERANCE:  # also where it is no number
            raise OutputError(
                f"onnxruntime's outputs differ from torch's by {difference:.2g} of the largest one,"
                f" more than {TOLERANCE:g}: the export is not kept"
            )
        try:
            os.replace(part, path)
        except OSError as exc:
            raise OutputError(f"{path}: cannot be written: {exc.strerror or exc}") from exc
    finally:
        part.unlink(missing_ok=True)
        trained.model.to(trained.device)
    return Exported(path, difference, tuple(example.shape))


def trtexec_line(exported: Exported, largest_batch: int = 8) -> str:
    """Return the command that builds a TensorRT engine of it on a Jetson."""
    shape = "x".join(map(str, exported.input_shape))
    engine = exported.path.with_suffix(".engine")
    return (
        f"/usr/src/tensorrt/bin/trtexec --onnx={exported.path} --saveEngine={engine} --fp16 "
        f"--minShapes=input:1x{shape} --optShapes=input:1x{shape} "
        f"--maxShapes=input:{largest_batch}x{shape}"
    )


def _export(model: torch.nn.Module, example: Tensor, path: Path) -> None:
    options: dict[str, Any] = {}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        # The newer exporter needs onnxscript, and versions of torch that no Jetson has.
        options["dynamo"] = False
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of the exporter's age, and of traced shapes: see below
        torch.onnx.export(
            model,
            (torch.stack([example] * _BATCHES[-1]),),
            str(path),
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
            opset_version=OPSET,
            **options,
        )


def _difference(model: torch.nn.Module, path: Path, example: Tensor, batch: int) -> float:
    """Return how far onnxruntime is from torch on random inputs of another size of batch."""
    import onnxruntime

    generator = torch.Generator().manual_seed(batch)
    inputs = torch.randn((batch, *example.shape), generator=generator).to(example.dtype)
    with torch.inference_mode():
        expected = model(inputs).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": inputs.numpy()})
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1.0))


def model_card(trained: Trained, run: Path) -> str:
    """Return what to know of a model before using it, as Markdown.

    Raises:
        DataError: The run's record cannot be read.
    """
    [own] = read_run(run)
    config, last = trained.config, own.records[-1]
    fold = config.aggregation
    metrics = last.metrics
    if own.summary is not None and trained.weights.name == MODELS["best"]:
        metrics = own.summary.best_metrics
    peers = sorted({author for record in own.records for author in record.updates_in})
    facts = [
        ("task", Path(config.task.name).stem),
        ("weights", trained.weights.name),
        ("data", f"{config.data.source}, {last.num_examples} training examples where it was left"),
        ("rounds", str(last.round)),
        ("peers that taught it", f"{len(peers)} ({', '.join(peers)})"),
        ("aggregation", f"{fold.rule}, outer momentum {fold.outer_momentum:g}"),
        ("updates", config.semantic.trade.mode),
        ("digest of the last round", last.state_digest or "none: trained alone"),
    ]
    if last.epsilon is not None:
        facts.append(("privacy", f"epsilon {last.epsilon:.3g}, delta {last.delta:g}"))
    if own.summary is not None:
        facts.append(("versions", ", ".join(f"{k} {v}" for k, v in own.summary.versions.items())))
    return "\n".join(
        [
            f"# {Path(config.task.name).stem}, trained by semantic-net",
            "",
            *(f"- {name}: {value}" for name, value in facts),
            "",
            "| metric | value |",
            "|---|---:|",
            *(f"| {name} | {value:.4g} |" for name, value in metrics.items()),
            "",
            "Metrics are of the validation data that the device had: other data may give others.",
            "",
        ]
    )
