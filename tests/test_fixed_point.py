"""Float32 to whole units of 2^-24 and back, the same on every machine."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.fixed_point import (
    BLOCK,
    MAX_DELTA,
    MAX_STATE,
    NARROW_LIMIT,
    SCALE,
    Float32Array,
    delta_to_fixed,
    delta_to_units,
    magnitude,
    magnitude_in_units,
    state_to_fixed,
    to_float32,
    width_for,
    work_array,
)

SMALL = 0.25 - 2.0**-26
"""The largest float32 below a quarter."""

float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
near_units = st.builds(
    lambda halves, off: float(np.float32(halves / 2 / SCALE) + np.float32(off)),
    st.integers(-(1 << 26), 1 << 26),
    st.sampled_from((0.0, 2.0**-49, -(2.0**-49))),
)
"""Around whole and half units, where rounding decides."""


def largest_of(values: Float32Array) -> float:
    return float(np.abs(values).max(initial=0))


def test_a_delta_counts_units_of_two_to_the_minus_24() -> None:
    values = np.array([1.0, -0.5, 3 * 2.0**-24], np.float32)
    assert delta_to_units(values, 1.0).tolist() == [1 << 24, -(1 << 23), 3]


@pytest.mark.parametrize("largest", [0.1, 1.0, 100.0])
def test_halves_of_a_unit_go_to_the_even_one_on_every_path(largest: float) -> None:
    halves = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5], np.float32) / np.float32(SCALE)
    assert delta_to_units(halves, largest).tolist() == [0, 2, 2, 0, -2, -2]


def test_a_delta_saturates_at_64() -> None:
    values = np.array([64.0, 65.0, -3e38], np.float32)
    assert delta_to_units(values, 3e38).tolist() == [MAX_DELTA, MAX_DELTA, -MAX_DELTA]
    assert delta_to_fixed(values).tolist() == [MAX_DELTA, MAX_DELTA, -MAX_DELTA]


def test_a_state_saturates_at_two_to_the_28() -> None:
    values = np.array([2.0**28, 1e30, -1e30], np.float32)
    assert state_to_fixed(values).tolist() == [MAX_STATE, MAX_STATE, -MAX_STATE]


@given(st.lists(float32s | near_units, max_size=40))
def test_float32_arithmetic_gives_what_float64_would(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    units = delta_to_units(values, largest_of(values))
    assert units.tolist() == delta_to_fixed(values).tolist()


@given(st.lists(st.floats(-SMALL, SMALL, width=32) | near_units, max_size=40))
def test_the_path_for_small_deltas_gives_what_the_others_give(numbers: list[float]) -> None:
    values = np.clip(np.array(numbers, np.float32), np.float32(-SMALL), np.float32(SMALL))
    fast = delta_to_units(values, largest_of(values)).tolist()
    assert fast == delta_to_units(values, 1.0).tolist() == delta_to_units(values, 1e9).tolist()


@given(st.lists(float32s, min_size=1, max_size=20))
def test_the_magnitude_of_the_largest_entry_bounds_all_units(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    units = delta_to_units(values, largest_of(values))
    assert magnitude_in_units(largest_of(values)) == magnitude(units) <= MAX_DELTA


@given(st.lists(st.integers(-MAX_STATE, MAX_STATE), max_size=20))
def test_the_float32_view_is_the_nearest_float32(numbers: list[int]) -> None:
    nearest = [float(np.float32(n / SCALE)) for n in numbers]
    assert to_float32(np.array(numbers, np.int64)).tolist() == nearest


@given(st.lists(st.integers(-NARROW_LIMIT, NARROW_LIMIT), max_size=20))
def test_the_float32_view_does_not_depend_on_the_width(numbers: list[int]) -> None:
    out = np.empty(len(numbers), np.float32)
    assert to_float32(np.array(numbers, np.int32), out=out) is out
    assert out.tolist() == to_float32(np.array(numbers, np.int64)).tolist()


@given(st.lists(st.floats(-64, 64, width=32), max_size=20))
def test_values_of_whole_units_survive_the_way_there_and_back(numbers: list[float]) -> None:
    units = delta_to_fixed(np.array(numbers, np.float32))
    view = to_float32(units)
    assert delta_to_fixed(view).tolist() == units.tolist()


def test_magnitude_is_that_of_either_end() -> None:
    assert magnitude(np.array([3, -7], np.int32)) == 7
    assert magnitude(np.array([-(2**31)], np.int32)) == 2**31  # its negative has no int32
    assert magnitude(np.array([], np.int64)) == 0


def test_entries_are_kept_as_int32_up_to_the_limit() -> None:
    assert width_for(NARROW_LIMIT) is np.int32
    assert width_for(NARROW_LIMIT + 1) is np.int64


def test_work_arrays_are_reused_by_slot_and_kept_apart_by_thread() -> None:
    mine = work_array("test", 10, np.int32)
    assert np.shares_memory(mine, work_array("test", BLOCK, np.int32))
    assert not np.shares_memory(mine, work_array("other", 10, np.int32))
    others = []
    thread = threading.Thread(target=lambda: others.append(work_array("test", 10, np.int32)))
    thread.start()
    thread.join()
    assert not np.shares_memory(mine, others[0])


def test_work_arrays_longer_than_a_block_are_not_kept() -> None:
    long = work_array("test", BLOCK + 1, np.int32)
    assert long.size == BLOCK + 1
    assert not np.shares_memory(long, work_array("test", BLOCK + 1, np.int32))
