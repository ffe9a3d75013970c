"""The figures of a demo: what the baselines found, put beside what the peers recorded.

Values and arithmetic only: no process, no model, no printing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from semantic_net.config import Config
from semantic_net.errors import StartError
from semantic_net.monitoring.comparison import Comparison
from semantic_net.monitoring.digests import Verdict
from semantic_net.records import RoundRecord


class LocalResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one baseline process found; every metric is of the common validation data."""

    metric: str
    """Name of the main metric."""
    higher_is_better: bool
    local: dict[str, float]
    federated: dict[str, float] | None
    num_examples: int
    num_steps: int
    """Optimiser steps that the local-only model took."""


class DemoFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one demo as ``--json`` writes them, for tables over several seeds."""

    task: str
    mode: str
    seed: int
    peers: int
    rounds: int
    metric: str
    federated: dict[str, float]
    local: list[dict[str, float]]
    gain: float
    """Federated against the best local-only model, in the metric's unit; positive is better."""
    num_examples: int
    local_steps: int
    bytes_sent: int
    """Socket bytes of all peers together."""
    payload_bytes: int
    """Of each update once."""
    dense_bytes: int
    """All updates as dense float32, each to every other peer."""
    federated_s: float
    local_s: float
    digests_equal: bool
    state_digest: str


def compare_models(
    results: Sequence[LocalResult],
    histories: Sequence[Sequence[RoundRecord]],
    federated_s: float,
    local_s: float,
) -> Comparison:
    """Put the baselines' results and the peers' records together.

    Raises:
        StartError: A model has no finite main metric, so that there is nothing to compare.
    """
    first = results[0]
    federated = first.federated or {}
    metrics = [federated, *(result.local for result in results)]
    if not all(math.isfinite(found.get(first.metric, math.nan)) for found in metrics):
        raise StartError(
            f"a model has no finite {first.metric or 'metric'}; lower training.learning_rate"
        )
    records = [record for history in histories for record in history]
    return Comparison(
        metric=first.metric,
        higher_is_better=first.higher_is_better,
        federated=federated,
        local=tuple(result.local for result in results),
        num_examples=first.num_examples,
        local_steps=first.num_steps,
        bytes_sent=sum(record.bytes_sent for record in records),
        # Each update reaches each other peer once, whichever way it takes.
        dense_bytes=(len(histories) - 1) * sum(record.dense_bytes for record in records),
        federated_s=federated_s,
        local_s=local_s,
    )


def demo_figures(
    config: Config,
    seed: int,
    found: Comparison,
    judged: Verdict,
    histories: Sequence[Sequence[RoundRecord]],
) -> DemoFigures:
    """Return what ``--json`` writes."""
    return DemoFigures(
        task=config.task.name,
        mode=config.semantic.trade.mode,
        seed=seed,
        peers=len(histories),
        rounds=config.training.rounds,
        metric=found.metric,
        federated=found.federated,
        local=list(found.local),
        gain=found.gain,
        num_examples=found.num_examples,
        local_steps=found.local_steps,
        bytes_sent=found.bytes_sent,
        payload_bytes=sum(record.payload_bytes for history in histories for record in history),
        dense_bytes=found.dense_bytes,
        federated_s=found.federated_s,
        local_s=found.local_s,
        digests_equal=judged.agreed,
        state_digest=judged.state_digest,
    )
