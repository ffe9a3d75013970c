from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from semantic_net.config import TrainingConfig
from semantic_net.errors import CheckpointError, ConfigError, DataError, TrainingError
from semantic_net.task.base import Batch, Task
from semantic_net.training import (
    Trainer,
    TrainingInterrupted,
    join_state,
    make_initial_model,
    split_state,
)
from semantic_net.training.precision import Pull
from semantic_net.training.trainer import MAX_EXAMPLES, collate

RUNNING = threading.Event()


class Line:
    """Points on y = 3x - 1, and a record of what was asked of them."""

    def __init__(self, length: int = 10) -> None:
        self.length = length
        self.asked: list[tuple[int | None, int]] = []
        self.epoch: int | None = None
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.epochs.append(epoch)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        self.asked.append((self.epoch, index))
        x = torch.tensor([index / self.length])
        return x, 3 * x - 1


def mean_square(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target) ** 2).mean()


def rmse(model: nn.Module, batches: Iterable[Batch], device: torch.device) -> dict[str, float]:
    assert not model.training
    assert torch.is_inference_mode_enabled()
    errors = [(model(x.to(device)) - y.to(device)) ** 2 for x, y in batches]
    return {"rmse": float(torch.cat(errors).mean().sqrt())}


def line_task(
    data: Line | None = None,
    *,
    make_model: Callable[[], nn.Module] = lambda: nn.Linear(1, 1),
    loss: Callable[[Tensor, Tensor], Tensor] = mean_square,
    metrics: Callable[..., dict[str, float]] = rmse,
) -> Task:
    data = Line() if data is None else data
    return Task(make_model=make_model, train_data=data, val_data=Line(), loss=loss, metrics=metrics)


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig(
        **{"device": "cpu", "batch_size": 4, "learning_rate": 0.05, "rounds": 4, **changes}
    )


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@dataclass
class BreaksAt:
    """A loss that calls ``action`` in one of its calls, counted from 1."""

    call: int
    action: Callable[[Tensor], Tensor]
    calls: int = field(default=0, init=False)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        loss = mean_square(output, target)
        return self.action(loss) if self.calls == self.call else loss


def test_training_learns_and_says_what_it_did() -> None:
    trainer = Trainer(line_task(), config(epochs=5, rounds=20), seed=1)
    before = trainer.evaluate()["rmse"]
    results = [trainer.train_round(r, RUNNING) for r in range(1, 21)]
    assert trainer.evaluate()["rmse"] < 0.05 * before
    assert results[0].num_steps == 13  # 50 examples in batches of at most 4
    assert results[0].num_examples == 10
    assert results[0].notes == ()
    assert results[0].loss is not None
    assert results[-1].loss is not None
    assert results[-1].loss < results[0].loss


def test_the_loss_is_the_mean_over_the_steps() -> None:
    losses: list[float] = []

    def watched(output: Tensor, target: Tensor) -> Tensor:
        loss = mean_square(output, target)
        losses.append(loss.item())
        return loss

    result = Trainer(line_task(loss=watched), config(steps=40), seed=0).train_round(1, RUNNING)
    assert len(losses) == result.num_steps == 40
    assert result.loss == pytest.approx(sum(losses) / 40)


def test_the_weight_of_an_update_has_the_folds_limit() -> None:
    trainer = Trainer(line_task(Line(MAX_EXAMPLES + 1)), config(steps=1), seed=0)
    assert trainer.train_round(1, RUNNING).num_examples == MAX_EXAMPLES


def test_passes_go_on_across_rounds_and_the_data_is_told_of_each() -> None:
    data = Line(6)
    trainer = Trainer(line_task(data), config(steps=1), seed=0)
    for round_index in (1, 2, 3):
        trainer.train_round(round_index, RUNNING)
    assert data.epochs == [0, 1]
    for epoch in (0, 1):
        assert sorted(i for e, i in data.asked if e == epoch) == list(range(6))


