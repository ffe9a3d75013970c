"""Sync: whatever neighbours do, and in whatever order, the sets become equal."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from protocol_support import ADMISSION, BASE, ORIGIN, only, origin, payload, signer, update

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol import announcements, transfers
from semantic_net.protocol import sync as module
from semantic_net.protocol import update_set as set_module
from semantic_net.protocol.actions import (
    Action,
    Check,
    CheckBase,
    Discard,
    Open,
    Send,
    Serve,
    Write,
)
from semantic_net.protocol.frames import MAX_CHUNK_BYTES
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.item import Item
from semantic_net.protocol.messages import (
    MAX_HAVE_ENTRIES,
    Absent,
    Chunk,
    Have,
    HaveEntry,
    Message,
    PackedChunk,
    Sum,
    Sums,
    Want,
    encode_message,
)
from semantic_net.protocol.sync import MAX_BAD_SERVED, MAX_INADMISSIBLE, MAX_VAIN_PARTS, Sync
from semantic_net.protocol.transfers import PROGRESS_BYTES
from semantic_net.protocol.update import Update, UpdateId, UpdateMessage, admit, hash_payload
from semantic_net.protocol.update_set import UpdateSet

ALICE, BOB, CAROL = signer("alice"), signer("bob"), signer("carol")
A, B, ME = ALICE.peer_id, BOB.peer_id, signer("me").peer_id
EVERYONE = (A, B)
STALL_S = 10.0
NEVER = 1 << 31
X1, Y1, X2 = update(CAROL, 1, "xx"), update(CAROL, 1, "yy"), update(CAROL, 2, "xx")


def item(of: UpdateId) -> Item:
    return Item(of)


def base_item(digest: bytes, size: int = 2) -> Item:
    return Item(digest, origin(digest, size))


def entry(of: Update) -> HaveEntry:
    return HaveEntry(of.round, of.author, of.id)


def have(*updates: Update, complete: bool = False) -> Have:
    return Have(tuple(map(entry, updates)), complete)


def chunk(of: Update, data: str = "xx", offset: int = 0) -> Chunk:
    return Chunk(of.id, offset, memoryview(payload(data)))


def make(*held: Update, neighbours: tuple[PeerId, ...] = (A,)) -> Sync:
    made = Announcing(UpdateSet(ORIGIN, held), STALL_S)
    for peer in neighbours:
        made.connected(peer, 0.0)
    return made


def wants(actions: list[Action]) -> list[tuple[PeerId, UpdateId, int]]:
    return [
        (send.to[0], send.message.id, send.message.offset)
        for send in only(actions, Send)
        if isinstance(send.message, Want)
    ]


class Announcing(Sync):
    """One that announces what it has taken in at once."""

    def add(self, update: Update, now: float) -> tuple[list[Action], bool]:
        actions, is_void = super().add(update, now)
        self.take_crowded_out()
        return [*self.announce(now), *actions], is_void

    def header(self, peer: PeerId, update: Update, now: float) -> tuple[list[Action], bool]:
        actions, is_void = super().header(peer, update, now)
        self.take_crowded_out()
        return [*self.announce(now), *actions], is_void


def haves(actions: list[Action]) -> list[tuple[tuple[PeerId, ...], Have]]:
    return [(s.to, s.message) for s in only(actions, Send) if isinstance(s.message, Have)]


def fetch(sync: Sync, of: Update, now: float = 0.0) -> None:
    """Let Alice serve an update that she announced."""
    sync.header(A, of, now)
    assert only(sync.chunk(A, chunk(of), now), Check)
    sync.add(of, now)


# Announcing.


def test_a_new_neighbour_hears_everything_in_parts_that_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(announcements, "MAX_HAVE_ENTRIES", 2)
    sync = make(*(update(CAROL, n) for n in (1, 2, 3)), neighbours=())
    sent = [message for _, message in haves(sync.connected(A, 0.0))]
    assert [[e.round for e in m.entries] for m in sent] == [[1, 2], [3]]
    assert [m.complete for m in sent] == [False, True]
    assert MAX_HAVE_ENTRIES > 1000


def test_a_long_list_goes_on_as_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcements, "MAX_UNANSWERED", 4)
    monkeypatch.setattr(announcements, "MAX_HAVE_ENTRIES", 2)
    held = [update(CAROL, n) for n in range(1, 12)]
    sync = make(*held, neighbours=())

    def told(actions: list[Action]) -> list[tuple[list[int], bool]]:
        return [([e.round for e in m.entries], m.complete) for _, m in haves(actions)]

    assert told(sync.connected(A, 0.0)) == [([1, 2], False), ([3, 4], False)]
    assert told(sync.have(A, have(held[0]), 0.0)) == []
    assert told(sync.have(A, have(held[1]), 0.0)) == [([5, 6], False)]
    assert not sync.has_all(A, 9), "what it was not told of it lacks as well"
    answer = ([8, 9], False)
    assert told(sync.have(A, have(held[7], held[8]), 0.0)) == [answer], "and 3 to 6 still wait"
    again = [([3, 4], False), ([5, 6], False)]
    assert told(sync.tick(STALL_S)) == [*again, ([7, 10], False)], "it may never answer some"
    assert told(sync.tick(2 * STALL_S)) == [*again, ([7, 10], False), ([11], True)]
    assert told(sync.tick(2 * STALL_S)) == []


def test_long_lists_that_are_out_of_step_both_come_to_their_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One lacks the first of many updates, and the last; both are busy with new ones."""
    monkeypatch.setattr(announcements, "MAX_UNANSWERED", 8)
    monkeypatch.setattr(announcements, "MAX_HAVE_ENTRIES", 4)
    updates = [update(author, n) for n in range(1, 25) for author in (ALICE, BOB, CAROL)]
    ends = {A: UpdateSet(ORIGIN, updates), B: UpdateSet(ORIGIN, updates[30:-6])}
    syncs = {peer: Announcing(held, STALL_S) for peer, held in ends.items()}
    post: list[tuple[PeerId, Message]] = []

    def send(sender: PeerId, actions: list[Action]) -> None:
        other = B if sender == A else A
        for one in only(actions, Send):
            if isinstance(one.message, Want):  # the payload is there at once
                wanted = ends[other].get(one.message.id)
                assert wanted is not None
                send(sender, syncs[sender].header(other, wanted, 0.0)[0])
                send(sender, syncs[sender].chunk(other, chunk(wanted, "x"), 0.0))
                send(sender, syncs[sender].add(wanted, 0.0)[0])
            else:
                post.append((other, one.message))

    for peer, other in ((A, B), (B, A)):
        send(peer, syncs[peer].connected(other, 0.0))
    for number in range(100, 130):
        for peer, signs in ((A, ALICE), (B, BOB)):
            send(peer, syncs[peer].add(update(signs, number), 0.0)[0])
        while post:
            to, message = post.pop(0)
            assert isinstance(message, Have)
            send(to, syncs[to].have(B if to == A else A, message, 0.0))
    assert ends[A].digest == ends[B].digest
    for peer, other in ((A, B), (B, A)):
        assert syncs[peer].settled((other,), 999, peer, 0.0), "both have listed everything"
        assert syncs[peer].has_all(other, 999)


def test_whoever_holds_nothing_says_so() -> None:
    [(to, message)] = haves(make(neighbours=()).connected(A, 0.0))
    assert (to, message) == ((A,), Have((), True))


