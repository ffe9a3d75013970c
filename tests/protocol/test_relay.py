"""What is passed on in a large fleet: whose turn is near, at once; that they live, together."""

from __future__ import annotations

import math
from dataclasses import replace

from protocol_support import (
    ADMISSION,
    BASE,
    BASES,
    ORIGIN,
    heartbeat,
    heartbeat_body,
    origin,
    signer,
    update,
)

from semantic_net.protocol.actions import Action, Send
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.machine import MachineConfig, PeerMachine
from semantic_net.protocol.messages import HeartbeatMessage
from semantic_net.protocol.relay import NEWS_WAIT, RELAY_WAIT, Relay
from semantic_net.protocol.roster import RELAYS_PER_LIFE_IF_SAMPLED, Roster
from semantic_net.protocol.rounds import RoundsConfig
from semantic_net.protocol.turns import Turns
from semantic_net.protocol.update_set import UpdateSet

ALICE, BOB, CAROL = signer("alice"), signer("bob"), signer("carol")
A, B, C = (each.peer_id for each in (ALICE, BOB, CAROL))
LIVENESS_S = 30.0
TURNS = Turns(ADMISSION.run, 10)
TURN = TURNS.next(C, 11)
FAR, NEAR = TURN - 5, TURN - 1


def said(sequence: int, round_index: int = NEAR, next_round: int = TURN) -> HeartbeatMessage:
    """Return what Carol says, by default that her turn is in the next round."""
    body = heartbeat_body(sequence=sequence, round_index=round_index, next_round=next_round)
    return heartbeat(CAROL, body)


def fleet_peer() -> PeerMachine:
    """Return a peer with two neighbours, Alice and Bob."""
    cfg = MachineConfig(
        rounds=RoundsConfig(rounds=50, listen_timeout_s=60, start_timeout_s=10),
        bases=replace(BASES, knows_all=False),
        admission=replace(ADMISSION, turns=TURNS),
        incarnation=1,
        heartbeat_s=1000.0,
        liveness_s=LIVENESS_S,
    )
    machine = PeerMachine(cfg, signer("me"), origin(BASE), UpdateSet(ORIGIN))
    machine.start(0.0)
    for peer in (A, B):
        machine.connected(peer, 0.0)
    return machine


def passed_on(actions: list[Action]) -> list[tuple[PeerId, ...]]:
    """Return to whom Carol's heartbeats go."""
    return [
        action.to
        for action in actions
        if isinstance(action, Send)
        and isinstance(action.message, HeartbeatMessage)
        and action.message.public_key == CAROL.public_key
    ]


def test_whose_turn_is_far_off_nobody_is_told_of() -> None:
    machine = fleet_peer()
    machine.received(A, said(1, FAR), 1.0)
    assert passed_on(machine.look(1.0)) == []
    assert passed_on(machine.tick(1.0 + LIVENESS_S / 2)) == []


def test_who_claims_a_turn_that_is_not_its_own_nobody_is_told_of() -> None:
    machine = fleet_peer()
    machine.received(A, said(1, NEAR, TURN - 1), 1.0)
    assert passed_on(machine.look(1.0)) == []


def test_whose_turn_comes_near_is_told_of_at_once() -> None:
    machine = fleet_peer()
    machine.received(A, said(1, FAR), 1.0)
    assert passed_on(machine.look(1.0)) == []
    machine.received(A, said(2, NEAR), 2.0)
    assert passed_on(machine.look(2.0)) == [(B,)]


def in_round(number: int) -> PeerMachine:
    """Return a peer with a round open, after one that took 10 s."""
    machine = fleet_peer()
    machine.rounds.round, machine.rounds.last_round_s = number, 10.0
    return machine


def test_in_long_rounds_the_news_of_a_turn_in_a_later_one_waits_for_others() -> None:
    machine = in_round(TURN - 1)
    machine.received(A, said(1), 12.0)
    assert passed_on(machine.look(12.0)) == []
    due = 12.0 + 1.5 * NEWS_WAIT * 10.0
    assert machine.next_wakeup(12.0) <= due
    assert passed_on(machine.tick(due)) == [(B,)]


