"""How one data set is cut into shards, so that a run on one machine can stand for many devices.

A split is a pure function of the configuration, the number of examples and what is known of each
example: the same on every peer, disjoint and complete, with no empty shard. Nothing here reads
data or knows a task; labels are asked for only by the split that needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from semantic_net.config import PartitionConfig
from semantic_net.errors import ConfigError

Indices = npt.NDArray[np.int64]

# Outside of these, gamma variates under- or overflow and a share would be 0 / 0.
_MIN_ALPHA, _MAX_ALPHA = 1e-3, 1e6


def shard_of(
    cfg: PartitionConfig,
    num_examples: int,
    *,
    groups: Sequence[str] | None = None,
    labels: Callable[[], Sequence[int]] | None = None,
) -> Indices:
    """Return the ascending indices of this peer's examples; all of them where no shard is set.

    Args and errors are those of `split`.
    """
    if cfg.shard is None:
        return np.arange(num_examples, dtype=np.int64)
    return split(cfg, num_examples, groups=groups, labels=labels)[cfg.shard]


def split(
    cfg: PartitionConfig,
    num_examples: int,
    *,
    groups: Sequence[str] | None = None,
    labels: Callable[[], Sequence[int]] | None = None,
) -> list[Indices]:
    """Cut ``range(num_examples)`` into ``cfg.num_shards`` parts, each ascending and not empty.

    Args:
        cfg: Which split, into how many parts, under which seed.
        num_examples: Of the whole data set.
        groups: The natural group of each example (a region, a tile, a scenario); None where the
            data has none.
        labels: Returns the dominant label of each example; called by the dirichlet split only,
            since it may have to read all of the data. None where there are no labels.

    Raises:
        ConfigError: Too few examples or groups for the shards, or a split that the data does not
            offer; the message names the key.
    """
    if num_examples < cfg.num_shards:
        raise ConfigError(
            f"data.partition.num_shards: {cfg.num_shards} shards, but only {num_examples} examples;"
            " use fewer shards"
        )
    if cfg.num_shards == 1:
        return [np.arange(num_examples, dtype=np.int64)]
    if cfg.by == "natural":
        owner = _by_group(cfg, groups)
    else:
        # One generator a call, so that no other draw can change the split. Seeds may be negative.
        rng = np.random.default_rng([cfg.seed % (1 << 64), cfg.num_shards])
        if cfg.by == "dirichlet":
            owner = _by_label(cfg, labels, rng)
        elif cfg.by == "quantity":
            owner = _deal(num_examples, _shares(cfg, rng), rng)
        else:
            owner = _deal(num_examples, np.full(cfg.num_shards, 1 / cfg.num_shards), rng)
    assert owner.shape == (num_examples,), "one group or label an example"
    _fill_empty(owner, cfg.num_shards)
    return [np.flatnonzero(owner == shard).astype(np.int64) for shard in range(cfg.num_shards)]


def _by_group(cfg: PartitionConfig, groups: Sequence[str] | None) -> Indices:
    """Deal the sorted groups to the shards round robin."""
    if groups is None:
        raise ConfigError(
            "data.partition.by: this data has no natural groups; use iid, dirichlet or quantity"
        )
    names = sorted(set(groups))
    if len(names) < cfg.num_shards:
        raise ConfigError(
            f"data.partition.num_shards: {cfg.num_shards} shards, but the data has only"
            f" {len(names)} natural groups ({', '.join(names[:8])}); use fewer shards, or"
            " data.partition.by: iid, dirichlet or quantity"
        )
    shard = {name: position % cfg.num_shards for position, name in enumerate(names)}
    return np.array([shard[name] for name in groups], dtype=np.int64)


def _by_label(
    cfg: PartitionConfig, labels: Callable[[], Sequence[int]] | None, rng: np.random.Generator
) -> Indices:
    """Give each shard its own random share of each label."""
    if labels is None:
        raise ConfigError(
            "data.partition.by: this data has no labels to skew; use natural, iid or quantity"
        )
    of = np.asarray(labels(), dtype=np.int64)
    owner = np.empty_like(of)
    for label in np.unique(of):
        members = np.flatnonzero(of == label)
        owner[members] = _deal(len(members), _shares(cfg, rng), rng)
    return owner


def _shares(cfg: PartitionConfig, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    alpha = min(max(cfg.alpha, _MIN_ALPHA), _MAX_ALPHA)
    return rng.dirichlet(np.full(cfg.num_shards, alpha))


def _deal(num_examples: int, shares: npt.NDArray[np.float64], rng: np.random.Generator) -> Indices:
    """Return a shard for each example, at random, in numbers as close to ``shares`` as they go."""
    ends = np.rint(np.cumsum(shares)[:-1] * num_examples).astype(np.int64)
    owner = np.searchsorted(ends, np.arange(num_examples), side="right")
    return rng.permutation(owner).astype(np.int64)


def _fill_empty(owner: Indices, num_shards: int) -> None:
    """Move one example of the largest shard into each empty one, in place."""
    sizes = np.bincount(owner, minlength=num_shards)
    for shard in np.flatnonzero(sizes == 0):
        largest = int(np.argmax(sizes))
        owner[np.flatnonzero(owner == largest)[-1]] = shard
        sizes[largest] -= 1
        sizes[shard] = 1