def ends_that_met(ours: list[Update], theirs: list[Update]) -> tuple[list[Send], list[UpdateSet]]:
    """Let two that sum up begin a session; return what they said, and what they hold after it."""
    sets = [UpdateSet(ORIGIN, ours), UpdateSet(ORIGIN, theirs)]
    ends = {A: Announcing(sets[0], STALL_S), B: Announcing(sets[1], STALL_S)}
    said: list[Send] = []
    post: list[tuple[PeerId, Message]] = []

    def send(sender: PeerId, actions: list[Action]) -> None:
        other = B if sender == A else A
        for one in only(actions, Send):
            said.append(one)
            if isinstance(one.message, Want):  # the payload is there at once
                wanted = sets[other == B].get(one.message.id)
                assert wanted is not None
                actions, is_void = ends[sender].header(other, wanted, 0.0)
                send(sender, actions)
                if not is_void:
                    send(sender, ends[sender].chunk(other, chunk(wanted, "x"), 0.0))
                    send(sender, ends[sender].add(wanted, 0.0)[0])
            else:
                post.append((other, one.message))

    for peer, other in ((A, B), (B, A)):
        send(peer, ends[peer].connected(other, 0.0, sums_up=True))
    while post:
        to, message = post.pop(0)
        other = B if to == A else A
        if isinstance(message, Sums):
            send(to, ends[to].sums(other, message, 0.0))
        else:
            assert isinstance(message, Have)
            send(to, ends[to].have(other, message, 0.0))
    assert all(ends[peer].has_all(other, 10**6) for peer, other in ((A, B), (B, A)))
    assert all(end.settled({A, B}, 10**6, signer("x").peer_id, 0.0) for end in ends.values())
    return said, sets


def test_of_rounds_that_both_hold_nothing_is_listed() -> None:
    many = [update(signer(f"author {i}"), n) for n in range(1, 21) for i in range(10)]
    said, _ = ends_that_met(many, many)
    assert [type(s.message) for s in said] == [Sums, Sums, Have, Have]
    assert all(s.message.entries == () for s in said if isinstance(s.message, Have))
    assert sum(len(encode_message(s.message)) for s in said) < 1000, "and not 2 x 200 entries"


def test_what_is_listed_grows_with_what_is_new() -> None:
    many = [update(signer(f"author {i}"), n) for n in range(1, 21) for i in range(10)]
    new = update(signer("late"), 7)
    said, sets = ends_that_met([*many, new], many)
    listed = [len(s.message.entries) for s in said if isinstance(s.message, Have)]
    assert sum(listed) <= 2 * 11 + 11, "the round that differs, by both, and the word on it"
    assert new.id in sets[1]


@given(
    ours=st.sets(st.tuples(st.integers(1, 6), st.integers(0, 4))),
    theirs=st.sets(st.tuples(st.integers(1, 6), st.integers(0, 4))),
)
def test_whatever_two_hold_they_hold_all_of_it_after_they_have_met(
    ours: set[tuple[int, int]], theirs: set[tuple[int, int]]
) -> None:
    def made(slots: set[tuple[int, int]]) -> list[Update]:
        return [update(signer(f"author {i}"), n) for n, i in sorted(slots)]

    _, (one, other) = ends_that_met(made(ours), made(theirs))
    assert one.digest == other.digest == UpdateSet(ORIGIN, made(ours | theirs)).digest


def test_nothing_is_listed_before_the_other_has_summed_up_and_once_only() -> None:
    sync = Announcing(UpdateSet(ORIGIN, [X1]), STALL_S)
    [send] = only(sync.connected(A, 0.0, sums_up=True), Send)
    assert send.message == Sums((Sum(1, UpdateSet(ORIGIN, [X1]).sum_of(1)),))
    assert haves(sync.tick(STALL_S)) == []
    assert not sync.has_all(A, 1)
    assert haves(sync.sums(A, Sums(()), STALL_S)) == [((A,), have(X1, complete=True))]
    assert sync.sums(A, Sums(()), STALL_S) == []


def test_evidence_of_a_void_slot_makes_a_round_differ() -> None:
    _, (one, other) = ends_that_met([X1, Y1], [X1])
    assert one.is_void(1, CAROL.peer_id)
    assert other.is_void(1, CAROL.peer_id)


def test_a_neighbour_back_on_an_earlier_base_is_told_of_rounds_that_were_the_same() -> None:
    held = UpdateSet(ORIGIN, [X1, X2])
    sync = Announcing(held, STALL_S)
    sync.connected(A, 0.0, sums_up=True)
    same = Sums(tuple(Sum(n, held.sum_of(n)) for n in (1, 2)))
    assert haves(sync.sums(A, same, 0.0)) == [((A,), have(complete=True))]
    sync.stands_on(A, 1, 0.0)
    assert haves(sync.stands_on(A, 0, 0.0)) == [((A,), have(X1, X2, complete=True))]


def test_a_frontier_that_goes_back_and_forth_does_not_make_us_list_all_each_time() -> None:
    """Two heartbeats cost us a list of all that we hold, as often as they came."""
    sync = make(X1, X2)
    for _ in range(100):
        sync.stands_on(A, 4, 10.0)
        listed = haves(sync.stands_on(A, 0, 10.0))
    assert listed == []
    sync.stands_on(A, 4, 10.0 + STALL_S)
    assert haves(sync.stands_on(A, 0, 10.0 + STALL_S)) == [((A,), have(X1, X2, complete=True))]


def test_a_new_update_is_told_to_all_its_source_included() -> None:
    sync = make(neighbours=(A, B))
    sync.have(A, have(X1), 0.0)
    sync.header(A, X1, 0.0)
    sync.chunk(A, chunk(X1), 0.0)
    actions, _ = sync.add(X1, 0.0)
    assert haves(actions) == [((A, B), have(X1))]
    assert sync.has_all(A, 1)
    assert not sync.has_all(B, 1), "it has not acknowledged yet"
    assert sync.has_all(B, 0)
    sync.have(B, have(X1), 0.0)
    assert sync.has_all(B, 1)


def test_what_is_not_acknowledged_is_told_again_but_only_so_often() -> None:
    sync = make(X1, neighbours=(A, B))
    sync.have(B, have(X1, complete=True), 0.0)
    assert sync.next_wakeup() == STALL_S
    assert haves(sync.tick(9.9)) == []
    assert haves(sync.tick(10.0)) == [((A,), have(X1))]
    assert haves(sync.tick(19.9)) == []
    sync.have(A, have(X2), 19.9)  # it is there, and has said nothing of the other
    assert haves(sync.tick(20.0)) == [((A,), have(X1))]
    sync.have(A, have(X1), 21.0)
    sync.absent(A, Absent(X2.id), 21.0)
    assert sync.next_wakeup() is None


def test_a_neighbour_that_answers_nothing_is_told_a_part_at_a_time() -> None:
    """It was told all at once, one part after the other, as fast as the loop turned."""
    many = [update(ALICE, number) for number in range(1, 2 * announcements.MAX_TOLD_AGAIN + 2)]
    sync = make(*many)
    now, told = 0.0, []
    for _ in range(3):
        due = sync.next_wakeup()
        assert due is not None
        assert due > now
        now = due
        [(_, message)] = haves(sync.tick(now))
        told.append(len(message.entries))
    assert told == [announcements.MAX_TOLD_AGAIN, announcements.MAX_TOLD_AGAIN, 1]
    assert now <= 2 * STALL_S


# Fetching.


