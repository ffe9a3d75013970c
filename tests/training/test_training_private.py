"""DP-SGD: no example shows more than it may, the noise is nobody's to know, and costs add up."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from semantic_net.config import PrivacyConfig, TrainingConfig
from semantic_net.errors import ConfigError, TrainingError
from semantic_net.task.base import Batch, Task
from semantic_net.training import Trainer, join_state, split_state

pytest.importorskip("opacus", reason="the extra privacy is not installed")

RUNNING = threading.Event()
LENGTH = 12


class Recurrent(nn.Module):
    """What Opacus has no gradients of single examples for."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x.reshape(len(x), 2, 3))[0][:, -1])
        return out


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.GroupNorm(1, 5), nn.Linear(5, 2))


MODELS: dict[str, Callable[[], nn.Module]] = {"dense": dense, "recurrent": Recurrent}


def metrics(model: nn.Module, batches: Iterable[Batch], device: torch.device) -> dict[str, float]:
    return {"mean": float(torch.cat([model(x) for x, _ in batches]).mean())}


def data(seed: int = 0) -> TensorDataset:
    rng = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.randn(LENGTH, 6, generator=rng), torch.randint(0, 2, (LENGTH,), generator=rng)
    )


def trainer(
    model: str = "dense",
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    examples: TensorDataset | None = None,
    make: Callable[[], nn.Module] | None = None,
    training: dict[str, Any] | None = None,
    **privacy: Any,
) -> Trainer:
    examples = data() if examples is None else examples
    task = Task(
        make_model=make or MODELS[model],
        train_data=examples,
        val_data=examples,
        loss=loss,
        metrics=metrics,
    )
    cfg = {"device": "cpu", "batch_size": 4, "optimizer": "sgd", "momentum": 0.0, "steps": 3}
    return Trainer(
        task,
        TrainingConfig(**{**cfg, **(training or {})}),
        seed=1,
        privacy=PrivacyConfig(**{"noise_multiplier": 1.0, **privacy}),
    )


def gradients(of: Trainer) -> Tensor:
    """Return the gradients that are in place, as one vector."""
    return torch.cat([p.grad.flatten() for p in of.model.parameters() if p.grad is not None])


def summed(of: Trainer, x: Tensor, y: Tensor, chunk: int = 100) -> Tensor:
    """Return the sum of the clipped gradients, without noise."""
    assert of.private is not None
    of.private._optimizer.noise_multiplier = 0.0
    of.model.train()
    of.private.backward(x, y, chunk)
    return gradients(of) * float(of.private._optimizer.expected_batch_size)


