"""What a trace carries is its integral, wherever it begins and however often it repeats."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.transport.bandwidth import RateTrace, bytes_s, end_s, steps_of
from semantic_net.transport.link import ETHERNET_HEADER_BYTES, LinkQuality

# 100 bytes in the first second, none in two, 20 in the last: 120 in 4 seconds.
TRACE = RateTrace([(1.0, 100.0), (2.0, 0.0), (1.0, 20.0)])


@pytest.mark.parametrize(
    ("begin_s", "num_bytes", "expected_s"),
    [
        (0.0, 50, 0.5),
        (0.0, 100, 1.0),  # and not 3.0, after the pause
        (0.0, 110, 3.5),
        (0.5, 60, 3.5),  # 50 before the pause, 10 after it
        (2.0, 20, 4.0),
        (0.0, 120, 4.0),
        (0.0, 130, 4.1),
        (0.0, 360, 12.0),
        (40.5, 60, 43.5),  # cycles later
        (2.0, 0, 2.0),  # nothing takes no time, not even in a pause
    ],
)
def test_bytes_pass_as_the_steps_allow(begin_s: float, num_bytes: int, expected_s: float) -> None:
    assert TRACE.end_s(begin_s, num_bytes) == pytest.approx(expected_s)


def test_a_shifted_trace_begins_elsewhere() -> None:
    assert TRACE.shifted(3.0).end_s(0.0, 20) == pytest.approx(1.0)
    assert TRACE.shifted(4.5).end_s(0.0, 50) == pytest.approx(0.5)
    assert [bytes_s(TRACE.shifted(3.0), now) for now in (0.0, 1.5, 2.5)] == [20.0, 100.0, 0.0]


def test_a_number_and_no_limit() -> None:
    assert end_s(1000.0, 2.0, 500) == 2.5
    assert end_s(None, 2.0, 500) == 2.0


@pytest.mark.parametrize("steps", [[], [(1.0, 0.0)], [(0.0, 1.0)], [(1.0, -1.0)], [(math.nan, 1)]])
def test_a_trace_that_carries_nothing_is_refused(steps: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="trace"):
        RateTrace(steps)


def test_samples_hold_until_the_next() -> None:
    assert steps_of([10.0, 12.0, 13.0], [1.0, 2.0, 3.0]) == [(2.0, 1.0), (1.0, 2.0), (1.0, 3.0)]
    assert steps_of([5.0], [7.0]) == [(1.0, 7.0)]


steps = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 50)), min_size=1, max_size=6).filter(
    lambda found: any(rate for _, rate in found)
)


@given(steps, st.integers(0, 1000), st.integers(0, 300), st.integers(1, 4000))
def test_the_end_is_where_the_integral_says(
    found: list[tuple[int, int]], offset: int, begin: int, num_bytes: int
) -> None:
    """In whole ticks of 0.01 s, walked through one by one."""
    trace = RateTrace([(length / 100, rate * 100.0) for length, rate in found])
    ticks = [rate for length, rate in found for _ in range(length)]
    passed, tick = 0, begin
    while passed + ticks[(tick + offset) % len(ticks)] < num_bytes:
        passed += ticks[(tick + offset) % len(ticks)]
        tick += 1
    rate = ticks[(tick + offset) % len(ticks)]
    expected_s = (tick + (num_bytes - passed) / rate) / 100
    found_s = trace.shifted(offset / 100).end_s(begin / 100, num_bytes)
    # Where a tick ends with the last byte a rounding error may end it after the pause.
    assert found_s == pytest.approx(expected_s, abs=1e-6) or (
        trace.shifted(offset / 100).end_s(begin / 100, num_bytes - 1e-6)
        == pytest.approx(expected_s, abs=1e-6)
    )


@given(steps, st.floats(0, 1e5), st.lists(st.integers(1, 10_000), max_size=20))
def test_pieces_take_as_long_as_the_whole_and_never_go_back(
    found: list[tuple[int, int]], begin_s: float, pieces: list[int]
) -> None:
    trace = RateTrace([(float(length), float(rate)) for length, rate in found])
    ends = [begin_s]
    for piece in pieces:
        ends.append(trace.end_s(ends[-1], piece))
    assert ends == sorted(ends)
    # Up to a rounding error, which may be on either side of a pause.
    bounds = [trace.end_s(begin_s, max(sum(pieces) + more, 0.0)) for more in (-1e-3, 1e-3)]
    assert bounds[0] - 1e-3 <= ends[-1] <= bounds[1] + 1e-3


def test_headers_count_by_the_segment() -> None:
    quality = LinkQuality(header_bytes=ETHERNET_HEADER_BYTES)
    assert [quality.on_line(n) for n in (0, 1, 1448, 1449)] == [0, 67, 1514, 1581]
    assert LinkQuality().on_line(5000) == 5000