def test_an_announced_update_is_wanted_from_its_first_byte() -> None:
    assert wants(make().have(A, have(X1), 0.0)) == [(A, X1.id, 0)]


def test_what_is_held_is_not_wanted() -> None:
    assert wants(make(X1).have(A, have(X1), 0.0)) == []


def test_what_was_given_up_is_taken_all_the_same_when_it_comes() -> None:
    """On a slow link each request was given up just before it was served, again and again."""
    sync = make()
    sync.have(A, have(X1, X2), 0.0)
    for one in (X1, X2):
        sync.header(A, one, 0.0)
    [(_, again, _)] = wants(sync.tick(STALL_S))
    [other] = [one for one in (X1, X2) if one.id != again]
    [write, look] = sync.chunk(A, chunk(other), STALL_S + 1)
    assert write == Write(item(other.id), 2, 0, memoryview(b"xx"))
    assert look == Check(other)
    assert wants(sync.tick(STALL_S + 2)) == [], "the one that is asked for comes next"


def test_what_was_never_asked_of_a_neighbour_is_not_taken_from_it() -> None:
    sync = make(neighbours=(A, B))
    sync.have(A, have(X1), 0.0)
    sync.have(B, have(X1), 0.0)
    sync.header(A, X1, 0.0)
    sync.disconnected(A, 1.0)
    sync.tick(1.0)
    sync.connected(A, 2.0)
    sync.have(A, have(X1), 2.0)
    assert not only(sync.chunk(A, chunk(X1), 2.0), Write)


def test_an_update_is_asked_of_one_neighbour_and_after_its_loss_of_another() -> None:
    sync = make(neighbours=(A, B))
    assert wants(sync.have(A, have(X1), 0.0)) == [(A, X1.id, 0)]
    assert wants(sync.have(B, have(X1), 0.0)) == []
    sync.header(A, X1, 0.0)
    sync.chunk(A, chunk(X1, "x"), 0.0)
    assert wants(sync.disconnected(A, 1.0)) == [(B, X1.id, 1)]


def test_chunks_come_to_their_places_and_the_whole_is_checked() -> None:
    sync = make()
    sync.have(A, have(X1), 0.0)
    sync.header(A, X1, 0.0)
    [write] = sync.chunk(A, chunk(X1, "x"), 0.0)
    assert isinstance(write, Write)
    assert (write.item, write.size, write.offset, bytes(write.data)) == (item(X1.id), 2, 0, b"x")
    _, check = sync.chunk(A, chunk(X1, "x", 1), 0.0)
    assert check == Check(X1)


def test_an_empty_update_is_whole_with_its_header() -> None:
    empty = update(CAROL, 1, "")
    sync = make()
    sync.have(A, have(empty), 0.0)
    actions, _ = sync.header(A, empty, 0.0)
    assert actions == [Check(empty)]


def test_chunks_that_overlap_what_is_here_are_cut() -> None:
    sync = make()
    sync.have(A, have(X1), 0.0)
    sync.header(A, X1, 0.0)
    sync.chunk(A, chunk(X1, "x"), 0.0)
    write, _ = sync.chunk(A, chunk(X1, "xx", 0), 0.0)
    assert isinstance(write, Write)
    assert (write.offset, bytes(write.data)) == (1, b"x")


@pytest.mark.parametrize(
    "leftover",
    [chunk(X2), chunk(X1, "x", 1)],
    ids=["nobody asked for it", "there is a gap before it"],
)
def test_leftovers_change_nothing(leftover: Chunk) -> None:
    sync = make()
    sync.have(A, have(X1), 0.0)
    sync.header(A, X1, 0.0)
    assert sync.chunk(A, leftover, 0.0) == []


def test_nobody_can_slip_bytes_into_what_another_is_asked_for() -> None:
    sync = make(neighbours=(A, B))
    sync.have(A, have(X1), 0.0)
    sync.header(A, X1, 0.0)
    assert sync.chunk(B, chunk(X1, "no"), 0.0) == []
    assert only(sync.chunk(A, chunk(X1), 0.0), Check)


@pytest.mark.parametrize("bad", [chunk(X1, "xxx"), chunk(X1, "xx", 1), chunk(X1, "", 0)])
def test_chunks_beyond_the_signed_size_end_the_session(bad: Chunk) -> None:
    sync = make()
    sync.have(A, have(X1), 0.0)
    sync.header(A, X1, 0.0)
    with pytest.raises(RemoteProtocolError, match=r"empty chunk|beyond its item"):
        sync.chunk(A, bad, 0.0)


def test_a_payload_ahead_of_its_header_is_left_over_from_an_earlier_request() -> None:
    """Given up and asked for again, an honest peer's first answer may come in two halves."""
    sync = make()
    sync.have(A, have(X1), 0.0)
    assert sync.chunk(A, chunk(X1), 0.0) == []
    sync.header(A, X1, 0.0)
    assert only(sync.chunk(A, chunk(X1), 0.0), Check)


def test_absent_sends_us_elsewhere() -> None:
    sync = make(neighbours=(A, B))
    sync.have(A, have(X1), 0.0)
    sync.have(B, have(X1), 0.0)
    assert wants(sync.absent(A, Absent(X1.id), 0.0)) == [(B, X1.id, 0)]
    sync.absent(B, Absent(X1.id), 0.0)
    assert not sync.wanted(item(X1.id))
    assert sync.absent(B, Absent(X1.id), 0.0) == []


def test_a_corrupt_payload_is_fetched_anew_elsewhere() -> None:
    sync = make(neighbours=(A, B))
    sync.have(A, have(X1), 0.0)
    sync.have(B, have(X1), 0.0)
    sync.header(A, X1, 0.0)
    sync.chunk(A, chunk(X1, "no"), 0.0)
    actions, culprit = sync.corrupt(item(X1.id), 0.0)
    assert culprit == A
    assert actions[0] == Discard(item(X1.id))
    assert wants(actions) == [(B, X1.id, 0)]


# Serving.


def test_who_wants_gets_the_header_and_the_rest_of_the_payload() -> None:
    sync = make(X1)
    assert sync.want(A, Want(X1.id, 1), (BASE,)) == [Send((A,), X1.message), Serve(A, X1.id, 1)]
    assert sync.want(A, Want(X2.id, 0), (BASE,)) == [Send((A,), Absent(X2.id))]
    assert sync.want(A, Want(BASE, 7), (BASE,)) == [Serve(A, BASE, 7)]
    with pytest.raises(RemoteProtocolError, match="beyond an update's end"):
        sync.want(A, Want(X1.id, 3), (BASE,))


# Equivocation.


def test_a_rival_of_a_held_update_voids_it_from_the_header_alone() -> None:
    sync = make(X1, neighbours=(A, B))
    assert wants(sync.have(A, have(Y1), 0.0)) == [(A, Y1.id, 0)]
    actions, is_void = sync.header(A, Y1, 0.0)
    assert is_void
    assert not sync.wanted(item(Y1.id))
    [(to, evidence)] = haves(actions)
    assert (to, set(evidence.entries)) == ((A, B), {entry(X1), entry(Y1)})
    assert sync.want(A, Want(X1.id, 0), (BASE,)) == [Send((A,), X1.message)], "no payload"


