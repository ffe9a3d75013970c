"""What a user keeps local never leaves the device, in no mode, and a restart does not forget it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

from semantic_net.config import (
    Config,
    DataConfig,
    P2PConfig,
    PartitionConfig,
    TaskConfig,
    TrainingConfig,
    load_config,
)
from semantic_net.errors import ConfigError
from semantic_net.federated.arrays import arrays_from, arrays_of, flat_of, load_integers
from semantic_net.federated.facts import run_facts
from semantic_net.federated.folder import RunFolder
from semantic_net.federated.learner import fold_config_of
from semantic_net.federated.local import LocalLearner
from semantic_net.federated.run import RunOptions, run_peer
from semantic_net.protocol.facts import differing_facts
from semantic_net.semantic.flat import flatten
from semantic_net.semantic.schema import ModelSchema, keep_local, local_tensors
from semantic_net.task import load_task
from semantic_net.training.trainer import Trainer, make_initial_model

TASK = Path(__file__).parents[2] / "examples" / "digits_task.py"
BIAS = ("1.bias",)  # of the only layer
CONFIG = Config(
    task=TaskConfig(name=str(TASK)),
    data=DataConfig(num_train=16, partition=PartitionConfig(shard=0)),  # the order of batches
    training=TrainingConfig(rounds=2, steps=2, device="cpu", local_layers=BIAS),
    p2p=P2PConfig(host="127.0.0.1", port=0),
)


class Two(nn.Module):
    """Two layers with the same weight, and a normalisation that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight


def names(module: nn.Module) -> list[str]:
    return [spec.name for spec in ModelSchema.of(module).tensors]


def test_what_is_kept_local_is_in_no_schema() -> None:
    model = Two()
    keep_local(model, ["norm.*"])
    assert names(model) == ["first.weight", "first.bias", "second.bias"]
    assert set(local_tensors(model)) == {
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    }
    assert len(flatten(model)) == 9 + 3 + 3


def test_a_tied_tensor_is_local_under_all_its_names() -> None:
    model = Two()
    keep_local(model, ["second.weight"])
    assert "first.weight" not in names(model)
    assert "first.weight" in local_tensors(model)  # once, and the other one follows


class Twice(nn.Module):
    """The same part in two places, with an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.left = self.right = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))


def test_tied_tensors_are_kept_once_and_can_be_saved() -> None:
    """safetensors refuses tensors that share memory."""
    for model, patterns in ((Two(), ["second.weight"]), (Twice(), [])):
        keep_local(model, patterns)
        kept = local_tensors(model)
        assert len({tensor.data_ptr() for tensor in kept.values()}) == len(kept)
        assert save({name: tensor.contiguous() for name, tensor in kept.items()})


def test_without_patterns_integers_alone_stay() -> None:
    model = Two()
    keep_local(model, [])
    assert set(local_tensors(model)) == {"norm.num_batches_tracked"}


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ('["hed.*"]', r"training.local_layers: 'hed\.\*' fits none of 1\.weight, 1\.bias"),
        ('["*"]', "training.local_layers: they are all that the model has"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(patterns: str, message: str) -> None:
    config = load_config(None, [f"task.name={TASK}", f"training.local_layers={patterns}"])
    task = load_task(config.task)
    with pytest.raises(ConfigError, match=message):
        make_initial_model(task, 0, config.training.local_layers)


def learner() -> LocalLearner:
    task = load_task(replace(CONFIG.task, data=CONFIG.data))
    model = make_initial_model(task, 0, BIAS)
    return LocalLearner(Trainer(task, CONFIG.training, seed=0, model=model))


def bias(model: nn.Module) -> torch.Tensor:
    return dict(model.named_parameters())["1.bias"].detach().clone()


def test_what_is_shared_leaves_local_layers_as_they_were_trained() -> None:
    own = learner()
    shared = flatten(own.trainer.model).numpy()
    assert shared.shape == (640,)
    own.share(shared)
    before = bias(own.trainer.model)
    own.train(1)
    trained = bias(own.trainer.model)
    assert not torch.equal(trained, before)
    own.share(shared)
    own.restore()
    assert torch.equal(bias(own.trainer.model), trained)
    assert torch.equal(flatten(own.trainer.model), torch.from_numpy(shared))


def test_models_go_to_other_servers_without_them() -> None:
    model = learner().trainer.model
    schema = ModelSchema.of(model)
    [weight] = arrays_of(model)
    assert weight.shape == (10, 64)
    flat = flat_of([weight + 1], schema, model)
    [again] = arrays_from(flat, schema, model)
    assert (again == weight + 1).all()
    load_integers([again], model)


def test_peers_that_keep_other_layers_are_refused_by_name() -> None:
    task = load_task(CONFIG.task)

    def facts(*patterns: str) -> dict[str, str]:
        config = replace(CONFIG, training=replace(CONFIG.training, local_layers=patterns))
        schema = ModelSchema.of(make_initial_model(task, 0, patterns))
        return run_facts(config, task, schema, fold_config_of(schema, config.aggregation))

    assert differing_facts(facts(*BIAS), facts(*BIAS)) == []
    told = "; ".join(differing_facts(facts(*BIAS), facts("1.weight")))
    assert "training.local_layers" in told
    assert any("training.local_layers" in text for text in differing_facts(facts(*BIAS), facts()))


def test_a_model_without_parameters_is_not_blamed_on_local_layers() -> None:
    keep_local(nn.Flatten(), [])


def model_after(folder: Path, *rounds: int) -> dict[str, Any]:
    for number in rounds:
        config = replace(CONFIG, training=replace(CONFIG.training, rounds=number))
        with RunFolder(folder) as run:
            assert asyncio.run(run_peer(config, run, RunOptions(), asyncio.Event()))
    return load_file(folder / "model.safetensors")


def test_a_restart_forgets_none_of_it(tmp_path: Path) -> None:
    at_once = model_after(tmp_path / "once", 2)
    twice = model_after(tmp_path / "twice", 1, 2)
    assert torch.equal(twice["1.bias"], at_once["1.bias"])
    assert torch.equal(twice["1.weight"], at_once["1.weight"])
