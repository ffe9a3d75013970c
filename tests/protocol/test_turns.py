"""Whose turn it is: the same for everybody who asks, as often for each, and checked by all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import RUN, signer, update

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.turns import Turns
from semantic_net.protocol.update import Admission, admit

peers = st.integers(0, 999).map(lambda n: PeerId(f"peer{n:04d}"))
periods = st.integers(1, 40)


@given(peer=peers, period=periods, epoch=st.integers(0, 100))
def test_a_peer_has_one_turn_in_each_epoch(peer: PeerId, period: int, epoch: int) -> None:
    turns = Turns(RUN, period)
    rounds = range(epoch * period + 1, (epoch + 1) * period + 1)
    own = [number for number in rounds if turns.has(peer, number)]
    assert len(own) == 1
    assert turns.next(peer, rounds[0]) == own[0]


@given(peer=peers, period=periods, first=st.integers(1, 1000))
def test_the_next_turn_is_the_first_one_from_there(peer: PeerId, period: int, first: int) -> None:
    turns = Turns(RUN, period)
    found = turns.next(peer, first)
    assert turns.has(peer, found)
    assert not any(turns.has(peer, number) for number in range(first, found))


def test_without_sampling_every_round_is_everybodys() -> None:
    turns = Turns()
    assert not turns.is_sampled
    assert all(turns.has(PeerId("x"), number) for number in range(1, 50))


def test_rounds_get_about_as_many_peers_each_and_never_the_same_ones_again() -> None:
    turns = Turns(RUN, 31)
    fleet = [PeerId(f"peer{n}") for n in range(1000)]
    drawn = [frozenset(p for p in fleet if turns.has(p, number)) for number in range(1, 63)]
    assert sum(map(len, drawn[:31])) == sum(map(len, drawn[31:])) == 1000
    assert all(15 <= len(peers) <= 55 for peers in drawn)  # 1000 / 31 = 32, within 4 sigma
    assert len(set(drawn)) == len(drawn)


def test_another_run_has_other_turns() -> None:
    fleet = [PeerId(f"peer{n}") for n in range(100)]
    first = [Turns(b"one", 10).next(peer, 1) for peer in fleet]
    assert first != [Turns(b"two", 10).next(peer, 1) for peer in fleet]


def test_an_update_out_of_turn_is_admitted_by_nobody() -> None:
    turns = Turns(RUN, 5)
    admission = Admission(RUN, {"stub": 1000}.get, turns=turns)
    author = signer("author")
    own = turns.next(author.peer_id, 1)
    assert admit(update(author, own).message, admission).round == own
    with pytest.raises(RemoteProtocolError, match="not its author's turn"):
        admit(update(author, own + 1 if own < 5 else own - 1).message, admission)
