"""The transport's parts one by one: addresses, lanes, pace, the session table, a link."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transport_support import signer

from semantic_net.protocol.frames import MAX_CHUNK_BYTES
from semantic_net.protocol.handshake import MAX_LOST_SESSIONS, Established, Hello, Refusal
from semantic_net.protocol.identity import PeerId
from semantic_net.transport import lanes as lanes_module
from semantic_net.transport.address import dialable_addresses, seen_address
from semantic_net.transport.base import Buffer
from semantic_net.transport.lanes import (
    FIRST_CHUNK_BYTES,
    MAX_DEBT_S,
    MIN_CHUNK_BYTES,
    Lanes,
    Pace,
    RateLimit,
)
from semantic_net.transport.link import MAX_LOSSES, Link, LinkQuality
from semantic_net.transport.quarantine import (
    FIRST_S,
    FORGIVEN_S,
    LONGEST_S,
    MAX_OFFENDERS,
    STRIKES,
    Quarantine,
)
from semantic_net.transport.sessions import MAX_OF_DEVICE, MAX_PEERS_WITH_LOST, SessionTable

KEY = signer(1)


def hello(*addresses: str, incarnation: int = 1) -> Hello:
    return Hello(KEY.public_key, bytes(32), incarnation, list(addresses), {}, "test")


# Addresses.


def test_a_link_local_caller_is_seen_with_its_scope() -> None:
    assert str(seen_address(("fe80::1", 5000, 0, 2))) == "[fe80::1%2]:5000"
    assert str(seen_address(("fe80::1%eth0", 5000, 0, 2))) == "[fe80::1%eth0]:5000"
    assert str(seen_address(("::1", 5000, 0, 0))) == "[::1]:5000"
    assert str(seen_address(("10.0.0.1", 5000))) == "10.0.0.1:5000"


def test_a_hello_says_where_its_peer_can_be_dialled() -> None:
    said = hello("10.0.0.1:5000", ":5001", "0.0.0.0:5002", "[::]:5003", "junk", ":0", ":5001")
    assert dialable_addresses(said, "10.9.9.9:40000") == [
        "10.0.0.1:5000", "10.9.9.9:5001", "10.9.9.9:5002", "10.9.9.9:5003",
    ]  # fmt: skip
    assert dialable_addresses(hello(":5000"), "[fe80::2%3]:1") == ["[fe80::2%3]:5000"]


def test_what_leads_elsewhere_for_us_is_not_where_its_sender_is() -> None:
    said = hello("127.0.0.1:22", "[::1]:22", "localhost:22", "[fe80::9%2]:1", "[ff02::1]:1", "a:1")
    assert dialable_addresses(said, "10.9.9.9:40000") == ["a:1"]
    assert dialable_addresses(said, "127.0.0.1:40000") == [
        "127.0.0.1:22",
        "[::1]:22",
        "localhost:22",
        "a:1",
    ]


# Lanes and pace.


@dataclass
class Frames:
    left: int
    asked: int = 0

    def next_frame(self, max_bytes: int) -> Sequence[Buffer] | None:
        self.asked = max_bytes
        self.left -= 1
        return (b"%d" % self.left,) if self.left >= 0 else None


def test_control_frames_leave_together() -> None:
    lanes = Lanes()
    lanes.add_control(b"one")
    assert lanes.take_control() == b"one"
    lanes.add_control(b"two")
    lanes.add_control(b"three")
    assert lanes.control_bytes == 8
    assert lanes.take_control() == b"twothree"
    assert lanes.control_bytes == 0


def test_payloads_leave_one_after_the_other() -> None:
    lanes = Lanes()
    for source in (Frames(0), Frames(2), Frames(1)):
        lanes.add_bulk(source)
    assert [lanes.next_bulk(7) for _ in range(4)] == [(b"1",), (b"0",), (b"0",), None]


def test_what_is_passed_on_waits_once_a_key_and_leaves_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes_module, "LATEST_BYTES", 5)
    lanes = Lanes()
    for key, frame in ((b"a", b"old"), (b"b", b"bbb"), (b"c", b"ccc"), (b"a", b"new")):
        lanes.add_latest(key, frame)
    assert lanes.control_bytes == 0, "it never counts as what the other does not read"
    assert [lanes.take_latest(), lanes.take_latest()] == [b"newbbb", b"ccc"]
    assert lanes.is_empty


def test_of_what_is_passed_on_the_oldest_goes_when_too_much_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Anyone can make up the keys, and one who does not read would keep them all."""
    monkeypatch.setattr(lanes_module, "MAX_LATEST_BYTES", 30)
    lanes = Lanes()
    for number in range(1000):
        lanes.add_latest(b"%d" % number, b"frame %d" % number)
        lanes.add_latest(b"%d" % number, b"FRAME %d" % number)
    assert lanes.take_latest() == b"FRAME 997FRAME 998FRAME 999"
    lanes.add_latest(b"", bytes(30))
    assert not lanes.is_empty


