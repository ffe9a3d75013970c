"""Plots by matplotlib (extra ``report``): of a comparison, and of one run."""

from __future__ import annotations

import importlib.util
import io
import statistics
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from semantic_net.monitoring.runs import Participant
from semantic_net.monitoring.side_by_side import SideBySide, Way, mean_curve, mean_sent
from semantic_net.monitoring.side_by_side_page import factor_of
from semantic_net.monitoring.text import in_percent, metric_label, percent_factor
from semantic_net.records import RoundRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_NAMED = 12
"""Processes of a run that have a line of their own each; of more than these the mean is drawn."""

MISSING = "no plots without matplotlib: pip install 'semantic-net[report]'"

_LINES = ("-", "--", "-.")
"""In turn, so that curves which lie upon each other both show."""

_NOT_SENDING = ":"


def can_plot() -> bool:
    """Tell whether matplotlib is here."""
    return importlib.util.find_spec("matplotlib") is not None


def plot(found: SideBySide) -> dict[str, bytes]:
    """Return the main metric over rounds and over bytes, as files by their ending: svg and png.

    Bands reach from the lowest to the highest seed. Up is better: the axis of an error points down.
    """
    return _files(lambda: _figure(found))


def plot_run(
    run: Sequence[Participant], metric: str, *, higher_is_better: bool
) -> dict[str, dict[str, bytes]]:
    """Return pictures of one run, each as files by their ending: what it learned, and its time.

    Args:
        run: All processes.
        metric: Name of the main one.
        higher_is_better: Else its axis points down.
    """
    drawn = {"time": _files(lambda: _timeline(run))}
    if any(record.metrics or record.loss is not None for each in run for record in each.records):
        learning = _files(lambda: _learning(run, metric, higher_is_better=higher_is_better))
        drawn = {"learning": learning, **drawn}
    return drawn


def _files(draw: Callable[[], Any]) -> dict[str, bytes]:
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "semantic-net", "svg.fonttype": "none"}):
        figure = draw()
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", dpi=110)
    return {"svg": svg.getvalue(), "png": png.getvalue()}


def _learning(run: Sequence[Participant], metric: str, *, higher_is_better: bool) -> Any:
    """Draw each process' metric over rounds and over bytes, and its training loss."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    over_rounds, over_bytes, losses = figure.subplots(1, 3)
    factor = percent_factor(
        metric, (r.metrics[metric] for each in run for r in each.records if metric in r.metrics)
    )
    is_fleet = len(run) > MAX_NAMED
    for index, each in enumerate(run):
        look: dict[str, Any] = {"color": f"C{index % 10}", "linestyle": _LINES[index % len(_LINES)]}
        if is_fleet:  # nobody tells a hundred lines apart
            look = {"color": "C0", "alpha": max(0.03, 3 / len(run)), "linewidth": 1}
        known = [record for record in each.records if metric in record.metrics]
        values = [factor * record.metrics[metric] for record in known]
        total = dict(
            zip(
                (record.round for record in each.records),
                accumulate(record.bytes_sent for record in each.records),
                strict=True,
            )
        )
        name = f"each of {len(run)}" if is_fleet and not index else each.name
        label = None if is_fleet and index else _label(name)
        over_rounds.plot([r.round for r in known], values, label=label, **look)
        over_bytes.plot([total[r.round] for r in known], values, **look)
        trained = [(r.round, r.loss) for r in each.records if r.loss is not None]
        losses.plot([number for number, _ in trained], [loss for _, loss in trained], **look)
    if is_fleet:
        _mean_of(over_rounds, run, lambda record: _scaled(record.metrics.get(metric), factor))
        _mean_of(losses, run, lambda record: record.loss)
    name = _named(metric)
    for axis, label in ((over_rounds, "round"), (over_bytes, "bytes sent"), (losses, "round")):
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    for axis in (over_rounds, over_bytes):
        axis.set_ylabel(name)
        if not higher_is_better:
            axis.invert_yaxis()
    losses.set_ylabel("training loss")
    over_bytes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    for axis in (over_rounds, losses):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    over_bytes.xaxis.set_major_locator(MaxNLocator(4))
    legend = figure.legend(
        *over_rounds.get_legend_handles_labels(), loc="outside lower center", ncols=6
    )
    for line in legend.get_lines():
        line.set_alpha(1.0)
    return figure


def _mean_of(
    axis: Axes, run: Sequence[Participant], value_of: Callable[[RoundRecord], float | None]
) -> None:
    by_round: dict[int, list[float]] = {}
    for each in run:
        for record in each.records:
            if (value := value_of(record)) is not None:
                by_round.setdefault(record.round, []).append(value)
    rounds = sorted(by_round)
    means = [statistics.mean(by_round[number]) for number in rounds]
    axis.plot(rounds, means, color="C3", linewidth=2, label="mean")


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _timeline(run: Sequence[Participant]) -> Any:
    """Draw what the seconds of a round went into, the mean over processes, and its bytes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    seconds, traffic = figure.subplots(1, 2)
    by_round: dict[int, list[RoundRecord]] = {}
    for each in run:
        for record in each.records:
            by_round.setdefault(record.round, []).append(record)
    rounds = sorted(by_round)
    below = [0.0] * len(rounds)
    for name, spent in _PARTS.items():
        heights = [statistics.mean(spent(r) for r in by_round[number]) for number in rounds]
        seconds.bar(rounds, heights, bottom=below, label=name, width=0.8)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    for name, bytes_of in _BYTES.items():
        values = [statistics.mean(bytes_of(r) for r in by_round[number]) for number in rounds]
        traffic.plot(rounds, values, label=name)
    seconds.set_ylabel("seconds of a round")
    traffic.set_ylabel("of a process in a round")
    traffic.yaxis.set_major_formatter(EngFormatter(unit="B"))
    traffic.set_ylim(bottom=0)
    for axis in (seconds, traffic):
        axis.set_xlabel("round")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5)
    return figure