def test_initial_models_are_equal_under_equal_seeds_and_seed_nothing_else() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = (make_initial_model(line_task(), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert_equal(dict(one.state_dict()), dict(same.state_dict()))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def noisy_model() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 1))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_resumed_run_goes_on_bit_for_bit(optimizer: str) -> None:
    cfg = config(steps=3, optimizer=optimizer, schedule="cosine", learning_rate=0.01)
    task = line_task(make_model=noisy_model)
    through, first = (Trainer(task, cfg, seed=7) for _ in range(2))
    for round_index in (1, 2):
        through.train_round(round_index, RUNNING)
        first.train_round(round_index, RUNNING)
    tensors, rest = split_state(first.state())
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    torch.manual_seed(99)  # whatever others did to the global generator does not matter
    resumed = Trainer(task, cfg, seed=7)
    resumed.model.load_state_dict(weights(first))
    resumed.load_state(join_state(tensors, rest))
    expected = through.train_round(3, RUNNING)
    assert resumed.train_round(3, RUNNING) == expected
    assert_equal(weights(resumed), weights(through))


def test_the_seed_of_the_peer_and_of_the_config_both_matter() -> None:
    def after(cfg_seed: int, seed: int) -> float:
        trainer = Trainer(line_task(), config(seed=cfg_seed, steps=1), seed=seed)
        loss = trainer.train_round(1, RUNNING).loss
        assert loss is not None
        return loss

    assert after(0, 1) == after(0, 1)
    assert len({after(0, 1), after(0, 2), after(1, 1)}) == 3


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    Trainer(line_task(make_model=noisy_model), config(), seed=0).train_round(1, RUNNING)
    assert torch.equal(torch.rand(1), expected)


def test_the_cosine_falls_to_a_tenth_and_stays_there() -> None:
    trainer = Trainer(line_task(), config(schedule="cosine", rounds=2, steps=1), seed=0)

    def rate_in(round_index: int) -> float:
        trainer.train_round(round_index, RUNNING)
        return float(trainer._optimizer.param_groups[0]["lr"])

    assert rate_in(1) == pytest.approx(0.05)
    assert rate_in(2) == pytest.approx(0.05 * 0.55)
    assert rate_in(3) == pytest.approx(0.05 * 0.1)
    assert rate_in(9) == pytest.approx(0.05 * 0.1)


def test_the_gradient_is_clipped() -> None:
    cfg = config(optimizer="sgd", momentum=0.0, learning_rate=1.0, steps=1, max_grad_norm=1e-3)
    trainer = Trainer(line_task(), cfg, seed=0)
    before = weights(trainer)
    trainer.train_round(1, RUNNING)
    moved = math.hypot(*(float((weights(trainer)[n] - before[n]).norm()) for n in before))
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_a_pull_adds_its_part_to_the_gradient() -> None:
    """By hand: g + mu (w - w_t), and nothing where there is no gradient."""
    moved, frozen = torch.tensor([1.0, 2.0]), torch.tensor([5.0])
    moved.grad = torch.tensor([0.5, 0.5])
    pull = Pull(0.1, [torch.tensor([0.0, 4.0]), torch.tensor([0.0])])
    pull.add_to_gradients([moved, frozen])
    torch.testing.assert_close(moved.grad, torch.tensor([0.6, 0.3]))
    assert frozen.grad is None


def test_the_harder_the_pull_the_less_far_a_round_goes() -> None:
    distances = []
    for mu in (0.0, 1.0, 10.0):
        cfg = config(optimizer="sgd", momentum=0.0, learning_rate=0.05, steps=8, proximal_mu=mu)
        trainer = Trainer(line_task(make_model=partly_frozen), cfg, seed=0)
        before = weights(trainer)
        trainer.train_round(1, RUNNING)
        after = weights(trainer)
        names = [name for name, _ in trainer.model.named_parameters()]
        distances.append(sum(float((after[name] - before[name]).norm()) for name in names))
    assert distances[0] > distances[1] > distances[2] > 0


def partly_frozen() -> nn.Module:
    model = noisy_model()
    model.get_submodule("0").requires_grad_(False)
    return model


def test_frozen_parameters_and_modes_stay_what_they_are() -> None:
    trainer = Trainer(line_task(make_model=partly_frozen), config(), seed=0)
    before = weights(trainer)
    trainer.train_round(1, RUNNING)
    after = weights(trainer)
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.equal(before["3.weight"], after["3.weight"])
    assert not trainer.model.training
    assert all(p.grad is None for p in trainer.model.parameters())
    assert [p.requires_grad for p in trainer.model.parameters()][:3] == [False, False, True]


