"""The selection by a sample is the selection, whatever the sample says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semantic_net.fixed_point import Float32Array
from semantic_net.semantic.sparsify import _SAMPLE, _guess, largest_entries

SIZE = 4 * _SAMPLE + 3
"""Every fourth entry is in the sample."""


def by_sorting(values: Float32Array, count: int) -> list[int]:
    order = np.argsort(-np.abs(values), kind="stable")
    return sorted(order[:count].tolist())


def cases() -> dict[str, Float32Array]:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(SIZE)
    place = np.arange(SIZE)
    return {
        "normal": normal,
        "periodic, the large ones in the sample": np.where(place % 4 == 0, 10, 1) * normal,
        "periodic, the large ones beside it": np.where(place % 4 == 1, 10, 1) * normal,
        "the sample is all zero": np.where(place % 4 == 0, 0, normal),
        "nothing but the sample": np.where(place % 4 == 0, normal, 0),
        "all equal": np.full(SIZE, -0.5),
        "all zero": np.zeros(SIZE),
        "few distinct": rng.integers(-2, 3, SIZE),
        "one huge": np.where(place == 5, 3e38, 1e-6 * normal),
        "a ramp": place,
        "a block": np.where(place // 1000 == 7, normal, 0),
    }


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("count", [1, 1000, SIZE // 4 + 1, SIZE - 1, SIZE])
def test_the_largest_entries_are_those_of_a_full_sort(name: str, count: int) -> None:
    values = cases()[name].astype(np.float32)
    found = largest_entries(torch.from_numpy(values), count)
    assert found.dtype == torch.int64
    assert found.tolist() == by_sorting(values, count)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_selected_alike(dtype: torch.dtype) -> None:
    values = torch.from_numpy(cases()["normal"]).to(dtype)
    expected = by_sorting(values.double().numpy(), 1000)
    assert largest_entries(values, 1000).tolist() == expected


def test_the_cases_do_mislead_the_sample() -> None:
    """So that both ways out of a wrong guess are tested: too few candidates, and too many."""
    for name, is_short in (
        ("periodic, the large ones in the sample", True),
        ("periodic, the large ones beside it", False),
    ):
        magnitudes = np.abs(cases()[name]).astype(np.float32)
        num_candidates = np.count_nonzero(magnitudes >= _guess(magnitudes, 20_000))
        assert (num_candidates < 20_000) == is_short
        assert is_short or num_candidates > 40_000
    normal = np.abs(cases()["normal"]).astype(np.float32)
    assert 1000 <= np.count_nonzero(normal >= _guess(normal, 1000)) < 2000
