"""Where simulated peers train: wherever it is, with the same result, and the same errors."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from semantic_net.errors import ConfigError, StartError, TrainingError
from semantic_net.simulation.engines import Engine, local_engine, ray_engine
from semantic_net.simulation.scenario import Scenario, scenario
from semantic_net.simulation.simulate import simulate

# Whatever else runs in the process that runs the tests has threads; what is forked uses none.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

TASK = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from semantic_net.task import Task, regression

class TwoWordsError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")

def loss(output, target):
    if %(fails)r == "plainly":
        raise ZeroDivisionError("by the task")
    if %(fails)r == "oddly":
        raise TwoWordsError("not", "pickled")
    if %(fails)r == "for good":
        import os
        os._exit(3)
    return nn.functional.mse_loss(output, target) * float(%(factor)r)

def load(cfg):
    generator = torch.Generator().manual_seed(cfg.peer_seed)
    examples = torch.randn(12, 4, generator=generator)
    data = TensorDataset(examples, examples.sum(1, keepdim=True))
    model = lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))
    return Task(make_model=model, train_data=data, val_data=data, loss=loss, metrics=regression)
"""

here = functools.partial(local_engine, num_workers=1)
two_processes = functools.partial(local_engine, num_workers=2)
on_ray = functools.partial(ray_engine, num_workers=1)


def learning(folder: Path, *, fails: str = "", factor: str = "1") -> Scenario:
    """Return three peers that learn a task of a user's for two rounds."""
    path = folder / "task.py"
    path.write_text(TASK % {"fails": fails, "factor": factor}, encoding="utf-8")
    overrides = [
        f"task.name={path}",
        "training.rounds=2",
        "training.steps=2",
        "data.partition.validation=all",
    ]
    return scenario(None, overrides, num_peers=3, network="lan", seed=1)


def digests(found: Scenario, folder: Path, make_engine: Callable[..., Engine]) -> list[str]:
    outcome = simulate(found, folder / "run", lambda config: make_engine(config))
    last = outcome.rounds[-1].records
    assert len(last) == found.num_peers
    return [record.state_digest for record in last.values()]


def test_one_process_and_several_give_the_same_model(tmp_path: Path) -> None:
    found = learning(tmp_path)
    alone = digests(found, tmp_path, here)
    assert len(set(alone)) == 1
    assert digests(found, tmp_path, two_processes) == alone
    assert multiprocessing.active_children() == []


def test_what_a_peer_goes_on_from_travels(tmp_path: Path) -> None:
    found = learning(tmp_path)
    with two_processes(found.config) as one, here(found.config) as other:
        size = 4 * 8 + 8 + 8 + 1
        zeros = np.zeros(size, np.float32)
        trained = one.call("train", 0, 1, zeros).flat
        state = one.call("state", 0)
        other.call("load_state", 0, state)
        again = one.call("train", 0, 2, trained), other.call("train", 0, 2, trained)
        np.testing.assert_array_equal(again[0].flat, again[1].flat)


@pytest.mark.parametrize("make_engine", [here, two_processes])
def test_what_a_task_raises_comes_back_and_no_process_is_left(
    tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    with pytest.raises(ZeroDivisionError, match="by the task"):
        digests(learning(tmp_path, fails="plainly"), tmp_path, make_engine)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("make_engine", [here, two_processes])
def test_a_training_that_gives_no_update_is_no_error_of_the_run(
    tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    found = learning(tmp_path, factor="nan")
    with make_engine(found.config) as engine, pytest.raises(TrainingError, match="became nan"):
        engine.call("train", 0, 1, np.zeros(49, np.float32))
    assert len(digests(found, tmp_path, make_engine)) == found.num_peers


def test_the_place_in_the_task_is_told_though_it_was_in_another_process(tmp_path: Path) -> None:
    found = learning(tmp_path, fails="plainly")
    with two_processes(found.config) as engine, pytest.raises(ZeroDivisionError) as caught:
        engine.call("train", 1, 1, np.zeros(49, np.float32))
    assert "task.py" in str(caught.value.__cause__)


def test_an_error_that_cannot_travel_comes_back_in_words(tmp_path: Path) -> None:
    found = learning(tmp_path, fails="oddly")
    with two_processes(found.config) as engine, pytest.raises(StartError, match="not pickled"):
        engine.call("train", 0, 1, np.zeros(49, np.float32))


def test_a_process_that_is_gone_is_an_error_that_says_so(tmp_path: Path) -> None:
    found = learning(tmp_path, fails="for good")
    with two_processes(found.config) as engine:
        for _ in range(2):  # whoever asks next is told as well
            with pytest.raises(StartError, match="exit code 3"):
                engine.call("train", 0, 1, np.zeros(49, np.float32))
        assert engine.call("num_examples", 1) == 12
    assert multiprocessing.active_children() == []


@pytest.mark.filterwarnings("default")  # Ray's own are no business of ours
def test_a_ray_cluster_gives_the_same_model_and_the_same_errors(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray")
    found = learning(tmp_path)
    with pytest.raises(ConfigError, match="cores"):
        ray_engine(found.config, num_workers=100_000)
    assert digests(found, tmp_path, on_ray) == digests(found, tmp_path, here)
    assert not ray.is_initialized()
    assert "UserWarning" not in capfd.readouterr().err
    found = learning(tmp_path, fails="plainly")
    with on_ray(found.config) as engine:
        with pytest.raises(ZeroDivisionError, match="by the task"):
            engine.call("train", 0, 1, np.zeros(49, np.float32))
        broken = learning(tmp_path, factor="nan")
    with on_ray(broken.config) as engine, pytest.raises(TrainingError, match="became nan"):
        engine.call("train", 0, 1, np.zeros(49, np.float32))
