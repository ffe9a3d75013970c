"""What is under way on a connection in memory: it counts when its acknowledgement is there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.transport.base import LinkTotals
from semantic_net.transport.flight import Flight


def test_what_is_acknowledged_counts_when_the_acknowledgement_is_there() -> None:
    flight = Flight()
    flight.send(100, 120, 1.0, 1.0)
    flight.send(50, 60, 1.5, 1.5)
    assert (flight.on_line_bytes, flight.next_s) == (180, None)
    flight.acknowledge(2.0, 10.0)
    assert flight.next_s == 2.0
    assert flight.totals(1.5) == LinkTotals(0, 0.5, 0)
    assert flight.share_bytes_s is None
    assert flight.totals(2.0) == LinkTotals(100, 1.0, 0)
    assert (flight.on_line_bytes, flight.round_trip_s) == (60, 1.0)
    assert flight.share_bytes_s == pytest.approx(10.0)
    flight.acknowledge(3.0, None)
    flight.settle(9.0)
    assert flight.is_empty
    assert flight.totals(9.0) == LinkTotals(150, 2.0, 0), "it was idle since"
    flight.send(1, 1, 10.0, 8.0)
    assert flight.totals(10.0).busy_s == pytest.approx(4.0), "it waited since 8.0 to be sent"


def test_no_acknowledgement_overtakes_another() -> None:
    flight = Flight()
    flight.send(1, 1, 0.0, 0.0)
    flight.send(1, 1, 0.0, 0.0)
    flight.acknowledge(5.0, None)
    flight.acknowledge(4.0, None)
    flight.settle(4.5)
    assert flight.on_line_bytes == 2
    flight.settle(5.0)
    assert flight.is_empty


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0, 5), st.floats(0, 5)), max_size=20))
def test_it_does_not_matter_how_often_one_looks(sent: list[tuple[int, float, float]]) -> None:
    seldom, often = Flight(), Flight()
    now = 0.0
    for num_bytes, takes_s, wait_s in sent:
        for flight in (seldom, often):
            flight.send(num_bytes, num_bytes, now, now)
            flight.acknowledge(now + takes_s, None)
        for step in range(5):
            often.settle(now + wait_s * step / 5)
        now += wait_s
    assert often.totals(now).sent_bytes == seldom.totals(now).sent_bytes
    assert often.totals(now).busy_s == pytest.approx(seldom.totals(now).busy_s)
    assert often.on_line_bytes == seldom.on_line_bytes
