"""Which base to stand on, and when a later one may be made: pure, from what peers say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from protocol_support import (
    BASE,
    BASES,
    ORIGIN,
    RUN,
    heartbeat,
    heartbeat_body,
    origin,
    signer,
    update,
)

from semantic_net.protocol.bases import Base, Bases, Due
from semantic_net.protocol.history import History, history_of_origin
from semantic_net.protocol.identity import consent, endorse
from semantic_net.protocol.membership import Binding, Membership, Standing
from semantic_net.protocol.messages import MAX_MARKS
from semantic_net.protocol.roster import Roster
from semantic_net.protocol.update import Update
from semantic_net.protocol.update_set import UpdateSet

ME, ALICE, BOB, CAROL = (signer(name) for name in ("me", "alice", "bob", "carol"))
LIVENESS_S = 10.0
EVERY = BASES.every


class Scene:
    """One peer's bases, and what others say of theirs."""

    def __init__(
        self,
        *held: Update,
        budget_bytes: int | None = None,
        max_liars: int = 0,
        membership: Membership | None = None,
    ) -> None:
        self.now = 0.0
        self.updates = UpdateSet(ORIGIN, held)
        self.roster = Roster(LIVENESS_S, max_liars, membership)
        cfg = replace(BASES, budget_bytes=budget_bytes, max_liars=max_liars)
        self.bases = Bases(cfg, ME.peer_id, origin(BASE), self.updates, self.roster)
        self._sequence = 0

    def hear(self, name: str, **says: Any) -> None:
        self._sequence += 1
        defaults = {"round_index": 9, "next_round": 9, "sequence": self._sequence}
        body = heartbeat_body(**{**defaults, **says})
        who = signer(name)
        self.roster.hear(who.peer_id, body, heartbeat(who, body), self.now)

    def agree(self, *names: str, through: int = 8) -> None:
        """Let peers sign that they hold what we hold."""
        for name in names:
            self.hear(name, marks=((through, self.updates.set_digest(through)),))

    def due(self, through: int = 9, *, all_met: bool = True) -> Due | None:
        return self.bases.due(through, self.now, all_met=all_met)

    def stand_on(self, frontier: int) -> Base:
        history = self.updates.history_through(frontier, EVERY)
        self.bases.base = snapshot(history)
        self.updates.rebase(history)
        return self.bases.base

    def signed(self, through: int) -> set[int]:
        marks = self.bases.marks(through, self.now)
        assert all(digest == self.updates.digest_at(number) for number, digest in marks)
        return {number for number, _ in marks}

    def wants(self, base: Base, *, in_use: bool = True) -> bool:
        return self.bases.is_wanted(base, self.now, in_use=in_use)


def snapshot(history: History, digest: bytes = b"s" * 32) -> Base:
    return Base.of(digest, 100, history, given=False)


def says_it_stands_on(base: Base, history: History, **more: Any) -> dict[str, Any]:
    return {"base": base.digest, "base_bytes": base.size, "history": history, **more}


UPDATES = [update(who, n) for n in range(1, 9) for who in (ME, ALICE, BOB)]


# When to make a base.


def test_a_base_is_made_once_all_members_have_signed_the_same_set() -> None:
    scene = Scene(*UPDATES)
    scene.agree("alice")
    scene.hear("bob", marks=((8, b"x" * 32),))
    assert scene.due() is None
    scene.agree("bob", through=4)
    assert scene.due() == Due(4, is_stable=True), "as far as all of them agree"
    scene.agree("bob")
    assert scene.due() == Due(8, is_stable=True)
    assert scene.due(7) == Due(4, is_stable=True), "not beyond what we have closed ourselves"
    assert scene.due(3) is None


def test_no_base_is_made_twice() -> None:
    scene = Scene(*UPDATES)
    scene.agree("alice", "bob")
    scene.stand_on(8)
    assert scene.due(11) is None


