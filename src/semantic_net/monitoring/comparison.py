"""A federated model beside the models that its peers would have without each other: one table."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from semantic_net.monitoring.text import (
    format_bytes,
    format_duration,
    format_metric,
    in_percent,
    metric_label,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The figures of one experiment; every model is evaluated on the same examples."""

    metric: str
    """Name of the main metric."""
    higher_is_better: bool
    federated: dict[str, float]
    """Every metric of the federated model."""
    local: tuple[dict[str, float], ...]
    """Every metric of each peer's local-only model."""
    num_examples: int
    """Examples in the common validation set."""
    local_steps: int
    """Optimiser steps that each model's peer took, in all rounds."""
    bytes_sent: int
    """Socket bytes of all peers together."""
    dense_bytes: int
    """The same updates as dense float32, each to every other peer."""
    federated_s: float
    local_s: float

    @property
    def best_local(self) -> int:
        """Index of the best local-only model."""
        sign = 1 if self.higher_is_better else -1
        return max(range(len(self.local)), key=lambda i: sign * self.local[i][self.metric])

    @property
    def gain(self) -> float:
        """By how much the federated model beats the best local-only one; negative: by nothing."""
        gain = self.federated[self.metric] - self.local[self.best_local][self.metric]
        return gain if self.higher_is_better else -gain


def comparison_table(found: Comparison) -> Table:
    """Return the table that closes a demo."""
    name = found.metric
    unit = "points" if in_percent(name) else metric_label(name)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model")
    table.add_column(metric_label(name), justify="right")
    table.add_column(f"against federated ({unit})", justify="right")
    table.add_row("federated", Text(format_metric(name, found.federated[name]), style="bold"), "")
    for index, metrics in enumerate(found.local):
        best = " (best)" if index == found.best_local and len(found.local) > 1 else ""
        table.add_row(
            f"peer {index + 1} alone{best}",
            format_metric(name, metrics[name]),
            _signed(name, metrics[name] - found.federated[name]),
        )
    return table


def comparison_lines(found: Comparison) -> list[Text]:
    """Return the sentences that go with the table."""
    name = found.metric
    unit = " points" if in_percent(name) else ""
    better = found.gain > 0
    ratio = found.dense_bytes / found.bytes_sent if found.bytes_sent else 0.0
    return [
        Text(
            f"Evaluated on the validation data of all peers together, {found.num_examples}"
            f" examples; every peer took {found.local_steps} local steps in either case."
        ),
        Text(
            f"The federated model {'beats' if better else 'does NOT beat'} the best local-only one:"
            f" {_signed(name, found.gain)}{unit} of {metric_label(name)}.",
            style="green" if better else "bold red",
        ),
        Text(
            f"Sent: {format_bytes(found.bytes_sent)} by all peers together; dense float32 would"
            f" take {format_bytes(found.dense_bytes)}, {ratio:.3g} times as much."
        ),
        Text(
            f"Time: {format_duration(found.federated_s)} for the peers,"
            f" {format_duration(found.local_s)} for the local-only models."
        ),
    ]


def _signed(metric: str, difference: float) -> str:
    return f"{100 * difference:+.1f}" if in_percent(metric) else f"{difference:+.4g}"
