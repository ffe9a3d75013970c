"""The update set: equal sets have equal digests, and equivocation voids everywhere."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import ORIGIN, RUN, signer, update

from semantic_net.protocol import update_set as module
from semantic_net.protocol.identity import consent, endorse
from semantic_net.protocol.membership import Binding, Membership, Standing
from semantic_net.protocol.update import MAX_AUTHORS, Update
from semantic_net.protocol.update_set import MAX_HELD_AUTHORS, UpdateSet

AUTHORS = [signer(name) for name in "abc"]
UPDATES = [update(a, r, c) for a in AUTHORS for r in (1, 2, 3) for c in ("x", "y", "z")]


@given(st.lists(st.sampled_from(UPDATES)), st.randoms())
def test_any_order_gives_the_same_set_and_digest(arrived: list[Update], random: object) -> None:
    shuffled = list(arrived)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis' Random
    ours, theirs = UpdateSet(ORIGIN, arrived), UpdateSet(ORIGIN, shuffled)
    for number in (0, 1, 2, 3):
        assert ours.set_digest(number) == theirs.set_digest(number)
        assert ours.live(number) == theirs.live(number)


@given(st.lists(st.sampled_from(UPDATES), unique=True))
def test_a_slot_counts_exactly_when_it_holds_one_update(arrived: list[Update]) -> None:
    updates = UpdateSet(ORIGIN, arrived)
    for author in AUTHORS:
        for number in (1, 2, 3):
            slot = [u for u in arrived if (u.author, u.round) == (author.peer_id, number)]
            assert updates.holds(number, author.peer_id) == (len(slot) > 0)
            assert updates.is_void(number, author.peer_id) == (len(slot) > 1)
            counted = [u for u in updates.live(number) if u.author == author.peer_id]
            assert counted == (slot if len(slot) == 1 else [])


def test_what_does_not_count_is_held_and_shows_nowhere() -> None:
    own, device = AUTHORS[0], signer("device")
    membership = Membership(device, own, RUN)
    mine = [update(own, r) for r in (1, 2)]
    others = [update(AUTHORS[1], r) for r in (2, 3)]
    alone, both = UpdateSet(ORIGIN, mine), UpdateSet(ORIGIN, [*mine, *others], membership)
    assert both.digest == alone.digest
    assert both.live(2) == alone.live(2)
    assert both.live(3) == ()
    assert both.authors == {own.peer_id}
    assert others[0].id in both
    assert both.recount({AUTHORS[1].peer_id: 4}) is None, "nothing of it from there on"


def test_what_counts_again_is_found_from_its_first_round_on() -> None:
    own, device, theirs = AUTHORS[0], signer("device"), signer("their device")
    membership = Membership(device, own, RUN)
    membership.trust({theirs.peer_id: Standing(lets_in=True)})
    held = [*(update(own, r) for r in (1, 2, 3)), *(update(AUTHORS[1], r) for r in (2, 3))]
    updates = UpdateSet(ORIGIN, held, membership)
    before = updates.digest
    words = endorse(theirs, AUTHORS[1].public_key), consent(AUTHORS[1], theirs.public_key)
    membership.take(Binding(AUTHORS[1].public_key, theirs.public_key, *words))
    assert updates.recount(membership.settle().first_rounds) == 2
    assert updates.digest == UpdateSet(ORIGIN, held).digest != before
    membership.trust({theirs.peer_id: Standing(lets_in=False)})
    membership.speak(3)
    assert updates.recount(membership.settle().first_rounds) == 3
    assert updates.digest == UpdateSet(ORIGIN, held[:-1]).digest


def test_digests_tell_different_sets_apart() -> None:
    one, two = update(AUTHORS[0], 1, "x"), update(AUTHORS[0], 1, "y")
    sets = [
        UpdateSet(ORIGIN),
        UpdateSet(ORIGIN, [one]),
        UpdateSet(ORIGIN, [two]),
        UpdateSet(ORIGIN, [one, two]),
    ]
    assert len({s.set_digest(1) for s in sets}) == 4


def test_a_void_slot_is_no_empty_one() -> None:
    """Whoever has not heard of it yet may still take one of the two in."""
    one, two = update(AUTHORS[0], 1, "x"), update(AUTHORS[0], 1, "y")
    other = update(AUTHORS[1], 1)
    void, empty = UpdateSet(ORIGIN, [other, one, two]), UpdateSet(ORIGIN, [other])
    assert void.live(1) == empty.live(1)
    assert void.set_digest(1) != empty.set_digest(1)


def test_a_third_equivocation_changes_nothing() -> None:
    x, y, z = (update(AUTHORS[0], 1, c) for c in "xyz")
    updates = UpdateSet(ORIGIN, [x, y])
    before = updates.set_digest(1)
    assert not updates.add(z)
    assert updates.set_digest(1) == before
    assert z.id not in updates
    assert UpdateSet(ORIGIN, [y, z]).set_digest(1) == before


def test_adding_twice_is_harmless_and_digests_follow_additions() -> None:
    updates = UpdateSet(ORIGIN)
    empty = updates.set_digest(5)
    x = update(AUTHORS[0], 2)
    assert updates.add(x)
    assert not updates.add(x)
    assert updates.set_digest(1) == empty != updates.set_digest(2)
    assert (len(updates), list(updates), updates.rounds()) == (1, [x], [2])
    assert updates.last_round_of(AUTHORS[0].peer_id) == 2
    assert updates.last_round_of(AUTHORS[1].peer_id) == 0
    assert updates.get(x.id) is x


def test_a_round_counts_at_most_the_agreed_number_of_authors() -> None:
    many = [update(signer(str(i)), 1) for i in range(MAX_AUTHORS + 3)]
    counted = UpdateSet(ORIGIN, many).live(1)
    assert [u.author for u in counted] == sorted(u.author for u in many)[:MAX_AUTHORS]


def test_evidence_that_was_asked_for_stays_as_it_was() -> None:
    """Another thread may write it to disk while the set grows."""
    updates = UpdateSet(ORIGIN, [update(AUTHORS[0], 1, "a"), update(AUTHORS[0], 1, "b")])
    evidence = updates.evidence()
    updates.add(update(AUTHORS[0], 2, "a"))
    updates.add(update(AUTHORS[0], 2, "b"))
    updates.add(update(AUTHORS[0], 2, "c"))
    assert [found.round for found in evidence] == [1, 1]
    assert sorted(found.round for found in updates.evidence()) == [1, 1, 2, 2]


# Of a round with too many authors.

MANY = [update(signer(f"author {i}"), r, c) for i in range(7) for r in (1, 2) for c in "xyz"]
many_st = st.lists(st.sampled_from(MANY))
LAST = max(MANY, key=lambda u: u.author).author


def crowded(counting: int, held: int) -> pytest.MonkeyPatch:
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "MAX_AUTHORS", counting)
    patch.setattr(module, "MAX_HELD_AUTHORS", held)
    return patch


def expected_of(arrived: list[Update], number: int, most: int, held: int) -> list[Update]:
    """Return what counts of a round, said as plainly as can be."""
    signed: dict[str, set[bytes]] = {}
    for each in arrived:
        if each.round == number:
            signed.setdefault(each.author, set()).add(each.id)
    places = sorted(signed)[:held]
    counting = [author for author in places if len(signed[author]) == 1][:most]
    return [
        u
        for author in counting
        for u in {u.id: u for u in arrived}.values()
        if (u.round, u.author) == (number, author)
    ]


@given(many_st, st.randoms(), st.integers(1, 3), st.integers(0, 2))
def test_whatever_the_order_the_first_authors_are_held_and_void_ones_keep_their_places(
    arrived: list[Update], order: random.Random, counting: int, more: int
) -> None:
    patch = crowded(counting, held := counting + more)
    try:
        shuffled = arrived.copy()
        order.shuffle(shuffled)
        ours, theirs = UpdateSet(ORIGIN, arrived), UpdateSet(ORIGIN)
        for each in shuffled:
            theirs.add(each)
            theirs.live(each.round), theirs.digest  # caches are in its way
        assert ours.digest == theirs.digest
        for number in (1, 2):
            assert list(ours.live(number)) == list(theirs.live(number))
            assert list(ours.live(number)) == expected_of(arrived, number, counting, held)
            assert len({u.author for u in theirs if u.round == number}) <= held
    finally:
        patch.undo()


@given(many_st, many_st, st.integers(1, 3), st.integers(0, 2))
def test_sets_that_have_given_some_up_become_one_all_the_same(
    first: list[Update], second: list[Update], counting: int, more: int
) -> None:
    """Nobody needs what another does not hold any more."""
    patch = crowded(counting, counting + more)
    try:
        one, two = UpdateSet(ORIGIN, first), UpdateSet(ORIGIN, second)
        both = UpdateSet(ORIGIN, [*one, *two])
        assert both.digest == UpdateSet(ORIGIN, [*first, *second]).digest
    finally:
        patch.undo()


@given(many_st)
def test_what_is_crowded_out_leaves_nothing_behind(arrived: list[Update]) -> None:
    patch = crowded(2, 3)
    try:
        updates = UpdateSet(ORIGIN)
        gone: set[bytes] = set()
        for each in arrived:
            was_out = updates.is_crowded_out(each.round, each.author)
            assert not (updates.add(each) and was_out)
            gone |= {u.id for u in updates.take_crowded_out()}
            assert not (was_out and not updates.is_crowded_out(each.round, each.author))
        left = UpdateSet(ORIGIN, list(updates))
        assert gone.isdisjoint(u.id for u in updates)
        assert updates.payload_bytes == left.payload_bytes
        assert updates.authors == left.authors == {u.author for u in updates}
        assert {u.id for u in updates.evidence()} == {u.id for u in left.evidence()}
        assert all(updates.get(item) is None for item in gone)
        assert set(updates._last_rounds) == updates.authors
    finally:
        patch.undo()


def test_made_up_authors_take_a_bounded_part_of_a_round() -> None:
    many = [update(signer(str(i)), 1) for i in range(MAX_HELD_AUTHORS + 50)]
    updates = UpdateSet(ORIGIN, many)
    assert [u.author for u in updates] == sorted(u.author for u in many)[:MAX_HELD_AUTHORS]


def test_a_device_has_its_place_however_many_strangers_there_are() -> None:
    patch = crowded(2, 3)
    try:
        own, device = signer("author 0"), signer("device")
        membership = Membership(device, own, RUN)
        theirs = signer("their device")
        last = next(u for u in MANY if u.author == LAST and u.round == 1)
        author = next(s for i in range(7) if (s := signer(f"author {i}")).peer_id == LAST)
        updates = UpdateSet(ORIGIN, MANY[::3], membership)
        assert updates.is_crowded_out(1, LAST)
        assert own.peer_id in {u.author for u in updates.after(0, "")}
        membership.trust({theirs.peer_id: Standing(lets_in=True)})
        words = endorse(theirs, author.public_key), consent(author, theirs.public_key)
        membership.take(Binding(author.public_key, theirs.public_key, *words))
        updates.recount(membership.settle().first_rounds)
        assert not updates.is_crowded_out(1, LAST), "neighbours tell of it again"
        assert updates.add(last)
        assert last in updates.live(1)
        strangers = {u.author for u in updates if u.round == 1} - {own.peer_id, LAST}
        assert len(strangers) == 3
    finally:
        patch.undo()


def test_of_whom_nothing_is_held_only_so_many_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_LAST_ROUNDS", 2)
    many = [update(signer(str(i)), i) for i in range(1, 9)]
    updates = UpdateSet(ORIGIN, many)
    updates.rebase(UpdateSet(ORIGIN, many[:4]).history_through(4, 4))
    assert [updates.last_round_of(u.author) for u in many] == [0, 0, 3, 4, 5, 6, 7, 8]
