"""The loader refuses what is wrong by name, and what it dumps it reads back equal."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_net.config import Config, PartitionConfig, dump_config, load_config
from semantic_net.config.learned import PARTITIONS
from semantic_net.config.sections import P2PConfig
from semantic_net.config.semantic import MODES
from semantic_net.errors import ConfigError


def load_text(folder: Path, text: str) -> Config:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p2p: {por: 3}", "p2p.por: unknown key; did you mean p2p.port?"),
        ("p2p: {topk: 1}", "p2p.topk: unknown key; did you mean semantic.topk?"),
        ("task: {data: {}}", "task.data: unknown key; did you mean data?"),
        ("task: {peer_seed: 1}", "task.peer_seed: unknown key; did you mean"),
        ("data: {csv: {trac: t}}", "data.csv.trac: unknown key; did you mean data.csv.trace?"),
        ("foo: 1", "foo: unknown key; known here: task, data, training, semantic, p2p,"),
        ("1: 2", "1: unknown key; known here: task"),
        ("p2p: 3", "p2p: expected a section with keys, got 3"),
        ("p2p: [port]", "p2p: expected a section with keys, got ['port']"),
        ("- p2p", "expected sections such as 'p2p:', got ['p2p']"),
        ("p2p: {port: '5'}", "p2p.port: expected a whole number, got '5'"),
        ("p2p: {port: 5.0}", "p2p.port: expected a whole number, got 5.0"),
        ("p2p: {port: true}", "p2p.port: expected a whole number, got True"),
        ("p2p: {port: null}", "p2p.port: expected a whole number, got None"),
        ("p2p: {run: 5}", "p2p.run: expected text, got 5; quote it"),
        ("p2p: {run: }", "p2p.run: expected text, got None"),
        ("p2p: {peers: 'a:1'}", "p2p.peers: expected a list, got 'a:1'"),
        ("data: {classes: [water, 1]}", "data.classes[1]: expected text, got 1; quote it"),
        ("training: {amp: 'yes'}", "training.amp: expected true or false, got 'yes'"),
        ("training: {learning_rate: fast}", "training.learning_rate: expected a number, got 'fast"),
        ("training: {learning_rate: .nan}", "training.learning_rate: expected a number, got nan"),
        (
            f"training: {{learning_rate: {10**400}}}",
            "training.learning_rate: expected a number, got 1000",
        ),
        ("training: {learning_rate: true}", "training.learning_rate: expected a number, got True"),
        ("semantic: {mode: off}", "semantic.mode: expected one of none, gradients_topk, weights_"),
        (
            "semantic: {mode: zip}",
            "semantic.mode must be one of auto, entropy_quantize, gradients_topk, none, topk_",
        ),
        ("task: {options: []}", "task.options: expected a mapping, got []"),
        ("p2p: {port: 1, port: 2}", "not YAML in line 1: 'port' is given twice"),
        ("p2p: {port: 1}\np2p: {run: a}", "not YAML in line 2: 'p2p' is given twice"),
        ("a: [", "not YAML in line 1: "),
        ("x: \0", "not YAML: unacceptable character"),
        ("p2p: !!python/object:os.system x", "could not determine a constructor for the tag"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("p2p.port=70000", "p2p.port must be in [0, 65535], got 70000"),
        ("p2p.heartbeat_s=6", "p2p.liveness_s must be >= 2 x p2p.heartbeat_s = 12.0, got 10.0"),
        ("p2p.heartbeat_s=0", "p2p.heartbeat_s must be > 0, got 0.0"),
        ("p2p.liveness_s=0", "p2p.liveness_s must be > 0, got 0.0"),
        ("p2p.participants=0", "p2p.participants must be >= 1, or null, got 0"),
        ("p2p.participants=3", "p2p.fleet must be set with p2p.participants and p2p.topology full"),
        (
            "p2p={participants: 3, topology: mesh-4}",
            "p2p.fleet must be set with p2p.participants and p2p.topology mesh-4",
        ),
        ("p2p={participants: 3, fleet: 2}", "p2p.fleet must be null, or from p2p.participants to"),
        ("semantic.topk=0", "semantic.topk must be in (0, 1], got 0.0"),
        ("semantic={mode: none, budget_s: 1}", "semantic.budget_s must be null where"),
        ("semantic.bit_width=9", "semantic.bit_width must be in [1, 8], got 9"),
        ("task.disaster.tile_size=12", "task.disaster.tile_size must be a multiple of 2^depth = 8"),
        ("data.partition.shard=1", "data.partition.shard must be in [0, num_shards = 1), got 1"),
        ("data.csv.features=[]", "data.csv.features must be a list of columns"),
        ("training.learning_rate=1e39", "training.learning_rate must be in (0, 1e6], got 1e+39"),
        ("training.rounds=0", "training.rounds must be >= 1, got 0"),
        ("aggregation.outer_lr=0", "aggregation.outer_lr must be in (0, 2], got 0.0"),
        ("p2p.prot=1", "p2p.prot: unknown key; did you mean p2p.port?"),
        ("p2p.port", "--set p2p.port: expected section.key=value"),
        ("=1", "--set =1: expected section.key=value"),
        ("p2p..port=1", "--set p2p..port=1: expected section.key=value"),
        ("p2p.run=[", "--set p2p.run=[: the value is not YAML; quote it"),
        ("p2p.port.x=1", "p2p.port: expected a whole number, got {'x': 1}"),
    ],
)
def test_an_override_is_checked_like_the_file(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert message in str(caught.value)


def test_overrides_go_above_the_file_and_later_ones_above_earlier(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("p2p: {port: 1, run: a}\ntraining:\n", encoding="utf-8")
    config = load_config(
        path,
        ["p2p.port=2", "p2p.port=3", "training.steps=7", "p2p.peers=['[::1]:5000', b:1]"],
    )
    assert (config.p2p.port, config.p2p.run, config.training.steps) == (3, "a", 7)
    assert config.p2p.peers == ("[::1]:5000", "b:1")


def test_an_override_below_a_value_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("p2p: {port: 1}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--set p2p.port.x=1: port is no section"):
        load_config(path, ["p2p.port.x=1"])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing.yaml: cannot be read: No such file"):
        load_config(tmp_path / "missing.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"p2p: {run: caf\xe9}")
    with pytest.raises(ConfigError, match=r"latin.yaml: cannot be read: not UTF-8"):
        load_config(latin)


def test_what_people_write_is_understood(tmp_path: Path) -> None:
    config = load_text(
        tmp_path,
        """
        semantic: {mode: none}
        training: {learning_rate: 1e-3, weight_decay: 0, max_grad_norm: 2}
        data: {ignore_index: null, partition: }
        p2p: {<<: {port: 6000}}
        task: {options: {depth: 3, 5: [a]}}
        """,
    )
    assert config.semantic.mode == "none"
    assert config.training.learning_rate == 0.001
    assert config.training.max_grad_norm == 2.0
    assert config.data.partition == PartitionConfig()
    assert config.p2p.port == 6000
    assert config.task.options == {"depth": 3, 5: ["a"]}
    assert load_text(tmp_path, "# nothing\n") == Config()


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
positive = st.floats(1e-12, 1e12, allow_nan=False)
LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "task.name": words,
    "task.seed": st.integers(),
    "task.disaster.base_channels": st.integers(1, 512),
    "task.netqos.window": st.integers(1, 999),
    "task.options": st.dictionaries(words, st.none() | st.booleans() | st.integers() | words),
    "data.path": words,
    "data.classes": st.lists(words, max_size=4),
    "data.ignore_index": st.none() | st.integers(),
    "data.val_ratio": st.floats(0.001, 0.999),
    "data.csv.features": st.lists(words, min_size=1, max_size=3),
    "data.csv.target_max": st.none() | positive,
    "data.partition.by": st.sampled_from(PARTITIONS),
    "training.steps": st.none() | st.integers(1, 10**9),
    "training.learning_rate": st.floats(1e-12, 1e6),
    "training.amp": st.booleans(),
    "training.device": words,
    "semantic.mode": st.sampled_from(MODES),
    "semantic.topk": st.floats(1e-9, 1),
    "p2p.run": words,
    "p2p.peers": st.lists(words, max_size=3),
    "p2p.listen_timeout_s": positive,
    "aggregation.outer_momentum": st.floats(0, 0.99),
    "monitoring.tensorboard": st.booleans(),
    "monitoring.log_level": st.sampled_from(["debug", "info", "warning", "error"]),
}


def tree_of(values: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return tree


@settings(max_examples=30)  # PyYAML is slow, and each example has many keys
@given(st.fixed_dictionaries({}, optional=LEAVES))
def test_a_dump_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    config = load_text(folder, yaml.safe_dump(tree_of(values), allow_unicode=True))
    dumped = dump_config(config)
    assert load_text(folder, dumped) == config
    assert dump_config(load_text(folder, dumped)) == dumped


@settings(max_examples=30)  # PyYAML is slow, and each example has many keys
@given(st.fixed_dictionaries({}, optional=LEAVES))
def test_an_override_says_the_same_as_the_file(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    overrides = [f"{key}={yaml.safe_dump(value)}" for key, value in values.items()]
    folder = tmp_path_factory.getbasetemp()
    assert load_config(None, overrides) == load_text(folder, yaml.safe_dump(tree_of(values)))


junk: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(sorted(LEAVES)), junk, min_size=1))
def test_junk_raises_only_the_documented_error(values: dict[str, Any]) -> None:
    with contextlib.suppress(ConfigError):
        load_config(None, [f"{key}={yaml.safe_dump(value)}" for key, value in values.items()])


@given(st.text(max_size=60) | st.binary(max_size=60))
def test_noise_raises_only_the_documented_error(
    tmp_path_factory: pytest.TempPathFactory, noise: str | bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_bytes(noise.encode("utf-8", "surrogatepass") if isinstance(noise, str) else noise)
    with contextlib.suppress(ConfigError):
        load_config(path)


def test_each_peer_has_one_turn_in_as_many_rounds_as_the_fleet_has_parts() -> None:
    assert P2PConfig().turn_period == 1
    assert P2PConfig(participants=32, fleet=1000).turn_period == 31
    assert P2PConfig(participants=32, fleet=40).turn_period == 1
    addresses = tuple(f"10.0.0.{n}:5000" for n in range(12))
    assert P2PConfig(participants=3, peers=addresses, topology="ring").turn_period == 4


def test_signs_of_life_keep_pace_with_the_liveness() -> None:
    assert P2PConfig(liveness_s=20.0).beat_s == 4.0
    assert P2PConfig(liveness_s=20.0, heartbeat_s=1.5).beat_s == 1.5
