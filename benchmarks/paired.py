"""Methods compared in pairs of equal seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from cells import Result
from data_sets import DataSet

T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95% quantiles of Student's t, for 1 to 9 degrees of freedom."""


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the mean of paired differences, and half the width of its 95% interval."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return mean, math.nan
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return mean, T_95[min(len(differences) - 2, len(T_95) - 1)] * error


def differences(data_set: DataSet, ours: list[Result], theirs: list[Result]) -> list[float]:
    """Return ours minus theirs for each seed that both have; above zero ours is better."""
    other = {result["seed"]: result["metric"] for result in theirs}
    return [
        data_set.scale
        * (result["metric"] - other[result["seed"]])
        / (other[result["seed"]] / 100 if data_set.is_relative else 1)
        for result in ours
        if result["seed"] in other
    ]
