"""The roster: only a fresh heartbeat shows life, and memory is bounded."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import RUN, heartbeat, heartbeat_body, signer, update

from semantic_net.protocol import roster as module
from semantic_net.protocol.identity import Signer, consent, endorse
from semantic_net.protocol.membership import (
    NEVER,
    Binding,
    Membership,
    Standing,
    Statement,
    StatementBody,
)
from semantic_net.protocol.messages import HeartbeatBody, HeartbeatMessage
from semantic_net.protocol.roster import Roster

ALICE, BOB, CAROL = signer("alice"), signer("bob"), signer("carol")
LIVENESS_S = 10.0


@pytest.fixture
def roster() -> Roster:
    return Roster(LIVENESS_S)


def hear(roster: Roster, who: Signer, now: float, body: HeartbeatBody) -> bool:
    return roster.hear(who.peer_id, body, heartbeat(who, body), now)


def said(roster: Roster, who: Signer, now: float) -> list[HeartbeatMessage]:
    return roster.messages_for(who.peer_id, now)


def test_a_peer_is_alive_until_its_heartbeat_is_old(roster: Roster) -> None:
    hear(roster, ALICE, 5.0, heartbeat_body(round_index=3))
    assert set(roster.alive(14.9)) == {ALICE.peer_id}
    assert roster.alive(15.0) == {}
    assert roster.latest(ALICE.peer_id) is not None, "what it said is not forgotten"


@given(st.floats(0, 1e9), st.floats(2, 1e4))
def test_at_the_announced_expiry_somebody_has_expired(heard_at: float, liveness_s: float) -> None:
    roster = Roster(liveness_s)
    hear(roster, ALICE, heard_at, heartbeat_body())
    expiry = roster.next_expiry(heard_at)
    assert expiry is not None
    assert roster.alive(expiry) == {}
    assert roster.next_expiry(expiry) is None


def test_who_is_known_by_the_word_of_another_speaks_with_its_voice() -> None:
    """One insider made up three devices, and everybody skipped to the last round."""
    mine, theirs, others = (signer(name) for name in ("mine", "theirs", "others"))
    membership = Membership(mine, signer("me"), RUN)
    membership.trust({device.peer_id: Standing(lets_in=True) for device in (theirs, others)})
    made_up = [signer(f"made up {number}") for number in range(3)]
    for who, device in ((ALICE, theirs), (BOB, others), *((who, who) for who in made_up)):
        words = endorse(device, who.public_key), consent(who, device.public_key)
        membership.take(Binding(who.public_key, device.public_key, *words))
    for who in made_up:
        body = msgspec.msgpack.encode(StatementBody(RUN, who.peer_id, 1, NEVER, True))
        signature = theirs.sign(b"statement 1", body)
        membership.take(Statement(body, theirs.public_key, signature))
    for who, device in ((who, who) for who in made_up):
        words = endorse(device, who.public_key), consent(who, device.public_key)
        membership.take(Binding(who.public_key, device.public_key, *words))
    membership.settle()
    assert all(membership.is_in(who.peer_id) for who in made_up)
    heard = Roster(LIVENESS_S, 0, membership)
    for who, number in ((ALICE, 9999), (BOB, 7), *((who, 9999) for who in made_up)):
        hear(heard, who, 0.0, heartbeat_body(round_index=number))
    assert heard.open_round(0.0) == 7
    alone = frozenset({theirs.peer_id})
    assert heard.open_round(0.0, without=alone) == 7, "nor do those that it has made up speak"
    assert heard.open_round(0.0, believes_one=False, without=alone) == 0
    all_but_one = alone | {others.peer_id, made_up[0].peer_id}
    assert heard.open_round(0.0, without=all_but_one) == 0


def test_a_device_that_has_no_say_has_none_through_whoever_vouches_for_it() -> None:
    mine, between, theirs = (signer(name) for name in ("mine", "between", "theirs"))
    membership = Membership(mine, signer("me"), RUN)
    membership.trust({between.peer_id: Standing(lets_in=True)})
    body = msgspec.msgpack.encode(StatementBody(RUN, theirs.peer_id, 1, NEVER, True))
    word = Statement(body, between.public_key, between.sign(b"statement 1", body))
    for who, device in ((ALICE, between), (BOB, theirs)):
        words = endorse(device, who.public_key), consent(who, device.public_key)
        membership.take(Binding(who.public_key, device.public_key, *words))
        membership.settle()
        membership.take(word)
    membership.settle()
    heard = Roster(LIVENESS_S, 0, membership)
    for who, number in ((ALICE, 7), (BOB, 9999)):
        hear(heard, who, 0.0, heartbeat_body(round_index=number))
    assert heard.open_round(0.0) == 9999
    assert heard.open_round(0.0, without=frozenset({theirs.peer_id})) == 7


def test_news_is_a_later_heartbeat_or_a_later_process(roster: Roster) -> None:
    hear(roster, ALICE, 0.0, heartbeat_body(incarnation=2, sequence=5))
    news = {
        (incarnation, sequence): roster.is_news(
            ALICE.peer_id, heartbeat_body(incarnation=incarnation, sequence=sequence)
        )
        for incarnation in (1, 2, 3)
        for sequence in (1, 5, 9)
    }
    assert [key for key, is_news in news.items() if is_news] == [(2, 9), (3, 1), (3, 5), (3, 9)]


def test_the_goodbye_of_a_stranger_is_told_to_nobody(roster: Roster) -> None:
    """Anyone can make up keys that say goodbye, and one that is gone takes no room here."""
    assert not hear(roster, CAROL, 1.0, heartbeat_body(leaving=True))


def test_who_says_goodbye_is_gone_at_once(roster: Roster) -> None:
    assert not roster.all_said_goodbye(), "nobody was there"
    hear(roster, ALICE, 0.0, heartbeat_body(sequence=1))
    hear(roster, BOB, 0.0, heartbeat_body(sequence=1))
    hear(roster, ALICE, 1.0, heartbeat_body(sequence=2, leaving=True))
    assert set(roster.alive(1.0)) == {BOB.peer_id}
    assert not roster.all_said_goodbye()
    hear(roster, BOB, 1.0, heartbeat_body(sequence=2, leaving=True))
    assert roster.all_said_goodbye()
    assert roster.next_expiry(1.0) is None


def test_the_open_round_is_the_highest_that_two_live_peers_have_reached(roster: Roster) -> None:
    assert roster.open_round(0.0) == 0
    hear(roster, ALICE, 0.0, heartbeat_body(round_index=1_000_000))
    assert roster.open_round(0.0) == 1_000_000, "there is nobody else to believe"
    assert roster.open_round(0.0, believes_one=False) == 0
    hear(roster, BOB, 5.0, heartbeat_body(round_index=3))
    assert roster.open_round(9.0) == 3, "one that lies makes nobody skip a round"
    hear(roster, CAROL, 6.0, heartbeat_body(round_index=4))
    assert roster.open_round(9.0) == 4
    assert roster.open_round(12.0) == 3, "Alice is gone"
    assert roster.open_round(15.5) == 4, "so is Bob"


def test_news_goes_on_at_once_and_mere_life_now_and_then(roster: Roster) -> None:
    assert hear(roster, ALICE, 0.0, heartbeat_body(sequence=1)), "a new peer"
    passed_on = [
        now
        for now in range(1, 10)
        if hear(roster, ALICE, now, heartbeat_body(sequence=1 + now, round_index=now // 9))
    ]
    assert passed_on == [3, 6, 9], "after a quarter of its life, and what it says anew"


def test_a_new_neighbour_hears_of_the_living_and_what_it_said_itself(roster: Roster) -> None:
    hear(roster, ALICE, 0.0, heartbeat_body(last=update(ALICE, 4)))
    hear(roster, BOB, 0.0, heartbeat_body())
    hear(roster, CAROL, 9.0, heartbeat_body())
    carols = heartbeat(CAROL, heartbeat_body())
    assert said(roster, BOB, 12.0) == [heartbeat(BOB, heartbeat_body()), carols]
    assert said(roster, signer("dave"), 12.0) == [carols]


def test_made_up_peers_cannot_push_out_the_living(
    roster: Roster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SIGHTINGS", 2)
    hear(roster, ALICE, 0.0, heartbeat_body())
    hear(roster, BOB, 5.0, heartbeat_body())
    newcomer = CAROL.peer_id
    assert not roster.has_room_for(newcomer, 6.0, is_neighbour=False), "both are alive"
    assert roster.has_room_for(newcomer, 6.0, is_neighbour=True)
    assert roster.has_room_for(BOB.peer_id, 6.0, is_neighbour=False), "it has its place"
    assert roster.has_room_for(newcomer, 10.0, is_neighbour=False), "one is long silent"
    hear(roster, CAROL, 10.0, heartbeat_body())
    assert roster.num_known == 2
    assert roster.latest(ALICE.peer_id) is None
