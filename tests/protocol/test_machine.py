"""The whole machine of a peer: heartbeats, the choice of the base, reports of divergence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from protocol_support import (
    ADMISSION,
    BASE,
    BASES,
    ORIGIN,
    RUN,
    heartbeat,
    heartbeat_body,
    only,
    origin,
    payload,
    signer,
    update,
)

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol import divergence, update_set
from semantic_net.protocol import history as history_module
from semantic_net.protocol import machine as machine_module
from semantic_net.protocol import membership as membership_module
from semantic_net.protocol import roster as module
from semantic_net.protocol.actions import (
    Action,
    Author,
    Check,
    CheckBase,
    Close,
    CountAgain,
    Cut,
    Dial,
    Discard,
    Diverged,
    Finish,
    Forget,
    HangUp,
    Keep,
    Level,
    Remove,
    Send,
    Serve,
    TakeBack,
    Tell,
    Train,
)
from semantic_net.protocol.bases import Base
from semantic_net.protocol.complaints import MAX_TOLD
from semantic_net.protocol.divergence import DIGESTS_KEPT
from semantic_net.protocol.history import History, history_of_origin
from semantic_net.protocol.identity import PeerId, Signer, consent, endorse
from semantic_net.protocol.item import Item
from semantic_net.protocol.links import MeshConfig
from semantic_net.protocol.machine import DIAL_AGAIN_S, MachineConfig, PeerMachine
from semantic_net.protocol.membership import Binding, Membership, Standing, Statement, StatementBody
from semantic_net.protocol.mesh import Parting
from semantic_net.protocol.messages import (
    Absent,
    Chunk,
    Have,
    HaveEntry,
    HeartbeatBody,
    HeartbeatMessage,
    Hint,
    Hints,
    Message,
    Neighbour,
    Neighbours,
    Want,
    read_heartbeat,
)
from semantic_net.protocol.rounds import Phase, RoundsConfig
from semantic_net.protocol.update import MAX_ROUND, Update, UpdateId
from semantic_net.protocol.update_set import UpdateSet
from semantic_net.protocol.vitals import Vitals, VitalSigns, VitalsMessage
from semantic_net.status import LastRound

ME, ALICE, BOB, CAROL = (signer(name) for name in ("me", "alice", "bob", "carol"))
A, B = ALICE.peer_id, BOB.peer_id
LISTEN_S, START_S, HEARTBEAT_S, LIVENESS_S, SETTLE_S = 60.0, 120.0, 1.0, 10.0, 8.0
LOWER, HIGHER = b"a" * 32, b"c" * 32  # than BASE


def item(of: UpdateId) -> Item:
    return Item(of)


class Machine(PeerMachine):
    """One that looks after every message and payload."""

    def received(self, peer: PeerId, message: Message, now: float) -> list[Action]:
        return [*super().received(peer, message, now), *self.look(now)]

    def payload_checked(self, update: Update, fault: str | None, now: float) -> list[Action]:
        return [*super().payload_checked(update, fault, now), *self.look(now)]


def make(
    *,
    rounds: int = 9,
    base: bytes = BASE,
    given: bool = False,
    held: tuple[Update, ...] = (),
    heartbeat_s: float = HEARTBEAT_S,
    dials_learned: bool = True,
    budget_bytes: int | None = None,
    settle_s: float = 0.0,
    mesh: MeshConfig | None = None,
    **past: Any,
) -> PeerMachine:
    cfg = MachineConfig(
        rounds=RoundsConfig(
            rounds=rounds,
            listen_timeout_s=LISTEN_S,
            start_timeout_s=START_S,
            settle_s=settle_s,
        ),
        bases=replace(BASES, budget_bytes=budget_bytes),
        admission=ADMISSION,
        incarnation=5,
        heartbeat_s=heartbeat_s,
        liveness_s=LIVENESS_S,
        dials_learned=dials_learned,
        mesh=mesh,
    )
    history = history_of_origin(base)
    updates = UpdateSet(history, held, past.get("membership"))
    return Machine(cfg, ME, origin(base, given=given), updates, **past)


def started(**options: Any) -> PeerMachine:
    """Return a machine that still waits for an address."""
    machine = make(**options)
    machine.rounds.waiting_for = ("somewhere",)
    machine.start(0.0)
    return machine


def meet(machine: PeerMachine, who: Signer, now: float = 0.0, **says: Any) -> list[Action]:
    """Connect to a peer that lists nothing, and hear it."""
    actions = machine.connected(who.peer_id, now)
    actions += machine.received(who.peer_id, Have((), True), now)
    return actions + hear(machine, who, now, **says)


_sequence = iter(range(1, 1 << 40))


def hear(
    machine: PeerMachine, who: Signer, now: float = 0.0, *, via: PeerId | None = None, **says: Any
) -> list[Action]:
    """Hear a heartbeat of a peer, of itself or by way of another."""
    message = heartbeat(who, heartbeat_body(**{"sequence": next(_sequence), **says}))
    return machine.received(via or who.peer_id, message, now)


def beats(actions: list[Action], whose: Signer = ME) -> list[tuple[tuple[PeerId, ...], Any]]:
    """Return the heartbeats of a peer among actions: to whom, and what they say."""
    return [
        (send.to, read_heartbeat(send.message, RUN)[1])
        for send in only(actions, Send)
        if isinstance(send.message, HeartbeatMessage)
        and send.message.public_key == whose.public_key
    ]


def last_said(actions: list[Action]) -> HeartbeatBody:
    body = beats(actions)[-1][1]
    assert isinstance(body, HeartbeatBody)
    return body


def give(machine: PeerMachine, who: Signer, of: Update, content: str = "x") -> list[Action]:
    """Announce an update and serve it; return what the last byte leads to."""
    entry = HaveEntry(of.round, of.author, of.id)
    machine.received(who.peer_id, Have((entry,), False), 0.0)
    machine.received(who.peer_id, of.message, 0.0)
    return machine.received(who.peer_id, Chunk(of.id, 0, memoryview(payload(content))), 0.0)


def publish(machine: PeerMachine, now: float = 0.0) -> list[Action]:
    [author] = only(machine.trained(now), Author)
    return machine.authored(update(ME, author.round), now)


# Heartbeats.


def test_a_new_neighbour_hears_us_and_the_others_before_our_list() -> None:
    machine = started(held=(update(ALICE, 1),))
    meet(machine, ALICE)
    sends = [s.message for s in only(machine.connected(B, 0.0), Send)]
    kinds = [type(message).__name__ for message in sends]
    assert kinds == ["HeartbeatMessage", "HeartbeatMessage", "Neighbours", "Have"]
    assert isinstance(sends[0], HeartbeatMessage)
    assert isinstance(sends[1], HeartbeatMessage)
    assert (sends[0].public_key, sends[1].public_key) == (ME.public_key, ALICE.public_key)


def test_a_heartbeat_goes_out_now_and_then_and_at_once_with_news() -> None:
    machine = started()
    meet(machine, ALICE)
    assert beats(machine.tick(0.5)) == []
    assert machine.next_wakeup(0.5) == HEARTBEAT_S
    [(to, body)] = beats(machine.tick(1.0))
    assert (to, body.round, body.ready, body.incarnation) == ((A,), 0, False, 5)
    [(_, body)] = beats(machine.waiting_for((), 1.1))
    assert (body.round, body.next_round, body.ready) == (1, 1, True), "a round has opened"
    [author] = only(machine.trained(1.2), Author)
    own = update(ME, author.round)
    actions = machine.authored(own, 1.3)
    [(_, body)] = beats(actions)
    assert (body.next_round, body.last_round, body.last_id) == (2, 1, own.id)
    order = [type(send.message).__name__ for send in only(actions, Send)]
    assert order == ["Have", "HeartbeatMessage"], "a promise never overtakes what it is about"


def test_a_lonely_machine_says_nothing_and_still_wakes_in_the_future() -> None:
    machine = started()
    for now in (1.0, 2.0, 3.0):
        assert machine.tick(now) == []
        assert machine.next_wakeup(now) > now


def test_the_next_wakeup_is_when_the_first_thing_is_due() -> None:
    machine = started(heartbeat_s=1000.0)
    assert machine.next_wakeup(0.0) == START_S, "the start timeout"
    meet(machine, ALICE, 3.0)
    assert machine.next_wakeup(3.0) == 3.0 + LIVENESS_S, "Alice would be gone"
    theirs = update(CAROL, 1)
    machine.received(A, Have((HaveEntry(1, theirs.author, theirs.id),), False), 4.0)
    hear(machine, ALICE, 5.0)
    assert machine.next_wakeup(5.0) == 3.0 + LIVENESS_S, "that is looked at all the same"
    machine.tick(3.0 + LIVENESS_S)
    assert machine.next_wakeup(13.0) == 4.0 + LIVENESS_S, "what Alice should send has stalled"
    machine.disconnected(A, 6.0)
    machine.tick(5.0 + LIVENESS_S)
    assert machine.next_wakeup(20.0) == START_S
    assert started().next_wakeup(0.0) == HEARTBEAT_S


def test_the_start_wakes_when_it_stops_looking_for_peers_and_never_in_the_past() -> None:
    machine = make(heartbeat_s=1000.0, settle_s=SETTLE_S)
    machine.start(0.0)
    meet(machine, ALICE, 3.0, ready=False)
    assert machine.next_wakeup(3.0) == 3.0 + SETTLE_S
    machine.waiting_for(("somewhere",), 3.0)
    machine.tick(3.0 + SETTLE_S)
    assert machine.next_wakeup(3.0 + SETTLE_S) == 3.0 + LIVENESS_S, "still waits for an address"
    [train] = only(machine.waiting_for((), 12.0), Train)
    assert train.expected == {A}


def test_heartbeats_are_passed_on_but_not_back() -> None:
    machine = started()
    for who in (ALICE, BOB, CAROL):
        meet(machine, who)
    assert beats(hear(machine, ALICE, via=B), ALICE) == [], "nothing new, and not long ago"
    [(to, _)] = beats(hear(machine, ALICE, 3.0, via=B, sequence=1 << 50), ALICE)
    assert to == (CAROL.peer_id,)
    assert beats(hear(machine, ALICE, via=B, sequence=1 << 50), ALICE) == [], "no news"
    assert hear(machine, ME, via=B, sequence=1 << 50, incarnation=5) == [], "our own echo"


def test_heartbeats_are_not_passed_on_to_who_hears_them_itself() -> None:
    machine = started()
    for who in (ALICE, BOB, CAROL):
        meet(machine, who)
    alice = Neighbour(A, ("10.0.0.2:5000",))
    machine.received(B, Neighbours((alice,)), 0.0)
    [(to, _)] = beats(hear(machine, ALICE, 3.0), ALICE)
    assert to == (CAROL.peer_id,)
    [(to, body)] = beats(machine.received(B, Neighbours(()), 3.0), ALICE)
    assert (to, body.incarnation) == ((B,), 1), "it has lost her: at once, what she said last"


def test_whom_we_hear_is_told_when_it_changes() -> None:
    machine = started()

    def told(actions: list[Action]) -> list[tuple[tuple[PeerId, ...], list[str]]]:
        return [
            (send.to, [n.id for n in send.message.heard])
            for send in only(actions, Send)
            if isinstance(send.message, Neighbours)
        ]

    assert told(meet(machine, ALICE)) == [((A,), []), ((A,), [A])]
    assert told(meet(machine, BOB)) == [((B,), [A]), ((A, B), [A, B])]
    assert told(hear(machine, BOB, 2.0)) == []
    assert told(machine.tick(LIVENESS_S / 3)) == [((A, B), [B])]
    assert told(machine.disconnected(B, 4.0)) == [((A,), [])]


def test_a_live_peer_that_a_neighbour_hears_is_dialled_and_rarely_again() -> None:
    machine = started()
    meet(machine, ALICE)
    carol = Neighbour(CAROL.peer_id, ("10.0.0.4:5000",))
    machine.received(A, Neighbours((carol, Neighbour(A, ("10.0.0.2:5000",)))), 0.0)
    assert only(machine.tick(0.1), Dial) == [], "nobody has heard of Carol"
    hear(machine, CAROL, via=A)
    assert only(machine.tick(0.2), Dial) == [Dial("10.0.0.4:5000")]
    assert only(machine.tick(0.3), Dial) == []
    hear(machine, CAROL, 0.2 + DIAL_AGAIN_S, via=A)
    assert only(machine.tick(0.2 + DIAL_AGAIN_S), Dial) == [Dial("10.0.0.4:5000")], "in vain so far"
    aloof = started(dials_learned=False)
    meet(aloof, ALICE)
    aloof.received(A, Neighbours((carol,)), 0.0)
    hear(aloof, CAROL, via=A)
    assert only(aloof.tick(0.2), Dial) == []


def meshed(*seeds: str) -> PeerMachine:
    machine = make(settle_s=SETTLE_S, mesh=MeshConfig(links=2, seeds=seeds))
    assert only(machine.start(0.0), Dial) == [*map(Dial, seeds)]
    return machine


def test_a_mesh_dials_what_it_is_told_of_and_forgets_it_once_it_is_there() -> None:
    machine = meshed("10.0.0.1:1")
    assert machine.rounds.phase is Phase.STARTING
    actions = machine.connected(A, 1.0, ("10.0.0.9:1",), "10.0.0.1:1")
    assert only(actions, Forget) == [Forget("10.0.0.1:1")]
    hear(machine, ALICE, 1.0)
    actions = machine.received(A, Hints((Hint("10.0.0.2:1", 3),)), 1.0)
    assert only(actions, Dial) == [Dial("10.0.0.2:1")]
    sends = [s.message for s in only(machine.connected(B, 2.0), Send)]
    [hints] = [message for message in sends if isinstance(message, Hints)]
    assert {hint.address: hint.age_s for hint in hints.known} == {"10.0.0.9:1": 0, "10.0.0.2:1": 4}
    machine.connected(CAROL.peer_id, 2.0)
    machine.found("10.0.0.3:1", 3.0)
    assert only(machine.not_reached("10.0.0.2:1", 3.0), Forget) == [Forget("10.0.0.2:1")]


def test_what_would_lead_somewhere_else_is_not_dialled_whoever_tells_of_it() -> None:
    machine = meshed()
    told = ("[fe80::1%2]:1", "127.0.0.1:22", " 10.0.0.2:1", "no address", "x" * 120)
    machine.connected(A, 0.0, same_machine=False)
    hear(machine, ALICE)
    hints = Hints(tuple(Hint(address, 0) for address in told))
    assert only(machine.received(A, hints, 1.0), Dial) == []
    neighbours = Neighbours((Neighbour(CAROL.peer_id, told[:2]),))
    assert only(machine.received(A, neighbours, 1.0), Dial) == []
    machine.connected(B, 1.0, same_machine=True)
    assert only(machine.received(B, hints, 1.0), Dial) == [Dial("127.0.0.1:22")]


def test_a_mesh_dials_neighbours_of_neighbours_but_not_itself() -> None:
    machine = meshed()
    meet(machine, ALICE)
    neighbours = (Neighbour(B, ("b:1",)), Neighbour(ME.peer_id, ("me:1",)))
    assert only(machine.received(A, Neighbours(neighbours), 1.0), Dial) == [Dial("b:1")]


def test_a_mesh_lets_go_of_those_who_have_others() -> None:
    machine = meshed()
    peers = [signer(f"peer {n}") for n in range(6)]
    for peer in peers:
        meet(machine, peer)
    others = tuple(Neighbour(signer(f"other {n}").peer_id, ()) for n in range(3))
    actions: list[Action] = []
    for peer in peers[:2]:
        actions += machine.received(peer.peer_id, Neighbours(others), 1.0)
    assert {h.peer for h in only(actions, HangUp)} == {p.peer_id for p in peers[:2]}
    assert all(h.is_surplus for h in only(actions, HangUp))
    assert only(machine.disconnected(peers[0].peer_id, 1.0, Parting.CROWDED), Dial) == []


def test_a_peer_of_a_mesh_that_leaves_dials_nobody() -> None:
    machine = meshed("10.0.0.1:1")
    machine.leave(1.0)
    machine.connected(A, 1.0, (), "10.0.0.1:1")
    assert only(machine.disconnected(A, 2.0), Dial) == []


def test_outside_a_mesh_hints_are_of_no_use() -> None:
    machine = started()
    meet(machine, ALICE)
    assert PeerMachine.received(machine, A, Hints((Hint("10.0.0.2:1", 0),)), 1.0) == []
    assert only(machine.look(1.0), Dial) == []
    assert machine.not_reached("10.0.0.2:1", 1.0) == []


def test_a_forged_heartbeat_ends_the_session() -> None:
    machine = started()
    meet(machine, ALICE)
    real = heartbeat(BOB, heartbeat_body(sequence=1 << 50))
    forged = HeartbeatMessage(real.body, CAROL.public_key, real.signature)
    with pytest.raises(RemoteProtocolError, match="did not sign"):
        machine.received(A, forged, 0.0)
    assert machine.roster.latest(CAROL.peer_id) is None


def test_a_crowd_of_made_up_peers_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SIGHTINGS", 2)
    machine = started()
    meet(machine, ALICE)
    for i in range(5):
        hear(machine, signer(f"made up {i}"), via=A)
    assert machine.roster.num_known == 2
    meet(machine, BOB)
    assert machine.roster.latest(B) is not None, "a neighbour finds its place"


def test_an_earlier_process_heartbeat_tells_what_was_signed() -> None:
    machine = started()
    meet(machine, ALICE)
    hear(machine, ME, via=A, incarnation=4, last=update(ME, 6))
    [train] = only(machine.waiting_for((), 0.0), Train)
    assert train.round == 7
    forged = HeartbeatMessage(
        heartbeat(ALICE, heartbeat_body(incarnation=3)).body, ME.public_key, b"s" * 64
    )
    with pytest.raises(RemoteProtocolError, match="did not sign"):
        machine.received(A, forged, 0.0)


def test_goodbye_is_the_last_word() -> None:
    machine = started()
    meet(machine, ALICE)
    [(to, body)] = beats(machine.leave(3.0))
    assert (to, body.leaving) == ((A,), True)


# Updates.


def test_an_update_is_fetched_checked_held_and_announced() -> None:
    machine = started()
    meet(machine, ALICE)
    theirs = update(ALICE, 1)
    assert only(give(machine, ALICE, theirs), Check) == [Check(theirs)]
    [send] = only(machine.payload_checked(theirs, None, 0.0), Send)
    assert send == Send((A,), Have((HaveEntry(1, A, theirs.id),), False))
    assert theirs.id in machine.updates
    served = machine.received(A, Want(theirs.id, 0), 0.0)
    assert only(served, Serve) == [Serve(A, theirs.id, 0)]


def test_an_update_is_no_sign_of_its_authors_life() -> None:
    machine = started()
    meet(machine, ALICE)
    meet(machine, BOB)
    late = update(ALICE, 1)
    give(machine, BOB, late)
    machine.payload_checked(late, None, LIVENESS_S - 1)
    assert late.id in machine.updates
    assert A in machine.roster.alive(LIVENESS_S - 1)
    assert A not in machine.roster.alive(LIVENESS_S)


def test_an_inadmissible_payload_is_named_and_never_held() -> None:
    machine = started()
    meet(machine, ALICE)
    theirs = update(ALICE, 1)
    give(machine, ALICE, theirs)
    tell = only(machine.payload_checked(theirs, "not a delta", 0.0), Tell)[0]
    assert tell.level is Level.WARNING
    assert tell.text.endswith("for round 1: not a delta")
    assert theirs.id not in machine.updates


def test_of_many_bad_updates_few_are_told_and_then_their_number() -> None:
    machine = started()
    names = [f"liar {i}" for i in range(2)]
    told: list[Tell] = []
    for name in names:
        meet(machine, signer(name))
        for i in range(MAX_TOLD):
            bad = update(signer(f"made up {i} of {name}"), 1)
            give(machine, signer(name), bad)
            told += only(machine.payload_checked(bad, "not a delta", 0.0), Tell)
    assert len(told) == MAX_TOLD
    machine.waiting_for((), 0.0)
    machine.trained(0.0)
    publish_after = [*machine.authored(update(ME, 1), 0.0), *machine.tick(LISTEN_S)]
    [close] = only(publish_after, Close)
    [more] = only(machine.folded(close.plan, b"state", LISTEN_S), Tell)
    assert (more.level, more.text.split()[0]) == (Level.WARNING, str(MAX_TOLD))
    bad = update(signer("another"), 2)
    give(machine, signer(names[0]), bad)
    assert only(machine.payload_checked(bad, "not a delta", 0.0), Tell), "in the next round anew"


def test_of_many_that_sign_twice_few_are_told() -> None:
    machine = started(held=tuple(update(signer(f"twice {i}"), 1) for i in range(2 * MAX_TOLD)))
    meet(machine, ALICE)
    told: list[Tell] = []
    for i in range(2 * MAX_TOLD):
        rival = update(signer(f"twice {i}"), 1, "y")
        machine.received(A, Have((HaveEntry(1, rival.author, rival.id),), False), 0.0)
        told += only(machine.received(A, rival.message, 0.0), Tell)
    assert len(told) == MAX_TOLD


def crowd(num: int) -> list[Signer]:
    """Return keys that come before ours, the last of them first."""
    keys = (signer(f"one of many {i}") for i in range(1000))
    found = [key for key in keys if key.peer_id < ME.peer_id][:num]
    return sorted(found, key=lambda key: key.peer_id, reverse=True)


def test_of_a_full_round_the_last_gives_way_and_ones_own_is_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(update_set, "MAX_HELD_AUTHORS", 1)
    second, first = crowd(2)
    machine = started()
    meet(machine, ALICE)
    machine.waiting_for((), 0.0)
    machine.trained(0.0)
    own = update(ME, 1)
    machine.authored(own, 0.0)
    for key in (second, first):
        give(machine, ALICE, update(key, 1))
    actions = machine.payload_checked(update(second, 1), None, 0.0)
    assert only(actions, TakeBack) == [TakeBack((own,))]
    assert only(actions, Remove) == []
    [tell] = only(actions, Tell)
    assert tell.text == "the own update of round 1 has no place: too many others came first"
    assert own.id in machine.passed.needed.ids, "its payload is to be added to the residual"
    actions = machine.payload_checked(update(first, 1), None, 0.0)
    assert only(actions, Remove) == [Remove(update(second, 1))]
    assert list(machine.updates) == [update(first, 1)]
    assert machine.rounds.plan(1).rounds == {1: (update(first, 1),)}


def test_an_own_update_for_which_there_is_no_place_goes_out_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(update_set, "MAX_HELD_AUTHORS", 1)
    [first] = crowd(1)
    machine = started(held=(update(first, 1),))
    meet(machine, ALICE)
    machine.waiting_for((), 0.0)
    machine.trained(0.0)
    own = update(ME, 1)
    actions = machine.authored(own, 0.0)
    assert only(actions, TakeBack) == [TakeBack((own,))]
    assert [tell.text[:31] for tell in only(actions, Tell)] == ["the own update of round 1 has n"]
    assert own.id not in machine.updates


def test_a_corrupt_payload_has_a_culprit() -> None:
    machine = started()
    meet(machine, ALICE)
    theirs = update(BOB, 1)
    give(machine, ALICE, theirs, "y")
    actions, culprit = machine.payload_corrupt(item(theirs.id), 0.0)
    assert culprit == A
    assert Discard(item(theirs.id)) in actions
    assert machine.payload_corrupt(item(theirs.id), 0.0) == ([Discard(item(theirs.id))], None)


def test_two_updates_of_one_slot_are_told_of_and_neither_is_folded() -> None:
    machine = started(held=(update(CAROL, 1),))
    meet(machine, ALICE)
    rival = update(CAROL, 1, "y")
    machine.received(A, Have((HaveEntry(1, CAROL.peer_id, rival.id),), False), 0.0)
    [tell] = only(machine.received(A, rival.message, 0.0), Tell)
    assert "for round 1: neither counts" in tell.text
    assert machine.rounds.plan(1).rounds == {1: ()}


def test_a_check_that_ends_after_its_slot_was_voided_changes_nothing() -> None:
    machine = started()
    meet(machine, ALICE)
    theirs, rival = update(CAROL, 1), update(CAROL, 1, "y")
    give(machine, ALICE, theirs)
    machine.received(A, Have((HaveEntry(1, CAROL.peer_id, rival.id),), False), 0.0)
    machine.received(A, rival.message, 0.0)
    assert machine.payload_checked(theirs, None, 0.0) == [Discard(item(theirs.id))]


def test_a_second_update_under_our_own_key_is_told_of() -> None:
    machine = started()
    meet(machine, ALICE)
    machine.waiting_for((), 0.0)
    [author] = only(machine.trained(0.0), Author)
    twin = update(ME, author.round, "of a second process")
    machine.received(A, Have((HaveEntry(twin.round, twin.author, twin.id),), False), 0.0)
    machine.received(A, twin.message, 0.0)
    tells = only(machine.authored(update(ME, author.round), 0.0), Tell)
    assert "this peer's own key" in tells[0].text


def test_absent_and_lost_neighbours_are_worked_around() -> None:
    machine = started()
    meet(machine, ALICE)
    meet(machine, BOB)
    theirs = update(CAROL, 1)
    entry = HaveEntry(1, theirs.author, theirs.id)
    for peer in (A, B):
        machine.received(peer, Have((entry,), False), 0.0)
    [send] = only(machine.received(A, Absent(theirs.id), 0.0), Send)
    assert send == Send((B,), Want(theirs.id, 0))
    machine.disconnected(B, 0.0)
    assert not machine.sync.wanted(item(theirs.id))


def test_a_session_over_which_nothing_comes_is_ended_to_try_another_way() -> None:
    machine = started()
    meet(machine, ALICE)
    meet(machine, BOB)
    machine.received(A, Have((), False), 5.0)
    assert only(machine.tick(LIVENESS_S), HangUp) == [HangUp(B)]
    machine.disconnected(B, LIVENESS_S)
    assert only(machine.tick(LIVENESS_S + 1), HangUp) == []


# The base.


def arrive(
    machine: PeerMachine, base: bytes, now: float = 0.0, *, given: bool = False
) -> list[Action]:
    """An origin has arrived and is sound."""
    return machine.base_checked(origin(base, given=given), history_of_origin(base), now)


@pytest.mark.parametrize(
    ("base", "given", "is_taken"),
    [(LOWER, False, True), (HIGHER, False, False), (HIGHER, True, True), (BASE, True, False)],
)
def test_of_two_bases_the_given_wins_and_then_the_lower(
    base: bytes, given: bool, is_taken: bool
) -> None:
    machine = started()
    meet(machine, ALICE, base=base, base_given=given)
    looks = only(machine.received(A, Chunk(base, 0, memoryview(b"xx")), 0.0), CheckBase)
    assert looks == ([CheckBase(origin(base, given=given))] if is_taken else [])
    if is_taken:
        actions = arrive(machine, base, given=given)
        assert machine.base == origin(base, given=given)
        assert last_said(actions).base == base
        assert arrive(machine, base, given=given) == [
            Discard(Item(base, origin(base, given=given)))
        ]


def test_a_late_joiners_base_yields_to_the_one_in_use() -> None:
    machine = started(base=LOWER, given=True)
    meet(machine, ALICE, round_index=7, next_round=7, base=HIGHER)
    machine.received(A, Chunk(HIGHER, 0, memoryview(b"xx")), 0.0)
    actions = arrive(machine, HIGHER)
    assert machine.base == origin(HIGHER)
    [tell] = only(actions, Tell)
    assert tell.level is Level.WARNING
    assert tell.text.endswith("not those given by hand")


def test_a_base_in_use_does_not_yield_to_a_late_joiners() -> None:
    machine = started(closed_round=3)
    meet(machine, ALICE, base=LOWER, base_given=True)
    assert machine.sync.num_wanted == 0
    hear(machine, ALICE, base=LOWER, base_given=True, round_index=4, next_round=4)
    assert machine.sync.num_wanted == 1, "two parts of a run that meet agree on one"


def test_of_two_bases_in_use_the_one_wins_that_more_peers_fold_on() -> None:
    machine = started(closed_round=3)
    folds: dict[str, Any] = {"round_index": 4, "next_round": 4}
    meet(machine, BOB, **folds)
    meet(machine, ALICE, base=LOWER, base_given=True, **folds)
    assert machine.sync.num_wanted == 0, "one peer cannot move two"
    hear(machine, CAROL, base=LOWER, next_round=1, via=A)
    hear(machine, ALICE, base=LOWER, base_given=True, **folds)
    assert machine.sync.num_wanted == 0, "nor with one that has folded nothing"
    hear(machine, CAROL, base=HIGHER, via=A, **folds)
    hear(machine, ALICE, base=HIGHER, **folds)
    assert machine.sync.num_wanted == 0, "of as many the lower wins"
    hear(machine, CAROL, base=LOWER, via=A, **folds)
    hear(machine, ALICE, base=LOWER, **folds)
    assert machine.sync.num_wanted == 1


def test_a_base_in_use_yields_when_its_users_are_gone() -> None:
    machine = started(closed_round=3)
    folds: dict[str, Any] = {"round_index": 4, "next_round": 4}
    meet(machine, BOB, **folds)
    meet(machine, ALICE, base=HIGHER, **folds)
    hear(machine, CAROL, base=HIGHER, via=A, **folds)
    assert machine.sync.num_wanted == 0
    hear(machine, BOB, leaving=True, **folds)
    hear(machine, ALICE, base=HIGHER, **folds)
    assert machine.sync.num_wanted == 1


def test_a_base_that_is_no_longer_better_when_it_arrives_is_dropped() -> None:
    machine = started()
    meet(machine, ALICE, base=LOWER)
    machine.received(A, Chunk(LOWER, 0, memoryview(b"xx")), 0.0)
    machine.waiting_for((), START_S)  # the wait is over: ours is in use now
    assert machine.rounds.round == 1
    assert Discard(Item(LOWER, origin(LOWER))) in arrive(machine, LOWER, START_S)
    assert machine.base.digest == BASE


# Compaction.


def agree_on(machine: PeerMachine, *, round_index: int = 4) -> list[Action]:
    """Close rounds 1 to 4 with Alice; let her sign what we hold, and return what follows."""
    machine.waiting_for((), 0.0)
    for number in range(1, round_index + 1):
        publish(machine)
        theirs = update(ALICE, number)
        give(machine, ALICE, theirs)
        [close] = only(machine.payload_checked(theirs, None, 0.0), Close)
        machine.folded(close.plan, b"s" * 32, 0.0)
    mark = (4, machine.updates.set_digest(4))
    return hear(machine, ALICE, round_index=5, next_round=5, marks=(mark,))


def made(cut: Cut, digest: bytes = b"m" * 32) -> Base:
    return Base.of(digest, 100, cut.history, given=False)


def test_what_all_have_signed_is_compacted() -> None:
    machine = started()
    meet(machine, ALICE)
    [cut] = only(agree_on(machine), Cut)
    assert (cut.plan.base, cut.plan.through, cut.plan.set_digest) == (
        BASE,
        4,
        machine.updates.set_digest(4),
    )
    assert (cut.history.frontier, cut.history.num_included) == (4, 8)
    assert only(machine.tick(1.0), Cut) == [], "one at a time"
    held = machine.updates.digest
    actions = machine.base_made(cut, made(cut), 1.0)
    assert not only(actions, TakeBack)
    assert machine.base == made(cut)
    assert (len(machine.updates), machine.updates.digest) == (0, held)
    assert [u.round for u in machine.passed.kept] == [1, 1, 2, 2, 3, 3, 4, 4]
    said = last_said(machine.tick(2.0))
    assert (said.base, said.frontier, said.num_included) == (b"m" * 32, 4, 8)
    [serve] = only(machine.received(A, Want(BASE, 0), 2.0), Serve)
    assert serve.id == BASE, "somebody may still be fetching the one before"
    assert only(machine.received(A, Want(update(ALICE, 1).id, 0), 2.0), Send) == [
        Send((A,), Absent(update(ALICE, 1).id))
    ]


def test_a_round_is_signed_as_complete_only_once_nothing_more_of_ours_will_come() -> None:
    """Others make a base of what they hold through it: our update would come too late."""
    machine = started(closed_round=3)
    meet(machine, ALICE)
    actions = machine.waiting_for((), 0.0)
    assert [train.round for train in only(actions, Train)] == [4]
    assert (last_said(actions).round, last_said(actions).marks) == (4, ())
    actions = publish(machine)
    assert last_said(actions).marks == ((4, machine.updates.set_digest(4)),)


def test_what_came_late_for_a_base_in_the_making_stays_out_of_no_base() -> None:
    machine = started()
    meet(machine, ALICE)
    meet(machine, BOB)
    hear(machine, BOB, leaving=True)
    [cut] = only(agree_on(machine), Cut)
    late = update(BOB, 2)
    give(machine, ALICE, late)
    machine.payload_checked(late, None, 0.0)
    machine.base_made(cut, made(cut), 1.0)
    assert machine.base.digest == BASE
    assert late.id in machine.updates


def test_a_base_that_something_came_late_for_is_made_again_a_round_later() -> None:
    machine = started()
    meet(machine, ALICE)
    meet(machine, BOB)
    hear(machine, BOB, leaving=True)
    [cut] = only(agree_on(machine), Cut)
    late = update(BOB, 2)
    give(machine, ALICE, late)
    machine.payload_checked(late, None, 0.0)
    machine.base_made(cut, made(cut), 1.0)
    mark = (4, machine.updates.set_digest(4))
    assert not only(hear(machine, ALICE, 1.0, round_index=5, next_round=5, marks=(mark,)), Cut)
    publish(machine)
    theirs = update(ALICE, 5)
    give(machine, ALICE, theirs)
    [close] = only(machine.payload_checked(theirs, None, 2.0), Close)
    [again] = only(machine.folded(close.plan, b"s" * 32, 2.0), Cut)
    assert again.history.includes(late)


def test_own_updates_that_a_base_leaves_out_go_out_anew() -> None:
    """The open round may be part of it as well: it is skipped, and its update comes back."""
    machine = started(held=(update(BOB, 2),))
    meet(machine, CAROL, START_S - 1)  # expected, so that the round stays open
    machine.waiting_for((), START_S)
    publish(machine, START_S)
    ours = update(ME, machine.rounds.round)
    shared = update(CAROL, 1)
    history = UpdateSet(ORIGIN, [shared, update(ALICE, 3)]).history_through(8, 4)
    folds: dict[str, Any] = {"round_index": 9, "next_round": 9, "history": history}
    theirs = Base.of(LOWER, 2, history, given=False)
    now = START_S
    machine.connected(A, now)
    machine.received(A, Have((), True), now)
    hear(machine, ALICE, now, base=LOWER, **folds)
    [look] = only(machine.received(A, Chunk(LOWER, 0, memoryview(b"xx")), now), CheckBase)
    assert look == CheckBase(theirs)
    actions = machine.base_checked(theirs, history, now)
    assert only(actions, TakeBack) == [TakeBack((ours,))]
    warnings = [t.text for t in only(actions, Tell) if t.level is Level.WARNING]
    assert ["1 updates of" in text and "left out" in text for text in warnings] == [True]
    [train] = only(actions, Train)
    assert train.round == 9
    assert train.plan is not None
    assert (train.plan.base, train.plan.frontier, train.plan.changed_from) == (LOWER, 8, 9)
    assert any("skipped" in t.text for t in only(actions, Tell))


def test_what_an_earlier_base_can_still_take_in_is_held_again_and_not_taken_back() -> None:
    """Others may hold it: they would fold it, and what it carried would go out twice."""
    machine = started()
    own = update(ME, 3)
    machine.updates.add(own)
    history = UpdateSet(ORIGIN, [own]).history_through(4, BASES.every)
    machine._compaction._stand_on(Base.of(HIGHER, 2, history, given=False), history, 0.0)
    assert machine.passed.kept == (own,)
    meet(machine, ALICE)
    actions = [*machine._compaction._stand_on(origin(BASE), ORIGIN, 0.0), *machine.look(0.0)]
    assert not only(actions, TakeBack)
    assert own.id in machine.updates
    told = [send.message for send in only(actions, Send) if isinstance(send.message, Have)]
    assert own.id in {entry.id for message in told for entry in message.entries}


def test_what_an_earlier_process_took_back_counts_again_where_it_is_held_after_all() -> None:
    own, other = update(ME, 1), update(ME, 2)
    machine = make(held=(own,), passed=(other,), taken_back={own.id: 1})
    actions = machine.start(0.0)
    assert only(actions, CountAgain) == [CountAgain((own,))]
    assert only(actions, TakeBack) == [TakeBack((other,))], "it died before it was taken back"


def test_no_base_is_made_that_nobody_would_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MAX_HISTORY_BYTES", 300)
    machine = started()
    meet(machine, ALICE)
    actions = agree_on(machine)
    assert not only(actions, Cut)
    assert "history is full" in only(actions, Tell)[-1].text


def test_what_was_taken_back_and_is_brought_back_counts_again() -> None:
    own = update(ME, 1)
    machine = make(passed=(own,), taken_back={own.id: 1})
    assert not only(machine.start(0.0), CountAgain)
    meet(machine, ALICE)
    give(machine, ALICE, own)
    assert only(machine.payload_checked(own, None, 0.0), CountAgain) == [CountAgain((own,))]


def test_an_update_that_was_being_made_while_a_base_was_taken_over_goes_out_anew() -> None:
    machine = started()
    machine.waiting_for((), START_S)
    [author] = only(machine.trained(START_S), Author)
    own = update(ME, author.round)
    history = UpdateSet(ORIGIN, [update(ALICE, 3)]).history_through(8, 4)
    now = START_S
    machine.connected(A, now)
    machine.received(A, Have((), True), now)
    hear(machine, ALICE, now, base=LOWER, history=history, round_index=9, next_round=9)
    machine.received(A, Chunk(LOWER, 0, memoryview(b"xx")), now)
    machine.base_checked(Base.of(LOWER, 2, history, given=False), history, now)
    actions = machine.authored(own, now)
    assert only(actions, TakeBack) == [TakeBack((own,))]
    assert not [send for send in only(actions, Send) if isinstance(send.message, Have)]
    assert own.id not in machine.updates
    assert [train.round for train in only(actions, Train)] == [9]


def test_a_silent_peer_is_not_waited_for_where_the_budget_is_used_up() -> None:
    machine = started(budget_bytes=4)
    meet(machine, ALICE)
    meet(machine, BOB)
    machine.disconnected(B, 0.0)
    bob = update(BOB, 1)
    give(machine, ALICE, bob)
    machine.payload_checked(bob, None, 0.0)
    actions: list[Action] = []
    machine.waiting_for((), 0.0)
    now = 0.0
    for number in range(1, 5):
        now += LISTEN_S
        hear(machine, ALICE, now, round_index=number, next_round=number)
        publish(machine, now)
        theirs = update(ALICE, number)
        give(machine, ALICE, theirs)
        [close] = only(machine.payload_checked(theirs, None, now), Close)
        machine.folded(close.plan, b"s" * 32, now)
    mark = (4, machine.updates.set_digest(4))
    actions = hear(machine, ALICE, now, round_index=5, next_round=5, marks=(mark,))
    assert only(actions, Cut)
    [tell] = only(actions, Tell)
    assert "are compacted without" in tell.text
    assert "p2p.disk_budget_mb" in tell.text


# Divergence.


def run_one_round(machine: PeerMachine, state: bytes = b"s" * 32) -> bytes:
    """Close and fold a round in which only Alice takes part; return its set digest."""
    machine.waiting_for((), 0.0)
    publish(machine)
    theirs = update(ALICE, machine.rounds.round)
    give(machine, ALICE, theirs)
    [close] = only(machine.payload_checked(theirs, None, 0.0), Close)
    machine.folded(close.plan, state, 0.0)
    return close.plan.set_digest


@pytest.mark.parametrize(
    ("says", "is_reported"),
    [
        ({}, True),
        ({"state": b"s" * 32}, False),
        ({"set_digest": b"o" * 32}, False),
        ({"round": 2}, False),
    ],
    ids=["another state", "the same state", "another set", "a later round"],
)
def test_another_state_of_the_same_set_is_reported_once(
    says: dict[str, Any], is_reported: bool
) -> None:
    machine = started()
    meet(machine, ALICE)
    set_digest = run_one_round(machine)
    closed = (
        says.get("round", 1),
        says.get("set_digest", set_digest),
        says.get("state", b"t" * 32),
    )
    for _ in range(2):
        reports = only(hear(machine, ALICE, closed=closed, next_round=2), Diverged)
        said = Diverged(A, 1, set_digest, b"s" * 32, b"t" * 32)
        assert reports == ([said] if is_reported else [])
        is_reported = False


def test_a_divergence_known_before_the_own_fold_is_reported_with_it() -> None:
    machine = started()
    meet(machine, ALICE)
    machine.waiting_for((), 0.0)
    publish(machine)
    theirs = update(ALICE, 1)
    give(machine, ALICE, theirs)
    [close] = only(machine.payload_checked(theirs, None, 0.0), Close)
    hear(machine, ALICE, next_round=2, closed=(1, close.plan.set_digest, b"t" * 32))
    [report] = only(machine.folded(close.plan, b"s" * 32, 0.0), Diverged)
    assert (report.peer, report.ours, report.theirs) == (A, b"s" * 32, b"t" * 32)


def test_a_liar_gets_only_so_many_divergences_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "MAX_DIVERGED", 1)
    machine = started()
    for who in (ALICE, BOB):
        meet(machine, who)
    machine._closed.add(1, b"x" * 32, b"s" * 32)
    found = [
        only(hear(machine, who, closed=(1, b"x" * 32, b"t" * 32)), Diverged) for who in (ALICE, BOB)
    ]
    assert list(map(len, found)) == [1, 0]


def test_only_so_many_digests_are_kept() -> None:
    machine = started(rounds=1000)
    machine.waiting_for((), 0.0)
    for _ in range(DIGESTS_KEPT + 5):
        [close] = only(publish(machine), Close)
        machine.folded(close.plan, b"s" * 32, 0.0)
    assert len(machine._closed._digests) == DIGESTS_KEPT
    assert min(machine._closed._digests) == 6


def test_a_fold_on_an_origin_that_was_replaced_meanwhile_is_of_another_set() -> None:
    machine = started()
    meet(machine, ALICE)
    machine.waiting_for((), 0.0)
    publish(machine)
    theirs = update(ALICE, 1)
    give(machine, ALICE, theirs)
    [close] = only(machine.payload_checked(theirs, None, 0.0), Close)
    hear(machine, ALICE, round_index=2, next_round=2, base=LOWER)
    machine.received(A, Chunk(LOWER, 0, memoryview(b"xx")), 0.0)
    arrive(machine, LOWER)
    [train] = only(machine.folded(close.plan, b"s" * 32, 0.0), Train)
    assert train.plan is not None
    assert train.plan.base == LOWER
    said = last_said(machine.tick(5.0)).set_digest
    assert said == close.plan.set_digest != train.plan.set_digest


# The end.


def test_the_last_round_ends_with_a_goodbye_and_no_further_heartbeat() -> None:
    machine = started(rounds=1)
    meet(machine, ALICE)
    machine.waiting_for((), 0.0)
    own = publish(machine)
    theirs = update(ALICE, 1)
    give(machine, ALICE, theirs)
    actions = machine.payload_checked(theirs, None, 0.0)
    said = last_said([*own, *actions])
    assert said.held == machine.updates.digest, "what the others wait to hear"
    assert only(actions, Close) == []
    [close] = only(
        hear(machine, ALICE, round_index=1, next_round=2, last=theirs, held=said.held), Close
    )
    actions = machine.folded(close.plan, b"s" * 32, 0.0)
    assert only(actions, Finish) == [Finish("done, after round 1")]
    assert beats(actions) == []


def test_a_skipped_round_is_told() -> None:
    machine = started()
    meet(machine, ALICE)
    machine.waiting_for((), 0.0)
    machine.trained(0.0)
    actions = machine.skipped("the loss is not finite", 0.0)
    assert only(actions, Tell)[0].text == "round 1: nothing published: the loss is not finite"
    assert last_said(actions).next_round == 2


# Who counts, where peers run on devices.

MY_DEVICE, ALICES, BOBS = (signer(f"device of {name}") for name in ("me", "alice", "bob"))


def with_devices(*trusted: Signer, held: tuple[Update, ...] = ()) -> PeerMachine:
    """Return a machine on a device, with the devices that it trusts; it waits for an address."""
    membership = Membership(MY_DEVICE, ME, RUN)
    membership.trust({device.peer_id: Standing(lets_in=True) for device in trusted})
    made = make(held=held, membership=membership)
    made.rounds.waiting_for = ("somewhere",)
    made.start(0.0)
    return made


def bound(who: Signer, device: Signer) -> Binding:
    return Binding(
        who.public_key,
        device.public_key,
        endorse(device, who.public_key),
        consent(who, device.public_key),
    )


def test_a_new_neighbour_is_told_who_runs_where_before_anything_else() -> None:
    machine = with_devices(ALICES)
    first = only(machine.connected(A, 0.0), Send)[0]
    assert first == Send((A,), bound(ME, MY_DEVICE))


def membership_of(machine: PeerMachine) -> Membership:
    assert machine.membership is not None
    return machine.membership


def sent_records(actions: list[Action]) -> list[tuple[tuple[PeerId, ...], type]]:
    sends = only(actions, Send)
    return [(s.to, type(s.message)) for s in sends if isinstance(s.message, Binding | Statement)]


def test_a_record_is_passed_on_and_kept_and_answered_with_our_own_word() -> None:
    machine = with_devices(ALICES, BOBS)
    for peer in (A, B):
        machine.connected(peer, 0.0)
    assert sent_records(machine.received(A, bound(ALICE, ALICES), 0.0)) == []
    assert sent_records(machine.look(0.5)) == [], "once a heartbeat, whatever has come"
    assert machine.next_wakeup(0.5) == HEARTBEAT_S
    actions = machine.tick(HEARTBEAT_S)
    assert sent_records(actions) == [((A, B), Binding), ((A, B), Statement)]
    [keep] = only(actions, Keep)
    assert set(keep.records) == set(membership_of(machine).records())
    machine.received(B, bound(ALICE, ALICES), 2.0)
    assert only(machine.tick(4.0), Keep) == [], "no news"


def test_a_round_closes_by_what_has_been_said_of_devices_until_then() -> None:
    """Who heard only one that was out by then closed its round as if it were not alone."""
    machine = with_devices(ALICES, BOBS)
    machine.connected(A, 0.0)
    machine.connected(B, 0.0)
    machine.received(A, bound(ALICE, ALICES), 0.0)
    machine.received(B, bound(BOB, BOBS), 0.0)
    machine.look(0.0)
    machine.waiting_for((), START_S)
    hear(machine, ALICE, START_S, round_index=4, next_round=5)
    machine.trained(START_S)
    body = msgspec.msgpack.encode(StatementBody(RUN, ALICES.peer_id, 1, 1, False))
    out = Statement(body, BOBS.public_key, BOBS.sign(b"statement 1", body))
    PeerMachine.received(machine, B, out, START_S + 1)  # nobody has looked since
    actions = machine.skipped("why not", START_S + 1)
    assert not only(actions, Close), "nobody is heard: it waits"
    assert machine.rounds.phase is Phase.COLLECTING


def test_many_records_are_settled_once_a_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sent one record after another had all of them settled again after each."""
    machine = with_devices(ALICES, BOBS)
    machine.connected(A, 0.0)
    machine.received(A, bound(ALICE, ALICES), 0.0)
    machine.look(0.0)
    machine.tick(HEARTBEAT_S)
    monkeypatch.setattr(membership_module, "SETTLED_AT_ONCE", 0)
    machine.received(A, bound(BOB, BOBS), HEARTBEAT_S + 0.1)
    machine.look(HEARTBEAT_S + 0.1)
    hear(machine, ALICE, HEARTBEAT_S + 0.2)
    assert not membership_of(machine).is_in(B)
    assert machine.next_wakeup(HEARTBEAT_S + 0.2) == 2 * HEARTBEAT_S
    machine.tick(2 * HEARTBEAT_S)
    assert membership_of(machine).is_in(B)


