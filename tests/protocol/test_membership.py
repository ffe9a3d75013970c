"""Membership: whose updates count is the same for all, in whatever order they hear of it."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from typing import TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_support import signer

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol import membership as module
from semantic_net.protocol import reach as reach_module
from semantic_net.protocol.identity import PeerId, Signer, consent, endorse
from semantic_net.protocol.membership import (
    NEVER,
    Binding,
    Change,
    Membership,
    Record,
    Standing,
    Statement,
    StatementBody,
)
from semantic_net.protocol.messages import encode_message
from semantic_net.simulation.stubs import StubSigner, stub_signature_valid
from semantic_net.transport.settings import TransportSettings

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
    made.settle()
    return made


def take(of: Membership, *records: Record) -> Change:
    """Take records in; return what they change together."""
    for record in records:
        of.take(record)
    return of.settle()


def speak(of: Membership, next_round: int | None) -> tuple[list[Statement], Change]:
    """Let it speak; return what it says, and what that changes."""
    of.take_news()
    of.speak(next_round)
    change = of.settle()
    return [record for record in of.take_news() if isinstance(record, Statement)], change


def outs(of: Membership, count: int) -> list[int]:
    return [of.out_from(peer(number).peer_id) for number in range(count)]


def test_a_peer_of_a_trusted_device_counts_once_it_is_bound() -> None:
    one = membership(0, 1)
    assert outs(one, 3) == [NEVER, 0, 0], "itself alone"
    change = take(one, binding(1))
    assert change.first_rounds == {peer(1).peer_id: 1}
    take(one, binding(2))
    assert outs(one, 3) == [NEVER, NEVER, 0], "nobody has let the third in"
    assert take(one, binding(1)) == Change({}), "no news"


def test_who_is_let_in_by_one_that_belongs_belongs() -> None:
    one = membership(0, 1)
    known: tuple[Record, ...] = (binding(1), binding(2), binding(3), statement(2, 3))
    take(one, *known)
    assert outs(one, 4) == [NEVER, NEVER, 0, 0], "a word of who does not belong is worth nothing"
    take(one, statement(1, 2))
    assert outs(one, 4) == [NEVER, NEVER, NEVER, 0], "its binding has waited, its words have not"
    take(one, *known)
    assert outs(one, 4) == [NEVER] * 4, "and now all of the chain"


def test_who_is_trusted_has_no_say_before_it_is_bound() -> None:
    """One that we trust told us alone of another: nobody else would hear of it."""
    one = membership(0, 1)
    take(one, binding(2), statement(1, 2))
    assert outs(one, 3) == [NEVER, 0, 0]
    assert [type(record) for record in one.records()] == [Binding]


def test_a_revocation_holds_from_its_round_on_and_can_be_taken_back() -> None:
    one = membership(0, 1, 2)
    take(one, binding(1), binding(2))
    change = take(one, statement(1, 2, out_from=7, version=2))
    assert change.first_rounds == {peer(2).peer_id: 7}
    assert change.told == ("nothing of d2 counts from round 7 on: revoked on d1",)
    authors = [peer(n).peer_id for n in range(3)]
    assert one.counting(6, authors) == authors
    assert one.counting(7, authors) == authors[:2]
    assert take(one, statement(1, 2, out_from=9)) == Change({}), "an earlier word"
    change = take(one, statement(1, 2, NEVER, version=3))
    assert change.told == ("d2 counts again",)
    assert outs(one, 3) == [NEVER] * 3


def test_two_that_revoke_each_other_are_both_out() -> None:
    one = membership(0, 1, 2)
    take(one, binding(1), binding(2), statement(1, 2, 5), statement(2, 1, 6))
    assert outs(one, 3) == [NEVER, 6, 5]


def test_what_a_revoked_device_has_vouched_for_stays() -> None:
    one = membership(0, 1)
    take(one, binding(1), binding(2), statement(1, 2))
    one.trust({device(1).peer_id: OUT})
    speak(one, 4)
    assert outs(one, 3) == [NEVER, 4, NEVER]


def test_a_device_goes_on_with_what_it_has_whatever_the_others_say() -> None:
    one = membership(0, 1)
    take(one, binding(1))
    change = take(one, statement(1, 0, out_from=3))
    assert change.told == ("nothing of this device counts from round 3 on: revoked on d1",)
    assert change.first_rounds == {}
    later = take(one, statement(1, 0, out_from=3, version=2))
    assert later.told == (), "once"


def test_where_some_may_lie_more_than_those_have_to_say_so() -> None:
    one = membership(0, 1, 2, 3, votes=2)
    for number in (1, 2, 3, 4):
        take(one, binding(number))
    take(one, statement(1, 4), statement(1, 3, out_from=2))
    assert outs(one, 5) == [NEVER, NEVER, NEVER, NEVER, 0]
    take(one, statement(2, 4))
    take(one, statement(2, 3, out_from=8))
    assert outs(one, 5) == [NEVER, NEVER, NEVER, 8, NEVER], "the round that an honest one named"


def test_where_some_may_lie_a_device_counts_once_a_round() -> None:
    for votes, expected in ((1, 2), (2, 1)):
        one = membership(0, 1, 2, votes=votes)
        take(one, binding(1))
        take(one, binding(2, on=1))
        authors = sorted(peer(n).peer_id for n in (1, 2))
        assert one.counting(3, authors) == authors[:expected]


def test_a_peer_that_moved_is_out_with_any_of_its_devices() -> None:
    one = membership(0, 1, 2)
    take(one, binding(1), binding(1, on=2), statement(2, 1, 5))
    assert one.out_from(peer(1).peer_id) == 5


def test_speaks_of_who_takes_part_and_only_where_nobody_has() -> None:
    one = membership(0, 1, 2)
    assert speak(one, 1)[0] == [], "of nobody who is not there"
    take(one, binding(1))
    [said], change = speak(one, 1)
    assert change.first_rounds == {}
    other = membership(3, 0)
    take(other, binding(0), binding(1), said)
    assert other.out_from(peer(1).peer_id) == NEVER
    assert speak(one, 1)[0] == [], "once"
    take(one, binding(2))
    take(one, statement(1, 2))
    assert speak(one, 1)[0] == [], "whoever hears of us hears of the other, and its word"


def test_what_the_trust_file_keeps_out_is_said_with_the_round() -> None:
    one = membership(0, 1, 2)
    take(one, binding(1), binding(2))
    speak(one, 1)
    one.trust({device(1).peer_id: OUT, device(2).peer_id: Standing(False, void_from=3)})
    made, change = speak(one, 9)
    assert len(made) == 2
    assert change.first_rounds == {peer(1).peer_id: 9, peer(2).peer_id: 3}
    assert speak(one, 12)[0] == [], "the round stays"
    one.trust({device(1).peer_id: Standing(False, void_from=2), device(2).peer_id: IN})
    speak(one, 12)
    assert outs(one, 3) == [NEVER, 2, NEVER]
    one.trust({device(1).peer_id: IN})
    speak(one, 14)
    assert outs(one, 3) == [NEVER, NEVER, 14], "a line that is gone is no trust any more"


def test_who_was_never_let_in_is_not_vouched_for_by_being_kept_out() -> None:
    one, other = membership(0, 1), membership(1, 0)
    one.trust({device(1).peer_id: IN, device(2).peer_id: OUT})
    take(one, binding(1), binding(2))
    made, _ = speak(one, 7)
    take(other, binding(0), binding(2), *made)
    assert outs(one, 3) == outs(other, 3) == [NEVER, NEVER, 0]


def test_a_round_to_come_takes_nothing_back_later() -> None:
    one = membership(0, 1)
    take(one, binding(1))
    one.trust({device(1).peer_id: Standing(False, void_from=50)})
    speak(one, 4)
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
        take(one, binding(number))
    before = one.records()
    with pytest.raises(RemoteProtocolError, match=why):
        one.take(record)
    assert one.records() == before


def test_strangers_wait_in_bounds_and_who_belongs_never_gives_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_STRANGERS", 3)
    one = membership(0, 1, 2)
    take(one, *(binding(number) for number in (1, 10, 11, 12, 13, 2)))
    assert outs(one, 3) == [NEVER] * 3
    assert len(one.records()) == 3, "of strangers nothing is passed on"
    take(one, *(statement(1, number) for number in (10, 13)))
    assert one.is_in(peer(13).peer_id)
    assert not one.is_in(peer(10).peer_id), "it was forgotten, and is told again"


@given(st.permutations(range(1, 7)))
def test_of_too_much_the_same_is_kept_in_any_order(order: list[int]) -> None:
    """Whoever came first was kept, so that honest peers differed for good."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_PEERS", 2)
        patch.setattr(module, "MAX_SPOKEN_OF", 3)
        found, in_order = membership(0, 1), membership(0, 1)
        for one, numbers in ((found, order), (in_order, sorted(order))):
            take(one, *(binding(number, on=1) for number in numbers))
            take(one, *(statement(1, 100 + number, 5) for number in numbers))
        assert found.digest == in_order.digest
        assert len(found.records()) == 1 + 2 + 3
        found.take_news()
        take(found, *(binding(number, on=1) for number in order))
        assert found.take_news() == [], "what is not kept is no news, or it would go round for ever"