def test_the_thread_count_is_set_where_given() -> None:
    before = torch.get_num_threads()
    try:
        Trainer(line_task(), config(num_threads=2), seed=0).train_round(1, RUNNING)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# --- rounds that fail leave no trace -------------------------------------------------------


def interrupted(stop: threading.Event) -> Callable[[Tensor], Tensor]:
    def action(loss: Tensor) -> Tensor:
        stop.set()
        return loss

    return action


def test_an_interrupted_round_can_be_done_again_as_if_nothing_had_been() -> None:
    stop = threading.Event()
    cfg = config(steps=4)
    loss = BreaksAt(6, interrupted(stop))  # the second step of the second round
    trainer, undisturbed = (
        Trainer(line_task(make_model=noisy_model, loss=how), cfg, seed=0)
        for how in (loss, mean_square)
    )
    for each in (trainer, undisturbed):
        each.train_round(1, stop)
    before = weights(trainer)
    with pytest.raises(TrainingInterrupted, match="round 2: stopped before step 3"):
        trainer.train_round(2, stop)
    assert_equal(weights(trainer), before)
    stop.clear()
    assert trainer.train_round(2, stop) == undisturbed.train_round(2, stop)
    assert_equal(weights(trainer), weights(undisturbed))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_skips_the_round_and_poisons_nothing(value: float) -> None:
    loss = BreaksAt(6, lambda loss: loss * value)
    trainer = Trainer(line_task(make_model=noisy_model, loss=loss), config(steps=4), seed=0)
    trainer.train_round(1, RUNNING)
    before = weights(trainer)
    moments = {n: t.clone() for n, t in split_state(trainer.state())[0].items()}
    with pytest.raises(TrainingError, match=r"^the loss became (nan|inf) in step 2 of 4"):
        trainer.train_round(2, RUNNING)
    assert_equal(weights(trainer), before)
    assert_equal(split_state(trainer.state())[0], moments)
    assert trainer.train_round(3, RUNNING).loss is not None


def test_after_a_failed_round_other_examples_come_first() -> None:
    data = Line(100)
    trainer = Trainer(
        line_task(data, loss=BreaksAt(1, lambda loss: loss * math.nan)), config(steps=1), seed=0
    )
    with pytest.raises(TrainingError):
        trainer.train_round(1, RUNNING)
    failed = set(data.asked)
    data.asked.clear()
    trainer.train_round(2, RUNNING)
    assert not failed & set(data.asked)


def test_an_infinite_gradient_of_the_last_step_is_found_too() -> None:
    def steep(loss: Tensor) -> Tensor:
        return (loss * 0).sqrt()  # finite, but its gradient is not

    trainer = Trainer(line_task(loss=BreaksAt(3, steep)), config(steps=3), seed=0)
    before = weights(trainer)
    with pytest.raises(TrainingError, match="weight is not finite after the last step"):
        trainer.train_round(1, RUNNING)
    assert_equal(weights(trainer), before)


def test_an_error_of_the_task_comes_through_and_leaves_no_trace() -> None:
    def broken(loss: Tensor) -> Tensor:
        raise ZeroDivisionError("in the task")

    trainer = Trainer(line_task(loss=BreaksAt(3, broken)), config(), seed=0)
    before = weights(trainer)
    with pytest.raises(ZeroDivisionError, match="in the task"):
        trainer.train_round(1, RUNNING)
    assert_equal(weights(trainer), before)


# --- memory --------------------------------------------------------------------------------


