"""The facts of a run: all that must be equal, as a person has configured it, and exact."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.aggregation.fold import FOLD_VERSION
from semantic_net.config import (
    AggregationConfig,
    Config,
    P2PConfig,
    SemanticConfig,
    TaskConfig,
    TrainingConfig,
)
from semantic_net.federated.facts import _as_configured, run_facts
from semantic_net.federated.learner import fold_config_of
from semantic_net.protocol.facts import differing_facts
from semantic_net.protocol.frames import VERSION
from semantic_net.semantic.schema import ModelSchema, TensorSpec
from semantic_net.task.base import Task

ONE = 1 << 16
WEIGHT = TensorSpec("weight", (2, 3), "parameter")
SCHEMA = ModelSchema((WEIGHT,))


def facts(
    config: Config | None = None,
    schema: ModelSchema = SCHEMA,
    **of_task: str,
) -> dict[str, str]:
    config = Config() if config is None else config
    fold = fold_config_of(schema, config.aggregation)
    return run_facts(config, Mock(spec=Task, fingerprint=of_task), schema, fold)


def keys_that_differ(theirs: dict[str, str]) -> list[str]:
    return [told.partition(":")[0] for told in differing_facts(facts(), theirs)]


@pytest.mark.parametrize(
    ("key", "theirs"),
    [
        ("run", Config(p2p=P2PConfig(run="another"))),
        ("task", Config(task=TaskConfig(name="netqos"))),
        ("p2p.base_every", Config(p2p=P2PConfig(base_every=8))),
        ("aggregation.outer_momentum", Config(aggregation=AggregationConfig(outer_momentum=0.25))),
        ("aggregation.outer_lr", Config(aggregation=AggregationConfig(outer_lr=0.5))),
    ],
)
def test_what_must_be_equal_is_a_fact(key: str, theirs: Config) -> None:
    assert keys_that_differ(facts(theirs)) == [key]


@pytest.mark.parametrize(
    ("key", "theirs"),
    [
        ("rule", AggregationConfig(rule="median")),
        ("byzantine_ratio", AggregationConfig(rule="clipped", byzantine_ratio=0.1)),
        (
            "nearest_neighbour_mixing",
            AggregationConfig(rule="clipped", nearest_neighbour_mixing=True),
        ),
    ],
)
def test_the_rule_and_its_settings_are_facts(key: str, theirs: AggregationConfig) -> None:
    ours = facts(Config(aggregation=AggregationConfig(rule="clipped")))
    told = differing_facts(ours, facts(Config(aggregation=theirs)))
    assert [line.partition(":")[0] for line in told] == [f"aggregation.{key}"]


def test_settings_that_the_mean_does_not_heed_are_no_facts() -> None:
    assert facts(Config(aggregation=AggregationConfig(byzantine_ratio=0.1))) == facts()


@pytest.mark.parametrize(
    "theirs",
    [
        TensorSpec("weight", (3, 2), "parameter"),
        TensorSpec("bias", (2, 3), "parameter"),
        TensorSpec("weight", (2, 3), "buffer"),
    ],
    ids=["shape", "name", "kind"],
)
def test_the_models_tensors_are_a_fact(theirs: TensorSpec) -> None:
    assert keys_that_differ(facts(schema=ModelSchema((theirs,)))) == ["model"]


def test_the_tasks_fingerprint_and_the_versions_are_facts() -> None:
    assert keys_that_differ(facts(classes="11")) == ["task.classes"]
    assert facts()["protocol"] == str(VERSION)
    assert facts()["fold"] == str(FOLD_VERSION)


@pytest.mark.parametrize(
    "theirs",
    [
        Config(p2p=P2PConfig(listen_timeout_s=1.0, liveness_s=99.0, topology="ring")),
        Config(training=TrainingConfig(rounds=99, learning_rate=0.5)),
        Config(semantic=SemanticConfig(mode="none")),
        Config(task=TaskConfig(name="disaster", seed=7)),
    ],
    ids=["timeouts and topology", "training", "mode", "seed"],
)
def test_what_may_differ_is_none(theirs: Config) -> None:
    assert keys_that_differ(facts(theirs)) == []


@pytest.mark.parametrize(("configured", "shown"), [(0.5, "0.5"), (0.9, "0.9"), (0, "0"), (1, "1")])
def test_a_fraction_is_shown_as_it_was_written(configured: float, shown: str) -> None:
    assert _as_configured(round(configured * ONE)) == shown


@given(st.integers(0, 16 * ONE))
def test_two_fractions_that_differ_are_shown_differently(fraction: int) -> None:
    assert round(float(_as_configured(fraction)) * ONE) == fraction
