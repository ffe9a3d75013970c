"""The splits of one data set into shards."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.config import PartitionConfig
from semantic_net.errors import ConfigError
from semantic_net.task.partition import shard_of, split

By = Literal["natural", "dirichlet", "iid", "quantity"]


@st.composite
def problems(draw: st.DrawFn) -> tuple[PartitionConfig, list[str], list[int]]:
    num_shards = draw(st.integers(1, 6))
    num_examples = draw(st.integers(num_shards, 60))
    groups = draw(
        st.lists(st.sampled_from("abcdefghij"), min_size=num_examples, max_size=num_examples)
    )
    groups[:num_shards] = [f"g{i}" for i in range(num_shards)]
    labels = draw(st.lists(st.integers(0, 10), min_size=num_examples, max_size=num_examples))
    cfg = PartitionConfig(
        by=draw(st.sampled_from(["natural", "dirichlet", "iid", "quantity"])),
        num_shards=num_shards,
        alpha=draw(st.sampled_from([1e-300, 0.01, 0.5, 5.0, 1e300])),
        seed=draw(st.integers(-(2**63), 2**63)),
    )
    return cfg, groups, labels


@given(problems())
def test_a_split_is_a_partition_into_ascending_shards_that_are_not_empty(
    problem: tuple[PartitionConfig, list[str], list[int]],
) -> None:
    cfg, groups, labels = problem
    shards = split(cfg, len(groups), groups=groups, labels=lambda: labels)
    assert len(shards) == cfg.num_shards
    assert all(len(shard) > 0 and np.all(np.diff(shard) > 0) for shard in shards)
    assert sorted(np.concatenate(shards).tolist()) == list(range(len(groups)))


@given(problems())
def test_a_split_is_the_same_each_time_and_shard_of_picks_from_it(
    problem: tuple[PartitionConfig, list[str], list[int]],
) -> None:
    cfg, groups, labels = problem
    shards = split(cfg, len(groups), groups=groups, labels=lambda: labels)
    for shard in reversed(range(cfg.num_shards)):
        mine = PartitionConfig(
            by=cfg.by, num_shards=cfg.num_shards, alpha=cfg.alpha, seed=cfg.seed, shard=shard
        )
        picked = shard_of(mine, len(groups), groups=groups, labels=lambda: labels)
        assert picked.tolist() == shards[shard].tolist()


def test_natural_deals_the_sorted_groups_round_robin() -> None:
    cfg = PartitionConfig(by="natural", num_shards=2)
    shards = split(cfg, 5, groups=["c", "a", "b", "a", "c"])
    assert [shard.tolist() for shard in shards] == [[0, 1, 3, 4], [2]]


def test_iid_and_unset_shards() -> None:
    shards = split(PartitionConfig(by="iid", num_shards=3), 10)
    assert sorted(len(shard) for shard in shards) == [3, 3, 4]
    assert shard_of(PartitionConfig(by="iid", num_shards=3), 4).tolist() == [0, 1, 2, 3]


def test_a_small_alpha_skews_the_labels_and_a_large_one_does_not() -> None:
    labels = [i % 4 for i in range(400)]

    def largest_label_share(alpha: float) -> float:
        cfg = PartitionConfig(by="dirichlet", num_shards=4, alpha=alpha)
        shards = split(cfg, 400, labels=lambda: labels)
        counts = np.array([np.bincount(np.take(labels, s), minlength=4) for s in shards])
        return float((counts.max(axis=1) / counts.sum(axis=1)).mean())

    assert largest_label_share(0.05) > 0.6
    assert largest_label_share(1000.0) < 0.35


def test_quantity_skews_the_sizes() -> None:
    sizes = [len(s) for s in split(PartitionConfig(by="quantity", num_shards=4, alpha=0.3), 400)]
    assert max(sizes) > 3 * min(sizes)


def test_labels_are_read_by_the_dirichlet_split_only() -> None:
    def unread() -> list[int]:
        raise AssertionError("labels were read")

    by: By
    for by in ("natural", "iid", "quantity"):
        split(PartitionConfig(by=by, num_shards=2), 4, groups=list("abab"), labels=unread)


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("natural", "has no natural groups; use iid"),
        ("dirichlet", "has no labels to skew; use natural"),
    ],
)
def test_a_split_that_the_data_does_not_offer_names_the_alternatives(by: By, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split(PartitionConfig(by=by, num_shards=2), 4)
    assert len(split(PartitionConfig(by=by, num_shards=1), 4)) == 1


def test_too_few_examples_or_groups_name_the_key() -> None:
    with pytest.raises(ConfigError, match=r"num_shards: 3 shards, but only 2 examples"):
        split(PartitionConfig(by="iid", num_shards=3), 2)
    with pytest.raises(ConfigError, match=r"num_shards: 3 shards, .* only 2 natural groups \(a, b"):
        split(PartitionConfig(by="natural", num_shards=3), 4, groups=list("abab"))