def test_nobody_hears_who_does_not_belong() -> None:
    machine = with_devices(ALICES)
    meet(machine, ALICE)
    assert machine.roster.latest(A) is None, "its device is not known yet"
    machine.received(A, bound(ALICE, ALICES), 0.0)
    hear(machine, ALICE)
    assert machine.roster.latest(A) is not None
    machine.waiting_for((), 1.0)
    machine.trust_changed({ALICES.peer_id: Standing(lets_in=False)}, 2.0)
    assert machine.roster.latest(A) is None
    hear(machine, ALICE, 2.0)
    assert machine.roster.latest(A) is None


def test_a_start_waits_for_no_word_of_who_does_not_belong() -> None:
    """A neighbour that is revoked elsewhere held up every start until the timeout."""
    machine = with_devices(ALICES, BOBS)
    machine.connected(A, 0.0)
    machine.received(A, Have((), True), 0.0)
    assert not only(machine.waiting_for((), 1.0), Train), "its device is still to come"
    machine.received(A, bound(ALICE, ALICES), 1.0)
    assert not only(machine.look(1.5), Train), "and then its heartbeat"
    machine.received(A, bound(BOB, BOBS), 1.5)
    body = msgspec.msgpack.encode(StatementBody(RUN, ALICES.peer_id, 1, 1, False))
    out = Statement(body, BOBS.public_key, BOBS.sign(b"statement 1", body))
    assert only(machine.received(A, out, 2.0), Train)