def test_one_that_has_signed_a_later_round_agrees_with_all_before() -> None:
    scene = Scene(*UPDATES)
    scene.agree("alice", "bob", through=12)
    assert scene.due() == Due(8, is_stable=True)


def test_who_stands_on_a_later_base_of_the_same_rounds_agrees() -> None:
    scene = Scene(*UPDATES)
    scene.agree("alice")
    history = scene.updates.history_through(8, EVERY)
    scene.hear("bob", **says_it_stands_on(snapshot(history), history))
    assert scene.due() == Due(8, is_stable=True)


@pytest.mark.parametrize("is_known", [True, False], ids=["heard before", "only its updates"])
def test_a_silent_member_is_waited_for(is_known: bool) -> None:
    scene = Scene(*UPDATES)
    if is_known:
        scene.hear("bob")
        scene.now = LIVENESS_S
    scene.agree("alice")
    assert scene.due() is None
    scene.hear("bob", leaving=True)
    assert scene.due() == Due(8, is_stable=True), "who said goodbye is none any more"


def test_a_late_joiner_is_waited_for() -> None:
    scene = Scene(*UPDATES)
    scene.agree("alice", "bob")
    scene.hear("carol", round_index=0, next_round=1)
    assert scene.due() is None


def test_who_was_named_and_not_met_is_waited_for() -> None:
    scene = Scene(*UPDATES)
    scene.agree("alice", "bob")
    assert scene.due(all_met=False) is None


def test_a_run_of_one_compacts() -> None:
    scene = Scene(*(update(ME, n) for n in range(1, 9)))
    assert scene.due() == Due(8, is_stable=True)


def test_a_used_up_budget_does_not_wait_for_the_silent() -> None:
    held = sum(u.payload_bytes for u in UPDATES)
    scene = Scene(*UPDATES, budget_bytes=held)
    scene.agree("alice")
    assert scene.due() is None, "it is not used up yet"
    scene = Scene(*UPDATES, budget_bytes=held - 1)
    scene.agree("alice")
    assert scene.due() == Due(8, is_stable=False, silent=(BOB.peer_id,))
    scene.hear("alice", marks=((8, b"x" * 32),))
    assert scene.due() is None, "but for the living it does"


def test_who_is_alone_keeps_everything() -> None:
    """What it learns alone must not be in a base that yields to the others' later."""
    scene = Scene(*UPDATES, budget_bytes=0)
    assert scene.due() is None


def test_where_some_may_lie_too_few_make_no_base() -> None:
    """Each that made one alone would never take over another's."""
    own = [update(ME, n) for n in range(1, 9)]
    assert Scene(*own).due() == Due(8, is_stable=True)
    scene = Scene(*own, max_liars=1)
    assert scene.due() is None
    scene.agree("alice")
    assert scene.due() == Due(8, is_stable=True)


def test_a_liar_that_agrees_with_nothing_does_not_fill_the_disk() -> None:
    for max_liars, expected in ((0, None), (1, Due(8, is_stable=False, silent=(BOB.peer_id,)))):
        scene = Scene(*UPDATES, budget_bytes=0, max_liars=max_liars)
        scene.agree("alice")
        scene.hear("bob", marks=((8, b"x" * 32),))
        assert scene.due() == expected


# What to sign.


def test_the_latest_round_to_be_compacted_is_signed() -> None:
    scene = Scene(*UPDATES)
    assert scene.bases.marks(3, 0.0) == ()
    assert scene.signed(through=7) == {4}
    assert scene.signed(through=8) == {8}
    scene.stand_on(8)
    assert scene.bases.marks(8, 0.0) == ()


def test_what_others_have_compacted_is_signed_to_show_whether_we_agree() -> None:
    scene = Scene(*UPDATES)
    theirs = UpdateSet(ORIGIN, UPDATES[:-1]).history_through(4, EVERY)
    scene.hear("alice", **says_it_stands_on(snapshot(theirs), theirs))
    assert scene.signed(through=8) == {4, 8}
    assert scene.bases.marks(3, 0.0) == (), "nothing that may still change"