def test_two_rival_headers_void_the_slot_while_both_are_under_way() -> None:
    sync = make(neighbours=(A, B))
    sync.have(A, have(X1), 0.0)
    sync.have(B, have(Y1), 0.0)
    assert sync.header(A, X1, 0.0) == ([], False)
    actions, is_void = sync.header(B, Y1, 0.0)
    assert is_void
    assert {d.item for d in only(actions, Discard)} == {item(X1.id), item(Y1.id)}
    assert sync.header(A, X1, 0.0) == ([], False)
    assert wants(sync.have(A, have(update(CAROL, 1, "zz")), 0.0)) == [], "void is void"


def test_the_header_of_an_inadmissible_update_voids_as_well() -> None:
    sync = make(neighbours=(A, B))
    sync.have(A, have(X1), 0.0)
    sync.header(A, X1, 0.0)
    sync.chunk(A, chunk(X1), 0.0)
    sync.inadmissible(X1, 0.0)
    assert sync.refused(1, CAROL.peer_id)
    assert wants(sync.have(A, have(X1), 0.0)) == [], "never again"
    sync.have(B, have(Y1), 0.0)
    actions, is_void = sync.header(B, Y1, 0.0)
    assert is_void, "or the order of arrival would decide"
    assert {e.id for e in haves(actions)[0][1].entries} == {X1.id, Y1.id}
    assert not sync.refused(1, CAROL.peer_id)


def serve_bad(sync: Sync, peer: PeerId, of: Update) -> list[Action]:
    """Announce and serve what turns out inadmissible; return what the announcement leads to."""
    asked = sync.have(peer, have(of), 0.0)
    if wants(asked):
        sync.header(peer, of, 0.0)
        assert only(sync.chunk(peer, chunk(of), 0.0), Check)
        sync.inadmissible(of, 0.0)
    return asked


def test_who_serves_what_nobody_may_hold_again_and_again_is_cut_off() -> None:
    sync = make(neighbours=(A, B))
    bad = [update(signer(str(i)), 1, "xx") for i in range(MAX_BAD_SERVED + 2)]
    for each in bad[: MAX_BAD_SERVED + 1]:
        assert wants(serve_bad(sync, A, each)) == [(A, each.id, 0)]
    sync.have(B, have(Y1), 0.0)
    with pytest.raises(RemoteProtocolError, match="nobody may hold"):
        sync.have(A, have(bad[-1]), 0.0)
    with pytest.raises(RemoteProtocolError, match="nobody may hold"):
        sync.chunk(A, chunk(bad[-1]), 0.0)
    with pytest.raises(RemoteProtocolError, match="nobody may hold"):
        sync.header(A, bad[-1], 0.0)
    assert sync.header(B, Y1, 0.0) == ([], False), "the others' account is their own"


def test_only_so_many_inadmissible_updates_are_remembered_whoever_serves_them() -> None:
    sync = make(neighbours=())
    bad = [update(signer(str(i)), 1, "xx") for i in range(MAX_INADMISSIBLE + 5)]
    for i, each in enumerate(bad):  # a new key each time
        sync.connected(peer := signer(f"liar {i}").peer_id, 0.0)
        serve_bad(sync, peer, each)
        sync.disconnected(peer, 0.0)
    refused = [sync.refused(1, each.author) for each in bad]
    assert refused == [False] * 5 + [True] * MAX_INADMISSIBLE
    assert sync.num_wanted == 0


def test_a_second_own_update_voids_the_slot() -> None:
    sync = make(X1)
    _, is_void = sync.add(Y1, 0.0)
    assert is_void
    assert sync.add(update(CAROL, 1, "zz"), 0.0) == ([], False)


def test_an_update_filed_under_a_wrong_slot_is_nobodys_fault() -> None:
    sync = make(neighbours=(A, B))
    lie = HaveEntry(7, B, X1.id)
    sync.have(A, Have((lie,), False), 0.0)
    sync.have(B, have(X1), 0.0)
    assert sync.pending(7, B, EVERYONE)
    assert sync.header(B, X1, 0.0) == ([], False), "Bob was not asked"
    assert sync.pending(7, B, EVERYONE)
    assert sync.header(A, X1, 0.0) == ([], False), "the author's word counts"
    assert not sync.pending(7, B, EVERYONE)
    assert sync.pending(1, CAROL.peer_id, EVERYONE)


def test_an_update_of_a_void_slot_announced_under_another_is_dropped() -> None:
    sync = make(X1, Y1)
    third = update(CAROL, 1, "zz")
    sync.have(A, Have((HaveEntry(9, CAROL.peer_id, third.id),), False), 0.0)
    actions, is_void = sync.header(A, third, 0.0)
    assert (actions, is_void) == ([Discard(item(third.id))], False)


# Bases.


def test_the_better_base_of_a_neighbour_is_fetched_ahead_of_updates() -> None:
    sync = make()
    sync.base_offered(A, origin(BASE, 2), 0.0)
    assert sync.base_offered(A, origin(BASE, 2), 0.0) == [], "said with every heartbeat"
    _, look = sync.chunk(A, Chunk(BASE, 0, memoryview(b"xx")), 0.0)
    assert look == CheckBase(origin(BASE))
    assert not sync.settled(EVERYONE, 1, ME, 0.0)
    sync.base_accepted(BASE, 0.0)
    assert sync.num_wanted == 0


def part(offset: int, data: bytes = b"x") -> PackedChunk:
    return PackedChunk(BASE, offset, memoryview(data))


def test_what_is_of_rounds_far_ahead_is_wanted_later() -> None:
    """Whoever makes up updates of a million rounds to come would fill the disk."""
    sync = make()
    sync.horizon = 1
    assert wants(sync.have(A, have(X1, X2), 0.0)) == [(A, X1.id, 0)]
    sync.horizon = 2
    assert wants(sync.have(A, have(X2), 0.0)) == [(A, X2.id, 0)], "it is told again"


