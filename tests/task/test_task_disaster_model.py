"""The U-Net."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semantic_net.config import DisasterConfig
from semantic_net.task.disaster.model import UNet


@pytest.mark.parametrize(("base_channels", "depth"), [(1, 1), (3, 2), (16, 3), (4, 4)])
def test_scores_have_the_size_of_the_image(base_channels: int, depth: int) -> None:
    model = UNet(7, base_channels=base_channels, depth=depth)
    side = 2 << depth
    assert model(torch.zeros(2, 3, side, 2 * side)).shape == (2, 7, side, 2 * side)


def test_the_default_has_about_half_a_million_parameters_and_no_buffers() -> None:
    cfg = DisasterConfig()
    model = UNet(11, base_channels=cfg.base_channels, depth=cfg.depth)
    assert 400_000 < sum(p.numel() for p in model.parameters()) < 600_000
    assert not list(model.buffers()), "nothing to average but parameters"


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    model = UNet(3, base_channels=4, depth=2)
    loss = nn.functional.cross_entropy(
        model(torch.randn(2, 3, 16, 16)), torch.randint(3, (2, 16, 16))
    )
    torch.autograd.backward(loss)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_equal_seeds_give_equal_models() -> None:
    def make() -> UNet:
        torch.manual_seed(3)
        return UNet(3, base_channels=4, depth=2)

    for first, second in zip(make().parameters(), make().parameters(), strict=True):
        assert torch.equal(first, second)