def test_a_rate_limit_holds_over_time_and_lets_little_out_at_once() -> None:
    limit = RateLimit(100_000.0)
    assert limit.chunk_bytes == MIN_CHUNK_BYTES
    now, sent = 0.0, 0
    while now < 10.0:
        wait_s = limit.wait_s(now)
        if wait_s:
            now += wait_s
        else:
            limit.spend(limit.chunk_bytes, now)
            sent += limit.chunk_bytes
    assert sent == pytest.approx(1_000_000, rel=0.05)


def test_what_must_go_out_is_paid_for_by_the_rest() -> None:
    limit = RateLimit(100_000.0)
    limit.spend(200_000, 0.0)
    assert limit.wait_s(0.0) == pytest.approx(2.0, rel=0.1)
    assert limit.wait_s(3.0) == 0.0


def test_it_is_not_paid_for_for_ever() -> None:
    limit = RateLimit(100_000.0)
    limit.spend(100_000_000, 0.0)
    assert limit.wait_s(0.0) == pytest.approx(MAX_DEBT_S, rel=0.1)


def test_no_limit_is_no_limit() -> None:
    limit = RateLimit(None)
    limit.spend(1 << 40, 0.0)
    assert limit.wait_s(0.0) == 0.0
    assert limit.chunk_bytes == MAX_CHUNK_BYTES


def test_a_payload_that_is_queued_again_goes_to_the_end() -> None:
    lanes = Lanes()
    first, second = Frames(1), Frames(2)
    for source in (first, second, first):
        lanes.add_bulk(source)
    assert [lanes.next_bulk(7) for _ in range(4)] == [(b"1",), (b"0",), (b"0",), None]
    assert (first.asked, second.asked) == (7, 7)


def test_cleared_lanes_are_empty() -> None:
    lanes = Lanes()
    lanes.add_control(b"x")
    lanes.add_bulk(Frames(1))
    lanes.clear()
    assert lanes.control_bytes == 0
    assert lanes.next_bulk(1) is None


def pace_at(bytes_per_s: float, frames: int) -> list[int]:
    pace, now, sizes = Pace(), 0.0, []
    for _ in range(frames):
        sizes.append(pace.chunk_bytes)
        pace.pulled(pace.chunk_bytes, now)
        now += sizes[-1] / bytes_per_s
    return sizes


def test_a_fast_link_gets_the_largest_chunks_and_a_slow_one_the_smallest() -> None:
    assert pace_at(1e9, 60)[-1] == MAX_CHUNK_BYTES
    assert pace_at(30_000, 5)[2:] == [MIN_CHUNK_BYTES] * 3


def test_what_the_send_buffer_takes_at_once_is_not_speed() -> None:
    pace = Pace()
    for _ in range(4):
        pace.pulled(pace.chunk_bytes, 0.0)
    assert pace.chunk_bytes < 1.5 * FIRST_CHUNK_BYTES


def test_a_chunk_takes_about_a_tenth_of_a_second() -> None:
    assert pace_at(1_000_000, 60)[-1] == pytest.approx(100_000, rel=0.1)


def test_waiting_for_work_is_not_slowness() -> None:
    pace = Pace()
    for tick in range(60):
        pace.pulled(pace.chunk_bytes, tick / 1000)
    pace.idle()
    pace.pulled(1, 1000.0)
    assert pace.chunk_bytes == MAX_CHUNK_BYTES
    pace.pulled(1, 1010.0)
    assert pace.chunk_bytes == MIN_CHUNK_BYTES


@given(st.lists(st.tuples(st.integers(0, 300_000), st.floats(0, 1e6)), max_size=30))
def test_chunks_stay_within_their_limits(pulls: list[tuple[int, float]]) -> None:
    pace, now = Pace(), 0.0
    for num_bytes, wait_s in pulls:
        now += wait_s
        pace.pulled(num_bytes, now)
        assert MIN_CHUNK_BYTES <= pace.chunk_bytes <= MAX_CHUNK_BYTES