def by_hand(of: Trainer, x: Tensor, y: Tensor, clip: float) -> Tensor:
    total = torch.zeros(sum(p.numel() for p in of.model.parameters()))
    for i in range(len(x)):
        of.model.zero_grad()
        own = x[i : i + 1].clone().requires_grad_()
        of.task.loss(of.model(own), y[i : i + 1]).backward()  # type: ignore[no-untyped-call]
        found = gradients(of)
        total += found * min(1.0, clip / (float(found.norm()) + 1e-6))
    return total


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("clip", [0.05, 0.8, 100.0])
def test_a_step_is_the_sum_of_the_clipped_gradients(model: str, clip: float) -> None:
    one = trainer(model, clip_norm=clip)
    assert one.private is not None
    assert (one.private._hooked is None) == (model == "recurrent")
    x, y = data().tensors
    expected = by_hand(trainer(model), x, y, clip)
    for chunk in (100, 5, 1):
        torch.testing.assert_close(summed(one, x, y, chunk), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_one_example_moves_the_sum_by_no_more_than_the_norm(model: str) -> None:
    one = trainer(model, clip_norm=0.3)
    x, y = data().tensors
    wild = torch.cat([x[:-1], 1e4 * x[-1:]])
    without = summed(one, x[:-1], y[:-1])
    for inputs in (x, wild):
        assert float((summed(one, inputs, y) - without).norm()) <= 0.3 * (1 + 1e-4)


def test_a_loss_that_weighs_examples_by_each_other_does_not_carry_one_into_another() -> None:
    def of_the_counted(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target, ignore_index=0)

    x, y = data().tensors
    x, y = x[y == 1], y[y == 1]
    one = trainer(loss=of_the_counted, clip_norm=0.3)
    without = summed(one, x[:-1], y[:-1])
    added = summed(one, x, y) - without
    alone = summed(one, x[-1:], y[-1:])
    torch.testing.assert_close(added, alone, rtol=1e-4, atol=1e-6)


def test_a_step_without_examples_is_noise_alone() -> None:
    one = trainer(clip_norm=0.5)
    assert one.private is not None
    x, y = data().tensors
    one.private.begin_round(1, 3)
    loss = one.private.backward(x[:0], y[:0], 4)
    assert float(loss) == 0
    spread = float(gradients(one).std()) * one.private._optimizer.expected_batch_size
    assert 0.3 < spread < 0.7, "noise_multiplier times clip_norm"


def test_examples_are_drawn_each_by_itself() -> None:
    one = trainer()
    assert one.private is not None
    one.private.begin_round(1, 3)
    drawn = [one.private.draw() for _ in range(600)]
    assert {len(each) for each in drawn} > {2, 4, 6}
    counts = torch.bincount(torch.tensor([i for each in drawn for i in each]), minlength=LENGTH)
    assert 120 < int(counts.min()) <= int(counts.max()) < 280, "a third of the steps each"


def test_equal_seeds_do_not_give_the_noise_away() -> None:
    states = []
    for _ in range(2):
        one = trainer()
        one.train_round(1, RUNNING)
        states.append(torch.cat([p.detach().flatten() for p in one.model.parameters()]))
    assert not torch.equal(*states)


@pytest.mark.parametrize("model", MODELS)
def test_epsilon_adds_up_as_opacus_has_it_and_outlives_the_process(model: str) -> None:
    from opacus.accountants import RDPAccountant

    one = trainer(model, noise_multiplier=2.0, delta=1e-3)
    found = [one.train_round(number, RUNNING).epsilon for number in (1, 2)]
    account = RDPAccountant()
    for _ in range(3):
        account.step(noise_multiplier=2.0, sample_rate=4 / LENGTH)
    assert found[0] == pytest.approx(account.get_epsilon(delta=1e-3), rel=1e-6)
    assert found[1] is not None
    assert found[1] > found[0] > 0  # type: ignore[operator]
    again = trainer(model, noise_multiplier=2.0, delta=1e-3)
    again.load_state(join_state(*split_state(one.state())))
    assert again.private is not None
    assert again.private.epsilon() == found[1]
    again.count_lost_rounds(1)
    third = one.train_round(3, RUNNING).epsilon
    assert again.private.epsilon() == pytest.approx(third)


def test_other_noise_than_before_is_accounted_for_as_it_was() -> None:
    one = trainer(noise_multiplier=5.0)
    one.train_round(1, RUNNING)
    later = trainer(noise_multiplier=1.0)
    later.load_state(one.state())
    later.train_round(2, RUNNING)
    assert later.private is not None
    history = later.private.state()["history"]
    assert [noise for noise, _, _ in history] == [5.0, 1.0]


def test_nothing_more_is_learned_once_the_budget_is_used_up() -> None:
    one = trainer(noise_multiplier=2.0, max_epsilon=3.0, delta=1e-3)
    assert one.private is not None
    number = 1
    while one.private.epsilon(more_steps=3) <= 3.0:
        one.train_round(number, RUNNING)
        number += 1
    before = [p.clone() for p in one.model.parameters()]
    with pytest.raises(TrainingError, match=r"^privacy.max_epsilon = 3 would be exceeded"):
        one.train_round(number, RUNNING)
    assert all(map(torch.equal, before, one.model.parameters()))
    assert number > 2


def test_layers_that_mix_examples_are_refused() -> None:
    def normed() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    with pytest.raises(ConfigError, match=r"layer 1 \(BatchNorm1d\) mixes the examples"):
        trainer(make=normed)


def test_without_opacus_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    with pytest.raises(ConfigError, match=r"pip install 'semantic-net\[privacy\]'"):
        trainer()
