"""What the benchmarks train on: how each data set is split, for how long it is learned, how judged.

Fashion-MNIST comes from a Debian package; the real images and traces from the folder that the
variable ``SEMANTIC_NET_DATA`` names (docs/data.md says where they come from).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import fashion_mnist

from semantic_net.config import Config, load_config
from semantic_net.federated.shards import Joined, load_shard
from semantic_net.task import MapDataset, Task

CONFIGS = Path(__file__).parents[1] / "configs"
DATA = Path(os.environ.get("SEMANTIC_NET_DATA", "data"))


@dataclass(frozen=True, slots=True)
class DataSet:
    """One data set, split among peers."""

    text: str
    metric: str
    unit: str
    """Of differences between methods."""
    scale: float
    """From the metric to that unit; negative where lower is better."""
    judged_rounds: int
    """The result of a run is the mean over so many last rounds."""
    config: Callable[[list[str]], Config]
    load: Callable[[Config, int], tuple[list[Task], MapDataset]]
    """From configuration and seed to each peer's task, and what the common model is judged on."""
    missing: Callable[[], str | None]
    """Tell what to do where the data is not here."""

    @property
    def is_relative(self) -> bool:
        """Whether differences are in per cent of the first method's metric."""
        return self.unit == "%"


def _fashion(text: str, alpha: float | None, *more: str) -> DataSet:
    def load(config: Config, seed: int) -> tuple[list[Task], MapDataset]:
        tasks = fashion_mnist.tasks(alpha, num_peers=4, seed=seed)
        return tasks, tasks[0].val_data

    def config(overrides: list[str]) -> Config:
        return load_config(
            None,
            [
                "training.rounds=30",
                "training.steps=40",
                "training.batch_size=32",
                "training.optimizer=sgd",
                "training.learning_rate=0.02",
                "training.schedule=cosine",
                *more,
                *overrides,
            ],
        )

    return DataSet(
        text=f"Fashion-MNIST, {text}",
        metric="accuracy",
        unit="points",
        scale=100,
        judged_rounds=5,
        config=config,
        load=load,
        missing=lambda: None if fashion_mnist.is_there() else fashion_mnist.MISSING,
    )


def _from_file(text: str, file: str, data: str, metric: str, unit: str, scale: float) -> DataSet:
    path = DATA / data

    def load(config: Config, seed: int) -> tuple[list[Task], MapDataset]:
        shards = range(config.data.partition.num_shards)
        tasks = [load_shard(config, shard) for shard in shards]
        return tasks, Joined([task.val_data for task in tasks])

    return DataSet(
        text=text,
        metric=metric,
        unit=unit,
        scale=scale,
        judged_rounds=3,
        config=lambda overrides: load_config(CONFIGS / file, [f"data.path={path}", *overrides]),
        load=load,
        missing=lambda: None if path.exists() else f"no {path}: set SEMANTIC_NET_DATA",
    )


DATA_SETS = {
    "fashion_iid": _fashion("IID", None),
    "fashion_dirichlet": _fashion("Dirichlet 0.5", 0.5),
    "fashion_skewed": _fashion("Dirichlet 0.1", 0.1),
    "fashion_adam": _fashion(
        "Dirichlet 0.5, Adam", 0.5, "training.optimizer=adam", "training.learning_rate=0.001"
    ),
    "dubai": _from_file(
        "Dubai, aerial images", "disaster_dubai.yaml", "dubai_aerial", "miou", "points", 100
    ),
    "cicv5g": _from_file(
        "CICV5G, round-trip time",
        "netqos_cicv5g.yaml",
        "cicv5g/cicv5g_rtt_5hz.csv.gz",
        "rmse",
        "%",
        -1,
    ),
}
"""By name, as in the commands."""


def seeded(config: Config, seed: int) -> Config:
    """Return a configuration of which all that is random follows from a seed."""
    return replace(
        config,
        task=replace(config.task, seed=seed),
        training=replace(config.training, seed=seed, device="cpu", num_threads=1),
    )
