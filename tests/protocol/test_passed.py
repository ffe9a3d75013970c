"""Each own update counts or goes out anew: never both, never neither."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import ORIGIN, held, only, signer, update

from semantic_net.protocol import passed as module
from semantic_net.protocol import update_set
from semantic_net.protocol.actions import Action, CountAgain, TakeBack
from semantic_net.protocol.passed import Passed
from semantic_net.protocol.update import Update, UpdateId
from semantic_net.protocol.update_set import UpdateSet

ME, OTHER = signer("me"), signer("other")
ROUNDS = 6
OWN = [update(ME, number) for number in range(1, ROUNDS + 1)]
RIVALS = [update(ME, number, "rival") for number in range(1, ROUNDS + 1)]


def ids(updates: tuple[Update, ...]) -> set[int]:
    return {u.round for u in updates}


def test_what_a_base_leaves_out_is_taken_back_and_counts_again_with_a_base_that_has_it() -> None:
    updates = held(*OWN[:3])
    passed = Passed(ME.peer_id, updates)
    without = held(OWN[0], OWN[2]).history_through(4, 4)
    assert passed.dropped(updates.rebase(without)) == []
    assert passed.settle() == [TakeBack((OWN[1],))]
    assert passed.settle() == []
    having = held(*OWN[:2]).history_through(4, 4)
    updates.rebase(having)
    assert passed.settle() == [TakeBack((OWN[2],)), CountAgain((OWN[1],))]
    assert ids(passed.kept) == {1, 2, 3}


def test_an_earlier_base_holds_again_what_was_not_taken_back() -> None:
    updates = held(*OWN[:3])
    passed = Passed(ME.peer_id, updates)
    passed.dropped(updates.rebase(held(OWN[0], OWN[2]).history_through(4, 4)))
    passed.settle()
    again = passed.dropped(updates.rebase(ORIGIN))
    assert again == [OWN[0], OWN[2]], "the other has gone out anew"
    for back in again:
        updates.add(back)
    assert passed.settle() == []
    updates.add(OWN[1])  # from a peer that holds it still
    assert passed.settle() == [CountAgain((OWN[1],))]
    assert passed.kept == ()


def test_what_others_have_authored_is_held_again_too_but_for_void_slots() -> None:
    theirs, twice = update(OTHER, 1), [update(OTHER, 2, text) for text in "xy"]
    updates = held(theirs, *twice)
    passed = Passed(ME.peer_id, updates)
    assert passed.dropped(updates.rebase(held().history_through(4, 4))) == []
    assert passed.settle() == []
    assert passed.kept == (theirs,)
    assert passed.dropped(updates.rebase(ORIGIN)) == [theirs]


def test_a_void_slot_is_taken_back_and_a_base_from_before_lets_it_count() -> None:
    updates = held(OWN[0], RIVALS[0])
    passed = Passed(ME.peer_id, updates)
    assert passed.settle() == [TakeBack(updates.slot(1, ME.peer_id))]
    passed.dropped(updates.rebase(held(OWN[0]).history_through(4, 4)))
    assert passed.settle() == [CountAgain((OWN[0],))]


def test_what_was_taken_back_is_known_after_a_restart() -> None:
    without = held().history_through(4, 4)
    updates = UpdateSet(without)
    passed = Passed(ME.peer_id, updates, OWN[:2], {OWN[0].id: 1})
    assert passed.settle() == [TakeBack((OWN[1],))], "the process died before it was on disk"


def test_the_last_ones_are_kept_within_their_room() -> None:
    updates = held(*OWN, update(OTHER, 6))
    passed = Passed(ME.peer_id, updates, own_bytes=3, others_bytes=0)
    passed.dropped(updates.rebase(held().history_through(8, 4)))
    assert passed.settle() == [TakeBack(tuple(OWN))], "those that have no room too"
    assert passed.kept == tuple(OWN[3:]), "our own before those of others"
    large = update(OTHER, 6, "too large for its room")
    passed = Passed(ME.peer_id, held(), [update(OTHER, 5), large], others_bytes=3)
    passed.settle()
    assert passed.kept == (update(OTHER, 5),), "no large one keeps smaller ones out"
    frontier = module.MAX_ROUNDS_BACK + 4
    many = [update(ME, number) for number in range(1, frontier + 1)]
    passed = Passed(ME.peer_id, held(history=held().history_through(frontier, 4)), many)
    passed.settle()
    assert ids(passed.kept) == set(range(5, frontier + 1))


def test_what_others_are_crowded_out_of_is_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_set, "MAX_HELD_AUTHORS", 1)
    first, last = sorted((update(who, 1) for who in (ME, OTHER)), key=lambda u: u.author)
    me = signer("a third").peer_id
    passed = Passed(me, held(first), [last])  # as a restart finds it on disk
    assert passed.settle() == []
    assert passed.kept == ()
    passed = Passed(last.author, held(first), [last])
    assert passed.settle() == [TakeBack((last,))], "one's own goes out anew"


def test_of_ones_own_as_many_are_kept_where_turns_are_rare() -> None:
    """After a long partition what a half had learned counted nowhere, and no author had it."""
    period = 10
    frontier = module.MAX_ROUNDS_BACK * period
    history = held().history_through(frontier, period)
    mine = [update(ME, number) for number in range(1, frontier, period)]
    others = [update(OTHER, number) for number in range(1, frontier, period)]
    passed = Passed(ME.peer_id, held(history=history), [*mine, *others], turn_period=period)
    passed.settle()
    kept = {u.round for u in passed.kept if u.author == ME.peer_id}
    assert kept == {u.round for u in mine}
    assert all(u.round > frontier - module.MAX_ROUNDS_BACK for u in passed.kept if u in others)
    assert passed.first_own(frontier) == 1


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[str, int, frozenset[int]]]:
    """Draw what happens to a peer's updates: of one round, or a base with some of them."""
    kinds = st.sampled_from(["author", "arrive", "rival", "base", "restart"])
    rounds = st.integers(1, ROUNDS)
    return draw(st.lists(st.tuples(kinds, rounds, st.frozensets(rounds)), max_size=20))


