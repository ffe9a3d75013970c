"""Whose data is trained on and evaluated on, where one machine plays several devices."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from semantic_net.config import Config, load_config
from semantic_net.federated.shards import (
    Joined,
    common_validation,
    load_own,
    load_pooled,
    load_shard,
)
from semantic_net.federated.single import Single

SIDES = Path(__file__).parent / "demo_task.py"  # 16 points a shard; 5 + shard to validate on
DIGITS = Path(__file__).parents[2] / "examples" / "digits_task.py"  # validates on the same


def config(task: Path, *overrides: str) -> Config:
    return load_config(None, [f"task.name={task}", "data.partition.num_shards=3", *overrides])


def numbers(*values: float) -> TensorDataset:
    return TensorDataset(torch.tensor(values), torch.zeros(len(values)))


class Told:
    """Remembers the pass that it was told of."""

    epoch = -1

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.tensor(7.0), torch.zeros(())

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def test_joined_data_sets_are_one() -> None:
    told = Told()
    joined = Joined([numbers(1, 2), Joined([]), told, numbers(3)])
    assert [joined[i][0].item() for i in range(len(joined))] == [1, 2, 7, 3]
    for outside in (4, -1):
        with pytest.raises(IndexError):
            joined[outside]
    joined.set_epoch(5)
    assert told.epoch == 5


def test_metrics_are_of_ones_own_data_unless_all_is_asked_for() -> None:
    own = config(SIDES, "data.partition.shard=1")
    assert len(load_own(own, 1).val_data) == 6
    every = config(SIDES, "data.partition.shard=1", "data.partition.validation=all")
    found = load_own(every, 1)
    assert len(found.val_data) == 5 + 6 + 7
    assert len(found.train_data) == 16
    expected = [load_shard(own, shard).val_data for shard in range(3)]
    flat = [data[i][0] for data in expected for i in range(len(data))]
    assert torch.equal(torch.stack([found.val_data[i][0] for i in range(18)]), torch.stack(flat))


def test_one_may_leave_the_evaluation_to_another() -> None:
    quiet = config(SIDES, "data.partition.shard=1", "data.partition.validation=none")
    found = load_own(quiet, 1)
    assert (len(found.val_data), len(found.train_data)) == (0, 16)


def test_what_all_shards_validate_on_is_there_once() -> None:
    assert len(common_validation(config(DIGITS))) == 500


def test_targets_may_be_plain_numbers(tmp_path: Path) -> None:
    """As torchvision's data sets give them."""
    task = tmp_path / "task.py"
    task.write_text(
        DIGITS.read_text().replace(
            "return TensorDataset(pictures, digits)", "return list(zip(pictures, digits.tolist()))"
        )
    )
    assert len(common_validation(config(task))) == 500


def test_one_who_observes_loads_no_shards() -> None:
    own = config(SIDES, "data.partition.validation=all")
    assert len(load_own(own, 0, observe=True).val_data) == 5


def test_pooled_data_is_that_of_all_shards() -> None:
    pooled, lengths = load_pooled(config(SIDES))
    assert lengths == [16, 16, 16]
    assert len(pooled.train_data) == 48
    assert len(pooled.val_data) == 18
    assert {int(pooled.train_data[i][1]) for i in range(48)} == {0, 1}  # a shard has one alone


@pytest.mark.parametrize(("more", "steps"), [((), 4), (("training.steps=3",), 3)])
def test_a_pooled_model_takes_as_many_steps_as_a_peer(more: tuple[str, ...], steps: int) -> None:
    single = Single(config(SIDES, "training.batch_size=4", "training.rounds=1", *more), pooled=True)
    assert single.trainer.train_round(1, threading.Event()).num_steps == steps
