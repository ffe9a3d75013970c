"""``evaluate``, ``predict`` and ``export``: what to do with a model that a run has left."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from semantic_net.errors import ConfigError, DataError, StartError

if TYPE_CHECKING:
    from semantic_net.federated.trained import Trained

DONE = 0
CARD = "MODEL_CARD.md"

EVALUATE_HELP = """metrics of a trained model on validation data

Examples:
  semantic-net evaluate runs/demo/peer1
  semantic-net evaluate runs/field --set data.path=/data/other --json metrics.json
"""

PREDICT_HELP = """what a trained model makes of images, or of traces

An image gives its classes (an index PNG in colours) and an overlay, of any size; a CSV of traces
gives forecasts.

Examples:
  semantic-net predict runs/demo/peer1 photo.jpg --out predictions
  semantic-net predict runs/links traces.csv.gz other.csv
"""

EXPORT_HELP = """a trained model as ONNX, checked against torch, with a model card

Examples:
  semantic-net export runs/demo/peer1
  semantic-net export runs/field --out model.onnx --model last
"""


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``evaluate``."""
    _add_run(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the metrics there, too")
    parser.set_defaults(run=_evaluate)


def add_predict(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``predict``."""
    _add_run(parser)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="FILE", help="images, or CSV")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("predictions"),
        metavar="DIR",
        help="where pictures or tables go (default predictions)",
    )
    parser.set_defaults(run=_predict)


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``export``."""
    _add_run(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="or a folder for model.onnx (default: the run's)"
    )
    parser.set_defaults(run=_export)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a run (its --out)")
    parser.add_argument(
        "--model",
        default="best",
        metavar="WHICH",
        help="best (the default), last, or a safetensors file",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the run's configuration, such as data.path=/data; repeatable",
    )


def _evaluate(arguments: argparse.Namespace) -> int:
    from semantic_net.monitoring.progress import shown_if_long
    from semantic_net.monitoring.text import format_metric, in_percent, metric_label
    from semantic_net.training.trainer import Trainer

    trained = _load(arguments, needs_data=True)
    trainer = Trainer(trained.task, trained.config.training, seed=0, model=trained.model)
    with shown_if_long(f"evaluating {len(trained.task.val_data)} examples"):
        metrics = trainer.evaluate()
    print(f"{trained.weights}, on {len(trained.task.val_data)} examples:")
    width = max((len(metric_label(name)) for name in metrics), default=0)
    for name, value in metrics.items():
        unit = " %" if in_percent(name) else ""
        print(f"  {metric_label(name):{width}}  {format_metric(name, value)}{unit}")
    if arguments.json is not None:
        text = msgspec.json.format(msgspec.json.encode(metrics), indent=2) + b"\n"
        try:
            arguments.json.write_bytes(text)
        except OSError as exc:
            raise StartError(f"--json {arguments.json}: {exc.strerror or exc}") from exc
    return DONE


def _predict(arguments: argparse.Namespace) -> int:
    from semantic_net.monitoring.progress import shown_if_long

    trained = _load(arguments, needs_data=False)
    predict = trained.task.predict
    if predict is None:
        raise ConfigError(
            f"task.name: {trained.config.task.name}: its Task has no predict; give it one"
        )
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StartError(f"--out {arguments.out}: {exc.strerror or exc}") from exc
    stems = [path.name.partition(".")[0] for path in arguments.inputs]
    for stem in {stem for stem in stems if stems.count(stem) > 1}:
        raise ConfigError(f"two files are called {stem}, and would overwrite each other's results")
    failed = 0
    for path in arguments.inputs:
        try:
            with shown_if_long(str(path)):
                found = predict(trained.model, path, arguments.out, trained.device)
        except DataError as exc:  # the others may be sound
            if len(arguments.inputs) == 1:
                raise
            print(f"semantic-net: error: {' '.join(str(exc).split())}", file=sys.stderr)
            failed += 1
            continue
        print(f"{path}: {found.text} -> {', '.join(map(str, found.files))}", flush=True)
    if failed:
        raise DataError(f"{failed} of {len(arguments.inputs)} files could not be used")
    return DONE


def _export(arguments: argparse.Namespace) -> int:
    from semantic_net.federated.export import export_onnx, model_card, trtexec_line
    from semantic_net.monitoring.progress import shown_if_long

    trained = _load(arguments, needs_data=False)
    path = arguments.out or arguments.folder
    if path.is_dir():
        path = path / "model.onnx"
    with shown_if_long("exporting, and checking against torch"):
        exported = export_onnx(trained, path)
    card = path.with_name(CARD)
    try:
        card.write_text(model_card(trained, arguments.folder), encoding="utf-8")
    except OSError as exc:
        raise StartError(f"{card}: cannot be written: {exc.strerror or exc}") from exc
    print(f"{path}: as torch to within {exported.difference:.1e}; what it is: {card}")
    print(f"On a Jetson:\n  {trtexec_line(exported)}")
    return DONE


def _load(arguments: argparse.Namespace, *, needs_data: bool) -> Trained:
    from semantic_net.federated.trained import load_trained
    from semantic_net.monitoring.progress import shown_if_long

    with shown_if_long("loading the model" + " and its data" * needs_data):
        return load_trained(arguments.folder, arguments.model, arguments.set, needs_data=needs_data)