def test_who_sends_more_than_it_was_asked_for_breaks_the_protocol(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bytes that nobody asked for were read and thrown away, however many."""
    held = UpdateSet(ORIGIN)
    sync = Announcing(held, STALL_S, max_item_bytes=50)
    sync.connected(A, 0.0)
    spare = module.SPARE_BYTES
    size = MAX_CHUNK_BYTES
    nobodys = Chunk(b"o" * 32, 0, memoryview(bytes(size)))
    for _ in range(spare // size):
        assert sync.chunk(A, nobodys, 0.0) == []
    with pytest.raises(RemoteProtocolError, match="more than it was asked for"):
        sync.chunk(A, nobodys, 0.0)


def test_what_a_neighbour_may_send_follows_from_what_it_was_asked_for() -> None:
    held = UpdateSet(ORIGIN)
    sync = Announcing(held, STALL_S, max_item_bytes=50)
    sync.connected(A, 0.0)
    neighbour = sync._neighbours[A]
    before = neighbour.may_send
    sync.have(A, have(X1), 0.0)
    assert neighbour.may_send == before + 50, "of a size that is not known yet"
    sync.header(A, X1, 0.0)
    assert neighbour.may_send == before + X1.payload_bytes
    sync.chunk(A, chunk(X1), 0.0)
    assert neighbour.may_send == before
    sync.add(X1, 0.0)
    sync.base_offered(A, origin(BASE, 4), 0.0)
    before = neighbour.may_send
    assert sync.packed_chunk(A, part(0), 0.0) == [Open(A, part(0))]
    packed = len(part(0).packed)
    assert neighbour.may_send == before - packed
    sync.chunk(A, Chunk(BASE, 0, memoryview(b"xxx")), 0.0)
    assert neighbour.may_send == before - packed, "the same bytes, opened"


def test_a_packed_part_is_opened_if_the_next_bytes_of_the_offered_base_may_be_in_it() -> None:
    sync = make()
    assert not sync.packed_chunk(A, part(0), 0.0)
    sync.base_offered(A, origin(BASE, 4), 0.0)
    assert sync.packed_chunk(A, part(0), 0.0) == [Open(A, part(0))]
    assert not sync.packed_chunk(A, part(1), 0.0)
    assert not sync.packed_chunk(A, PackedChunk(b"o" * 32, 0, memoryview(b"x")), 0.0)
    sync.connected(B, 0.0)
    assert not sync.packed_chunk(B, part(0), 0.0), "it has offered nothing"
    sync.chunk(A, Chunk(BASE, 0, memoryview(b"xxx")), 0.0)
    assert sync.packed_chunk(A, part(0), 0.0), "another's parts may end elsewhere"
    assert sync.packed_chunk(A, part(3), 0.0)
    sync.chunk(A, Chunk(BASE, 3, memoryview(b"x")), 0.0)
    assert not sync.packed_chunk(A, part(3), 0.0), "it is whole, and looked at"


def test_a_packed_part_that_ends_too_early_is_not_opened() -> None:
    sync = make()
    sync.base_offered(A, origin(BASE, 2 * MAX_CHUNK_BYTES), 0.0)
    sync.chunk(A, Chunk(BASE, 0, memoryview(bytes(MAX_CHUNK_BYTES))), 0.0)
    assert not sync.packed_chunk(A, part(0), 0.0)
    assert sync.packed_chunk(A, part(1), 0.0)


def test_few_packed_parts_are_opened_in_vain_until_one_goes_on_or_more_is_asked() -> None:
    sync = make()
    sync.base_offered(A, origin(BASE, 9), 0.0)

    def num_opened() -> int:
        return sum(bool(sync.packed_chunk(A, part(0), 0.0)) for _ in range(2 * MAX_VAIN_PARTS))

    assert num_opened() == MAX_VAIN_PARTS
    sync.chunk(A, Chunk(BASE, 0, memoryview(b"xx")), 0.0)
    assert num_opened() == MAX_VAIN_PARTS
    assert wants(sync.tick(STALL_S)) == [(A, BASE, 2)]
    assert num_opened() == MAX_VAIN_PARTS


def test_a_holder_whose_parts_end_elsewhere_goes_on_with_what_another_has_begun() -> None:
    """It stalled, another took over and went away, and what it sends now overlaps that."""
    sync = make()
    size, packed = 4 * PROGRESS_BYTES, b"x" * PROGRESS_BYTES
    base = origin(BASE, size)
    sync.base_offered(A, base, 0.0)
    sync.connected(B, 0.0)
    sync.base_offered(B, base, 0.0)
    assert wants(sync.tick(STALL_S)) == [(B, BASE, 0)]
    sync.chunk(B, Chunk(BASE, 0, memoryview(b"xxx")), STALL_S)
    assert wants(sync.disconnected(B, STALL_S)) == [(A, BASE, 3)]
    late = 2 * STALL_S - 1
    assert sync.packed_chunk(A, part(0, packed), late) == [Open(A, part(0, packed))]
    [write] = only(sync.chunk(A, Chunk(BASE, 0, memoryview(packed)), late), Write)
    assert (write.offset, len(write.data)) == (3, PROGRESS_BYTES - 3)
    assert not wants(sync.tick(2 * STALL_S)), "it makes progress"


def test_a_part_that_is_not_opened_is_a_sign_of_progress_all_the_same() -> None:
    sync = make()
    size = 4 * MAX_CHUNK_BYTES
    sync.base_offered(A, origin(BASE, size), 0.0)
    sync.chunk(A, Chunk(BASE, 0, memoryview(bytes(MAX_CHUNK_BYTES))), 0.0)
    assert not sync.packed_chunk(A, part(0, bytes(PROGRESS_BYTES)), STALL_S - 1)
    assert not wants(sync.tick(STALL_S)), "what it was asked for comes after what it is at"


def test_a_base_that_is_offered_no_more_is_not_wanted() -> None:
    sync = make(neighbours=(A, B))
    other = b"o" * 32
    assert wants(sync.base_offered(A, origin(BASE, 2), 0.0)) == [(A, BASE, 0)]
    assert wants(sync.base_offered(A, origin(other, 2), 0.0)) == [(A, other, 0)]
    assert not sync.wanted(base_item(BASE))
    sync.base_offered(A, None, 0.0)
    assert sync.num_wanted == 0


def test_a_base_announced_as_an_update_is_a_base_all_the_same() -> None:
    sync = make(neighbours=(A, B))
    sync.have(B, Have((HaveEntry(1, B, BASE),), False), 0.0)
    assert wants(sync.base_offered(A, origin(BASE, 2), 0.0)) == [(A, BASE, 0)]
    sync.have(B, Have((HaveEntry(1, B, BASE),), False), 0.0)
    assert only(sync.chunk(A, Chunk(BASE, 0, memoryview(b"xx")), 0.0), CheckBase)


def test_a_base_that_is_being_looked_at_outlives_the_acceptance_of_another() -> None:
    sync = make(neighbours=(A, B))
    other = b"o" * 32
    sync.base_offered(A, origin(BASE, 2), 0.0)
    sync.base_offered(B, origin(other, 2), 0.0)
    sync.chunk(B, Chunk(other, 0, memoryview(b"xx")), 0.0)
    assert only(sync.base_accepted(BASE, 0.0), Discard) == [Discard(base_item(BASE))]
    assert sync.wanted(base_item(other))


def test_what_one_says_of_anothers_base_costs_the_other_nothing() -> None:
    """A false size ended the honest one's session, and a false count had its bytes refused."""
    sync = make(neighbours=(A, B))
    lie = replace(origin(BASE, 2), size=1, num_included=7)
    assert wants(sync.base_offered(B, lie, 0.0)) == [(B, BASE, 0)]
    assert wants(sync.base_offered(A, origin(BASE, 2), 0.0)) == [(A, BASE, 0)]
    [write, look] = sync.chunk(A, Chunk(BASE, 0, memoryview(b"xx")), 0.0)
    assert write == Write(base_item(BASE), 2, 0, memoryview(b"xx"))
    assert look == CheckBase(origin(BASE))
    _, culprit = sync.corrupt(base_item(BASE), 0.0)
    assert culprit == A, "by its own word"


def test_a_held_update_offered_as_a_base_ends_the_session() -> None:
    held = make(X1)
    with pytest.raises(RemoteProtocolError, match="an update as its base"):
        held.base_offered(A, origin(X1.id, 2), 0.0)


def test_a_base_and_an_update_of_one_id_have_nothing_to_do_with_each_other() -> None:
    """One of the two is a lie, and must cost only what comes from the liar."""
    sync = make(neighbours=(A, B))
    assert wants(sync.base_offered(A, origin(X2.id, 9), 0.0)) == [(A, X2.id, 0)]
    [write] = sync.chunk(A, Chunk(X2.id, 0, memoryview(b"junk")), 0.0)
    assert isinstance(write, Write)
    assert write.item == base_item(X2.id, 9)
    assert wants(sync.have(B, have(X2), 0.0)) == [(B, X2.id, 0)]
    assert sync.pending(2, CAROL.peer_id, EVERYONE)
    sync.header(B, X2, 0.0)
    [write, look] = sync.chunk(B, chunk(X2), 1.0)
    assert write == Write(item(X2.id), 2, 0, memoryview(b"xx"))
    assert look == Check(X2)
    sync.add(X2, 1.0)
    sync.base_offered(A, None, 1.0)
    assert not sync.wanted(base_item(X2.id, 9)) or sync.num_wanted == 0


def test_what_others_say_of_a_slot_does_not_count_against_a_neighbour() -> None:
    sync = make(neighbours=(A, B))
    lies = [update(ALICE, n) for n in (8, 9)]
    false = tuple(HaveEntry(1, CAROL.peer_id, one.id) for one in lies)
    sync.have(A, Have(false, False), 0.0)
    sync.have(B, have(*lies), 0.0)  # where they belong
    sync.have(B, have(X1), 0.0)
    assert sync.pending(1, CAROL.peer_id, (B,))


# Settled.


def test_settled_is_listed_by_the_living_and_everything_older_is_here() -> None:
    sync = make(neighbours=(A, B))
    assert not sync.settled(EVERYONE, 9, ME, 0.0), "nobody has listed"
    assert sync.settled((), 9, ME, 0.0), "the dead are not waited for"
    list_due = module.LIST_PATIENCE * STALL_S
    sync.have(A, have(), list_due - 1)
    assert not sync.settled(EVERYONE, 9, ME, list_due - 1)
    assert sync.settled(EVERYONE, 9, ME, list_due), "nobody is waited for in vain"
    sync.have(A, have(X1, X2, complete=True), 0.0)
    sync.have(B, have(complete=True), 0.0)
    assert not sync.settled(EVERYONE, 2, ME, 0.0)
    assert sync.settled(EVERYONE, 1, ME, 0.0), "later rounds may come later"
    assert not sync.settled(EVERYONE, 1, CAROL.peer_id, 0.0), "own updates never may"
    fetch(sync, X1)
    assert sync.settled(EVERYONE, 2, ME, 0.0)


def test_fetching_lasts_as_long_as_something_comes() -> None:
    sync = make()
    assert sync.fetching_until() < 0.0
    sync.have(A, have(X1), 3.0)
    assert sync.fetching_until() < 3.0
    sync.header(A, X1, 5.0)
    assert sync.fetching_until() == 15.0


# Bounds.


def test_a_neighbour_that_announces_without_end_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_OFFERED", 2)
    sync = make()
    sync.have(A, have(*(update(CAROL, n) for n in (1, 2))), 0.0)
    with pytest.raises(RemoteProtocolError, match="announces more than 2 updates"):
        sync.have(A, have(update(CAROL, 3)), 0.0)


def test_a_neighbour_cannot_hold_three_updates_of_one_slot() -> None:
    sync = make()
    sync.have(A, have(X1, Y1), 0.0)
    with pytest.raises(RemoteProtocolError, match="of one slot"):
        sync.have(A, have(update(CAROL, 1, "zz")), 0.0)


# Two ends.

AUTHORS = [signer(f"author {i}") for i in range(3)]
CONTENTS = ("long payload", "", "bad")
UPDATES = [update(a, n, c) for a in AUTHORS for n in (1, 2) for c in CONTENTS]
IS_BAD = {u.id: u.payload_hash == hash_payload(b"bad") for u in UPDATES}
updates_st = st.sampled_from(UPDATES)
sets_st = st.lists(updates_st, unique=True)


def honest_set(updates: list[Update]) -> UpdateSet:
    """Return what a peer may hold: a bad update at most as the evidence of a void slot."""
    held = UpdateSet(ORIGIN, updates)
    slots = {(u.round, u.author): held.slot(u.round, u.author) for u in updates}
    counting = (u for slot in slots.values() if not _only_bad(slot) for u in slot)
    return UpdateSet(ORIGIN, counting)


def _author(of: Update) -> PeerId:
    return of.author


def _only_bad(slot: tuple[Update, ...]) -> bool:
    return all(IS_BAD[u.id] for u in slot)


class End:
    """One end of a connection: a sync, and the shell that looks at what is whole."""

    def __init__(self, me: PeerId, sync: Sync, held: UpdateSet) -> None:
        self.me, self.sync, self.held = me, sync, held
        self.sent: list[Message] = []

    def do(self, actions: list[Action], now: float) -> None:
        for action in actions:
            if isinstance(action, Send):
                self.sent.append(action.message)
            elif isinstance(action, Serve):
                served = self.held.get(action.id)
                assert served is not None
                rest = memoryview(b"z" * (served.payload_bytes - action.offset))
                parts = [rest[i : i + 5] for i in range(0, len(rest), 5)]
                offsets = range(action.offset, served.payload_bytes, 5)
                self.sent += [Chunk(action.id, *part) for part in zip(offsets, parts, strict=True)]
            elif isinstance(action, Check):
                if IS_BAD[action.update.id]:
                    self.do(self.sync.inadmissible(action.update, now), now)
                else:
                    self.do(self.sync.add(action.update, now)[0], now)

    def receive(self, sender: PeerId, message: Message, now: float) -> None:
        if isinstance(message, Have):
            actions = self.sync.have(sender, message, now)
        elif isinstance(message, Want):
            actions = self.sync.want(sender, message, (BASE,))
        elif isinstance(message, UpdateMessage):
            actions, _ = self.sync.header(sender, admit(message, ADMISSION), now)
        elif isinstance(message, Chunk):
            actions = self.sync.chunk(sender, message, now)
        else:
            assert isinstance(message, Absent)
            actions = self.sync.absent(sender, message, now)
        self.do(actions, now)


def bring_together(one: End, two: End, now: float) -> int:
    """Connect two ends and carry messages until neither says more; return how many it took."""
    one.do(one.sync.connected(two.me, now), now)
    two.do(two.sync.connected(one.me, now), now)
    num_messages = 0
    while one.sent or two.sent:
        for sender, receiver in ((one, two), (two, one)):
            messages, sender.sent = sender.sent, []
            num_messages += len(messages)
            for message in messages:
                receiver.receive(sender.me, message, now)
    return num_messages


def end(name: str, updates: list[Update]) -> End:
    held = honest_set(updates)
    return End(signer(name).peer_id, Announcing(held, STALL_S), held)


@given(sets_st, sets_st)
def test_any_two_sets_become_one(first: list[Update], second: list[Update]) -> None:
    one, two = end("one", first), end("two", second)
    both = UpdateSet(ORIGIN, [*one.held, *two.held])
    bring_together(one, two, 0.0)
    assert one.held.digest == two.held.digest == both.digest
    has_void = any(both.is_void(u.round, u.author) for u in both)
    for here, there in ((one, two), (two, one)):
        assert here.sync.num_wanted == 0
        assert here.sync.settled((there.me,), NEVER, here.me, 0.0)
        assert has_void or here.sync.has_all(there.me, NEVER)  # of a void slot any two will do


def test_equal_sets_cost_one_list_each_way() -> None:
    one, two = end("one", UPDATES), end("two", UPDATES)
    assert bring_together(one, two, 0.0) == 2


# Rounds with too many authors.

CROWD = sorted((update(signer(f"one of many {i}"), 1, "xx") for i in range(6)), key=_author)


@pytest.fixture
def three_have_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_module, "MAX_HELD_AUTHORS", 3)


