"""The configuration of an experiment on one machine; torch is not imported for it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from semantic_net.config import Config, load_config


def experiment_config(
    file: Path | None, overrides: Iterable[str], *, peers: int, seed: int, run: str
) -> Config:
    """Return what all processes of an experiment share; only the shard is each one's own.

    Args:
        file: A configuration of the user's; None takes the defaults.
        overrides: As of ``--set``; they may change all that the experiment says.
        peers: Each has one shard, and its part of this machine's cores.
        seed: Of the first weights, the data, its split and the batch order.
        run: The run's name.

    Raises:
        ConfigError: The file or an override is wrong.
    """
    cores = os.cpu_count() or 1
    seeds = [f"{key}.seed={seed}" for key in ("task", "data", "data.partition", "training")]
    return load_config(
        file,
        [
            f"training.num_threads={max(1, cores // peers)}",
            f"p2p.run={run}",
            *seeds,
            f"data.partition.num_shards={peers}",
            *overrides,
        ],
    )
