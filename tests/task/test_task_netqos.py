from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semantic_net.config import (
    CsvConfig,
    DataConfig,
    NetqosConfig,
    PartitionConfig,
    TaskConfig,
    TrainingConfig,
)
from semantic_net.errors import ConfigError, DataError
from semantic_net.task import Task, load_task
from semantic_net.task.netqos import synthetic
from semantic_net.training import Trainer


def netqos(peer_seed: int = 0, seed: int = 0, **data: Any) -> Task:
    settings = {"num_train": 6, "num_val": 4, **data}
    return load_task(
        TaskConfig(
            name="netqos",
            netqos=NetqosConfig(hidden=16),
            data=DataConfig(seed=seed, **settings),
            peer_seed=peer_seed,
        )
    )


def first_window(task: Task) -> list[list[float]]:
    rows: list[list[float]] = task.train_data[0][0].tolist()
    return rows


def test_the_synthetic_link_is_learned_better_than_the_baselines_do() -> None:
    task = netqos(num_train=20, num_val=20, partition=PartitionConfig(num_shards=8, shard=7))
    cfg = TrainingConfig(
        device="cpu", batch_size=64, steps=60, learning_rate=0.01, rounds=5, schedule="cosine"
    )
    trainer = Trainer(task, cfg, seed=0)
    before = trainer.evaluate()
    assert before["rmse"] == pytest.approx(before["rmse_persistence"])  # where the model begins
    for round_index in range(1, 6):
        trainer.train_round(round_index, threading.Event())
    after = trainer.evaluate()
    assert task.metric == "rmse"
    assert not task.higher_is_better
    assert after["rmse"] < 0.95 * after["rmse_ridge"]
    assert after["rmse_ridge"] < after["rmse_persistence"]

    assert task.preview is not None
    samples = task.preview(trainer.model.eval(), torch.device("cpu"))
    assert len(samples) == 3
    truth, forecast = (
        [np.array(sample.lines[name], float) for sample in samples]
        for name in ("truth", "forecast")
    )
    assert [len(line) for line in truth] == [len(line) for line in forecast]
    assert all(10 < len(line) <= 96 for line in truth)
    errors = np.concatenate(forecast) - np.concatenate(truth)
    assert np.sqrt(np.square(errors).mean()) < 2 * after["rmse"], "in the unit, and of one time"


def test_synthetic_data_follows_the_seed_and_the_region() -> None:
    assert first_window(netqos(7)) == first_window(netqos(7))
    shard = PartitionConfig(num_shards=9, shard=7)
    assert first_window(netqos(1, partition=shard)) == first_window(netqos(7))
    windows = [first_window(task) for task in (netqos(7), netqos(8), netqos(7, seed=1))]
    assert all(a != b for i, a in enumerate(windows) for b in windows[:i])
    assert first_window(netqos(-3)) != first_window(netqos(3))


def test_more_training_traces_leave_the_held_out_ones_alone() -> None:
    few, many = netqos(num_train=2), netqos(num_train=8)
    assert few.val_data[5][0].equal(many.val_data[5][0])


def test_the_simulated_link_looks_like_one() -> None:
    for region in range(8):
        traces = synthetic.make_traces(0, region, 30, held_out=False)
        rtt = np.stack([trace.target for trace in traces])
        assert np.isfinite(rtt).all()
        assert synthetic.region_of(0, region).base_ms - 0.01 < rtt.min()
        assert rtt.max() <= synthetic.MAX_RTT_MS
        assert np.median(rtt) < 120
        assert rtt.std() > 10  # neither dead nor idle
        assert 0.6 < np.corrcoef(rtt[:, :-1].ravel(), rtt[:, 1:].ravel())[0, 1] < 0.99


def test_what_must_be_equal_on_all_peers_is_in_the_fingerprint() -> None:
    plain = netqos(1).fingerprint
    assert plain == netqos(2, num_train=3).fingerprint
    assert plain["netqos.inputs"].startswith("(rtt_ms-0)/100, slog(rtt_ms/100), ")
    wider = load_task(
        TaskConfig(
            name="netqos", netqos=NetqosConfig(window=12), data=DataConfig(num_train=2, num_val=2)
        )
    )
    assert wider.fingerprint != plain


def test_the_model_has_the_size_that_the_config_asks_for() -> None:
    task = load_task(
        TaskConfig(
            name="netqos",
            netqos=NetqosConfig(hidden=8, layers=2),
            data=DataConfig(num_train=1, num_val=1),
        )
    )
    shapes = {name: tuple(p.shape) for name, p in task.make_model().named_parameters()}
    assert shapes["lstm.weight_ih_l0"] == (32, 6)
    assert shapes["lstm.weight_hh_l1"] == (32, 8)


def write_traces(path: Path, lengths: list[int]) -> None:
    rng = np.random.default_rng(0)
    lines = ["trace_id,t_s,rtt_ms"]
    for index, length in enumerate(lengths):
        rtt = 20 + rng.gamma(2, 5, length)
        lines += [f"t{index},{i * 0.2:.1f},{value:.2f}" for i, value in enumerate(rtt)]
    path.write_text("\n".join(lines) + "\n")


def test_traces_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "link.csv"
    write_traces(path, [40] * 6)
    task = netqos(source="csv", path=str(path))
    windows_a_trace = 40 - 10 - 5 + 1
    assert len(task.train_data) == 4 * windows_a_trace
    assert len(task.val_data) == 2 * windows_a_trace
    found = Trainer(task, TrainingConfig(device="cpu"), seed=0).evaluate()
    assert found["rmse"] == pytest.approx(found["rmse_persistence"])


def test_refusals_name_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.source: netqos has no source 'folder'; known: "):
        netqos(source="folder")
    with pytest.raises(DataError, match=r"data\.path is not set"):
        netqos(source="csv")
    path = tmp_path / "link.csv"
    write_traces(path, [40, 14])
    with pytest.raises(DataError, match="none of the 1 training traces has 15 samples without a"):
        netqos(source="csv", path=str(path))


@pytest.fixture
def cicv5g() -> Path:
    folder = os.environ.get("SEMANTIC_NET_DATA")
    if folder is None:
        pytest.skip("SEMANTIC_NET_DATA names no data folder")
    path = Path(folder) / "cicv5g" / "cicv5g_rtt_5hz.csv.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def test_real_traces_give_the_published_baselines(cicv5g: Path) -> None:
    """One step ahead, every fifth trace held out, clipped at 500 ms: RMSE 20.6 and 19.4 ms.

    Ours is a little better than the published ridge, which did not see the logarithm.
    """
    cfg = TaskConfig(
        name="netqos",
        netqos=NetqosConfig(horizon=1),
        data=DataConfig(source="csv", path=str(cicv5g), csv=CsvConfig(target_max=500.0)),
    )
    task = load_task(cfg)
    assert len(task.train_data) + len(task.val_data) > 68_000
    with torch.inference_mode():
        found = Trainer(task, TrainingConfig(device="cpu"), seed=0).evaluate()
    assert found["rmse_persistence"] == pytest.approx(20.6, abs=0.05)
    assert found["r2_persistence"] == pytest.approx(0.777, abs=0.001)
    assert 19.2 < found["rmse_ridge"] < 19.4