def test_a_neighbour_whose_records_differ_for_long_is_told_them_again() -> None:
    machine = with_devices(ALICES)
    meet(machine, ALICE)
    machine.received(A, bound(ALICE, ALICES), 0.0)
    machine.tick(HEARTBEAT_S)
    num_records = len(membership_of(machine).records())
    told = []
    for now in range(2, 80):
        actions = hear(machine, ALICE, float(now), members=b"differs")
        told += [now] * (len(sent_records(actions)) == num_records)
    assert told == [10, 30, 70], "more and more rarely: perhaps it never agrees"
    hear(machine, ALICE, 80.0, members=membership_of(machine).digest)
    assert sent_records(hear(machine, ALICE, 85.0, members=b"differs")) == []
    assert len(sent_records(hear(machine, ALICE, 90.0, members=b"differs"))) == num_records


def test_a_revocation_folds_anew_what_it_has_taken_back_and_says_so() -> None:
    held = tuple(update(who, r) for r in (1, 2) for who in (ME, ALICE))
    machine = with_devices(ALICES, held=held)
    machine.connected(A, 0.0)
    machine.received(A, bound(ALICE, ALICES), 0.0)
    machine.waiting_for((), START_S)
    before = machine.rounds.plan(2)
    assert len(before.rounds[2]) == 2
    machine._closed.last = 2
    actions = machine.trust_changed({ALICES.peer_id: Standing(False, void_from=2)}, START_S + 1)
    texts = [tell.text for tell in only(actions, Tell)]
    assert any("counts from round 2 on: revoked on this device" in text for text in texts)
    assert "rounds from 2 on are folded anew: other updates count now" in texts
    plan = machine.rounds.plan(2)
    assert plan.changed_from == 2
    assert [u.author for u in plan.rounds[2]] == [ME.peer_id]
    assert len(plan.rounds[1]) == 2


