"""Two magnitudes for all kept values: the means of what they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.fixed_point import MAX_DELTA, SCALE, Float64Array
from semantic_net.semantic.levels import quantize_to_levels

UNIT = 1 / SCALE

kept_values = st.lists(
    st.floats(2.0**-24, 2.0**100, width=32) | st.floats(0.5, 2, width=32), min_size=1, max_size=40
).flatmap(lambda numbers: st.tuples(*(st.sampled_from((number, -number)) for number in numbers)))


def decoded(values: list[float]) -> tuple[Float64Array, tuple[int, int]]:
    """Return what the codes stand for, in units, and the two magnitudes."""
    codes, levels = quantize_to_levels(np.array(values, np.float32))
    signs = 1.0 - 2 * (codes & 1)
    return signs * np.array(levels)[codes >> 1], levels


def test_small_and_large_magnitudes_have_a_level_each() -> None:
    codes, levels = quantize_to_levels(np.array([1, -1.5, 8, -10, 0.5], np.float32))
    assert codes.tolist() == [0b00, 0b01, 0b10, 0b11, 0b00]
    assert levels == (SCALE, 9 * SCALE)


def test_a_few_large_values_do_not_have_the_lower_level_to_themselves() -> None:
    """From halfway on a linear scale the border would move to 23, and stay there."""
    values = [1.0] * 50 + [10.0] * 50 + [40.0]
    codes, _ = quantize_to_levels(np.array(values, np.float32))
    assert codes.tolist() == [0] * 50 + [2] * 51


@pytest.mark.parametrize("value", [2.0**-24, 0.37, 64.0, 3e38])
def test_equal_magnitudes_are_their_own_level(value: float) -> None:
    units, levels = decoded([value, -value, value])
    expected = min(round(float(np.float32(value)) * SCALE), MAX_DELTA)
    assert units.tolist() == [expected, -expected, expected]
    assert levels == (expected, expected)


def test_levels_saturate_and_are_never_zero() -> None:
    assert quantize_to_levels(np.array([2.0**-26, 3e38], np.float32))[1] == (1, MAX_DELTA)
    codes, levels = quantize_to_levels(np.empty(0, np.float32))
    assert codes.size == 0
    assert levels == (1, 1)


@given(kept_values)
def test_a_level_is_the_mean_of_what_it_stands_for(values: list[float]) -> None:
    units, _ = decoded(values)
    exact = np.clip(np.array(values, np.float32).astype(np.float64), -64, 64) * SCALE
    assert (np.sign(units) == np.sign(exact)).all()
    for level in set(np.abs(units)):
        group = np.abs(exact)[np.abs(units) == level]
        assert level == pytest.approx(max(group.mean(), 1), rel=1e-9, abs=0.51)


@given(kept_values)
def test_two_levels_are_never_worse_than_one(values: list[float]) -> None:
    """And so error feedback keeps its contraction: one level, the mean, has it."""
    units, _ = decoded(values)
    exact = np.clip(np.array(values, np.float32).astype(np.float64), -64, 64) * SCALE
    magnitudes = np.abs(exact)
    one = np.square(magnitudes - magnitudes.mean()).sum()
    assert np.square(units - exact).sum() <= one * (1 + 1e-9) + magnitudes.size


def test_the_levels_do_not_touch_the_values() -> None:
    values = np.array([1, -2, 100], np.float32)
    quantize_to_levels(values)
    assert values.tolist() == [1, -2, 100]