def test_the_bases_that_most_stand_by_are_signed_where_there_are_many() -> None:
    scene = Scene(*UPDATES)
    for number in range(4, 32, EVERY):
        history = scene.updates.history_through(number, EVERY)
        for name in ["x", "y"][: 1 + (number > 12)]:
            scene.hear(f"{name}{number}", **says_it_stands_on(snapshot(history), history))
    signed = scene.signed(through=32)
    assert len(signed) == MAX_MARKS
    assert 32 in signed, "for the next base to come"
    assert min(signed) > 12


# Which to take over.


def test_the_peers_of_one_device_stand_on_a_base_as_one() -> None:
    """A liar with twenty peers outranked five honest ones."""
    device, theirs = signer("device"), signer("their device")
    membership = Membership(device, ME, RUN)
    membership.trust({theirs.peer_id: Standing(lets_in=True)})
    for name in ("x", "y", "z"):
        words = endorse(theirs, signer(name).public_key), consent(signer(name), theirs.public_key)
        membership.take(Binding(signer(name).public_key, theirs.public_key, *words))
    membership.settle()
    other = UpdateSet(ORIGIN, [update(CAROL, n) for n in range(1, 9)])
    history = other.history_through(8, EVERY)
    for known, max_liars, expected in (
        (None, 1, True),
        (membership, 1, False),
        (membership, 0, False),
    ):
        scene = Scene(*UPDATES, max_liars=max_liars, membership=known)
        scene.stand_on(8)
        for name in ("x", "y", "z"):
            scene.hear(name, **says_it_stands_on(snapshot(history, b"o" * 32), history))
        scene.hear("alice", **says_it_stands_on(scene.bases.base, scene.updates.history))
        assert scene.wants(snapshot(history, b"o" * 32)) == expected


def test_a_later_base_of_the_same_rounds_is_not_wanted() -> None:
    scene = Scene(*UPDATES)
    history = scene.updates.history_through(8, EVERY)
    base = snapshot(history)
    scene.hear("alice", **says_it_stands_on(base, history))
    assert not scene.wants(base), "all of it is here"


def test_a_late_joiner_wants_the_base_of_those_it_meets() -> None:
    scene = Scene()
    history = UpdateSet(ORIGIN, UPDATES).history_through(8, EVERY)
    base = snapshot(history)
    scene.hear("alice", **says_it_stands_on(base, history))
    assert scene.wants(base, in_use=False)


def test_of_two_bases_in_use_that_contradict_each_other_the_larger_wins() -> None:
    scene = Scene(*UPDATES[:-1])
    history = UpdateSet(ORIGIN, UPDATES).history_through(8, EVERY)
    base = snapshot(history)
    scene.hear("alice", **says_it_stands_on(base, history))
    assert scene.wants(base), "one to one, it includes more"
    scene.hear("bob")
    scene.hear("carol")
    assert not scene.wants(base), "three stand by the origin, one by it"
    for name in ("bob", "carol"):
        scene.hear(name, marks=((8, history.set_digest),))
    assert scene.wants(base), "who signs what it includes stands by it, too"


def test_whoever_has_gone_on_from_a_base_stands_by_it() -> None:
    """Only a neighbour's base can be fetched, and it need not be the latest of its kind."""
    scene = Scene(*UPDATES[:-1])
    scene.hear("alice")
    theirs = UpdateSet(ORIGIN, UPDATES)
    history, later = theirs.history_through(8, EVERY), theirs.history_through(12, EVERY)
    base = snapshot(history)
    scene.hear("bob", **says_it_stands_on(base, history))
    carol = says_it_stands_on(snapshot(later, b"l" * 32), later)
    scene.hear("carol", **carol)
    assert not scene.wants(base), "two stand by the origin, one by it"
    scene.hear("carol", **carol, marks=((8, history.set_digest),))
    assert scene.wants(base)