@pytest.mark.usefixtures("three_have_a_place")
def test_of_a_full_round_only_who_comes_first_is_wanted() -> None:
    sync = make(*CROWD[1:4])
    assert wants(sync.have(A, have(CROWD[4]), 0.0)) == []
    assert wants(sync.have(A, have(CROWD[0]), 0.0)) == [(A, CROWD[0].id, 0)]
    assert wants(sync.have(A, have(update(CAROL, 2)), 0.0)) != [], "another round"


@pytest.mark.usefixtures("three_have_a_place")
def test_what_others_crowd_out_on_its_way_is_dropped() -> None:
    sync = make(*CROWD[1:3], neighbours=(A, B))
    sync.have(A, have(*CROWD[3:6]), 0.0)
    sync.have(B, have(CROWD[0]), 0.0)
    sync.header(A, CROWD[3], 0.0)
    assert only(sync.chunk(A, chunk(CROWD[3]), 0.0), Check), "is looked at"
    sync.header(A, CROWD[4], 0.0)
    sync.header(B, CROWD[0], 0.0)
    sync.chunk(B, chunk(CROWD[0]), 0.0)
    sync.add(CROWD[0], 0.0)
    discarded = only(sync.add(CROWD[3], 0.0)[0], Discard)
    sync.chunk(A, chunk(CROWD[4]), 0.0)
    discarded += only(sync.add(CROWD[4], 0.0)[0], Discard)
    discarded += only(sync.header(A, CROWD[5], 0.0)[0], Discard)
    assert discarded == [Discard(item(u.id)) for u in CROWD[3:]]
    assert sync.num_wanted == 0


