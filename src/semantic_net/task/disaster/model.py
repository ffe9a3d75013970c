"""A residual U-Net with group normalisation, small enough to train on a CPU.

Averaged BatchNorm statistics hurt where peers' data differ; GroupNorm keeps none. Most of a
U-Net's time goes into its full resolution, where least is learnt: there this one has a single
convolution on the way down and one on the way up, and its skips add instead of concatenating.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """Class scores for every pixel of images whose sides are multiples of 2^depth."""

    def __init__(self, num_classes: int, *, base_channels: int, depth: int) -> None:
        super().__init__()
        widths = [base_channels << level for level in range(depth + 1)]
        upward = list(reversed(widths[:-1]))
        self.stem = nn.Sequential(*_convolution(3, base_channels), nn.ReLU())
        self.down = nn.ModuleList(_Residual(width, 2 * width) for width in widths[:-1])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2) for width in upward
        )
        self.merge = nn.ModuleList(_Residual(width, width) for width in upward[:-1])
        self.merge.append(nn.Sequential(*_convolution(base_channels, base_channels), nn.ReLU()))
        self.head = nn.Conv2d(base_channels, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, num_classes, H, W) scores for (N, 3, H, W) images in normalised units."""
        x = self.stem(images)
        skips: list[Tensor] = []
        for block in self.down:
            skips.append(x)
            x = block(nn.functional.max_pool2d(x, 2))
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(up(x) + skips.pop())
        return cast(Tensor, self.head(x))


class _Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(before, after), nn.ReLU(), *_convolution(after, after)
        )
        self.shortcut = (
            nn.Identity() if before == after else nn.Conv2d(before, after, kernel_size=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def _convolution(before: int, after: int) -> tuple[nn.Module, nn.Module]:
    # The normalisation has its own shift, so the convolution needs none.
    return (
        nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
        nn.GroupNorm(math.gcd(8, after), after),
    )
