"""Plots of the benchmarks, as SVG and PNG."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
from data_sets import DATA_SETS
from matplotlib import pyplot as plt
from methods import METHODS

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "semantic-net"  # the same file from the same figures


def plot_trade(results: list[dict[str, Any]], path: Path) -> None:
    """Plot the metric over the bytes of a whole run, a panel a data set, with the Pareto front."""
    names = list(dict.fromkeys(r["data"] for r in results))
    figure, axes = plt.subplots(1, len(names), figsize=(7 * len(names), 5.5), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        data_set = DATA_SETS[name]
        points = []
        for method in dict.fromkeys(r["method"] for r in results if r["data"] == name):
            group = [r for r in results if (r["data"], r["method"]) == (name, method)]
            metric = [abs(data_set.scale) * r["metric"] for r in group]
            megabytes = statistics.mean(r["bytes_sent"] for r in group) / 1e6
            mean = statistics.mean(metric)
            spread = [[mean - min(metric)], [max(metric) - mean]]
            axis.errorbar(megabytes, mean, yerr=spread, fmt="o", capsize=3)
            axis.annotate(
                METHODS[method].text,
                (megabytes, mean),
                textcoords="offset points",
                xytext=(6, 5),
                fontsize=8,
            )
            points.append((megabytes, mean if data_set.scale > 0 else -mean))
        front: list[tuple[float, float]] = []
        for megabytes, value in sorted(points):
            if not front or value > front[-1][1]:
                front.append((megabytes, value))
        sign = 1 if data_set.scale > 0 else -1
        axis.plot(*zip(*((x, sign * y) for x, y in front), strict=True), "--", color="0.6", lw=1)
        axis.set_xscale("log")
        axis.set_xlabel("MB that a peer sends in the whole run, all socket bytes")
        axis.set_ylabel(f"{data_set.metric} ({'%' if data_set.scale == 100 else 'as reported'})")
        axis.set_title(data_set.text)
        axis.grid(alpha=0.3)
        axis.margins(x=0.25)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=110)
