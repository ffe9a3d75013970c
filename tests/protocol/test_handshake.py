"""Two ends of a handshake against each other, and against those who only pretend."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import Book

from semantic_net.errors import LocalProtocolError, RemoteProtocolError
from semantic_net.protocol.facts import differing_facts, printable, run_digest
from semantic_net.protocol.frames import (
    MAX_BODY_BYTES,
    Frame,
    FrameDecoder,
    Kind,
    encode_frame,
)
from semantic_net.protocol.handshake import (
    Confirm,
    Established,
    Handshake,
    Hello,
    HelloContent,
    Outcome,
    Refusal,
    Refuse,
    decode_refusal,
    encode_refusal,
)
from semantic_net.protocol.identity import Signer

KEYS = sorted((Signer(bytes([n]) * 32) for n in (1, 2, 3)), key=lambda signer: signer.peer_id)
LOW, HIGH, OTHER = KEYS
FACTS = {"run": "r", "model": "m"}


@dataclass
class End:
    """One end: the handshake, its decoder, and what came of it."""

    handshake: Handshake
    book: Book
    decoder: FrameDecoder = field(default_factory=FrameDecoder)
    outcome: Outcome | None = None
    sent: list[bytes] = field(default_factory=list)

    def start(self) -> bytes:
        self.sent.append(self.handshake.start())
        return self.sent[-1]

    def feed(self, data: bytes) -> bytes:
        reply = b""
        for frame in self.decoder.feed(data):
            if self.outcome is None:
                answer, self.outcome = self.handshake.receive(frame)
                reply += answer
        if reply:
            self.sent.append(reply)
        return reply


_nonces = itertools.count(1)


def end(
    key: Signer,
    *,
    dialled: bool,
    book: Book | None = None,
    facts: dict[str, str] = FACTS,
    incarnation: int = 7,
) -> End:
    book = book or Book()
    content = HelloContent(facts, incarnation, "test", ("10.0.0.1:5000",))
    nonce = next(_nonces).to_bytes(32, "big")
    return End(Handshake(key, content, nonce, dialled=dialled, book=book), book)


def talk(a: End, b: End, cut: int = 1 << 20) -> None:
    """Carry bytes to and fro, at most ``cut`` at a time, until nobody has anything to say."""
    to_b, to_a = a.start(), b.start()
    while to_a or to_b:
        part, to_b = to_b[:cut], to_b[cut:]
        to_a += b.feed(part)
        part, to_a = to_a[:cut], to_a[cut:]
        to_b += a.feed(part)


def established(one: End) -> Established:
    assert isinstance(one.outcome, Established), one.outcome
    return one.outcome


def refused(one: End) -> tuple[str, str]:
    assert isinstance(one.outcome, Refusal), one.outcome
    return one.outcome.code, one.outcome.reason


@pytest.mark.parametrize(("dialler", "listener"), [(LOW, HIGH), (HIGH, LOW)])
@pytest.mark.parametrize("cut", [1, 3, 16, 100, 100_000])
def test_two_ends_agree(dialler: Signer, listener: Signer, cut: int) -> None:
    a, b = end(dialler, dialled=True), end(listener, dialled=False)
    talk(a, b, cut)
    at_a, at_b = established(a), established(b)
    assert (at_a.peer, at_b.peer) == (listener.peer_id, dialler.peer_id)
    assert a.handshake.peer == listener.peer_id
    assert at_a.session_id == at_b.session_id
    assert len(at_a.session_id) == 16
    assert at_b.hello.facts == FACTS
    assert at_b.hello.addresses == ["10.0.0.1:5000"]


@given(st.lists(st.integers(1, 600), min_size=1, max_size=6))
def test_two_ends_agree_over_any_cut_of_the_stream(sizes: list[int]) -> None:
    a, b, size = end(LOW, dialled=True), end(HIGH, dialled=False), itertools.cycle(sizes)
    to_b, to_a = a.start(), b.start()
    while to_a or to_b:
        cut = next(size)
        part, to_b = to_b[:cut], to_b[cut:]
        to_a += b.feed(part)
        cut = next(size)
        part, to_a = to_a[:cut], to_a[cut:]
        to_b += a.feed(part)
    assert established(a).session_id == established(b).session_id


def test_two_sessions_never_share_an_id() -> None:
    ids = set()
    for _ in range(3):
        a, b = end(LOW, dialled=True), end(HIGH, dialled=False)
        talk(a, b)
        ids.add(established(a).session_id)
    assert len(ids) == 3


def test_lost_sessions_travel_signed() -> None:
    a = end(LOW, dialled=True, book=Book(lost=[bytes([n]) * 16 for n in range(12)]))
    b = end(HIGH, dialled=False)
    talk(a, b)
    assert established(b).lost_sessions == {bytes([n]) * 16 for n in range(4, 12)}, "newest 8"
    assert established(a).lost_sessions == frozenset()


def test_the_lower_id_decides_and_confirms_last() -> None:
    low, high = end(LOW, dialled=True), end(HIGH, dialled=False)
    hello_low, hello_high = low.start(), high.start()
    assert low.feed(hello_high) == b"", "it waits for the proof"
    assert low.handshake.claim is None
    confirm = high.feed(hello_low)
    assert FrameDecoder().feed(confirm)[0].kind is Kind.CONFIRM
    assert high.handshake.claim is not None
    assert high.outcome is None, "it waits for the decision"
    assert high.feed(low.feed(confirm)) == b""
    assert high.handshake.claim == (LOW.peer_id, established(high).session_id)
    assert (low.book.asked_for_room, high.book.asked_for_room) == (1, 0)


def test_no_room_is_a_refusal_at_both_ends() -> None:
    full = Refusal("duplicate_connection", "there is one already")
    low = end(LOW, dialled=True, book=Book(full=full))
    high = end(HIGH, dialled=False, book=Book(full=full))
    talk(low, high)
    assert low.outcome == full
    assert high.outcome == Refusal(full.code, full.reason, by_us=False)
    assert low.handshake.claim is None, "the other end never got our confirm"


@pytest.mark.parametrize("key", [LOW, HIGH])
def test_an_objection_ends_it_at_hello(key: Signer) -> None:
    objection = Refusal("duplicate_key", "another instance is alive")
    other = HIGH if key is LOW else LOW
    a, b = end(key, dialled=True, book=Book(objects=objection)), end(other, dialled=False)
    talk(a, b)
    assert a.outcome == objection
    assert refused(b) == ("duplicate_key", "another instance is alive")
    assert a.handshake.claim is None


def test_an_objection_is_asked_for_again_at_the_end() -> None:
    a, b = end(LOW, dialled=True), end(HIGH, dialled=False)
    to_b, to_a = a.start(), b.start()
    confirm = b.feed(to_b)
    a.feed(to_a)
    a.book.objects = Refusal("duplicate_key", "came up meanwhile")
    b.feed(a.feed(confirm))
    assert refused(a)[0] == refused(b)[0] == "duplicate_key"


def test_differing_facts_are_named_on_both_sides_with_both_values() -> None:
    a = end(LOW, dialled=True, facts={"model": "x", "run": "r"})
    b = end(HIGH, dialled=False, facts={"model": "y", "run": "r"})
    talk(a, b)
    assert refused(a) == ("facts", "model: ours x, theirs y")
    assert refused(b) == ("facts", "model: ours y, theirs x")


def test_very_many_differing_facts_still_fit_a_refusal() -> None:
    a = end(LOW, dialled=True, facts={f"key{n}": "a" * 500 for n in range(60)})
    b = end(HIGH, dialled=False, facts={f"key{n}": "b" * 500 for n in range(60)})
    talk(a, b)
    assert refused(a)[1].startswith("60 facts differ: key0: ours aaa")
    assert len(refused(a)[1]) < 1000


def test_we_know_ourselves() -> None:
    a, b = end(LOW, dialled=True), end(LOW, dialled=False)
    talk(a, b)
    assert refused(a)[0] == refused(b)[0] == "self"
    assert isinstance(a.outcome, Refusal)
    assert a.outcome.by_us


def test_another_holder_of_our_key_is_refused() -> None:
    a, b = end(LOW, dialled=True, incarnation=1), end(LOW, dialled=False, incarnation=2)
    talk(a, b)
    assert refused(a)[0] == refused(b)[0] == "duplicate_key"


# Those who only pretend.


def test_a_reflected_hello_does_not_authenticate() -> None:
    a = end(LOW, dialled=True)
    a.feed(a.start())
    assert refused(a)[0] == "self"


def test_a_reflected_hello_with_another_incarnation_does_not_authenticate() -> None:
    a = end(LOW, dialled=True)
    (frame,) = FrameDecoder().feed(a.start())
    hello = msgspec.msgpack.decode(frame.body, type=Hello)
    forged = msgspec.structs.replace(hello, incarnation=99)
    a.feed(encode_frame(Kind.HELLO, msgspec.msgpack.encode(forged)))
    assert refused(a)[0] == "duplicate_key"


def test_a_reflected_confirm_does_not_authenticate() -> None:
    victim = end(HIGH, dialled=True)  # the one that confirms first
    hello = msgspec.msgpack.decode(FrameDecoder().feed(victim.start())[0].body, type=Hello)
    forged = msgspec.structs.replace(hello, public_key=LOW.public_key)
    confirm = victim.feed(encode_frame(Kind.HELLO, msgspec.msgpack.encode(forged)))
    assert FrameDecoder().feed(confirm)[0].kind is Kind.CONFIRM
    victim.feed(confirm)
    assert refused(victim) == ("signature", "the peer does not hold the key it claims")


def test_a_confirm_for_the_other_role_does_not_authenticate() -> None:
    # Both ends believe that they have dialled: an attacker sits between two diallers.
    a, b = end(LOW, dialled=True), end(HIGH, dialled=True)
    talk(a, b)
    assert refused(a)[0] == "signature"
    assert refused(b)[0] == "signature"


def test_replayed_messages_do_not_authenticate() -> None:
    a, b = end(LOW, dialled=True), end(HIGH, dialled=False)
    talk(a, b)
    fresh = end(LOW, dialled=True)
    fresh.start()
    for message in b.sent:
        fresh.feed(message)
    assert refused(fresh)[0] == "signature"


def test_a_changed_list_of_lost_sessions_does_not_authenticate() -> None:
    a, b = end(LOW, dialled=True), end(HIGH, dialled=False)
    to_b, to_a = a.start(), b.start()
    a.feed(to_a)
    (frame,) = FrameDecoder().feed(b.feed(to_b))
    confirm = msgspec.msgpack.decode(frame.body, type=Confirm)
    forged = msgspec.structs.replace(confirm, lost_sessions=[bytes(16)])
    a.feed(encode_frame(Kind.CONFIRM, msgspec.msgpack.encode(forged)))
    assert refused(a)[0] == "signature"


def test_a_hello_changed_on_the_way_does_not_authenticate() -> None:
    a, b = end(LOW, dialled=True), end(HIGH, dialled=False)
    to_b, to_a = a.start(), b.start()
    hello = msgspec.msgpack.decode(FrameDecoder().feed(to_a)[0].body, type=Hello)
    forged = msgspec.structs.replace(hello, addresses=["6.6.6.6:6"])
    a.feed(encode_frame(Kind.HELLO, msgspec.msgpack.encode(forged)))
    a.feed(b.feed(to_b))
    assert refused(a)[0] == "signature"


# What breaks the protocol.


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in (Kind.HELLO, Kind.REFUSE)])
def test_only_a_hello_comes_first(kind: Kind) -> None:
    a = end(LOW, dialled=True)
    with pytest.raises(RemoteProtocolError, match=f"a {kind.name} is out of place"):
        a.handshake.receive(Frame(kind, b""))


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in (Kind.CONFIRM, Kind.REFUSE)])
def test_only_a_confirm_comes_second(kind: Kind) -> None:
    a, b = end(LOW, dialled=True), end(HIGH, dialled=False)
    a.feed(b.start())
    with pytest.raises(RemoteProtocolError, match="out of place"):
        a.handshake.receive(Frame(kind, b""))


@pytest.mark.parametrize("kind", list(Kind))
def test_nothing_comes_after_the_end(kind: Kind) -> None:
    a, b = end(LOW, dialled=True), end(HIGH, dialled=False)
    talk(a, b)
    with pytest.raises(RemoteProtocolError, match="out of place"):
        a.handshake.receive(Frame(kind, b""))


@given(st.binary(max_size=300), st.sampled_from([Kind.HELLO, Kind.REFUSE]))
def test_noise_raises_only_the_documented_error(noise: bytes, kind: Kind) -> None:
    a = end(LOW, dialled=True)
    with contextlib.suppress(RemoteProtocolError):
        a.handshake.receive(Frame(kind, noise))


@given(st.binary(max_size=120))
def test_noise_for_a_confirm_raises_only_the_documented_error(noise: bytes) -> None:
    a, b = end(LOW, dialled=True), end(HIGH, dialled=False)
    a.feed(b.start())
    with contextlib.suppress(RemoteProtocolError):
        a.handshake.receive(Frame(Kind.CONFIRM, noise))
    assert not isinstance(a.outcome, Established)


@pytest.mark.parametrize(
    "change",
    [
        {"public_key": bytes(31)},
        {"nonce": bytes(33)},
        {"incarnation": -1},
        {"incarnation": 1 << 63},
        {"addresses": ["h:1"] * 17},
        {"addresses": ["h" * 300]},
        {"facts": {"k" * 65: "v"}},
        {"facts": {"k": "v" * 1025}},
        {"facts": {str(n): "" for n in range(257)}},
        {"software": "s" * 129},
    ],
)
def test_a_hello_beyond_its_limits_is_refused(change: dict[str, object]) -> None:
    a, b = end(LOW, dialled=True), end(HIGH, dialled=False)
    hello = msgspec.msgpack.decode(FrameDecoder().feed(b.start())[0].body, type=Hello)
    body = msgspec.msgpack.encode(msgspec.structs.replace(hello, **change))
    with pytest.raises(RemoteProtocolError, match="a malformed HELLO"):
        a.handshake.receive(Frame(Kind.HELLO, body))


def test_our_own_hello_is_held_to_the_same_limits() -> None:
    with pytest.raises(LocalProtocolError, match="our own hello would be refused"):
        end(LOW, dialled=True, facts={"key": "v" * 2000})
    huge = end(LOW, dialled=True, facts={str(n): "v" * 1000 for n in range(100)})
    with pytest.raises(LocalProtocolError, match="over the limit"):
        huge.handshake.start()


def test_a_newer_peers_longer_hello_is_understood() -> None:
    a, b = end(LOW, dialled=True), end(HIGH, dialled=False)
    fields = msgspec.msgpack.decode(FrameDecoder().feed(b.start())[0].body)
    longer = msgspec.msgpack.encode([*fields, {"from": "the future"}])
    assert a.handshake.receive(Frame(Kind.HELLO, longer)) == (b"", None)


# Facts and refusals.


def test_the_run_digest_depends_on_every_pair_and_on_nothing_else() -> None:
    assert run_digest({"a": "1", "b": "2"}) == run_digest({"b": "2", "a": "1"})
    others = [{"a": "1"}, {"a": "1", "b": "3"}, {"a": "1", "c": "2"}, {"a": "1b2"}, {}]
    digests = {run_digest(facts) for facts in [{"a": "1", "b": "2"}, *others]}
    assert len(digests) == 6
    assert all(len(digest) == 16 for digest in digests)


def test_differing_facts_shorten_and_clean_what_they_show() -> None:
    ours = {"same": "1", "model": "a" * 50, "only_ours": "x"}
    theirs = {"same": "1", "model": "b\x1b[31m\n", "only_theirs\x00": "y"}
    assert differing_facts(ours, theirs) == [
        "model: ours " + "a" * 37 + "..., theirs b?[31m?",
        "only_ours: ours x, theirs (none)",
        "only_theirs?: ours (none), theirs y",
    ]
    assert differing_facts(ours, ours) == []


short = st.text(max_size=4)


@given(st.dictionaries(short, short, max_size=4), st.dictionaries(short, short, max_size=4))
def test_facts_differ_exactly_where_the_digests_do(a: dict[str, str], b: dict[str, str]) -> None:
    try:
        same = run_digest(a) == run_digest(b)
    except UnicodeEncodeError:  # lone surrogates, which no hello can carry
        return
    assert same == (differing_facts(a, b) == [])


@given(st.text(max_size=3000))
def test_any_reason_fits_its_frame(reason: str) -> None:
    (frame,) = FrameDecoder().feed(encode_refusal(Refusal("protocol", reason)))
    assert len(frame.body) <= MAX_BODY_BYTES[Kind.REFUSE]
    assert decode_refusal(frame) == Refusal("protocol", printable(reason, 1000), by_us=False)


@pytest.mark.parametrize("code", ["", "UPPER", "two words", "x" * 33, "no\n"])
def test_a_code_is_one_plain_word(code: str) -> None:
    frame = Frame(Kind.REFUSE, msgspec.msgpack.encode(Refuse(code, "why")))
    with pytest.raises(RemoteProtocolError, match="a malformed REFUSE"):
        decode_refusal(frame)