def test_a_peer_that_goes_on_says_nothing_of_rounds_before_it_knows_them() -> None:
    """It said from round 1 on, and took back everywhere what a revoked one had taught."""
    held = tuple(update(who, r) for r in (1, 2, 3) for who in (ME, ALICE))
    membership = Membership(MY_DEVICE, ME, RUN)
    membership.trust({ALICES.peer_id: Standing(lets_in=True)})
    membership.take(bound(ALICE, ALICES))
    membership.settle()
    membership.trust({ALICES.peer_id: Standing(lets_in=False)})
    machine = make(held=held, membership=membership, closed_round=3, authored_round=3)
    machine.rounds.waiting_for = ("somewhere",)
    machine.start(0.0)
    assert membership.is_in(A), "it does not know which round is open"
    machine.waiting_for((), 1.0)
    assert machine.next_wakeup(1.0) > 1.5, "nor does it look again and again"
    machine.tick(2.0)
    assert membership.out_from(A) == 5, "after the one that is open"


@pytest.mark.parametrize("claimed", [MAX_ROUND, MAX_ROUND + 1])
@pytest.mark.parametrize("revoked", [ALICES, BOBS])
def test_a_device_cannot_put_off_a_revocation_by_the_round_that_it_claims(
    claimed: int, revoked: Signer
) -> None:
    """It was put out from a round on that never comes, or by a word that nobody could read."""
    machine = with_devices(ALICES, BOBS)
    for who, device in ((ALICE, ALICES), (BOB, BOBS)):
        machine.connected(who.peer_id, 0.0)
        machine.received(who.peer_id, bound(who, device), 0.0)
    machine.look(0.0)
    machine.waiting_for((), START_S)
    assert machine.rounds.phase is Phase.TRAINING
    open_now = machine.rounds.round
    hear(machine, ALICE, START_S, round_index=claimed, next_round=MAX_ROUND + 1)
    standing = {d.peer_id: Standing(lets_in=d is not revoked) for d in (ALICES, BOBS)}
    actions = machine.trust_changed(standing, START_S + 1)
    actions += machine.tick(START_S + 1 + HEARTBEAT_S)
    words = [s.message for s in only(actions, Send) if isinstance(s.message, Statement)]
    bodies = [msgspec.msgpack.decode(word.body, type=StatementBody) for word in words]
    out = [body.out_from for body in bodies if body.about == revoked.peer_id]
    # Of another it is believed that it is one round ahead, and of itself nothing.
    assert out[-1] == open_now + (1 if revoked is ALICES else 2)
    assert not membership_of(machine).is_in(A if revoked is ALICES else B)