def test_our_own_peer_is_among_those_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PEERS", 2)
    one = membership(0)
    take(one, *(binding(number, on=0) for number in range(1, 9)))
    assert one.is_in(peer(0).peer_id)


def test_what_was_kept_is_taken_in_again() -> None:
    one = membership(0, 1, 2)
    take(one, binding(1), binding(2), statement(1, 2, 5))
    again = membership(0, 1, 2)
    take(again, *one.records())
    assert outs(again, 3) == outs(one, 3)
    assert again.records() == one.records()


def test_news_is_told_once_and_the_latest_word_only() -> None:
    one = membership(0, 1, 2)
    take(one, binding(1), binding(2), statement(1, 2, 5), statement(1, 2, 4, version=2))
    news = one.take_news()
    assert news[-1] == statement(1, 2, 4, version=2)
    assert len(news) == 4
    assert one.take_news() == []
    take(one, binding(1))
    assert one.take_news() == []


def test_who_puts_out_a_device_before_it_knows_the_round_waits() -> None:
    """A peer that came late, or went on, said from round 1 on, and took everything back."""
    one = membership(0, 1)
    take(one, binding(1))
    speak(one, None)
    one.trust({device(1).peer_id: OUT})
    assert speak(one, None)[0] == []
    assert one.has_news, "something is to be said"
    assert outs(one, 2) == [NEVER, NEVER]
    speak(one, 41)
    assert outs(one, 2) == [NEVER, 41]
    assert not one.has_news