@pytest.mark.usefixtures("three_have_a_place")
def test_what_waits_and_is_crowded_out_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "WINDOW", 1)
    sync = make(*CROWD[:2])
    assert wants(sync.have(A, have(CROWD[2]), 0.0)) == [(A, CROWD[2].id, 0)]
    assert wants(sync.have(A, have(*CROWD[3:], X2), 0.0)) == []
    sync.header(A, CROWD[2], 0.0)
    sync.chunk(A, chunk(CROWD[2]), 0.0)
    actions, _ = sync.add(CROWD[2], 0.0)
    assert wants(actions) == [(A, X2.id, 0)]
    assert sync.num_wanted == 1


@pytest.mark.usefixtures("three_have_a_place")
def test_nobody_can_have_what_is_wanted_dropped_by_filing_it_where_there_is_no_room() -> None:
    sync = make(*CROWD[:2], neighbours=(A, B))
    wrong = HaveEntry(1, CROWD[5].author, X2.id)
    assert wants(sync.have(A, Have((wrong,), False), 0.0)) == [(A, X2.id, 0)]
    sync.have(B, have(X2), 0.0)
    sync.add(CROWD[2], 0.0)
    assert wants(sync.disconnected(A, 0.0)) == [(B, X2.id, 0)]


@pytest.mark.usefixtures("three_have_a_place")
def test_what_is_crowded_out_is_neither_told_again_nor_served() -> None:
    sync = make(*CROWD[1:4])
    sync.add(CROWD[0], 0.0)
    again = [e.id for _, told in haves(sync.tick(STALL_S)) for e in told.entries]
    assert set(again) == {u.id for u in CROWD[:3]}
    assert sync.next_wakeup() is not None
    assert sync.want(A, Want(CROWD[3].id, 0), (BASE,)) == [Send((A,), Absent(CROWD[3].id))]
    sync.have(A, have(*CROWD[:3]), STALL_S)
    assert sync.next_wakeup() is None, "nothing is left to be told"


def test_what_a_neighbour_does_not_hold_any_more_it_is_told_again() -> None:
    """It may have been a stranger's for whom there was no place, and is a device's by now."""
    sync = make(X1)
    sync.have(A, have(X1, complete=True), 0.0)
    assert sync.next_wakeup() is None
    sync.absent(A, Absent(X1.id), 1.0)
    sync.absent(A, Absent(Y1.id), 1.0)
    [(_, again)] = haves(sync.tick(1.0 + STALL_S))
    assert again.entries == (entry(X1),)


