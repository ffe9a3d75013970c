"""What must be equal on all peers of a run, as key/value pairs that a refusal can name.

Timeouts, addresses, training settings and ``semantic.mode`` may differ and are not here.
"""

from __future__ import annotations

from pathlib import Path

from semantic_net.aggregation.fold import FOLD_VERSION, FoldConfig
from semantic_net.config import Config
from semantic_net.protocol.frames import VERSION
from semantic_net.semantic.schema import ModelSchema
from semantic_net.task.base import Task


def run_facts(config: Config, task: Task, schema: ModelSchema, fold: FoldConfig) -> dict[str, str]:
    """Return the facts of a run (DESIGN 2, rule 10)."""
    facts = {
        "protocol": str(VERSION),
        "fold": str(FOLD_VERSION),
        "run": config.p2p.run,
        # A user's task lies at another path on another device, often under the same name.
        "task": Path(config.task.name).stem,
        "model": f"{schema.num_parameters} parameters, {schema.digest()[:16]}",
        "aggregation.rule": fold.rule,
        "aggregation.outer_momentum": f"{fold.beta}/65536",
        "aggregation.outer_lr": f"{fold.outer_lr}/65536",
    }
    for key, value in task.fingerprint.items():
        facts[f"task.{key}"] = value
    return facts