def test_who_lets_its_turn_pass_or_says_goodbye_is_told_of_once_more() -> None:
    """Others waited for it until it counted as gone, its neighbours alone knew better."""
    for body in (
        heartbeat_body(sequence=2, round_index=TURN, next_round=TURN, leaving=True),
        heartbeat_body(sequence=2, round_index=TURN, next_round=TURNS.next(C, TURN + 1)),
    ):
        machine = in_round(TURN)
        machine.received(A, said(1, TURN), 12.0)
        assert passed_on(machine.look(12.0)) == [(B,)]
        machine.received(A, heartbeat(CAROL, body), 13.0)
        assert passed_on(machine.look(13.0)) == [(B,)]


def test_that_it_has_published_its_update_tells() -> None:
    machine = in_round(TURN)
    machine.received(A, said(1, TURN), 12.0)
    assert passed_on(machine.look(12.0)) == [(B,)]
    following, own = TURNS.next(C, TURN + 1), update(CAROL, TURN)
    body = heartbeat_body(sequence=2, round_index=TURN, next_round=following, last=own)
    machine.received(A, heartbeat(CAROL, body), 13.0)
    assert passed_on(machine.look(13.0)) == []


def test_the_news_of_a_turn_in_the_open_round_waits_for_nobody() -> None:
    machine = in_round(TURN)
    machine.received(A, said(1, TURN), 12.0)
    assert passed_on(machine.look(12.0)) == [(B,)]


def test_that_it_lives_is_told_again_in_time_and_to_those_who_have_not_said_so() -> None:
    machine = fleet_peer()
    machine.received(A, said(1), 1.0)
    assert passed_on(machine.look(1.0)) == [(B,)]
    machine.received(A, said(2), 2.0)
    assert passed_on(machine.look(2.0)) == [], "it has just been told of"
    later = 1.0 + LIVENESS_S / RELAYS_PER_LIFE_IF_SAMPLED
    machine.received(A, said(3), later)
    assert passed_on(machine.look(later)) == [], "others may come to go out with it"
    due = later + 1.5 * RELAY_WAIT * LIVENESS_S
    assert machine.next_wakeup(later) <= due
    machine.received(B, said(3), later + 0.1)
    assert passed_on(machine.tick(due)) == [], "all have told us of it meanwhile"


def test_a_sign_of_life_crosses_a_fleet_before_a_life_is_over() -> None:
    hops = 10
    assert 1 / RELAYS_PER_LIFE_IF_SAMPLED + hops * 1.5 * RELAY_WAIT < 1


def test_what_waits_goes_out_with_what_is_due() -> None:
    relay = Relay(A, LIVENESS_S)
    assert relay.next_due == math.inf
    relay.add(C, said(1), A, 5.0)
    relay.add(B, said(2), A, 3.0)
    assert relay.next_due == 3.0
    assert list(relay.take(2.9)) == []
    assert [origin for origin, _ in relay.take(3.0)] == [C, B]
    assert relay.next_due == math.inf
    assert list(relay.take(9.0)) == []


def test_the_latest_of_a_peer_takes_the_place_of_an_earlier_one() -> None:
    relay = Relay(A, LIVENESS_S)
    relay.add(C, said(1), A, 1.0)
    relay.heard_again(C, said(1), B)
    relay.add(C, said(2), B, 1.0)
    [(_, waiting)] = relay.take(1.0)
    assert (waiting.message, waiting.heard_from) == (said(2), {B})


def test_the_silent_are_forgotten_but_for_neighbours() -> None:
    roster = Roster(LIVENESS_S, is_sampled=True)
    for who in (ALICE, BOB):
        body = heartbeat_body()
        roster.hear(who.peer_id, body, heartbeat(who, body), 0.0)
    body = heartbeat_body(sequence=2)
    roster.hear(A, body, heartbeat(ALICE, body), 20.0)
    roster.forget_silent((), 25.0)
    assert set(roster.known) == {A, B}
    roster.forget_silent((C,), LIVENESS_S)
    assert set(roster.known) == {A}
    roster.forget_silent((A,), 100.0)
    assert set(roster.known) == {A}
    assert roster.alive(100.0) == {}