def test_two_processes_of_one_device_do_not_contradict_each_other_for_ever() -> None:
    first, second = membership(0, 1), membership(0, 1)
    for one in (first, second):
        take(one, binding(1))
        speak(one, 1)
    first.trust({device(1).peer_id: OUT})
    [said], _ = speak(first, 5)
    take(second, said)
    assert speak(second, 5)[0] == [], "its trust file has said nothing new"
    second.trust({device(1).peer_id: OUT})
    assert speak(second, 6)[0] == [], "and this has been said"
    assert outs(first, 2) == outs(second, 2) == [NEVER, 5]


def test_a_line_that_went_while_nothing_ran_is_noticed() -> None:
    before = membership(0, 1)
    take(before, binding(1))
    speak(before, 1)
    after = Membership(device(0), peer(0), RUN)
    take(after, *before.records())
    after.trust({})
    speak(after, 8)
    assert outs(after, 2) == [NEVER, 8]


def test_a_peer_that_moved_is_told_of_by_its_first_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its updates counted the same and were hashed from an old order."""
    one = membership(0, 1, 2, votes=2)
    there, here = sorted((1, 2), key=lambda number: device(number).peer_id)
    take(one, binding(5, on=here))
    change = take(one, binding(5, on=there))
    assert change.first_rounds == {peer(5).peer_id: 1}
    assert one.device_of(peer(5).peer_id) == device(there).peer_id


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
    """What could not be taken in when it came is told again, until nothing is news."""
    records: list[Record] = [*(binding(n) for n in range(1, 6)), *statements]
    found = []
    for _ in range(2):
        one = membership(0, *trusted, votes=votes)
        before = b""
        while one.digest != before:
            before = one.digest
            rng.shuffle(records)
            take(one, *records)
        found.append((outs(one, 6), one.digest))
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
        one.settle()
    rounds = itertools.count(1)
    _exchange(all_five, pairs, rng, rounds)
    for by, about, void_from in revoked:
        if device(about).peer_id in trust[by]:
            trust[by][device(about).peer_id] = Standing(False, void_from)
            all_five[by].trust(trust[by])
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
            take(memberships[b], *memberships[a].records())
            memberships[b].speak(next(rounds))
            memberships[b].settle()
            is_over = is_over and not memberships[b].take_news()


def _reached(number: int, pairs: set[tuple[int, int]]) -> set[int]:
    found = {number}
    while True:
        new = {b for pair in pairs for a, b in (pair, pair[::-1]) if a in found} - found
        if not new:
            return found
        found |= new


# No more than has a place.


def bound_by(patch: pytest.MonkeyPatch, *, devices: int, statements: int) -> None:
    for where in (module, reach_module):
        patch.setattr(where, "MAX_DEVICES", devices)
        patch.setattr(where, "MAX_STATEMENTS", statements)


def number_of(one: Membership, kind: type[Record]) -> int:
    return sum(isinstance(record, kind) for record in one.records())


def made_up(by: int, first: int, count: int) -> list[Record]:
    """Return the words of a device on others that it has made up, and of each on two more."""
    found: list[Record] = [binding(by)]
    for number in range(first, first + count):
        found += [statement(by, number), binding(number)]
    for number in range(first, first + count):
        found += [statement(number, number + by * count) for by in (1, 2)]
    return found


def test_what_has_no_place_is_neither_kept_nor_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One device brought in so many that every peer was busy with them for minutes."""
    bound_by(monkeypatch, devices=6, statements=9)
    one = membership(0, 1, 2)
    take(one, binding(2))
    take(one, *made_up(1, 10, 8))
    take(one, *made_up(1, 10, 8))
    assert one.is_in(peer(2).peer_id)
    assert len(one.devices()) == 6
    assert number_of(one, Statement) == 9
    assert number_of(one, Binding) == 6
    assert set(one.take_news()) <= set(one.records())
    before = one.digest
    take(one, *made_up(1, 10, 8))
    assert one.digest == before
    assert one.take_news() == [], "or it would go round for ever"


