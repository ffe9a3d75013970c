"""Plots of the benchmarks, as SVG and PNG."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

import matplotlib as mpl
from cells import Result
from data_sets import DATA_SETS
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter
from methods import METHODS
from paired import differences, interval

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "semantic-net"  # the same file from the same figures

_LOOKS = tuple(itertools.product("osD^v", [f"C{i}" for i in range(8)]))
_NAMES = {"miou": "mIoU", "rmse": "RMSE, ms"}


def plot_trade(results: list[Result], path: Path) -> None:
    """Plot the metric over the bytes of a whole run, a panel a data set, with the Pareto front.

    Bars are the 95% intervals of the paired differences from the first method. An axis of which
    lower is better points down, so that up is better everywhere.
    """
    names = list(dict.fromkeys(r["data"] for r in results))
    methods = list(dict.fromkeys(r["method"] for r in results))
    looks = dict(zip(methods, itertools.cycle(_LOOKS), strict=False))
    figure, axes = plt.subplots(
        1, len(names), figsize=(5 * len(names) + 3, 5), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], names, strict=True):
        data_set = DATA_SETS[name]
        here = [r for r in results if r["data"] == name]
        reference = [r for r in here if r["method"] == here[0]["method"]]
        factor = 1 if data_set.is_relative else data_set.scale
        points = []
        for method in dict.fromkeys(r["method"] for r in here):
            group = [r for r in here if r["method"] == method]
            mean = factor * statistics.mean(r["metric"] for r in group)
            megabytes = statistics.mean(r["bytes_sent"] for r in group) / 1e6
            _, half = interval(differences(data_set, group, reference))
            marker, colour = looks[method]
            axis.errorbar(
                megabytes,
                mean,
                yerr=half * mean / 100 if data_set.is_relative else half,
                fmt=marker,
                color=colour,
                capsize=3,
                label=METHODS[method].text,
            )
            points.append((megabytes, mean))
        front = points[:0]
        for point in sorted(points):
            if not front or (point[1] - front[-1][1]) * data_set.scale > 0:
                front.append(point)
        axis.plot(*zip(*front, strict=True), "--", color="0.6", lw=1, zorder=0)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("MB that a peer sends in the whole run")
        percent = "" if data_set.is_relative else ", %"
        axis.set_ylabel(f"{_NAMES.get(data_set.metric, data_set.metric)}{percent}")
        axis.set_title(data_set.text)
        axis.grid(alpha=0.3)
        if data_set.scale < 0:
            axis.invert_yaxis()
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=110)
