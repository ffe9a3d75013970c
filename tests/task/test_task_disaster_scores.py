"""The loss and the metrics of the task ``disaster``."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from semantic_net.task.disaster.classes import IGNORE, ClassSet
from semantic_net.task.disaster.scores import balanced_cross_entropy, evaluate

CPU = torch.device("cpu")
ABC = ClassSet(("a", "b", "c"))


class Echo(nn.Module):
    """Predicts the class that its input holds in channel 0."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.one_hot(images[:, 0].long(), 3).permute(0, 3, 1, 2).float()


def batch(predicted: list[int], truth: list[int]) -> tuple[Tensor, Tensor]:
    images = torch.tensor(predicted, dtype=torch.float32).reshape(1, 1, 1, -1).expand(1, 3, 1, -1)
    return images, torch.tensor(truth).reshape(1, 1, -1)


def test_one_class_alone_gives_the_plain_mean_over_the_pixels_that_count() -> None:
    output = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    target = torch.full((2, 4, 4), 1)
    target[0, 0] = IGNORE
    plain = nn.functional.cross_entropy(output, target, ignore_index=IGNORE)
    torch.testing.assert_close(balanced_cross_entropy(output, target), plain)


def test_a_rare_class_weighs_more_than_its_pixels() -> None:
    # Three pixels of class 0 with loss ln 2 and one of class 1 with loss ln 4.
    output = torch.log(torch.tensor([[1 / 2, 1 / 2]] * 3 + [[3 / 4, 1 / 4]])).T.reshape(1, 2, 1, 4)
    target = torch.tensor([0, 0, 0, 1]).reshape(1, 1, 4)
    weights = 3 * 3**-0.5, 1.0
    expected = (weights[0] * math.log(2) + weights[1] * math.log(4)) / sum(weights)
    assert balanced_cross_entropy(output, target).item() == pytest.approx(expected)


def test_a_batch_where_nothing_counts_has_loss_and_gradient_zero() -> None:
    output = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = balanced_cross_entropy(output, torch.full((1, 2, 2), IGNORE))
    torch.autograd.backward(loss)
    assert loss.item() == 0.0
    assert output.grad is not None
    assert not output.grad.any()


def test_half_precision_scores_give_a_float32_loss() -> None:
    output = torch.full((1, 3, 2, 2), 6e4, dtype=torch.float16)
    loss = balanced_cross_entropy(output, torch.zeros(1, 2, 2, dtype=torch.int64))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(3))


def test_metrics_come_from_one_matrix_over_batches_of_any_size() -> None:
    whole = [batch([0, 0, 1, 1, 1], [0, 1, 1, 1, IGNORE])]
    parts = [batch([0], [0]), batch([0, 1], [1, 1]), batch([1, 1], [1, IGNORE])]
    expected = {
        "miou": (1 / 2 + 2 / 3) / 2,
        "pixel_accuracy": 3 / 4,
        "iou_a": 1 / 2,
        "iou_b": 2 / 3,
    }
    assert evaluate(ABC, Echo(), whole, CPU) == pytest.approx(expected)
    assert evaluate(ABC, Echo(), parts, CPU) == pytest.approx(expected)


def test_a_named_ignore_class_has_no_score_even_where_it_is_predicted() -> None:
    scores = evaluate(ClassSet(("a", "b", "c"), 2), Echo(), [batch([0, 2], [0, 0])], CPU)
    assert scores == {"miou": 0.5, "pixel_accuracy": 0.5, "iou_a": 0.5}


def test_no_pixel_that_counts_scores_zero() -> None:
    assert evaluate(ABC, Echo(), [], CPU) == {"miou": 0.0, "pixel_accuracy": 0.0}


def test_evaluation_runs_in_eval_mode_without_gradients_and_restores_the_mode() -> None:
    class Watcher(Echo):
        def forward(self, images: Tensor) -> Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            return super().forward(images)

    model = Watcher()
    evaluate(ABC, model, [batch([0], [0])], CPU)
    assert model.training
    model.eval()
    evaluate(ABC, model, [batch([0], [0])], CPU)
    assert not model.training