@given(sets_st, sets_st, st.integers(1, 2))
def test_any_two_sets_become_one_where_not_all_have_a_place(
    first: list[Update], second: list[Update], places: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(set_module, "MAX_HELD_AUTHORS", places)
        one, two = end("one", first), end("two", second)
        both = UpdateSet(ORIGIN, [*one.held, *two.held])
        bring_together(one, two, 0.0)
        assert one.held.digest == two.held.digest == both.digest
        for here, there in ((one, two), (two, one)):
            # Of a void slot that was crowded out on the way the other header does not come.
            here.do(here.sync.tick(STALL_S), STALL_S)
            assert here.sync.num_wanted == 0
            assert here.sync.settled((there.me,), NEVER, here.me, STALL_S)
            for number in here.held.rounds():
                assert len({u.author for u in here.held if u.round == number}) <= places


# Any interleaving.

PEERS = [signer(f"peer {i}").peer_id for i in range(3)]
peers_st = st.sampled_from(PEERS)


class AnyInterleaving(RuleBasedStateMachine):
    """Three neighbours, some of whom lie, stall and leave, in any order.

    The model is simple: what each was asked for, and how much of each item has been written.
    """

    @initialize(last=sets_st)
    def begin(self, last: list[Update]) -> None:
        self.held = UpdateSet(ORIGIN)
        self.sync = Announcing(self.held, STALL_S)
        self.last = last  # what somebody honest holds, who comes at the end
        self.now = 0.0
        self.connected: set[PeerId] = set()
        self.asked: dict[UpdateId, PeerId] = {}
        self.written: dict[UpdateId, int] = defaultdict(int)
        self.to_check: list[Update] = []

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send) and isinstance(action.message, Want):
                want = action.message
                assert action.to[0] in self.connected
                assert want.id not in self.held
                assert want.offset in (0, self.written[want.id])
                self.written[want.id] = want.offset
                self.asked[want.id] = action.to[0]
            elif isinstance(action, Write):
                assert action.offset == self.written[action.item.id], "a gap, or a byte twice"
                self.written[action.item.id] += len(action.data)
            elif isinstance(action, Check):
                assert self.written[action.update.id] == action.update.payload_bytes
                self.to_check.append(action.update)
            elif isinstance(action, Discard):
                self.written.pop(action.item.id, None)
                self.asked.pop(action.item.id, None)

    def a_neighbour(self, data: st.DataObject) -> PeerId:
        return data.draw(st.sampled_from(sorted(self.connected)))

    def announce(self, peer: PeerId, listed: list[Update]) -> None:
        try:
            self.do(self.sync.have(peer, have(*listed, complete=True), self.now))
        except RemoteProtocolError:  # a third of one slot
            self.disconnect(peer)

    def disconnect(self, peer: PeerId) -> None:
        self.connected.discard(peer)
        self.do(self.sync.disconnected(peer, self.now))

    @rule(peer=peers_st, listed=st.lists(updates_st, max_size=4, unique=True))
    def connect(self, peer: PeerId, listed: list[Update]) -> None:
        if peer not in self.connected:
            self.connected.add(peer)
            self.do(self.sync.connected(peer, self.now))
            self.announce(peer, listed)

    @precondition(lambda self: self.connected)
    @rule(data=st.data(), listed=st.lists(updates_st, max_size=4, unique=True))
    def announce_more(self, data: st.DataObject, listed: list[Update]) -> None:
        self.announce(self.a_neighbour(data), listed)

    @precondition(lambda self: self.connected)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.disconnect(self.a_neighbour(data))

    @precondition(lambda self: self.connected)
    @rule(data=st.data(), of=updates_st)
    def send_header(self, data: st.DataObject, of: Update) -> None:
        peer = self.asked.get(of.id, self.a_neighbour(data))
        if peer in self.connected:
            self.do(self.sync.header(peer, of, self.now)[0])

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), offset=st.integers(-3, 3), size=st.integers(0, 12))
    def send_chunk(self, data: st.DataObject, offset: int, size: int) -> None:
        item = data.draw(st.sampled_from(sorted(self.asked)))
        peer = data.draw(st.sampled_from([self.asked[item], *PEERS]))
        if peer not in self.connected:
            return
        sent = Chunk(item, max(self.written[item] + offset, 0), memoryview(b"z" * size))
        try:
            actions = self.sync.chunk(peer, sent, self.now)
        except RemoteProtocolError:
            self.disconnect(peer)
            return
        if actions:
            assert self.asked[item] == peer, "taken from somebody who was not asked"
        self.do(actions)

    @precondition(lambda self: self.connected)
    @rule(data=st.data(), of=updates_st)
    def send_absent(self, data: st.DataObject, of: Update) -> None:
        self.do(self.sync.absent(self.a_neighbour(data), Absent(of.id), self.now))

    @precondition(lambda self: self.to_check)
    @rule(is_intact=st.booleans())
    def end_check(self, is_intact: bool) -> None:
        update = self.to_check.pop(0)
        if not self.sync.wanted(item(update.id)):
            return
        if not is_intact:
            actions, culprit = self.sync.corrupt(item(update.id), self.now)
            assert culprit is None or culprit in self.connected
            self.do(actions)
        elif IS_BAD[update.id]:
            self.do(self.sync.inadmissible(update, self.now))
        else:
            self.do(self.sync.add(update, self.now)[0])

    @rule(seconds=st.sampled_from([1.0, STALL_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.sync.tick(self.now))
        due = self.sync.next_wakeup()
        assert due is None or due > self.now, "an alarm in the past"

    @invariant()
    def books_are_straight(self) -> None:
        transfers = self.sync._transfers
        items = transfers._items
        in_slots = [t for ts in transfers._slots.values() for t in ts]
        assert sorted(t.item for t in in_slots) == sorted(items)
        assert set(transfers._holders) == self.connected
        assert set(transfers._checking) == {t.item for t in items.values() if t.checking}
        assert set(transfers._parked) == {
            t.item for t in items.values() if t.received and not (t.source or t.checking)
        }
        for peer, holder in transfers._holders.items():
            of_peer = {t.item for t in items.values() if t.source == peer}
            assert set(holder.under_way) == of_peer
            assert of_peer <= set(holder.line)
            assert holder.items == {i for i, t in items.items() if peer in t.holders}
            assert holder.num_checking == sum(t.checked_for == peer for t in items.values())
        for transfer in items.values():
            assert transfer.id not in self.held
            assert transfer.holders or transfer.received or transfer.checking, "a leak"
            assert set(transfer.holders) <= self.connected
            assert not (transfer.checking and transfer.source)

    @invariant()
    def whatever_can_be_asked_is_asked(self) -> None:
        transfers = self.sync._transfers
        has_room = {peer for peer, h in transfers._holders.items() if h.has_room()}
        for transfer in transfers._items.values():
            waits = transfer.source is None and not transfer.checking
            assert not (waits and has_room & set(transfer.holders)), "a lost request"

    def teardown(self) -> None:
        """One honest neighbour is enough, whatever happened before."""
        for peer in sorted(self.connected):
            self.disconnect(peer)
        while self.to_check:
            self.end_check(is_intact=True)
        me, other = End(ME, self.sync, self.held), end("last", self.last)
        both = UpdateSet(ORIGIN, [*self.held, *other.held])
        bring_together(me, other, self.now)
        assert self.held.digest == other.held.digest
        for mine in both:
            assert self.held.holds(mine.round, mine.author), "lost"
        self.at_last(me)
        assert self.sync.num_wanted == 0

    def at_last(self, me: End) -> None:
        """What is still to happen when both have said all."""


class AnyInterleavingOfFullRounds(AnyInterleaving):
    """The same, where not all authors have a place."""

    def __init__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(set_module, "MAX_HELD_AUTHORS", 2)
        super().__init__()

    def at_last(self, me: End) -> None:
        me.do(self.sync.tick(self.now + STALL_S), self.now + STALL_S)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.patch.undo()


TestAnyInterleavingOfFullRounds = AnyInterleavingOfFullRounds.TestCase
TestAnyInterleavingOfFullRounds.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None
)
TestAnyInterleaving = AnyInterleaving.TestCase
TestAnyInterleaving.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# Bases with a later frontier.


def on_base(*held: Update, frontier: int, neighbours: tuple[PeerId, ...] = (A,)) -> Sync:
    """Return the sync of a set that was compacted, its neighbours connected before."""
    updates = UpdateSet(ORIGIN, held)
    made = Announcing(updates, STALL_S)
    for peer in neighbours:
        made.connected(peer, 0.0)
    updates.rebase(updates.history_through(frontier, 4))
    made.rebased(0.0)
    return made


def test_nothing_of_a_compacted_round_is_wanted_or_told_again() -> None:
    sync = on_base(X1, update(CAROL, 5), frontier=4)
    assert wants(sync.have(A, have(update(ALICE, 4), update(ALICE, 5)), 0.0)) == [
        (A, update(ALICE, 5).id, 0)
    ]
    [(_, again)] = haves(sync.tick(STALL_S))
    assert [e.round for e in again.entries] == [5]


def test_what_is_under_way_of_a_compacted_round_is_dropped() -> None:
    updates = UpdateSet(ORIGIN)
    sync = Announcing(updates, STALL_S)
    sync.connected(A, 0.0)
    sync.have(A, have(X1, update(CAROL, 5)), 0.0)
    updates.rebase(updates.history_through(4, 4))
    assert only(sync.rebased(0.0), Discard) == [Discard(item(X1.id))]
    assert sync.wanted(item(update(CAROL, 5).id))


def test_a_header_of_a_compacted_round_is_dropped() -> None:
    sync = on_base(frontier=4)
    early = update(CAROL, 3)
    lie = HaveEntry(6, CAROL.peer_id, early.id)
    sync.have(A, Have((lie,), False), 0.0)
    actions, is_void = sync.header(A, early, 0.0)
    assert (only(actions, Discard), is_void) == ([Discard(item(early.id))], False)
    assert sync.add(early, 0.0) == ([], False)


def test_a_neighbour_is_told_of_no_round_that_its_base_includes() -> None:
    sync = make(X1, update(CAROL, 5), neighbours=(A,))
    sync.stands_on(A, 4, 0.0)
    [(_, again)] = haves(sync.tick(STALL_S))
    assert [e.round for e in again.entries] == [5]
    sync.add(X2, STALL_S)
    assert X2.id not in sync._announcements._listeners[A].lacks
    assert not sync.has_all(A, 5)
    sync.have(A, have(update(CAROL, 5)), STALL_S)
    assert sync.has_all(A, 5)


def test_a_neighbour_that_goes_back_to_an_earlier_base_is_told_of_its_rounds() -> None:
    sync = make(X1, update(CAROL, 5), neighbours=(A,))
    sync.stands_on(A, 4, 0.0)
    [(to, message)] = haves(sync.stands_on(A, 0, 1.0))
    assert (to, [e.round for e in message.entries], message.complete) == ((A,), [1, 5], True)