def test_what_a_snapshot_includes_stays_and_that_is_told() -> None:
    machine = with_devices(ALICES)
    machine.updates.rebase(History((*ORIGIN.marks, (4, b"s" * 32))))
    machine.connected(A, 0.0)
    machine.received(A, bound(ALICE, ALICES), 0.0)
    machine.waiting_for((), START_S)
    actions = machine.trust_changed({ALICES.peer_id: Standing(False, void_from=2)}, START_S + 1)
    texts = [tell.text for tell in only(actions, Tell)]
    assert "what it taught up to round 4 is in a snapshot, and stays" in texts


def test_records_of_devices_have_no_place_where_anyone_may_join() -> None:
    machine = started()
    meet(machine, ALICE)
    with pytest.raises(RemoteProtocolError, match="anyone may join"):
        machine.received(A, bound(ALICE, ALICES), 0.0)


# For people who watch.


def vitals_of(who: Signer, round_index: int = 1) -> VitalsMessage:
    signs = VitalSigns(RUN, 1, ADMISSION.signature_valid)
    return signs.sign(Vitals(last=LastRound(round=round_index, loss=0.5)), who)


def told_vitals(actions: list[Action]) -> list[tuple[PeerId, ...]]:
    return [s.to for s in only(actions, Send) if isinstance(s.message, VitalsMessage)]


