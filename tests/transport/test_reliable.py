"""The byte stream over messages that get lost: nothing is missing, doubled or out of order."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.errors import RemoteProtocolError
from semantic_net.transport.incoming import MAX_EARLY
from semantic_net.transport.reliable import ReliableStream
from semantic_net.transport.segment import (
    HEADER,
    MAX_DATA_BYTES,
    Flags,
    Route,
    Segment,
    decode_segment,
    encode_segment,
)
from semantic_net.transport.window import FIRST_WINDOW, MAX_WINDOW, MIN_WINDOW, QUEUE_S

ROUTE = Route(b"s" * 16, b"t" * 16)
LIMIT_S = 3600.0


@dataclass
class Path:
    """What carries messages, and what it does to them."""

    rng: random.Random
    loss: float = 0.0
    doubling: float = 0.0
    delay_s: float = 0.02
    jitter_s: float = 0.0
    bytes_s: float = 1e9
    outage: tuple[float, float] = (0.0, 0.0)
    """From when to when all is lost."""
    holds: bool = False
    """Whether what would be lost in an outage only waits for its end, as TCP makes it."""
    busy_until_s: float = 0.0

    def arrivals(self, num_bytes: int, now: float) -> list[float]:
        """Return when a message arrives, as often as it does."""
        begins = max(now, self.busy_until_s)
        if self.outage[0] <= begins < self.outage[1]:
            if not self.holds:
                return []
            begins = self.outage[1]
        self.busy_until_s = begins + num_bytes / self.bytes_s
        if self.rng.random() < self.loss:
            return []
        copies = 2 if self.rng.random() < self.doubling else 1
        return [
            self.busy_until_s + self.delay_s + self.jitter_s * self.rng.random()
            for _ in range(copies)
        ]


@dataclass
class End:
    """One end, and what its application has."""

    path: Path
    stream: ReliableStream = field(default_factory=ReliableStream)
    received: bytearray = field(default_factory=bytearray)
    sent_bytes: int = 0
    largest: int = 0
    """Most bytes that were under way."""


class Pair:
    """Two ends, in virtual time."""

    def __init__(self, path: Path, back: Path | None = None) -> None:
        self.ends = (End(path), End(back or replace(path)))
        self.now = 0.0
        self._arriving: list[tuple[float, int, int, bytes]] = []
        self._order = itertools.count()

    def send(self) -> None:
        """Put on the way what both ends have to say."""
        for index, end in enumerate(self.ends):
            for segment in end.stream.to_send(self.now):
                message = b"".join(encode_segment(ROUTE, segment))
                end.sent_bytes += len(message)
                for at in end.path.arrivals(len(message), self.now):
                    heapq.heappush(self._arriving, (at, next(self._order), 1 - index, message))

    def next_at(self) -> float:
        """Return when the next thing happens."""
        times = [end.stream.wake_at() for end in self.ends]
        times += [self._arriving[0][0]] if self._arriving else []
        return min((time for time in times if time is not None), default=math.inf)

    def step(self) -> bool:
        """Go to the next thing that happens; tell whether there was one."""
        if (at := self.next_at()) == math.inf:
            return False
        self.now = max(self.now, at)
        assert self.now < LIMIT_S, "it comes to no end"
        while self._arriving and self._arriving[0][0] <= self.now:
            _, _, index, message = heapq.heappop(self._arriving)
            self._take(self.ends[index], message)
        self.send()
        return True

    def _take(self, end: End, message: bytes) -> None:
        route, segment = decode_segment(message)
        assert route == ROUTE
        end.stream.received(segment, self.now)
        ready = end.stream.incoming.ready
        while ready:
            end.received += ready[0]
            end.stream.incoming.read(len(ready[0]))

    def run(self) -> None:
        """Go on until nothing happens any more."""
        self.send()
        while self.step():
            pass


def transfer(payloads: tuple[bytes, bytes], path: Path, back: Path | None = None) -> Pair:
    """Send a payload and the end each way; return what has become of it."""
    pair = Pair(path, back)
    for end, payload in zip(pair.ends, payloads, strict=True):
        for start in range(0, len(payload), 50_000):
            end.stream.outgoing.write(payload[start : start + 50_000])
        end.stream.outgoing.finish()
    pair.run()
    for end, other, payload in zip(pair.ends, pair.ends[::-1], payloads, strict=True):
        assert other.received == payload
        assert other.stream.incoming.is_over
        assert end.stream.outgoing.has_arrived
    return pair


@given(
    sizes=st.tuples(st.integers(0, 400_000), st.integers(0, 100_000)),
    loss=st.floats(0, 0.4),
    doubling=st.floats(0, 0.5),
    jitter_s=st.sampled_from([0.0, 0.01, 0.3]),
    seed=st.integers(0, 1000),
)
def test_all_arrives_once_and_in_order(
    sizes: tuple[int, int], loss: float, doubling: float, jitter_s: float, seed: int
) -> None:
    rng = random.Random(seed)
    payloads = rng.randbytes(sizes[0]), rng.randbytes(sizes[1])
    transfer(payloads, Path(rng, loss, doubling, jitter_s=jitter_s))


@given(begins=st.floats(0, 3), lasts=st.floats(0, 20), holds=st.booleans())
def test_an_outage_costs_its_length_and_little_more(
    begins: float, lasts: float, holds: bool
) -> None:
    payload = random.Random(0).randbytes(2_000_000)
    path = Path(random.Random(1), bytes_s=625_000, outage=(begins, begins + lasts), holds=holds)
    pair = transfer((payload, b""), path)
    assert pair.now < 2_000_000 / 625_000 + lasts + 5
    lost = pair.ends[0].stream.outgoing.lost_bytes
    assert lost == 0 if holds else lost < 300_000, "what only waited is not sent again"


def test_a_slow_path_holds_little_and_a_fast_one_much() -> None:
    def most_under_way(bytes_s: float, delay_s: float) -> tuple[int, float]:
        pair = Pair(Path(random.Random(0), bytes_s=bytes_s, delay_s=delay_s))
        out = pair.ends[0].stream.outgoing
        out.write(bytes(int(40 * bytes_s)))
        pair.send()
        most = 0
        while pair.now < 35 and pair.step():
            if pair.now > 5:
                most = max(most, out.window.num_bytes)
        return most, out.acknowledged / bytes_s / pair.now

    slow, slow_share = most_under_way(125_000, 0.02)
    assert slow < 125_000 * (0.04 + 5 * QUEUE_S), "or a heartbeat would be late"
    fast, fast_share = most_under_way(2_500_000, 0.15)
    assert fast > 2_500_000 * 0.3, "or the path would stand empty"
    assert slow_share > 0.9
    assert fast_share > 0.8


def test_who_does_not_read_is_sent_no_more_than_there_is_room_for() -> None:
    pair = Pair(Path(random.Random(0)))
    sender, reader = pair.ends
    sender.stream.outgoing.write(bytes(1_000_000))
    for _ in range(1000):
        for segment in sender.stream.to_send(pair.now):
            reader.stream.received(segment, pair.now)
        for segment in reader.stream.to_send(pair.now):
            sender.stream.received(segment, pair.now)
        pair.now += 0.1
    assert sum(map(len, reader.stream.incoming.ready)) == FIRST_WINDOW
    reader.stream.incoming.read(FIRST_WINDOW)
    assert reader.stream.to_send(pair.now), "it says that there is room"


def test_what_is_under_way_unanswered_is_asked_for_and_not_sent_again() -> None:
    end = ReliableStream()
    end.outgoing.write(bytes(100))
    sent = end.to_send(0.0)
    assert [segment.num_bytes for segment in sent] == [100]
    now, questions = 0.0, []
    for _ in range(5):
        wake_at = end.wake_at()
        assert wake_at is not None
        now = wake_at
        questions += end.to_send(now)
    assert all(segment.flags == Flags.PROBE and not segment.data for segment in questions)
    assert now < 10
    assert end.outgoing.silent_since == 0.0
    end.received(Segment(echo=questions[-1].number, limit=FIRST_WINDOW), now)
    assert end.outgoing.silent_since == now
    assert [segment.num_bytes for segment in end.to_send(now)] == [100], "now it is known"


@pytest.mark.parametrize("segment", [Segment(acknowledged=1), Segment(echo=1)])
def test_to_acknowledge_what_was_never_sent_is_an_error(segment: Segment) -> None:
    with pytest.raises(RemoteProtocolError, match="never sent"):
        ReliableStream().received(segment, 0.0)


@given(
    offsets=st.lists(st.integers(0, 2 * FIRST_WINDOW), max_size=60),
    size=st.integers(0, MAX_DATA_BYTES),
)
def test_a_stranger_cannot_make_an_end_hold_more_than_it_was_granted(
    offsets: list[int], size: int
) -> None:
    stream = ReliableStream()
    for number, offset in enumerate(offsets, 1):
        stream.received(Segment(Flags.NONE, number, offset, data=(bytes(size),)), 0.0)
    assert held_bytes(stream) <= FIRST_WINDOW


def held_bytes(stream: ReliableStream) -> int:
    """Return the size of the messages that an end keeps in memory."""
    incoming = stream.incoming
    early = [data for data, _ in incoming._early.values()]
    return sum(len(cast(bytes, data.obj)) for data in [*incoming.ready, *early])


@pytest.mark.parametrize("overlap", [b"", b"x", bytes(60_000)])
@pytest.mark.parametrize("begins", [0, 1])
def test_segments_that_overlap_or_hold_nothing_are_bounded(begins: int, overlap: bytes) -> None:
    stream = ReliableStream()
    for number in range(1, 5000):
        segment = Segment(Flags.NONE, number, begins + number - 1, data=(overlap,))
        stream.received(replace(segment, flags=Flags.FIN) if not overlap else segment, 0.0)
    assert held_bytes(stream) <= FIRST_WINDOW
    assert len(stream.incoming._early) <= MAX_EARLY


def test_the_end_may_stand_where_the_room_ends() -> None:
    stream = ReliableStream()
    stream.received(Segment(Flags.FIN, 1, data=(bytes(FIRST_WINDOW),)), 0.0)
    assert stream.incoming.next == FIRST_WINDOW + 1


def test_many_small_frames_under_way_cost_little_more_where_some_are_lost() -> None:
    """Twice as many are under way as one end keeps; the rest goes out again, but all at once."""
    pair = Pair(Path(random.Random(0), delay_s=MAX_EARLY / 1000, loss=0.002))
    out = pair.ends[0].stream.outgoing
    for index in range(3000):
        out.write(bytes(60))
        pair.send()
        while pair.next_at() <= index / 1000:
            pair.step()
    pair.run()
    assert len(pair.ends[1].received) == 3000 * 60
    assert pair.now < 15, "with a gap for each that is not kept it would be 600"


@given(st.binary(max_size=2 * HEADER.size))
def test_noise_is_a_segment_or_an_error_of_the_other_end(noise: bytes) -> None:
    try:
        route, segment = decode_segment(noise)
    except RemoteProtocolError:
        return
    assert b"".join(encode_segment(route, segment)) == noise


def test_a_segment_that_is_too_long_is_refused() -> None:
    message = b"".join(encode_segment(ROUTE, Segment(data=(bytes(MAX_DATA_BYTES + 1),))))
    with pytest.raises(RemoteProtocolError, match="bytes"):
        decode_segment(message)
    assert MIN_WINDOW < FIRST_WINDOW < MAX_WINDOW
