"""What must be equal on all peers of a run, as key/value pairs that a refusal can name.

Timeouts, addresses, training settings and ``semantic.mode`` may differ and are not here.
"""

from __future__ import annotations

from pathlib import Path

from semantic_net.aggregation.fold import FOLD_VERSION, FoldConfig
from semantic_net.aggregation.ratio import ONE
from semantic_net.config import Config
from semantic_net.protocol.frames import VERSION
from semantic_net.semantic.schema import ModelSchema
from semantic_net.task.base import Task


def run_facts(config: Config, task: Task, schema: ModelSchema, fold: FoldConfig) -> dict[str, str]:
    """Return the facts of a run, which all its peers must share."""
    facts = {
        "protocol": str(VERSION),
        "fold": str(FOLD_VERSION),
        "run": config.p2p.run,
        # A user's task lies at another path on another device, often under the same name.
        "task": Path(config.task.name).stem,
        "model": f"{schema.num_parameters} parameters, {schema.digest()[:16]}",
        "p2p.base_every": str(config.p2p.base_every),
        "aggregation.rule": fold.rule.name,
        "aggregation.outer_momentum": _as_configured(fold.beta),
        "aggregation.outer_lr": _as_configured(fold.outer_lr),
    }
    if fold.rule.is_robust:
        mixing = str(fold.rule.mixes_nearest).lower()
        facts["aggregation.byzantine_ratio"] = _as_configured(fold.rule.byzantine)
        facts["aggregation.nearest_neighbour_mixing"] = mixing
    if config.p2p.turn_period > 1:
        facts["p2p.participants"] = f"one round in {config.p2p.turn_period} for each peer"
    if config.training.local_layers:
        facts["training.local_layers"] = ", ".join(config.training.local_layers)
    if config.security.max_liars:
        facts["security.max_liars"] = str(config.security.max_liars)
    for key, value in task.fingerprint.items():
        facts[f"task.{key}"] = value
    return facts


def _as_configured(fraction: int) -> str:
    """Return the shortest decimal that stands for n / 2^16: what a person has written, or less."""
    decimals = (round(fraction / ONE, digits) for digits in range(7))
    return next(f"{d:.10g}" for d in decimals if round(d * ONE) == fraction)