def test_vitals_are_told_only_while_somebody_watches() -> None:
    machine = started()
    meet(machine, ALICE)
    vitals = Vitals(last=LastRound(round=1))
    assert machine.tell_vitals(vitals, 1.0) == []
    hear(machine, BOB, 1.0, via=A, watches=True)
    assert told_vitals(machine.tell_vitals(vitals, 1.0)) == [(A,)]
    assert machine.tell_vitals(vitals, 1.0 + LIVENESS_S) == [], "nobody is alive"


def test_vitals_are_passed_on_to_who_hears_their_peer_by_us_alone() -> None:
    machine = started()
    for who in (ALICE, BOB, CAROL):
        meet(machine, who)
    machine.received(B, Neighbours((Neighbour(A, ()),)), 1.0)
    actions = machine.received(A, vitals_of(ALICE), 2.0)
    assert told_vitals(actions) == [(CAROL.peer_id,)]
    assert told_vitals(machine.received(CAROL.peer_id, vitals_of(ALICE), 2.0)) == []
    found = machine.vitals.latest(A)
    assert found is not None
    assert found.last.loss == 0.5


def test_vitals_of_who_is_not_known_are_neither_kept_nor_passed_on() -> None:
    machine = started()
    meet(machine, ALICE)
    assert told_vitals(machine.received(A, vitals_of(BOB), 1.0)) == []
    assert machine.vitals.latest(B) is None


def test_forged_vitals_end_the_session() -> None:
    machine = started()
    meet(machine, ALICE)
    forged = msgspec.structs.replace(vitals_of(BOB), public_key=ALICE.public_key)
    with pytest.raises(RemoteProtocolError, match="did not sign"):
        machine.received(A, forged, 1.0)


def test_vitals_are_of_those_that_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "MAX_SIGHTINGS", 1)
    machine = started()
    for who in (ALICE, BOB):
        meet(machine, who)
        machine.received(who.peer_id, vitals_of(who), 1.0)
    machine.roster.forget(A)
    machine.received(B, vitals_of(BOB, 2), 2.0)
    assert machine.vitals.peers == {B}


def test_whether_a_peer_holds_our_model_of_its_last_round() -> None:
    machine = started()
    meet(machine, ALICE)
    machine._closed.add(3, b"s" * 32, b"m" * 32)
    for closed, agrees in (
        ((3, b"s" * 32, b"m" * 32), True),
        ((3, b"s" * 32, b"x" * 32), False),
        ((3, b"o" * 32, b"m" * 32), None),
        ((4, b"s" * 32, b"m" * 32), None),
    ):
        assert machine.agrees(heartbeat_body(closed=closed)) is agrees
