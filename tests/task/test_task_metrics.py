from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from semantic_net.task.metrics import accuracy, errors, regression

CPU = torch.device("cpu")


def test_accuracy_is_the_share_of_right_classes() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    batches = [(scores[:2], torch.tensor([0, 1])), (scores[2:], torch.tensor([1]))]
    assert accuracy(nn.Identity(), batches, CPU) == {"accuracy": pytest.approx(2 / 3)}
    assert accuracy(nn.Identity(), [], CPU) == {}


def test_accuracy_counts_the_pixels_of_a_segmentation() -> None:
    scores = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # (1, 2 classes, 1, 2)
    assert accuracy(nn.Identity(), [(scores, torch.tensor([[[0, 0]]]))], CPU) == {"accuracy": 0.5}


def test_regression_metrics_on_numbers_that_a_reader_can_check() -> None:
    batches = [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])),
        (torch.tensor([6.0]), torch.tensor([7.0])),
    ]
    found = regression(nn.Identity(), batches, CPU)
    assert found["rmse"] == pytest.approx(math.sqrt(5 / 3))
    assert found["mae"] == pytest.approx(1.0)
    assert found["r2"] == pytest.approx(1 - 5 / 18)
    assert regression(nn.Identity(), [], CPU) == {}


def test_r2_is_left_out_where_the_truth_never_changes() -> None:
    assert errors(np.array([1.0, 3.0]), np.array([2.0, 2.0]), "_a") == {"rmse_a": 1.0, "mae_a": 1.0}
