"""Membership: whose updates count is the same for all, in whatever order they hear of it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_support import signer

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol import membership as module
from semantic_net.protocol.identity import PeerId, Signer, consent, endorse
from semantic_net.protocol.membership import (
    NEVER,
    Binding,
    Membership,
    Record,
    Standing,
    Statement,
    StatementBody,
)

RUN = b"the run's digest"
IN, OUT = Standing(lets_in=True), Standing(lets_in=False)


def device(number: int) -> Signer:
    return signer(f"device {number}")


def peer(number: int) -> Signer:
    return signer(f"peer {number}")


def binding(number: int, on: int | None = None) -> Binding:
    where = device(number if on is None else on)
    own = peer(number)
    return Binding(
        own.public_key,
        where.public_key,
        endorse(where, own.public_key),
        consent(own, where.public_key),
    )


def statement(
    by: int,
    about: int,
    out_from: int = NEVER,
    version: int = 1,
    *,
    vouches: bool = True,
    run: bytes = RUN,
) -> Statement:
    body = StatementBody(run, device(about).peer_id, version, out_from, vouches)
    encoded = msgspec.msgpack.encode(body)
    signature = device(by).sign(b"statement 1", encoded)
    return Statement(encoded, device(by).public_key, signature)


def membership(number: int = 0, *trusted: int, votes: int = 1) -> Membership:
    made = Membership(device(number), peer(number), RUN, votes=votes)
    made.trust({device(other).peer_id: Standing(True, None, f"d{other}") for other in trusted})
    return made


def outs(of: Membership, count: int) -> list[int]:
    return [of.out_from(peer(number).peer_id) for number in range(count)]


def test_a_peer_of_a_trusted_device_counts_once_it_is_bound() -> None:
    one = membership(0, 1)
    assert outs(one, 3) == [NEVER, 0, 0], "itself alone"
    change = one.take(binding(1))
    assert change is not None
    assert change.first_rounds == {peer(1).peer_id: 1}
    one.take(binding(2))
    assert outs(one, 3) == [NEVER, NEVER, 0], "nobody has let the third in"
    assert one.take(binding(1)) is None, "no news"


def test_who_is_let_in_by_one_that_belongs_belongs() -> None:
    one = membership(0, 1)
    for record in (binding(1), binding(2), binding(3), statement(2, 3)):
        one.take(record)
    assert outs(one, 4) == [NEVER, NEVER, 0, 0], "a word of who does not belong is worth nothing"
    one.take(statement(1, 2))
    assert outs(one, 4) == [NEVER] * 4, "and now all of the chain"


def test_a_revocation_holds_from_its_round_on_and_can_be_taken_back() -> None:
    one = membership(0, 1, 2)
    for record in (binding(1), binding(2)):
        one.take(record)
    change = one.take(statement(1, 2, out_from=7, version=2))
    assert change is not None
    assert change.first_rounds == {peer(2).peer_id: 7}
    assert change.told == ("nothing of d2 counts from round 7 on: revoked on d1",)
    authors = [peer(n).peer_id for n in range(3)]
    assert one.counting(6, authors) == authors
    assert one.counting(7, authors) == authors[:2]
    assert one.take(statement(1, 2, out_from=9)) is None, "an earlier word"
    change = one.take(statement(1, 2, NEVER, version=3))
    assert change is not None
    assert change.told == ("d2 counts again",)
    assert outs(one, 3) == [NEVER] * 3


def test_two_that_revoke_each_other_are_both_out() -> None:
    one = membership(0, 1, 2)
    for record in (binding(1), binding(2), statement(1, 2, 5), statement(2, 1, 6)):
        one.take(record)
    assert outs(one, 3) == [NEVER, 6, 5]


def test_what_a_revoked_device_has_vouched_for_stays() -> None:
    one = membership(0, 1)
    for record in (binding(1), binding(2), statement(1, 2)):
        one.take(record)
    one.trust({device(1).peer_id: OUT})
    one.speak(4)
    assert outs(one, 3) == [NEVER, 4, NEVER]


def test_a_device_goes_on_with_what_it_has_whatever_the_others_say() -> None:
    one = membership(0, 1)
    one.take(binding(1))
    change = one.take(statement(1, 0, out_from=3))
    assert change is not None
    assert change.told == ("nothing of this device counts from round 3 on: revoked on d1",)
    assert change.first_rounds == {}
    later = one.take(statement(1, 0, out_from=3, version=2))
    assert later is not None
    assert later.told == (), "once"


def test_where_some_may_lie_more_than_those_have_to_say_so() -> None:
    one = membership(0, 1, 2, 3, votes=2)
    for number in (1, 2, 3, 4):
        one.take(binding(number))
    one.take(statement(1, 4))
    one.take(statement(1, 3, out_from=2))
    assert outs(one, 5) == [NEVER, NEVER, NEVER, NEVER, 0]
    one.take(statement(2, 4))
    one.take(statement(2, 3, out_from=8))
    assert outs(one, 5) == [NEVER, NEVER, NEVER, 8, NEVER], "the round that an honest one named"


def test_where_some_may_lie_a_device_counts_once_a_round() -> None:
    for votes, expected in ((1, 2), (2, 1)):
        one = membership(0, 1, 2, votes=votes)
        one.take(binding(1))
        one.take(binding(2, on=1))
        authors = sorted(peer(n).peer_id for n in (1, 2))
        assert one.counting(3, authors) == authors[:expected]


def test_a_peer_that_moved_is_out_with_any_of_its_devices() -> None:
    one = membership(0, 1, 2)
    for record in (binding(1), binding(1, on=2), statement(2, 1, 5)):
        one.take(record)
    assert one.out_from(peer(1).peer_id) == 5


def test_speaks_of_who_takes_part_and_only_where_nobody_has() -> None:
    one = membership(0, 1, 2)
    assert one.speak(1)[0] == [], "of nobody who is not there"
    one.take(binding(1))
    [said], change = one.speak(1)
    assert change.first_rounds == {}
    assert membership(3, 0).take(binding(0)) is not None
    other = membership(3, 0)
    for record in (binding(0), binding(1), said):
        other.take(record)
    assert other.out_from(peer(1).peer_id) == NEVER
    assert one.speak(1)[0] == [], "once"
    one.take(binding(2))
    one.take(statement(1, 2))
    assert one.speak(1)[0] == [], "whoever hears of us hears of the other, and its word"


def test_what_the_trust_file_keeps_out_is_said_with_the_round() -> None:
    one = membership(0, 1, 2)
    for record in (binding(1), binding(2)):
        one.take(record)
    one.speak(1)
    one.trust({device(1).peer_id: OUT, device(2).peer_id: Standing(False, void_from=3)})
    made, change = one.speak(9)
    assert len(made) == 2
    assert change.first_rounds == {peer(1).peer_id: 9, peer(2).peer_id: 3}
    assert one.speak(12)[0] == [], "the round stays"
    one.trust({device(1).peer_id: Standing(False, void_from=2), device(2).peer_id: IN})
    one.speak(12)
    assert outs(one, 3) == [NEVER, 2, NEVER]
    one.trust({device(1).peer_id: IN})
    one.speak(14)
    assert outs(one, 3) == [NEVER, NEVER, 14], "a line that is gone is no trust any more"


def test_who_was_never_let_in_is_not_vouched_for_by_being_kept_out() -> None:
    one, other = membership(0, 1), membership(1, 0)
    one.trust({device(1).peer_id: IN, device(2).peer_id: OUT})
    for record in (binding(1), binding(2)):
        one.take(record)
    made, _ = one.speak(7)
    told: list[Record] = [binding(0), binding(2), *made]
    for each in told:
        other.take(each)
    assert outs(one, 3) == outs(other, 3) == [NEVER, NEVER, 0]


def test_a_round_to_come_takes_nothing_back_later() -> None:
    one = membership(0, 1)
    one.take(binding(1))
    one.trust({device(1).peer_id: Standing(False, void_from=50)})
    one.speak(4)
    assert outs(one, 2) == [NEVER, 4]


R = TypeVar("R", Binding, Statement)


def bent(record: R, **changes: bytes) -> R:
    return msgspec.structs.replace(record, **changes)


BAD = [
    (bent(binding(1), consent=bytes(64)), "did not sign"),
    (bent(binding(1), endorsement=bytes(64)), "did not sign"),
    (bent(statement(1, 2), signature=bytes(64)), "did not sign"),
    (statement(1, 2, run=b"x" * 16), "another run"),
    (bent(statement(1, 2), body=b"\xc1"), "malformed"),
    (bent(statement(1, 2), body=b"\x95" + b"\xc0" * 5), "malformed"),
]


@pytest.mark.parametrize(("record", "why"), BAD)
def test_a_false_record_is_refused(record: Record, why: str) -> None:
    one = membership(0, 1)
    for number in (1, 2) if isinstance(record, Statement) else ():
        one.take(binding(number))
    before = one.records()
    with pytest.raises(RemoteProtocolError, match=why):
        one.take(record)
    assert one.records() == before


def test_strangers_are_remembered_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BINDINGS", 4)
    one = membership(0, 1, 2)
    for number in (1, 10, 11, 12, 13, 2):
        one.take(binding(number))
    assert outs(one, 3) == [NEVER] * 3, "who belongs does not give way"
    assert len(one.records()) == 4
    crowd = membership(0, 1, 2, 3, 4)
    for number in range(1, 5):
        crowd.take(binding(number))
    assert outs(crowd, 5) == [NEVER, NEVER, NEVER, NEVER, 0], "the last to come"
    monkeypatch.setattr(module, "MAX_SPOKEN_OF", 2)
    for about in (2, 3, 4):
        crowd.take(statement(1, about, 5))
    assert outs(crowd, 4) == [NEVER, NEVER, 5, 5]


def test_what_was_kept_is_taken_in_again() -> None:
    one = membership(0, 1, 2)
    for record in (binding(1), binding(2), statement(1, 2, 5)):
        one.take(record)
    again = membership(0, 1, 2)
    again.load(one.records())
    assert outs(again, 3) == outs(one, 3)
    assert again.records() == one.records()


DEVICES = st.integers(1, 5)
SAID = st.builds(
    statement,
    DEVICES,
    st.integers(0, 5),
    st.sampled_from([1, 2, 5, 9, NEVER]),
    st.integers(1, 3),
    vouches=st.booleans(),
)


@given(st.lists(SAID, max_size=14), st.sets(DEVICES), st.sampled_from([1, 2]), st.randoms())
def test_the_order_of_records_does_not_show(
    statements: list[Statement], trusted: set[int], votes: int, rng: random.Random
) -> None:
    bindings: list[Record] = [binding(n) for n in range(1, 6)]
    found = []
    for _ in range(2):
        rng.shuffle(bindings)
        rng.shuffle(statements)
        one = membership(0, *trusted, votes=votes)
        for record in (*bindings, *statements, *statements[:3]):
            one.take(record)
        found.append(outs(one, 6))
    assert found[0] == found[1]


@given(
    st.sets(st.sampled_from(list(itertools.combinations(range(5), 2)))),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from([None, 1, 3]))),
    st.randoms(),
)
@settings(max_examples=40)  # it signs a lot
def test_all_who_are_connected_by_trust_agree(
    pairs: set[tuple[int, int]], revoked: list[tuple[int, int, int | None]], rng: random.Random
) -> None:
    """Each tells those that it trusts, and that trust it, all that it knows."""
    all_five = [membership(number) for number in range(5)]
    trust: list[dict[PeerId, Standing]] = [{} for _ in range(5)]
    for a, b in pairs:
        trust[a][device(b).peer_id] = trust[b][device(a).peer_id] = IN
    for one, standing in zip(all_five, trust, strict=True):
        one.trust(standing)
    rounds = itertools.count(1)
    _exchange(all_five, pairs, rng, rounds)
    for by, about, void_from in revoked:
        if device(about).peer_id in trust[by]:
            trust[by][device(about).peer_id] = Standing(False, void_from)
            all_five[by].trust(trust[by])
            all_five[by].speak(next(rounds))
            _exchange(all_five, pairs, rng, rounds)
    for number, one in enumerate(all_five):
        for other in _reached(number, pairs) - {number}:
            mine = {p: one.out_from(p) for p in (peer(n).peer_id for n in range(5))}
            theirs = {p: all_five[other].out_from(p) for p in mine}
            # Each goes on with its own, whatever the others make of it.
            for own in (number, other):
                del mine[peer(own).peer_id], theirs[peer(own).peer_id]
            assert mine == theirs


def _exchange(
    memberships: list[Membership],
    pairs: set[tuple[int, int]],
    rng: random.Random,
    rounds: Iterator[int],
) -> None:
    """Let everybody tell its neighbours what it knows until nobody hears news."""
    ways = [*pairs, *((b, a) for a, b in pairs)]
    is_over = False
    while not is_over:
        is_over = True
        rng.shuffle(ways)
        for a, b in ways:
            news = [memberships[b].take(record) for record in memberships[a].records()]
            said, _ = memberships[b].speak(next(rounds))
            is_over = is_over and not said and not any(news)


def _reached(number: int, pairs: set[tuple[int, int]]) -> set[int]:
    found = {number}
    while True:
        new = {b for pair in pairs for a, b in (pair, pair[::-1]) if a in found} - found
        if not new:
            return found
        found |= new