_PARTS: dict[str, Callable[[RoundRecord], float]] = {
    "train": lambda record: record.train_s,
    "encode": lambda record: record.encode_s,
    "exchange": lambda record: record.exchange_s,
    "fold": lambda record: record.fold_s,
    "rest (evaluation)": lambda record: max(
        0.0,
        record.time_s - record.train_s - record.encode_s - record.exchange_s - record.fold_s,
    ),
}

_BYTES: dict[str, Callable[[RoundRecord], float]] = {
    "sent": lambda record: record.bytes_sent,
    "received": lambda record: record.bytes_received,
    "own payload": lambda record: record.payload_bytes,
}


def _figure(found: SideBySide) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    over_rounds, over_bytes = figure.subplots(1, 2, sharey=True)
    factor = factor_of(found, found.metric)
    for index, way in enumerate(found.ways):
        curve = mean_curve(way, found.metric)
        if not curve:
            continue
        line = _LINES[index % len(_LINES)]
        layer = 2 + _LINES.index(line)  # what has gaps lies above what has none
        look: dict[str, Any] = {"color": f"C{index % 10}", "linestyle": line, "zorder": layer}
        rounds = list(curve)
        values = [factor * curve[number].mean for number in rounds]
        band = (
            [factor * curve[number].low for number in rounds],
            [factor * curve[number].high for number in rounds],
        )
        over_rounds.plot(rounds, values, label=_label(way.title), **look)
        over_rounds.fill_between(rounds, *band, color=look["color"], alpha=0.15, linewidth=0)
        _over_bytes(over_bytes, way, rounds, values, look)
    over_rounds.set_xlabel("round")
    over_rounds.xaxis.set_major_locator(MaxNLocator(integer=True))
    over_rounds.set_ylabel(_named(found.metric))
    over_bytes.set_xlabel("bytes sent by a device (dotted: none, the last round)")
    if any(line.get_linestyle() != _NOT_SENDING for line in over_bytes.get_lines()):
        over_bytes.set_xscale("log")
        over_bytes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        over_bytes.xaxis.set_minor_formatter(NullFormatter())
        over_bytes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    else:
        over_bytes.set_xticks([])
    if not found.higher_is_better:
        over_rounds.invert_yaxis()
    for axis in (over_rounds, over_bytes):
        axis.grid(alpha=0.3)
    figure.legend(*over_rounds.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _named(metric: str) -> str:
    return _label(metric_label(metric) + (", %" if in_percent(metric) else ""))


def _label(text: str) -> str:
    """Return a text that matplotlib shows as it is: no formulas, and none that it leaves out."""
    return "\u200b" + text.replace("$", "\\$")


def _over_bytes(
    axis: Axes, way: Way, rounds: Sequence[int], values: Sequence[float], look: dict[str, Any]
) -> None:
    sent = mean_sent(way)
    points = [(sent[n], value) for n, value in zip(rounds, values, strict=True) if sent.get(n)]
    if points:
        axis.plot(*zip(*points, strict=True), **look)
    else:
        axis.axhline(values[-1], color=look["color"], linestyle=_NOT_SENDING)
