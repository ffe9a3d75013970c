"""The forecaster: an LSTM that says how far the target will have moved."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Forecaster(nn.Module):
    """Adds a change, read from a window by an LSTM, to the window's last value.

    It starts as the persistence forecast (no change) and learns only what that misses.
    """

    def __init__(self, num_channels: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(num_channels, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, windows: Tensor) -> Tensor:
        """Forecast the normalised target.

        Args:
            windows: (N, W, C); channel 0 is the target's own past.

        Returns:
            (N,)
        """
        states, _ = self.lstm(windows)
        change: Tensor = self.head(states[:, -1])
        return windows[:, -1, 0] + change[:, 0]


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return half the mean squared error, linear beyond five scales of the target's unit.

    The square is what RMSE asks for; the bound keeps one absurd sample of an unclipped target
    from moving the model by itself.
    """
    return torch.nn.functional.huber_loss(output, target, delta=5.0)
