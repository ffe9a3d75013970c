"""``report``: a run as one page, from the records of one or many peers."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from semantic_net.errors import StartError

log = logging.getLogger(__name__)

DONE = 0
CONFIG_FILE = "config.yaml"

REPORT_HELP = """a run as one page: curves, bytes, time, classes, who was missing when

Takes the folder of a peer (its --out), several of one run, or a folder that holds such folders, and
leaves report.html and its plots as PNGs. It may be called while the run goes on.

Examples:
  semantic-net report runs/demo
  semantic-net report peer1/run peer2/run --out report
"""


def add_report(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``report``."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a peer's run")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="default: report in the first folder"
    )
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from semantic_net.monitoring import plots
    from semantic_net.monitoring.report import report
    from semantic_net.monitoring.runs import check_one_run, main_metric_of, read_run

    runs: Sequence[Path] = arguments.runs
    run = [each for folder in runs for each in read_run(folder)]
    check_one_run(run)
    metric, higher_is_better = main_metric_of(run)
    pictures = {}
    if plots.can_plot():
        pictures = plots.plot_run(run, metric, higher_is_better=higher_is_better)
    labels = {"learning": "What was learned", "time": "What the time of a round went into"}
    drawings = [(labels[name], files["svg"].decode()) for name, files in pictures.items()]
    out = arguments.out or runs[0] / "report"
    content = {"report.html": report(run, _configs(runs), drawings).encode()}
    content |= {f"{name}.png": files["png"] for name, files in pictures.items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, data in content.items():
            (out / name).write_bytes(data)
    except OSError as exc:
        raise StartError(f"--out {out}: cannot be written: {exc.strerror or exc}") from exc
    print(out / "report.html")
    if not pictures:
        print(plots.MISSING)
    return DONE


def _configs(runs: Sequence[Path]) -> list[str]:
    """Return the configurations that lie beside the records, as they are."""
    found = []
    for run in runs:
        own = run / CONFIG_FILE
        paths = [own] if own.is_file() else sorted(run.glob(f"*/{CONFIG_FILE}"))
        for path in paths:
            try:
                found.append(path.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError) as exc:
                log.warning("%s: cannot be read: %s", path, exc)
    return found