def test_what_has_no_place_is_not_held_until_it_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    bound_by(monkeypatch, devices=6, statements=9)
    one = membership(0, 1)
    take(one, binding(1))
    for number in range(10, 60):
        one.take(statement(1, number))
        assert sum(map(len, one._said.values())) <= 2 * 9 + 1


def test_our_own_words_go_on_where_there_is_no_place_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A revocation began with the first version again, which nobody took for news."""
    bound_by(monkeypatch, devices=9, statements=4)
    one, other = membership(0, 1, 2), membership(1, 0, 2)
    take(one, binding(1), binding(2), *(statement(1, number) for number in range(10, 20)))
    speak(one, 1)
    one.trust({device(1).peer_id: IN, device(2).peer_id: OUT})
    speak(one, 5)
    one.trust({device(1).peer_id: IN, device(2).peer_id: IN})
    said, _ = speak(one, 6)
    take(other, binding(0), binding(2), *said)
    one.trust({device(1).peer_id: IN, device(2).peer_id: OUT})
    said, _ = speak(one, 7)
    take(other, *said)
    assert outs(one, 3)[2] == outs(other, 3)[2] == 7


def test_all_records_fit_in_what_may_wait_for_one_neighbour() -> None:
    """A list that was longer would have ended each session with a new neighbour."""
    longest = statement(1, 2, NEVER - 1, (1 << 63) - 1)
    num_bytes = reach_module.MAX_STATEMENTS * len(encode_message(longest))
    num_bytes += reach_module.MAX_DEVICES * module.MAX_PEERS * len(encode_message(binding(1)))
    assert num_bytes < TransportSettings().max_control_bytes


MANY = st.integers(1, 9)
SAID_OF_MANY = st.builds(
    statement,
    MANY,
    MANY,
    st.sampled_from([2, 5, NEVER, NEVER, NEVER]),
    st.integers(1, 3),
    vouches=st.sampled_from([True, True, True, False]),
)


@given(
    st.lists(SAID_OF_MANY, max_size=30),
    st.sets(MANY, min_size=1, max_size=3),
    st.sampled_from([1, 2]),
    st.integers(2, 9),
    st.integers(1, 12),
    st.randoms(),
)
@settings(max_examples=60)  # it signs a lot
def test_the_order_of_records_does_not_show_where_some_have_no_place(
    statements: list[Statement],
    trusted: set[int],
    votes: int,
    most: int,
    most_said: int,
    rng: random.Random,
) -> None:
    """One hears all of it again and again, another what the first has kept, in some order."""
    records: list[Record] = [*(binding(n) for n in range(1, 10)), *statements]
    with pytest.MonkeyPatch.context() as patch:
        bound_by(patch, devices=most, statements=most_said)
        found = []
        for number in (0, 10):  # with one trust file for both, and themselves in it
            one = membership(number, 0, 10, *trusted, votes=votes)
            take(one, binding(0), binding(10))
            hear_again(one, records, rng)
            assert number_of(one, Statement) <= most_said
            assert number_of(one, Binding) <= max(most, len(trusted) + 2)
            found.append(one)
        late = membership(0, 0, 10, *trusted, votes=votes)
        hear_again(late, found[1].records(), rng)
        assert outs(found[0], 11) == outs(found[1], 11) == outs(late, 11)
        assert found[0].digest == found[1].digest == late.digest


def hear_again(one: Membership, records: list[Record], rng: random.Random) -> None:
    """Take the same records in, in other orders and parts, until nothing is news."""
    before = b""
    while one.digest != before:
        before = one.digest
        told = list(records)
        rng.shuffle(told)
        half = rng.randrange(len(told) + 1)
        take(one, *told[:half])
        take(one, *told[half:])


def test_once_who_has_let_in_too_many_is_out_all_agree_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five in a chain: from each other ones are far away. The second lets in a liar."""
    bound_by(monkeypatch, devices=10, statements=100)
    chain = [(number, number + 1) for number in range(4)]
    around = {n: {b for pair in chain for a, b in (pair, pair[::-1]) if a == n} for n in range(5)}
    fleet = [membership(number, *around[number]) for number in range(5)]
    rounds, rng = itertools.count(1), random.Random(3)
    _exchange(fleet, set(chain), rng, rounds)
    trusts = {device(n).peer_id: IN for n in (0, 2, 50)}
    fleet[1].trust(trusts)
    take(fleet[1], binding(50))
    _exchange(fleet, set(chain), rng, rounds)
    for one in fleet:
        take(one, *made_up(50, 60, 7))
    _exchange(fleet, set(chain), rng, rounds)
    assert not fleet[0].is_in(peer(4).peer_id), "it is further away than those made up"
    assert fleet[4].is_in(peer(0).peer_id)
    fleet[1].trust({**trusts, device(50).peer_id: OUT})
    _exchange(fleet, set(chain), rng, rounds)
    assert len({one.digest for one in fleet}) == 1
    for one in fleet:
        assert outs(one, 5) == [NEVER] * 5
        assert len(one.devices()) == 10
        assert not one.is_in(peer(50).peer_id)