# The session table.


@dataclass
class Line:
    """As much of a connection as the table looks at."""

    heard_at: float = 0.0
    device: PeerId | None = None


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def session(number: int, *lost: int, incarnation: int = 1) -> Established:
    lost_ids = frozenset(bytes([n]) * 16 for n in lost)
    said = hello(incarnation=incarnation)
    return Established(KEY.peer_id, said, bytes([number]) * 16, lost_ids)


def test_one_session_a_peer() -> None:
    table: SessionTable[Line] = SessionTable(9, 10.0, Clock())
    assert table.no_room(session(1)) is None
    first = Line()
    assert table.begin(session(1), first) is None
    assert KEY.peer_id in table
    refusal = table.no_room(session(2))
    assert refusal is not None
    assert refusal.code == "duplicate_connection"


def test_a_session_that_the_other_end_lost_is_replaced() -> None:
    table: SessionTable[Line] = SessionTable(9, 10.0, Clock())
    first, second = Line(), Line()
    table.begin(session(1), first)
    assert table.no_room(session(2, 8, 9)) is not None, "it lost others, not this one"
    assert table.no_room(session(2, 8, 1)) is None
    assert table.begin(session(2, 8, 1), second) is first
    assert not table.end(KEY.peer_id, first), "the first was not the session any more"
    assert table.get(KEY.peer_id) is second
    assert table.end(KEY.peer_id, second)
    assert table.get(KEY.peer_id) is None


def test_another_instance_waits_until_the_first_is_silent() -> None:
    clock = Clock()
    table: SessionTable[Line] = SessionTable(9, 10.0, clock)
    first = Line(heard_at=0.0)
    assert table.objection(KEY.peer_id, 2, dialled=False) is None
    table.begin(session(1), first)
    assert table.objection(KEY.peer_id, 1, dialled=False) is None
    clock.now = 10.0
    refusal = table.objection(KEY.peer_id, 2, dialled=False)
    assert refusal is not None
    assert refusal.code == "duplicate_key"
    clock.now = 10.1
    assert table.objection(KEY.peer_id, 2, dialled=False) is None
    assert table.no_room(session(2, incarnation=2)) is None
    assert table.begin(session(2, incarnation=2), Line()) is first


def test_when_there_are_many_sessions_only_whom_we_dial_gets_another() -> None:
    table: SessionTable[Line] = SessionTable(1, 10.0, Clock())
    other = PeerId("other")
    assert table.objection(other, 1, dialled=False) is None
    table.begin(session(1), Line())
    refusal = table.objection(other, 1, dialled=False)
    assert refusal == Refusal("busy", "1 peers are connected, as many as may call")
    assert table.objection(other, 1, dialled=True) is None
    assert table.objection(KEY.peer_id, 1, dialled=False) is None, "it may have lost its session"


def test_the_peers_of_one_device_get_only_so_many_sessions() -> None:
    table: SessionTable[Line] = SessionTable(99, 10.0, Clock())
    device, other = PeerId("device"), PeerId("other")
    for number in range(MAX_OF_DEVICE):
        peer = PeerId(f"peer{number}")
        assert table.objection(peer, 1, dialled=False, device=device) is None
        table.begin(replace(session(1), peer=peer), Line(device=device))
    refusal = table.objection(other, 1, dialled=False, device=device)
    assert refusal == Refusal("busy", f"{MAX_OF_DEVICE} peers of this device are connected")
    assert table.objection(other, 1, dialled=False, device=other) is None
    assert table.objection(other, 1, dialled=True, device=device) is None


def test_lost_sessions_are_kept_until_one_holds() -> None:
    table: SessionTable[Line] = SessionTable(9, 10.0, Clock())
    assert table.lost_sessions(KEY.peer_id) == ()
    for number in range(MAX_LOST_SESSIONS + 2):
        table.note_lost(KEY.peer_id, bytes([number]), is_proven=False)
    assert table.lost_sessions(KEY.peer_id) == tuple(bytes([n]) for n in range(2, 10))
    table.begin(session(1), Line())
    assert table.lost_sessions(KEY.peer_id) == ()


def test_strangers_cannot_fill_the_memory_with_lost_sessions() -> None:
    table: SessionTable[Line] = SessionTable(9, 10.0, Clock())
    for number in range(MAX_PEERS_WITH_LOST + 1):
        table.note_lost(PeerId(str(number)), b"x", is_proven=False)
    assert table.lost_sessions(PeerId("0")) == ()
    assert table.lost_sessions(PeerId("1")) == (b"x",)


