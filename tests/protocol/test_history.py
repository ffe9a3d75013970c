"""Histories: what a base includes, and how its rounds are told apart from others'."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import BASE, ORIGIN, signer, update

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.history import (
    MAX_HISTORY_ROUNDS,
    History,
    decode_history,
    encode_history,
    history_of_origin,
)
from semantic_net.protocol.update_set import UpdateSet

AUTHORS = [signer(name) for name in "abc"]
UPDATES = [update(a, r, c) for a in AUTHORS for r in range(1, 9) for c in "xy"]


def test_origins_tell_their_sets_apart() -> None:
    other = history_of_origin(b"o" * 32)
    assert UpdateSet(ORIGIN).digest != UpdateSet(other).digest
    assert history_of_origin(BASE) == ORIGIN


@given(st.sets(st.sampled_from(range(len(UPDATES)))), st.sampled_from([1, 2, 4]), st.integers(1, 8))
def test_a_set_on_a_later_base_is_the_same_set(places: set[int], every: int, frontier: int) -> None:
    """The digest of every round from the frontier on stays, and so it does over two steps."""
    frontier -= frontier % every
    if frontier == 0:
        return
    held = [UPDATES[place] for place in sorted(places)]
    whole, short = UpdateSet(ORIGIN, held), UpdateSet(ORIGIN, held)
    history = whole.history_through(frontier, every)
    dropped = short.rebase(history)
    assert short.frontier == frontier
    assert sorted(u.id for u in dropped) == sorted(u.id for u in whole if u.round <= frontier)
    assert not any(u.round <= frontier for u in short)
    for number in range(frontier, 10):
        assert short.set_digest(number) == whole.set_digest(number)
    for number in range(every, frontier, every):
        assert short.digest_at(number) == whole.digest_at(number)
    live = {u.id for n in whole.rounds() if n <= frontier for u in whole.live(n)}
    assert {u.id for u in UPDATES if history.includes(u)} == live
    assert history.num_included == len(live)
    assert short.payload_bytes == sum(u.payload_bytes for u in short)
    assert short.authors == {u.author for u in short}
    assert [u for u in short.evidence() if u.round <= frontier] == []
    later = frontier + every
    in_two_steps = short.history_through(later, every)
    assert in_two_steps == whole.history_through(later, every)
    assert decode_history(encode_history(in_two_steps)) == in_two_steps


def test_nothing_of_a_round_that_the_base_includes_is_taken_in() -> None:
    held = UpdateSet(ORIGIN, [UPDATES[0]])
    held.rebase(held.history_through(4, 4))
    before = held.digest
    assert not held.add(update(AUTHORS[1], 4))
    assert held.digest == before
    assert held.add(update(AUTHORS[1], 5))
    assert held.last_round_of(AUTHORS[0].peer_id) == 1, "it is still known who was how far"


def test_a_round_without_a_mark_is_unknown() -> None:
    history = UpdateSet(ORIGIN, UPDATES).history_through(8, 4)
    assert [number for number, _ in history.marks] == [0, 4, 8]
    assert history.digest_at(3) is None
    assert history.digest_at(9) is None


SOUND = UpdateSet(ORIGIN, UPDATES[::2]).history_through(8, 4)


@pytest.mark.parametrize(
    "history",
    [
        History(()),
        History(SOUND.marks[1:], SOUND.included),
        History(SOUND.marks[::-1], SOUND.included),
        History(SOUND.marks[:2], SOUND.included),
        History(SOUND.marks, SOUND.included[::-1]),
        History(SOUND.marks, ((1, b"short"),)),
        History(SOUND.marks, ((1, b""),)),
        History(SOUND.marks, ((1, b"y" * 16 + b"x" * 16),)),
        History(SOUND.marks, ((1, b"x" * 32),)),
        History(SOUND.marks, ((1, b"".join(n.to_bytes(16, "big") for n in range(1025))),)),
        History((*SOUND.marks[:1],) * (MAX_HISTORY_ROUNDS + 1), SOUND.included),
        History(SOUND.marks, ((0, b"x" * 16),)),
    ],
    ids=[
        "no mark",
        "no origin",
        "marks out of order",
        "a round beyond the frontier",
        "rounds out of order",
        "half an id",
        "an empty round",
        "ids out of order",
        "an id twice",
        "more authors than a round has",
        "more marks than anyone keeps",
        "round 0",
    ],
)
def test_a_history_that_is_none_is_refused(history: History) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed history"):
        decode_history(msgspec.msgpack.encode(history))


@given(st.binary(max_size=300))
def test_noise_raises_only_the_documented_error(noise: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode_history(noise)
