"""The update set: equal sets have equal digests, and equivocation voids everywhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from protocol_support import ORIGIN, RUN, signer, update

from semantic_net.protocol.identity import consent, endorse
from semantic_net.protocol.membership import Binding, Membership, Standing
from semantic_net.protocol.update import MAX_AUTHORS, Update
from semantic_net.protocol.update_set import UpdateSet

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
