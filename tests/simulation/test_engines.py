"""Where simulated peers train: wherever it is, with the same result, and the same errors."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from semantic_net.errors import ConfigError, StartError, TrainingError
from semantic_net.simulation.engines import Engine, Jobs, local_engine, ray_engine
from semantic_net.simulation.lives import PEER
from semantic_net.simulation.scenario import Scenario, scenario
from semantic_net.simulation.simulate import MakeEngine, simulate
from semantic_net.training.trainer import TrainingInterrupted

# Whatever else runs in the process that runs the tests has threads; what is forked uses none.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

SOUND = 3
RAISES, RAISES_ODDLY, DIES, DIVERGES = range(SOUND, SOUND + 4)
"""Peers of the task below, after the sound ones."""
ALL = DIVERGES + 1

TASK = """
import os
import torch
from torch import nn
from torch.utils.data import TensorDataset
from semantic_net.task import Task, regression

class TwoWordsError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")

def load(cfg):
    def loss(output, target):
        if cfg.peer_seed == 3:
            raise ZeroDivisionError("by the task")
        if cfg.peer_seed == 4:
            raise TwoWordsError("not", "pickled")
        if cfg.peer_seed == 5:
            os._exit(3)
        factor = float("nan") if cfg.peer_seed == 6 else 1.0
        return factor * nn.functional.mse_loss(output, target)

    generator = torch.Generator().manual_seed(cfg.peer_seed)
    examples = torch.randn(12, 4, generator=generator)
    data = TensorDataset(examples, examples.sum(1, keepdim=True))
    model = lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))
    return Task(make_model=model, train_data=data, val_data=data, loss=loss, metrics=regression)
"""
MODEL = np.zeros(4 * 8 + 8 + 8 + 1, np.float32)

here = functools.partial(local_engine, num_workers=1)
two_processes = functools.partial(local_engine, num_workers=2)


def learning(folder: Path, num_peers: int = SOUND) -> Scenario:
    """Return peers that learn a task of a user's for two rounds."""
    path = folder / "task.py"
    path.write_text(TASK, encoding="utf-8")
    overrides = [
        f"task.name={path}",
        "training.rounds=2",
        "training.steps=2",
        "data.partition.validation=all",
    ]
    return scenario(None, overrides, num_peers=num_peers, network="lan", seed=1)


def digests(found: Scenario, folder: Path, make_engine: MakeEngine) -> list[str]:
    last = simulate(found, folder / "run", make_engine).rounds[-1].records
    assert len(last) == found.num_peers
    return [record.state_digest for record in last.values()]


def train(engine: Engine, index: int) -> None:
    engine.call("train", index, 1, MODEL)


def test_one_process_and_several_give_the_same_model(tmp_path: Path) -> None:
    found = learning(tmp_path)
    alone = digests(found, tmp_path, here)
    assert len(set(alone)) == 1
    assert digests(found, tmp_path, two_processes) == alone
    assert multiprocessing.active_children() == []


def test_what_a_peer_goes_on_from_travels(tmp_path: Path) -> None:
    found = learning(tmp_path)
    with two_processes(found.config) as one, here(found.config) as other:
        trained = one.call("train", 0, 1, MODEL).flat
        other.call("load_state", 0, one.call("state", 0))
        again = [engine.call("train", 0, 2, trained).flat for engine in (one, other)]
    np.testing.assert_array_equal(*again)


@pytest.mark.parametrize("make_engine", [here, two_processes])
def test_what_a_task_raises_comes_back_and_no_process_is_left(
    tmp_path: Path, make_engine: MakeEngine
) -> None:
    with pytest.raises(ZeroDivisionError, match="by the task"):
        digests(learning(tmp_path, num_peers=RAISES + 1), tmp_path, make_engine)
    assert multiprocessing.active_children() == []


def test_errors_are_told_as_they_are_though_they_were_in_another_process(tmp_path: Path) -> None:
    with two_processes(learning(tmp_path, ALL).config) as engine:
        with pytest.raises(ZeroDivisionError) as caught:
            train(engine, RAISES)
        assert "task.py" in str(caught.value.__cause__)
        with pytest.raises(TrainingError, match="became nan"):
            train(engine, DIVERGES)
        with pytest.raises(StartError, match="TwoWordsError: not pickled"):
            train(engine, RAISES_ODDLY)


def test_a_process_that_is_gone_is_an_error_that_says_so(tmp_path: Path) -> None:
    with two_processes(learning(tmp_path, ALL).config) as engine:
        for _ in range(2):  # whoever asks next is told as well
            with pytest.raises(StartError, match="exit code 3"):
                train(engine, DIES)
        train(engine, 0)  # is another's
    assert multiprocessing.active_children() == []


@pytest.mark.filterwarnings("default")  # Ray's own are no business of ours
def test_ray_gives_the_same_model_and_the_same_errors(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by itself it waits for all else on the machine
    found = learning(tmp_path)
    on_ray = functools.partial(ray_engine, num_workers=1)
    with on_ray(learning(tmp_path, ALL).config) as engine:
        with pytest.raises(ConfigError, match="cores"):
            ray_engine(found.config, num_workers=100_000)
        with pytest.raises(ZeroDivisionError, match="by the task"):
            train(engine, RAISES)
        with pytest.raises(TrainingError, match="became nan"):
            train(engine, DIVERGES)
        with pytest.raises(StartError, match="--engine ray"):
            train(engine, DIES)
        assert digests(found, tmp_path, on_ray) == digests(found, tmp_path, here)
        assert ray.is_initialized()  # by the first of the two, whose it is to end it
    assert not ray.is_initialized()
    assert "UserWarning" not in capfd.readouterr().err


@pytest.mark.parametrize("make_engine", [here, two_processes])
def test_once_it_is_stopped_no_training_begins_and_peers_can_leave(
    tmp_path: Path, make_engine: MakeEngine
) -> None:
    with make_engine(learning(tmp_path).config) as engine:
        train(engine, 0)
        engine.stop()
        with pytest.raises(TrainingInterrupted):
            train(engine, 0)
        assert engine.call("state", 0)


def test_a_worker_that_is_killed_ends_in_the_middle_of_a_call(tmp_path: Path) -> None:
    path = tmp_path / "task.py"
    path.write_text(TASK.replace("os._exit(3)", "import time; time.sleep(600)"), encoding="utf-8")
    found = scenario(None, [f"task.name={path}"], num_peers=ALL, network="lan", seed=1)
    with two_processes(found.config) as engine:
        with ThreadPoolExecutor() as threads:
            training = threads.submit(train, engine, DIES)
            engine.kill()
        with pytest.raises(StartError, match="has ended"):
            training.result()
    assert multiprocessing.active_children() == []


def test_workers_end_when_the_process_that_began_them_is_gone(tmp_path: Path) -> None:
    """Each has inherited what leads to those that were forked before."""
    found = learning(tmp_path)
    engine = two_processes(found.config)
    workers = multiprocessing.active_children()
    for place, _ in engine._places:
        place._connection.close()  # type: ignore[attr-defined]  # as the kernel does at our end
    for worker in workers:
        worker.join(10)
        assert worker.exitcode == 0


def test_work_of_a_peer_is_done_in_its_name_in_whatever_thread() -> None:
    with contextlib.closing(Jobs()) as jobs:
        token = PEER.set("peer7")
        try:
            assert jobs.begin(PEER.get).result() == "peer7"
        finally:
            PEER.reset(token)
