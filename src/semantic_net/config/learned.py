"""The sections of a configuration file that say what is learned, and from which data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from semantic_net.config.checks import require, require_one_of


@dataclass(frozen=True, slots=True, kw_only=True)
class DisasterConfig:
    """The ``task.disaster`` section: the segmentation model and its tiles."""

    base_channels: int = 16
    """Channels of the U-Net's first level; each deeper level doubles them."""
    depth: int = 3
    """Times the U-Net halves its resolution."""
    tile_size: int = 64
    """Side of the square training and validation tiles, in pixels."""

    def __post_init__(self) -> None:
        require(self.base_channels >= 1, "task.disaster.base_channels", ">= 1", self.base_channels)
        require(1 <= self.depth <= 6, "task.disaster.depth", "in [1, 6]", self.depth)
        require(
            self.tile_size >= 1 << self.depth and self.tile_size % (1 << self.depth) == 0,
            "task.disaster.tile_size",
            f"a multiple of 2^depth = {1 << self.depth}",
            self.tile_size,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NetqosConfig:
    """The ``task.netqos`` section: what the forecaster sees and how far it looks ahead."""

    window: int = 10
    """Samples of the past that the model sees."""
    horizon: int = 5
    """Steps ahead that it forecasts."""
    hidden: int = 64
    """Units of the LSTM."""
    layers: int = 1
    """Stacked LSTM layers."""

    def __post_init__(self) -> None:
        for name in ("window", "horizon", "hidden", "layers"):
            value = getattr(self, name)
            require(value >= 1, f"task.netqos.{name}", ">= 1", value)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionConfig:
    """The ``data.partition`` section: which part of one data set this peer trains on."""

    by: Literal["natural", "dirichlet", "iid", "quantity"] = "natural"
    """natural (region, tile, trace group), dirichlet (label skew), iid, quantity (size skew)."""
    num_shards: int = 1
    """Parts that the data is split into."""
    shard: int | None = None
    """This peer's part, from 0. Unset: all of the data; a synthetic source then picks its own
    region from the peer's id."""
    alpha: float = 0.5
    """Concentration of the dirichlet and quantity splits: smaller is more skewed."""
    seed: int = 0
    """Seed of the random splits; equal on all peers, so that parts do not overlap."""
    validation: Literal["own", "all", "none"] = "own"
    """Whose data a peer's metrics are of: its ``own``, that of ``all`` shards together, so that
    they compare, or ``none``: it evaluates nothing, since another one does."""

    def __post_init__(self) -> None:
        require_one_of("data.partition.by", self.by, PARTITIONS)
        require(self.num_shards >= 1, "data.partition.num_shards", ">= 1", self.num_shards)
        require(
            self.shard is None or 0 <= self.shard < self.num_shards,
            "data.partition.shard",
            f"in [0, num_shards = {self.num_shards})",
            self.shard,
        )
        require(self.alpha > 0, "data.partition.alpha", "> 0", self.alpha)
        require_one_of("data.partition.validation", self.validation, ("own", "all", "none"))


PARTITIONS = ("natural", "dirichlet", "iid", "quantity")


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvConfig:
    """The ``data.csv`` section: the columns of a trace file (plain or .gz)."""

    trace: str = "trace_id"
    """Column that names the trace; a window never spans two."""
    time: str = "t_s"
    """Column of the sample's time, in seconds."""
    features: tuple[str, ...] = ("rtt_ms",)
    """Columns that the model sees; the end of a name tells its unit: _ms, _dbm, _db, _mps, ..."""
    target: str = "rtt_ms"
    """Column that it forecasts."""
    group: tuple[str, ...] = ()
    """Columns whose values make the natural split: one shard a distinct combination. Empty: one
    shard a trace."""
    max_gap_s: float = 1.0
    """A window spans no step longer than this, in seconds."""
    target_max: float | None = None
    """Clip the target, and features in its unit, from above. Unset: no clipping."""
    holdout_every: int = 5
    """Every n-th trace of a group is held out for validation."""

    def __post_init__(self) -> None:
        require(len(self.features) >= 1, "data.csv.features", "a list of columns", self.features)
        require(self.max_gap_s > 0, "data.csv.max_gap_s", "> 0", self.max_gap_s)
        require(self.holdout_every >= 2, "data.csv.holdout_every", ">= 2", self.holdout_every)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """The ``data`` section: where a device's own data comes from."""

    source: str = "synthetic"
    """disaster: synthetic, rescuenet, floodnet, folder. netqos: synthetic, csv."""
    path: str = ""
    """Folder or file of the source; not used by synthetic."""
    num_train: int = 96
    """Synthetic only: training scenes (disaster) or traces (netqos) of this peer."""
    num_val: int = 24
    """Synthetic only: validation scenes or traces of this peer."""
    classes: tuple[str, ...] = ()
    """Source folder: the class names, by mask index."""
    ignore_index: int | None = None
    """Source folder: the mask index that counts for nothing. Unset: none."""
    val_ratio: float = 0.2
    """Sources without a validation split of their own: the share held out for it."""
    max_side: int | None = None
    """Shrink images on reading to at most this many pixels on the longer side. Unset: keep."""
    seed: int = 0
    """Seed of synthetic data and of the held-out choice."""
    csv: CsvConfig = field(default_factory=CsvConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)

    def __post_init__(self) -> None:
        require(self.num_train >= 1, "data.num_train", ">= 1", self.num_train)
        require(self.num_val >= 1, "data.num_val", ">= 1", self.num_val)
        require(0 < self.val_ratio < 1, "data.val_ratio", "in (0, 1)", self.val_ratio)
        require(
            self.max_side is None or self.max_side >= 16, "data.max_side", ">= 16", self.max_side
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskConfig:
    """The ``task`` section, and what a task's ``load`` receives.

    ``data``, ``peer_seed`` and ``observe`` are no keys of the section: they are filled in from
    the sections ``data`` and ``p2p``, and from the peer's id, or its shard's number if it has one.
    """

    name: str = "disaster"
    """disaster, netqos, or path/to/file.py with a ``load(cfg)`` of your own."""
    seed: int = 0
    """Seed of the model's first weights; give all peers the same."""
    disaster: DisasterConfig = field(default_factory=DisasterConfig)
    netqos: NetqosConfig = field(default_factory=NetqosConfig)
    options: dict[str, Any] = field(default_factory=dict)
    """Free keys for a task of your own."""

    data: DataConfig = field(default_factory=DataConfig, metadata={"key": False})
    peer_seed: int = field(default=0, metadata={"key": False})
    observe: bool = field(default=False, metadata={"key": False})
    """There may be no data here: ``train_data`` and ``val_data`` may be empty."""

    def __post_init__(self) -> None:
        require(bool(self.name), "task.name", "a task's name or a path to a .py file", self.name)
