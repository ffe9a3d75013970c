"""Plots of a comparison, by matplotlib (extra ``report``): over rounds, and over bytes sent."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from semantic_net.monitoring.side_by_side import SideBySide, Way, mean_curve, mean_sent
from semantic_net.monitoring.text import in_percent, metric_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "semantic-net", "svg.fonttype": "none"}):
        figure = _figure(found)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", dpi=110)
    return {"svg": svg.getvalue(), "png": png.getvalue()}


def _figure(found: SideBySide) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    over_rounds, over_bytes = figure.subplots(1, 2, sharey=True)
    factor = 100 if in_percent(found.metric) else 1
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
        over_rounds.plot(rounds, values, label=way.title, **look)
        over_rounds.fill_between(rounds, *band, color=look["color"], alpha=0.15, linewidth=0)
        _over_bytes(over_bytes, way, rounds, values, look)
    over_rounds.set_xlabel("round")
    over_rounds.xaxis.set_major_locator(MaxNLocator(integer=True))
    over_rounds.set_ylabel(metric_label(found.metric) + (", %" if factor == 100 else ""))
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


def _over_bytes(
    axis: Axes, way: Way, rounds: Sequence[int], values: Sequence[float], look: dict[str, Any]
) -> None:
    sent = mean_sent(way)
    points = [(sent[n], value) for n, value in zip(rounds, values, strict=True) if sent.get(n)]
    if points:
        axis.plot(*zip(*points, strict=True), **look)
    else:
        axis.axhline(values[-1], color=look["color"], linestyle=_NOT_SENDING)
