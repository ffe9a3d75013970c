"""A byte stream over messages that may get lost, doubled or out of order. Pure: time comes in.

`Outgoing` keeps what it has sent until the other end says that it has it, and `Incoming` puts what
arrives in order. Nothing is sent again on suspicion: when an answer is late, a small question goes
out behind what is under way. Its answer tells what is lost, and a path that was only slow, or
broken for a while, has nothing twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from semantic_net.errors import RemoteProtocolError
from semantic_net.transport.base import Buffer
from semantic_net.transport.segment import MAX_DATA_BYTES, Flags, Segment
from semantic_net.transport.window import FIRST_WINDOW, MAX_TIMEOUT_S, MAX_WINDOW, Window

MIN_DATA_BYTES = 8 * 1024
"""Bytes in a segment on the slowest path, about; others have up to `MAX_DATA_BYTES`."""

SEGMENTS = 8
"""Segments in a full window, about: an answer to every second one costs little."""

ACK_S = 0.02
"""Seconds that an answer may wait for something to travel with."""


@dataclass(slots=True, eq=False)
class _Sent:
    """Something under way."""

    offset: int
    end: int
    flags: Flags
    data: tuple[Buffer, ...]
    number: int = 0


class Outgoing:
    """The bytes that this end sends."""

    def __init__(self) -> None:
        self.window = Window()
        self.waiting_bytes = 0
        """Written, and not sent yet."""
        self.acknowledged = 0
        self.lost_bytes = 0
        """That had to be sent again."""
        self.silent_since: float | None = None
        """Since when something is under way and nothing was answered."""
        self._waiting: deque[memoryview] = deque()
        self._under_way: deque[_Sent] = deque()
        self._lost: deque[_Sent] = deque()
        self._times: deque[tuple[int, float, int]] = deque()
        self._offset = 0  # of the first byte that waits
        self._number = 0
        self._limit = FIRST_WINDOW
        self._finishes = self._finished = False
        self._was_full = False
        self._busy_s = 0.0
        self._busy_since: float | None = None
        self._ask_at: float | None = None
        self._asked = 0  # in a row without an answer

    def write(self, data: Buffer) -> None:
        """Take bytes, which may not change until they have arrived."""
        assert not self._finishes, "nothing follows the end"
        if len(data):
            self._waiting.append(memoryview(data).cast("B"))
            self.waiting_bytes += self._waiting[-1].nbytes

    def finish(self) -> None:
        """Take no more."""
        self._finishes = True

    @property
    def room(self) -> int:
        """How many of the bytes that wait can go out now."""
        most = min(self.acknowledged + self.window.num_bytes, self._limit)
        return max(most - self._offset, 0)

    @property
    def has_arrived(self) -> bool:
        """Whether the other end has all that was written, and the end if there is one."""
        return not (self._under_way or self.waiting_bytes or self._finishes > self._finished)

    def busy_s(self, now: float) -> float:
        """Return for how long something has been under way."""
        return self._busy_s + (0.0 if self._busy_since is None else now - self._busy_since)

    def answered(self, segment: Segment, now: float) -> None:
        """Learn from a segment of the other end what has arrived.

        Raises:
            RemoteProtocolError: It acknowledges what was never sent.
        """
        if segment.acknowledged > self._offset or segment.echo > self._number:
            raise RemoteProtocolError("a segment that acknowledges what was never sent")
        self._limit = max(self._limit, segment.limit)
        before, self.acknowledged = self.acknowledged, max(self.acknowledged, segment.acknowledged)
        while self._under_way and self._under_way[0].end <= self.acknowledged:
            self._under_way.popleft()
        answered = None
        while self._times and self._times[0][0] <= segment.echo:
            answered = self._times.popleft()
        if answered is not None and answered[0] == segment.echo:
            number, sent_at, had = answered
            self.window.answered(
                number,
                max(now - sent_at, 1e-6),
                self.acknowledged - had,
                now,
                next_number=self._number + 1,
                full=self._was_full,
            )
            self._was_full = False
        if answered is not None or self.acknowledged > before:
            self._asked = 0
            busy = self._is_busy
            self.silent_since = now if busy else None
            self._ask_at = now + self.window.timeout_s if busy else None
            if not busy and self._busy_since is not None:
                self._busy_s += now - self._busy_since
                self._busy_since = None
            self._find_lost(segment)

    def _find_lost(self, segment: Segment) -> None:
        """Note what was sent before something that has arrived, and has not."""
        for sent in self._under_way:
            if sent.number < segment.echo and sent not in self._lost:
                self._lost.append(sent)
            if segment.flags & Flags.GAP:
                break  # the first is lost; of the others it is not known

    @property
    def _is_busy(self) -> bool:
        return bool(self._under_way or self.waiting_bytes)

    def next_segments(self, now: float) -> Iterator[Segment]:
        """Yield what goes out now, without what it says of the other direction."""
        while self._lost:
            sent = self._lost.popleft()
            if sent.end > self.acknowledged:
                self.lost_bytes += sent.end - sent.offset
                yield self._send(sent, now)
        while (data := self._cut()) is not None:
            offset = self._offset
            self._offset += sum(map(len, data))
            flags = Flags.NONE
            if self._finishes and not self.waiting_bytes:
                flags, self._finished = Flags.FIN, True
                self._offset += 1
            sent = _Sent(offset, self._offset, flags, data)
            self._under_way.append(sent)
            yield self._send(sent, now)
        if self._ask_at is None and self._is_busy:
            self._ask_at = now + self.window.timeout_s
        if self._ask_at is not None and now >= self._ask_at:
            self._asked += 1
            yield self._send(_Sent(self._offset, self._offset, Flags.PROBE, ()), now)
            wait_s = self.window.timeout_s * 2.0 ** min(self._asked, 30)
            self._ask_at = now + min(wait_s, MAX_TIMEOUT_S)

    def _send(self, sent: _Sent, now: float) -> Segment:
        self._number += 1
        sent.number = self._number
        self._times.append((self._number, now, self.acknowledged))
        if self.silent_since is None:
            self.silent_since = now
        if self._busy_since is None:
            self._busy_since = now
        return Segment(sent.flags, sent.number, sent.offset, data=sent.data)

    def _cut(self) -> tuple[Buffer, ...] | None:
        """Return the next segment's bytes; None where nothing is to go out now."""
        wanted = self.waiting_bytes
        if wanted > self.most_in_one * 5 // 4:  # a little more is better than a small one behind it
            wanted = self.most_in_one
        if not wanted:
            return () if self._finishes > self._finished else None
        room = self.room
        if room < wanted and (self._under_way or not room):
            self._was_full = True
            return None
        return self._take(min(wanted, room))

    @property
    def most_in_one(self) -> int:
        """How many bytes one segment should have if there are as many."""
        fitting = max(self.window.num_bytes // SEGMENTS, MIN_DATA_BYTES)
        return min(fitting, MAX_DATA_BYTES * 4 // 5)

    def _take(self, num_bytes: int) -> tuple[Buffer, ...]:
        self.waiting_bytes -= num_bytes
        taken: list[Buffer] = []
        while num_bytes:
            first = self._waiting.popleft()
            if len(first) > num_bytes:
                self._waiting.appendleft(first[num_bytes:])
                first = first[:num_bytes]
            taken.append(first)
            num_bytes -= len(first)
        return tuple(taken)

    @property
    def wake_at(self) -> float | None:
        """When there is something to send next, if nothing is heard until then."""
        return self._ask_at


class Incoming:
    """The bytes that the other end sends."""

    def __init__(self) -> None:
        self.echo = 0
        self.ready: deque[memoryview] = deque()
        """In order, to be read."""
        self.next = 0
        """All bytes before this one have arrived."""
        self.answer_at: float | None = None
        """When it is time to say what has arrived, if nothing goes out that says it."""
        self._early: dict[int, tuple[memoryview, bool]] = {}
        self._early_bytes = 0
        self._read_bytes = 0
        self._end: int | None = None
        self._unanswered = 0
        self._told_limit = FIRST_WINDOW

    @property
    def limit(self) -> int:
        """Up to which byte there is room. Who has sent nothing sensible yet gets little."""
        return self._read_bytes + min(FIRST_WINDOW + self._read_bytes, MAX_WINDOW)

    @property
    def is_over(self) -> bool:
        """Whether the end has arrived, and everything before it has been read."""
        return self._end is not None and self.next > self._end and not self.ready

    def take(self, segment: Segment, now: float) -> None:
        """Take what has arrived."""
        if not segment.number:
            return
        in_order = segment.offset == self.next
        self.echo = max(self.echo, segment.number)
        data = memoryview(segment.data[0]) if segment.data else memoryview(b"")
        if segment.offset + len(data) <= self.limit and segment.num_bytes:
            self._place(segment.offset, data, is_last=bool(segment.flags & Flags.FIN))
        self._unanswered += 1
        urgent = segment.flags & (Flags.PROBE | Flags.FIN) or not in_order or self._early
        if urgent or self._unanswered > 1:
            self.answer_at = now
        elif self.answer_at is None:
            self.answer_at = now + ACK_S

    def _place(self, offset: int, data: memoryview, *, is_last: bool) -> None:
        if offset > self.next:
            # They may overlap, so that the limit does not bound them.
            if offset not in self._early and self._early_bytes + len(data) <= MAX_WINDOW:
                self._early[offset] = data, is_last
                self._early_bytes += len(data)
            return
        self._append(offset, data, is_last=is_last)
        while self._early and (first := min(self._early)) <= self.next:
            data, is_last = self._early.pop(first)
            self._early_bytes -= len(data)
            self._append(first, data, is_last=is_last)

    def _append(self, offset: int, data: memoryview, *, is_last: bool) -> None:
        end = offset + len(data)
        if self._end is None and end > self.next:
            self.ready.append(data[self.next - offset :])
            self.next = end
        if is_last and self._end is None and end == self.next:
            self._end = end
            self.next = end + 1

    def read(self, num_bytes: int) -> None:
        """Note that so many of the first bytes that are ready have been read."""
        self._read_bytes += num_bytes
        while num_bytes:
            first = self.ready.popleft()
            if len(first) > num_bytes:
                self.ready.appendleft(first[num_bytes:])
                return
            num_bytes -= len(first)

    def answer(self) -> tuple[Flags, int, int, int]:
        """Return what to say of what has arrived: flags, next byte, highest number and limit."""
        self._unanswered = 0
        self.answer_at = None
        self._told_limit = self.limit
        return (Flags.GAP if self._early else Flags.NONE), self.next, self.echo, self._told_limit

    @property
    def has_news(self) -> bool:
        """Whether the other end may be waiting to hear that there is room again."""
        told = self._told_limit - self.next
        return self.limit - self._told_limit > max(told, 0)


class ReliableStream:
    """Both directions of one stream, at one end."""

    def __init__(self) -> None:
        self.outgoing = Outgoing()
        self.incoming = Incoming()

    def received(self, segment: Segment, now: float) -> None:
        """Take a segment.

        Raises:
            RemoteProtocolError: It makes no sense.
        """
        self.outgoing.answered(segment, now)
        self.incoming.take(segment, now)

    def to_send(self, now: float) -> list[Segment]:
        """Return the segments that go out now."""
        sending = list(self.outgoing.next_segments(now))
        due = self.incoming.answer_at is not None and self.incoming.answer_at <= now
        if not sending and (due or self.incoming.has_news):
            sending.append(Segment())
        return [self._with_answer(segment) for segment in sending]

    def _with_answer(self, segment: Segment) -> Segment:
        flags, acknowledged, echo, limit = self.incoming.answer()
        return Segment(
            segment.flags | flags,
            segment.number,
            segment.offset,
            acknowledged,
            echo,
            limit,
            segment.data,
        )

    def wake_at(self) -> float | None:
        """Return when `to_send` has something next, if nothing happens until then."""
        times = (self.outgoing.wake_at, self.incoming.answer_at)
        return min((time for time in times if time is not None), default=None)