def calls_to_settle(count: int) -> int:
    """Return how much is called to take in a fleet in which half has put out the other half."""
    mine, keys = StubSigner(b"mine"), [StubSigner(b"%d" % number) for number in range(count)]
    one = Membership(mine, StubSigner(b"my peer"), RUN, is_valid=stub_signature_valid)
    one.trust({keys[0].peer_id: IN})
    for key in keys:
        words = endorse(key, key.public_key), consent(key, key.public_key)
        one.take(Binding(key.public_key, key.public_key, *words))
    one.settle()
    for number in range(1, count):
        bodies = [StatementBody(RUN, keys[number].peer_id, 1, NEVER, True)]
        if number % 2:
            bodies.append(StatementBody(RUN, keys[number - 1].peer_id, 1, 7, False))
        for by, body in zip((number // 2, number), bodies, strict=False):
            encoded = msgspec.msgpack.encode(body)
            signature = keys[by].sign(b"statement 1", encoded)
            one.take(Statement(encoded, keys[by].public_key, signature))
    num_calls = 0

    def count_call(*_: object) -> None:
        nonlocal num_calls
        num_calls += 1

    before = sys.getprofile()
    sys.setprofile(count_call)
    try:
        one._is_stale = True
        one._reached = None
        one.settle()
        one.records()
    finally:
        sys.setprofile(before)
    return num_calls


def test_what_it_takes_to_settle_grows_with_the_records() -> None:
    """All devices were asked for their word on each: 7,000 records took 30 seconds."""
    assert calls_to_settle(240) < 5 * calls_to_settle(60)


# A word of our own.


@given(st.integers(-5, 1 << 40), st.none() | st.integers(-5, 1 << 40))
def test_whatever_round_is_open_our_own_word_can_be_read_and_puts_out(
    next_round: int, void_from: int | None
) -> None:
    """A round beyond the last one was said to be the one of who is not out, or made us a liar."""
    one, other = membership(0, 1), membership(2, 0)
    for each in (one, other):
        take(each, binding(0), binding(1))
    take(other, *speak(one, 1)[0])
    one.trust({device(1).peer_id: Standing(False, void_from)})
    said, _ = speak(one, next_round)
    take(other, *said)
    assert 1 <= one.out_from(peer(1).peer_id) < NEVER
    assert one.out_from(peer(1).peer_id) == other.out_from(peer(1).peer_id)


def test_whom_the_trust_file_keeps_out_is_known_before_it_is_said() -> None:
    one = Membership(device(0), peer(0), RUN)
    assert one.kept_out == frozenset()
    one.trust({device(n).peer_id: IN for n in (1, 2)})
    take(one, binding(1))
    assert one.kept_out == frozenset()
    one.trust({device(1).peer_id: OUT, device(3).peer_id: OUT})
    assert one.kept_out == {device(n).peer_id for n in (1, 2, 3)}
