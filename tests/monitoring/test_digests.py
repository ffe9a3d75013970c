"""Digests compare only where the sets are equal, and a run agrees only where every round does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from monitoring_support import PEERS, make_record

from semantic_net.monitoring.digests import Agreement, agreement, verdict
from semantic_net.records import RoundRecord


def record(round_index: int, state: str = "s", updates: str = "u") -> RoundRecord:
    return make_record(round=round_index, state_digest=state, set_digest=updates)


def test_one_round() -> None:
    assert agreement([record(1), record(1)]) is Agreement.EQUAL
    assert agreement([record(1), None]) is Agreement.OPEN
    assert agreement([None, None]) is Agreement.OPEN
    assert agreement([]) is Agreement.OPEN
    assert agreement([record(1), record(1, "t", "v")]) is Agreement.OTHER_UPDATES
    assert agreement([record(1), record(1, "t")]) is Agreement.UNEQUAL


def test_unequal_digests_of_equal_sets_outweigh_a_third_peer_with_another_set() -> None:
    assert agreement([record(1), record(1, "x", "v"), record(1, "t")]) is Agreement.UNEQUAL


@given(st.lists(st.sampled_from("st"), min_size=2, max_size=6))
def test_equal_means_one_digest(states: list[str]) -> None:
    found = agreement([record(1, state) for state in states])
    assert (found is Agreement.EQUAL) == (len(set(states)) == 1)


def test_a_run_agrees_where_every_round_does() -> None:
    history = [record(index, f"s{index}", f"u{index}") for index in (1, 2)]
    judged = verdict([history] * 3, 2)
    assert judged.agreed
    assert judged.sentence == "state_digest equal on all 3 peers in all 2 rounds: s2"
    assert judged.state_digest == "s2"


def test_a_run_that_does_not_agree_says_where() -> None:
    judged = verdict([[record(1), record(2)], [record(1), record(2, "t")]], 3)
    assert not judged.agreed
    assert judged.state_digest == ""
    assert judged.sentence == (
        "state_digest NOT equal: round 2: unequal digests of the same updates: a bug;"
        " round 3: not all peers have recorded it"
    )


def test_late_updates_are_not_told_as_a_difference() -> None:
    judged = verdict([[record(1), record(2)], [record(1, "t", "v"), record(2)]], 2)
    assert not judged.agreed
    assert judged.sentence == (
        "state_digest unequal in no round, equal in 1 of 2; "
        "round 1: not all peers had the same updates when they closed it"
    )


def test_a_bug_is_told_first() -> None:
    late = [record(n, "t", "v") for n in range(1, 5)]
    judged = verdict([[record(n) for n in range(1, 6)], [*late, record(5, "t")]], 5)
    assert judged.sentence.startswith("state_digest NOT equal: round 5: unequal digests")


def test_a_long_list_of_rounds_is_cut() -> None:
    assert verdict([[], []], 9).sentence.endswith("; and 6 more rounds")
    assert not verdict([], 0).agreed


def test_the_peers_of_the_support_module_differ() -> None:
    assert len(set(PEERS)) == 3