class SmallMemory(nn.Module):
    """A model that holds at most ``room`` examples at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.room = room
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        output: Tensor = self.layer(x)
        return output


def test_out_of_memory_halves_the_batch_says_so_and_trains_as_before() -> None:
    cfg = config(batch_size=8, steps=2, optimizer="sgd")
    small = SmallMemory(2)
    trainer = Trainer(line_task(make_model=lambda: small), cfg, seed=0, model=small)
    roomy = SmallMemory(99)
    roomy.load_state_dict(small.state_dict())
    reference = Trainer(line_task(), cfg, seed=0, model=roomy)
    result, expected = (t.train_round(1, RUNNING) for t in (trainer, reference))
    assert small.seen == [8, 4, *[2] * 8]  # found once, kept for the next step
    assert [note.rpartition(" ")[2] for note in result.notes] == ["4", "2"]
    assert result.num_steps == expected.num_steps
    for name, tensor in weights(reference).items():
        torch.testing.assert_close(weights(trainer)[name], tensor)


def test_a_single_example_that_does_not_fit_skips_the_round() -> None:
    trainer = Trainer(line_task(), config(), seed=0, model=SmallMemory(0))
    with pytest.raises(TrainingError, match="out of memory with a single example"):
        trainer.train_round(1, RUNNING)
    with pytest.raises(TrainingError, match="evaluation: out of memory with a single example"):
        trainer.evaluate()


def test_an_evaluation_without_memory_is_tried_again_in_halves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = SmallMemory(3)
    trainer = Trainer(line_task(), config(batch_size=4), seed=0, model=model)
    with caplog.at_level(logging.WARNING):
        assert trainer.evaluate()["rmse"] > 0
    assert model.seen == [10, 8, 4, 2, 2, 2, 2, 2]
    assert "batches of 2" in caplog.text


def test_other_runtime_errors_are_not_taken_for_memory() -> None:
    def broken(*_: object) -> dict[str, float]:
        raise RuntimeError("shapes do not fit")

    def fails(loss: Tensor) -> Tensor:
        raise RuntimeError("shapes do not fit")

    trainer = Trainer(line_task(loss=BreaksAt(1, fails), metrics=broken), config(), seed=0)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        trainer.train_round(1, RUNNING)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        trainer.evaluate()


# --- evaluation, batches, refusals ---------------------------------------------------------


def test_metrics_that_are_not_finite_are_left_out_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer = Trainer(line_task(metrics=lambda *_: {"a": 1, "r2": math.nan}), config(), seed=0)
    with caplog.at_level(logging.WARNING):
        assert trainer.evaluate() == {"a": 1.0}
    assert "r2 is nan" in caplog.text


def test_targets_may_be_plain_numbers() -> None:
    inputs, targets = collate([(torch.zeros(2), 1), (torch.ones(2), 0)])
    assert inputs.tolist() == [[0, 0], [1, 1]]
    assert targets.tolist() == [1, 0]


def test_examples_of_unequal_shape_are_a_data_error() -> None:
    with pytest.raises(DataError, match=r"inputs of one batch differ in shape: \[\(2,\), \(3,\)\]"):
        collate([(torch.zeros(2), 1), (torch.ones(3), 0)])


def frozen_model() -> nn.Module:
    return nn.Linear(1, 1).requires_grad_(False)


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ConfigError, match="no parameter that requires a gradient"):
        Trainer(line_task(make_model=frozen_model), config(), seed=0)


def test_without_data_nothing_is_trained_and_nothing_measured() -> None:
    """So it is with a peer that only observes."""
    trainer = Trainer(line_task(Line(0)), config(), seed=0)
    with pytest.raises(TrainingError, match="train_data is empty"):
        trainer.train_round(1, threading.Event())
    empty = replace(trainer.task, val_data=Line(0))
    assert Trainer(empty, config(), seed=0).evaluate() == {}


def states() -> Iterator[tuple[Callable[[dict[str, Any]], object], str]]:
    yield lambda s: s["optimizer"].update(other={}), "no parameter 'other'"
    yield lambda s: s["optimizer"]["weight"].pop("exp_avg"), r"weight holds \['exp_avg_sq'"
    yield (
        lambda s: s["optimizer"]["weight"].update(exp_avg=torch.zeros(3)),
        r"weight/exp_avg must have the shape \(1, 1\), got \(3,\)",
    )
    yield lambda s: s["optimizer"]["weight"].update(step=7), r"weight/step must have .* got 7"
    yield lambda s: s.pop("sampler"), "KeyError: 'sampler'"
    yield lambda s: s["sampler"].update(position=None), "TypeError"


@pytest.mark.parametrize(("change", "message"), list(states()))
def test_a_state_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Any]], object], message: str
) -> None:
    trainer = Trainer(line_task(), config(), seed=0)
    trainer.train_round(1, RUNNING)
    state = join_state(*split_state(trainer.state()))
    change(state)
    with pytest.raises(CheckpointError, match=message):
        trainer.load_state(state)
