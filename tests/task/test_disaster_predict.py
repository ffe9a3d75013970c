"""A picture is put together from tiles so that each of its pixels is decided once, by one tile."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from semantic_net.task.disaster.predict import _places, segment


class _Bright(nn.Module):
    """Class 1 where the first channel is bright: each pixel by itself."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([-images[:, 0], images[:, 0]], dim=1)


@settings(max_examples=30)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([8, 16, 64]), st.integers(0, 9))
def test_pixels_stay_where_they_are(height: int, width: int, tile: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 2, (height, width, 3), dtype=np.uint8) * 255
    found = segment(_Bright(), image, tile, torch.device("cpu"))
    assert (found == (image[..., 0] > 0)).all()


@given(st.integers(1, 500), st.sampled_from([1, 2, 8, 9, 64]))
def test_tiles_decide_their_middle_and_all_of_a_side(length: int, tile: int) -> None:
    places = list(_places(length, tile))
    assert [i for _, begin, end in places for i in range(begin, end)] == list(range(length))
    for start, begin, end in places:
        assert start <= begin < end <= start + tile
        if length >= tile:
            assert 0 <= start <= length - tile
