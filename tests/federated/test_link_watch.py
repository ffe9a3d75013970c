"""What links did between two looks: cumulative counters become measurements."""

from __future__ import annotations

import pytest

from semantic_net.federated.link_watch import TICK_S, LinkWatch
from semantic_net.protocol.identity import PeerId
from semantic_net.semantic.rate import MIN_BYTES, LinkUse
from semantic_net.transport.base import LinkTotals

A, B = PeerId("a"), PeerId("b")


def test_each_look_measures_what_came_since_the_last() -> None:
    watch = LinkWatch()
    assert watch.since_last({A: LinkTotals(5_000, 1.0, 100)}) == [LinkUse(5_000, 1.0, 100)]
    assert watch.since_last({A: LinkTotals(9_000, 3.0, 100)}) == [LinkUse(4_000, 2.0, 0)]


def test_what_was_over_within_a_tick_took_one() -> None:
    assert LinkWatch().since_last({A: LinkTotals(9_000, 0.0, 0)}) == [LinkUse(9_000, TICK_S, 0)]


def test_too_little_measures_nothing_and_is_added_to_what_follows() -> None:
    watch = LinkWatch()
    watch.since_last({A: LinkTotals(5_000, 1.0, 0)})
    little = LinkTotals(5_000 + MIN_BYTES - 1, 2.0, 0)
    assert watch.since_last({A: little}) == [LinkUse(5_000, 1.0, 0)], "the last one stands"
    assert watch.since_last({A: LinkTotals(5_000 + MIN_BYTES, 2.5, 0)}) == [
        LinkUse(MIN_BYTES, 1.5, 0)
    ]


@pytest.mark.parametrize("sent_bytes", [2_000, 90_000])
def test_a_new_session_counts_from_its_start(sent_bytes: int) -> None:
    """However much it has carried by then: two sessions' counters differ by nothing real."""
    watch = LinkWatch()
    watch.since_last({A: LinkTotals(50_000, 9.0, 800, b"first")})
    later = LinkTotals(sent_bytes, 0.5, 3, b"second")
    assert watch.since_last({A: later}) == [LinkUse(sent_bytes, 0.5, 3)]


def test_only_links_that_are_up_are_told_and_a_lost_one_is_remembered() -> None:
    watch = LinkWatch()
    watch.since_last({A: LinkTotals(5_000, 1.0, 0)})
    assert watch.since_last({B: LinkTotals(10, 1.0, 0)}) == [LinkUse(0, 0.0, 0)]
    assert watch.since_last({A: LinkTotals(10, 1.0, 0)}) == [LinkUse(5_000, 1.0, 0)]