@given(steps())
def test_whatever_happens_everything_learned_counts_once(
    happened: list[tuple[str, int, frozenset[int]]],
) -> None:
    updates = UpdateSet(ORIGIN)
    passed = Passed(ME.peer_id, updates)
    residual: Counter[UpdateId] = Counter()
    authored: list[Update] = []

    def carry_out(actions: list[Action]) -> None:
        for back in only(actions, TakeBack):
            residual.update(u.id for u in back.updates)
        for again in only(actions, CountAgain):
            residual.subtract(u.id for u in again.updates)

    for kind, number, included in happened:
        ours = OWN[number - 1]
        if kind == "author" and all(u.round < number for u in authored):
            authored.append(ours)
            if not updates.add(ours):
                carry_out(passed.never_held(ours))
        elif kind == "arrive" and ours in authored:
            updates.add(ours)
            if passed.is_taken_back(ours):
                carry_out(passed.settle())
        elif kind == "rival" and updates.holds(number, ME.peer_id):
            updates.add(RIVALS[number - 1])
            carry_out(passed.settle())
        elif kind == "base":
            theirs = [u for u in authored if u.round in included]
            frontier = number - number % 2
            theirs_and_more = held(update(OTHER, 1), *theirs)
            history = theirs_and_more.history_through(frontier, 2) if frontier else ORIGIN
            for back in passed.dropped(updates.rebase(history)):
                updates.add(back)
            carry_out(passed.settle())
        elif kind == "restart":
            in_residual = {u.id: u.round for u in authored if residual[u.id]}
            passed = Passed(ME.peer_id, updates, passed.kept, in_residual)
            carry_out(passed.settle())
        for u in authored:
            void = u.id in updates and updates.is_void(u.round, ME.peer_id)
            counts = (u.id in updates and not void) or updates.history.includes(u)
            assert residual[u.id] + counts == 1
