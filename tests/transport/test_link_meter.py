"""Measuring a link: payloads count, and what is said in between does not."""

from __future__ import annotations

from semantic_net.transport.base import LinkTotals
from semantic_net.transport.link_meter import NOTHING, LinkMeter, Reading


class Counters:
    """A wire's counters, set by hand."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.busy_s = 0.0
        self.has_arrived = True
        self.are_known = True

    def read(self) -> Reading | None:
        totals = LinkTotals(self.sent_bytes, self.busy_s, self.sent_bytes // 10)
        return (totals, self.has_arrived) if self.are_known else None

    def carry(self, sent_bytes: int, busy_s: float, *, has_arrived: bool = True) -> None:
        self.sent_bytes += sent_bytes
        self.busy_s += busy_s
        self.has_arrived = has_arrived


def test_heartbeats_over_a_long_way_are_no_throughput() -> None:
    counters = Counters()
    meter = LinkMeter(counters.read)
    for _ in range(100):
        meter.before_write(is_bulk=False)
        counters.carry(150, 0.3)  # one round trip each
    assert meter.totals() == NOTHING
    meter.before_write(is_bulk=True)
    counters.carry(10_000, 0.5)
    for _ in range(100):
        meter.before_write(is_bulk=False)
        counters.carry(150, 0.3)
    assert meter.totals() == LinkTotals(10_000, 0.5, 1_000)


def test_what_is_said_while_a_payload_is_under_way_belongs_to_it() -> None:
    counters = Counters()
    meter = LinkMeter(counters.read)
    meter.before_write(is_bulk=True)
    counters.carry(4_000, 1.0, has_arrived=False)
    meter.before_write(is_bulk=False)
    assert meter.totals() == LinkTotals(4_000, 1.0, 400), "as far as it has come"
    meter.before_write(is_bulk=True)
    counters.carry(6_000, 2.0)
    assert meter.totals() == LinkTotals(10_000, 3.0, 1_000)
    counters.carry(150, 0.3)
    assert meter.totals() == LinkTotals(10_000, 3.0, 1_000), "and no further"


def test_where_nothing_is_counted_nothing_is_known() -> None:
    counters = Counters()
    counters.are_known = False
    meter = LinkMeter(counters.read)
    meter.before_write(is_bulk=True)
    meter.before_write(is_bulk=False)
    assert meter.totals() == NOTHING
