"""Traces of one link each, which of them are held out, and the windows cut from them.

Traces are split, never windows: two windows of one trace overlap, so a split between them would
test a model on what it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from semantic_net.config import CsvConfig, PartitionConfig
from semantic_net.errors import DataError
from semantic_net.task.netqos.units import Float64Array, Inputs
from semantic_net.task.partition import shard_of

TIME_TOLERANCE_S = 1e-6
"""Times are sums of decimal steps; a step of exactly ``max_gap_s`` is no gap."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Samples of one link in order of time, in the columns' own units."""

    name: str
    group: str
    """The natural shard that it belongs to."""
    time_s: Float64Array
    values: Float64Array
    """(T, features)"""
    target: Float64Array


class WindowData:
    """A map-style data set of ``(window (W, C), target)``, all normalised.

    The target is the sample ``horizon`` steps after the window's last; no step from the window's
    first sample to it is longer than ``max_gap_s``.
    """

    def __init__(
        self,
        traces: Sequence[Trace],
        inputs: Inputs,
        *,
        window: int,
        horizon: int,
        max_gap_s: float,
    ) -> None:
        encoded = [inputs.encode(trace.values, trace.target) for trace in traces]
        self._window, self._ahead = window, window - 1 + horizon
        self._rows = torch.from_numpy(np.concatenate([rows for rows, _ in encoded]))
        self._targets = torch.from_numpy(np.concatenate([targets for _, targets in encoded]))
        starts, owners, offset = [], [], 0
        for index, trace in enumerate(traces):
            found = window_starts(trace.time_s, self._ahead, max_gap_s)
            starts.append(found + offset)
            owners.append(np.full(len(found), index))
            offset += len(trace.time_s)
        self._starts: list[int] = np.concatenate(starts).tolist()
        self.trace_index = np.concatenate(owners).astype(np.int64)
        """Of each window: the position of its trace."""

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        start = self._starts[index]
        return self._rows[start : start + self._window], self._targets[start + self._ahead]

    def batch(self, indices: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return many examples at once, stacked."""
        starts = torch.tensor(self._starts)[torch.from_numpy(indices)]
        return self._rows[starts[:, None] + torch.arange(self._window)], (
            self._targets[starts + self._ahead]
        )


def window_starts(time_s: Float64Array, ahead: int, max_gap_s: float) -> npt.NDArray[np.int64]:
    """Return the samples from which ``ahead`` more follow without a gap."""
    gaps = np.diff(time_s) > max_gap_s + TIME_TOLERANCE_S
    run = np.concatenate([[0], np.cumsum(gaps)])  # grows by one at each gap
    starts = np.arange(max(len(time_s) - ahead, 0), dtype=np.int64)
    whole: npt.NDArray[np.bool_] = run[starts] == run[starts + ahead]
    return starts[whole]


def hold_out(
    traces: Sequence[Trace], every: int, offset: int = 0
) -> tuple[list[Trace], list[Trace]]:
    """Return the traces to train on and those held out: every n-th of each group, from ``offset``.

    A group of a single trace trains.
    """
    groups: dict[str, list[Trace]] = {}
    for trace in traces:
        groups.setdefault(trace.group, []).append(trace)
    held = {
        id(trace) for group in groups.values() if len(group) > 1 for trace in group[offset::every]
    }
    return [t for t in traces if id(t) not in held], [t for t in traces if id(t) in held]


def shard_traces(
    traces: Sequence[Trace], csv: CsvConfig, partition: PartitionConfig
) -> tuple[list[Trace], list[Trace]]:
    """Return this shard's traces to train on, and those that judge its model.

    Held-out traces stay out whatever the shard. With natural groups, a shard is judged on those
    of its own groups; otherwise, or where they have none, on all of them.

    Raises:
        ConfigError: The traces do not give so many shards.
        DataError: There is nothing to hold out.
    """
    grouped = bool(csv.group)
    train, held = hold_out(traces, csv.holdout_every)
    if not held:
        raise DataError(
            f"data.csv: {len(traces)} trace(s), one a group, so none can be held out; "
            "whole traces are, never parts: give at least two traces, or fewer data.csv.group"
        )
    names = [trace.group if grouped else trace.name for trace in train]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    mine = shard_of(
        partition,
        len(train),
        groups=names,
        labels=(lambda: [numbers[name] for name in names]) if grouped else None,
    )
    own = [train[index] for index in mine]
    if partition.by == "natural" and grouped:
        groups = {trace.group for trace in own}
        return own, [trace for trace in held if trace.group in groups] or held
    return own, held