def test_who_is_alone_with_its_base_goes_back_to_an_earlier_one() -> None:
    scene = Scene(*UPDATES)
    scene.stand_on(8)
    others = UpdateSet(ORIGIN, [*UPDATES, update(CAROL, 5)])
    for name in ("alice", "bob"):
        scene.hear(name, marks=((8, others.set_digest(8)),))
    assert scene.wants(origin(BASE)), "they hold an update that ours can never take in"
    scene.hear("bob", leaving=True)
    assert not scene.wants(origin(BASE)), "of two the one that includes more"


def test_nobody_moves_for_a_base_that_no_live_peer_stands_on() -> None:
    scene = Scene(*UPDATES[:-1])
    history = UpdateSet(ORIGIN, UPDATES).history_through(8, EVERY)
    base = snapshot(history)
    scene.hear("alice", **says_it_stands_on(base, history))
    scene.now = LIVENESS_S
    assert not scene.wants(base)


@pytest.mark.parametrize(
    "says",
    [
        {"base_bytes": 3},
        {"base_bytes": 10_001, "history": UpdateSet(ORIGIN).history_through(4, 4)},
        {"history": UpdateSet(ORIGIN).history_through(3, 3)},
    ],
    ids=["an origin of another size", "too large", "no multiple"],
)
def test_an_offer_that_no_peer_of_the_run_makes_is_none(says: dict[str, Any]) -> None:
    scene = Scene()
    assert scene.bases.offered(heartbeat_body()) == origin(BASE)
    assert scene.bases.offered(heartbeat_body(**says)) is None


def test_an_origin_without_updates_claims_none() -> None:
    body = heartbeat_body()
    forged = type(body)(
        **{name: getattr(body, name) for name in body.__struct_fields__} | {"num_included": 7}
    )
    assert Scene().bases.offered(forged) is None
    assert history_of_origin(BASE).num_included == 0


# What one liar can do: nothing.


def test_a_forged_state_of_an_equal_set_moves_nobody() -> None:
    scene = Scene(*UPDATES)
    history = scene.updates.history_through(8, EVERY)
    forged, honest = snapshot(history, b"f" * 32), snapshot(history)
    scene.hear("liar", **says_it_stands_on(forged, history), marks=((4, b"x" * 32),))
    assert not scene.wants(forged), "what it includes is held here"
    scene.stand_on(8)
    assert not scene.wants(forged), "one to one"
    scene.hear("alice", **says_it_stands_on(honest, history))
    scene.hear("liar", **says_it_stands_on(forged, history), marks=((4, b"x" * 32),))
    assert not scene.wants(forged)


def test_whoever_was_lied_to_moves_to_the_state_that_most_have_folded_the_same_set_to() -> None:
    scene = Scene(*UPDATES)
    scene.stand_on(8)
    history = scene.updates.history
    scene.bases.base = snapshot(history, b"f" * 32)
    honest = snapshot(history)
    scene.hear("alice", **says_it_stands_on(honest, history))
    assert not scene.wants(honest), "one says this, one that"
    scene.hear("bob", **says_it_stands_on(honest, history))
    assert scene.wants(honest)


def test_a_late_joiner_takes_of_two_states_of_one_set_that_which_more_stand_on() -> None:
    history = UpdateSet(ORIGIN, UPDATES).history_through(8, EVERY)
    forged, honest = snapshot(history, b"f" * 32), snapshot(history)
    scene = Scene()
    scene.hear("liar", **says_it_stands_on(forged, history))
    scene.hear("alice", **says_it_stands_on(honest, history))
    scene.hear("bob", **says_it_stands_on(honest, history))
    assert not scene.wants(forged, in_use=False)
    assert scene.wants(honest, in_use=False)


def test_false_facts_about_a_base_are_another_offer() -> None:
    history = UpdateSet(ORIGIN, UPDATES).history_through(8, EVERY)
    honest = snapshot(history)
    scene = Scene()
    says = says_it_stands_on(honest, history)
    scene.hear("alice", **says)
    assert scene.wants(honest, in_use=False)
    assert not scene.wants(replace(honest, num_included=99), in_use=False), "nobody says so"