def test_who_only_says_a_name_flushes_no_session_that_its_owner_had() -> None:
    table: SessionTable[Line] = SessionTable(9, 10.0, Clock())
    table.note_lost(KEY.peer_id, b"true", is_proven=True)
    for number in range(MAX_LOST_SESSIONS + 1):
        table.note_lost(KEY.peer_id, bytes([number]), is_proven=False)
    for number in range(MAX_PEERS_WITH_LOST + 1):
        table.note_lost(PeerId(str(number)), b"x", is_proven=False)
    assert table.lost_sessions(KEY.peer_id) == (b"true",)
    table.note_lost(KEY.peer_id, b"perhaps", is_proven=False)
    assert table.lost_sessions(KEY.peer_id) == (b"perhaps", b"true")
    table.begin(session(1), Line())
    assert table.lost_sessions(KEY.peer_id) == ()


def test_sessions_without_a_sign_of_life_are_known() -> None:
    clock = Clock()
    table: SessionTable[Line] = SessionTable(9, 10.0, clock)
    line = Line(heard_at=0.0)
    table.begin(session(1), line)
    clock.now = 10.0
    assert table.silent() == []
    clock.now = 10.1
    assert table.silent() == [line]
    assert len(table) == 1


def test_a_cleared_table_has_no_session() -> None:
    table: SessionTable[Line] = SessionTable(9, 10.0, Clock())
    table.begin(session(1), Line())
    table.clear()
    assert KEY.peer_id not in table


# A link in memory.

DICE = random.Random(0)


def test_a_link_takes_its_time() -> None:
    link = Link(LinkQuality(bandwidth_bytes_s=1000, delay_s=0.5))
    assert link.send(1000, 10.0, DICE) == 11.5
    assert link.send(500, 10.0, DICE) == 12.0, "behind the first"
    assert link.busy_until_s == 11.5
    assert link.send(0, 20.0, DICE) == 20.5


def test_nothing_overtakes_on_a_link() -> None:
    link = Link(LinkQuality(delay_s=0.1, jitter_s=1.0, loss=0.3))
    arrivals = [link.send(1, now / 100, random.Random(now)) for now in range(100)]
    known = [arrival for arrival in arrivals if arrival is not None]
    assert known == sorted(known)
    assert max(known) > 1.1, "some are late"


def test_what_is_lost_again_and_again_never_arrives() -> None:
    class Unlucky(random.Random):
        rolls = 0

        def random(self) -> float:
            self.rolls += 1
            return 0.0

    dice = Unlucky()
    assert Link(LinkQuality(loss=0.5)).send(1, 0.0, dice) is None
    assert dice.rolls == MAX_LOSSES


# Quarantine.


def breach(quarantine: Quarantine, now: float, times: int = STRIKES) -> None:
    for _ in range(times):
        quarantine.strike(KEY.peer_id, "nonsense", now)


def test_a_quarantine_ends_and_each_one_is_longer_up_to_a_limit() -> None:
    quarantine = Quarantine()
    now = 0.0
    for wanted_s in (FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S, LONGEST_S, LONGEST_S):
        breach(quarantine, now, STRIKES - 1)
        assert quarantine.objection(KEY.peer_id, now) is None
        breach(quarantine, now, 1)
        refusal = quarantine.objection(KEY.peer_id, now + wanted_s - 1)
        assert refusal is not None
        assert refusal.reason.startswith("kept out for 1 s more after 3 breaches")
        now += wanted_s
        assert quarantine.objection(KEY.peer_id, now) is None


def test_breaches_are_forgiven_after_a_while() -> None:
    quarantine = Quarantine()
    breach(quarantine, 0.0, STRIKES - 1)
    breach(quarantine, FORGIVEN_S + 1, STRIKES - 1)
    assert quarantine.objection(KEY.peer_id, FORGIVEN_S + 1) is None


def test_whoever_makes_many_keys_does_not_fill_the_memory() -> None:
    quarantine = Quarantine()
    breach(quarantine, 0.0)
    for number in range(MAX_OFFENDERS):
        quarantine.strike(PeerId(str(number)), "nonsense", 0.0)
    assert quarantine.objection(KEY.peer_id, 0.0) is None, "the oldest goes first"
