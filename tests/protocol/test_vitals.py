"""What peers tell those who watch: only while somebody does, signed, and each thing once."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import RUN, signer

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.identity import signature_valid
from semantic_net.protocol.update import MAX_ROUND
from semantic_net.protocol.vitals import Vitals, VitalSigns, VitalsMessage
from semantic_net.status import MAX_METRIC_CHARS, DeviceVitals, LastRound

ALICE, BOB = signer("alice"), signer("bob")
FLOATS = st.none() | st.floats(allow_nan=False)
LASTS = st.builds(
    LastRound,
    round=st.integers(0, MAX_ROUND),
    loss=FLOATS,
    metric=st.text(max_size=MAX_METRIC_CHARS).filter(str.isprintable),
    value=FLOATS,
    bytes_sent=st.integers(0, 2**63 - 1),
    num_missing=st.integers(0, 1000),
)
VITALS = st.builds(Vitals, last=LASTS, device=st.none() | st.builds(DeviceVitals, power_w=FLOATS))


def signs(incarnation: int = 1, run: bytes = RUN) -> VitalSigns:
    return VitalSigns(run, incarnation, signature_valid)


@given(VITALS)
def test_what_was_told_is_what_is_heard(vitals: Vitals) -> None:
    mine = signs()
    assert mine.hear(signs().sign(vitals, ALICE))
    assert mine.latest(ALICE.peer_id) == vitals
    assert mine.peers == {ALICE.peer_id}


def test_only_what_is_later_is_news() -> None:
    mine, told = (
        signs(),
        [
            signs(i).sign(Vitals(last=LastRound(round=r)), ALICE)
            for i, r in ((1, 4), (1, 5), (2, 1))
        ],
    )
    assert mine.hear(told[1])
    assert not mine.hear(told[0])
    assert not mine.hear(told[1])
    assert mine.hear(told[2]), "another process of the peer: its rounds may begin anew"
    assert mine.latest(ALICE.peer_id) == Vitals(last=LastRound(round=1))
    mine.forget(ALICE.peer_id)
    assert mine.latest(ALICE.peer_id) is None


def test_what_nobody_has_signed_and_what_is_of_another_run_ends_the_session() -> None:
    good = signs().sign(Vitals(last=LastRound(round=1)), ALICE)
    with pytest.raises(RemoteProtocolError, match="did not sign"):
        signs().hear(msgspec.structs.replace(good, public_key=BOB.public_key))
    with pytest.raises(RemoteProtocolError, match="another run"):
        signs(run=b"other run       ").hear(good)
    with pytest.raises(RemoteProtocolError, match="malformed"):
        signs().hear(VitalsMessage(b"\x93", good.public_key, good.signature))


def test_figures_that_are_no_numbers_are_taken_as_they_are() -> None:
    mine = signs()
    mine.hear(signs().sign(Vitals(last=LastRound(round=1, loss=math.inf, value=math.nan)), ALICE))
    found = mine.latest(ALICE.peer_id)
    assert found is not None
    assert found.last.loss == math.inf
    assert msgspec.json.decode(msgspec.json.encode(found.last))["value"] is None
