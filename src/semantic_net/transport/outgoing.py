"""The half of a reliable byte stream that sends: what is under way, what is lost, what may go out.

Nothing is sent again on suspicion: when an answer is late, a small question goes out behind what is
under way. Its answer tells what is lost, and a path that was only slow, or broken for a while, has
nothing twice. Pure: time comes in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from semantic_net.errors import RemoteProtocolError
from semantic_net.transport.base import Buffer
from semantic_net.transport.segment import Flags, Segment
from semantic_net.transport.window import FIRST_WINDOW, MAX_TIMEOUT_S, MAX_WINDOW, Window

MIN_DATA_BYTES = 8 * 1024
"""Bytes in a segment on the slowest path, about; others have up to `MAX_DATA_BYTES`."""

SEGMENTS, FASTEST_SEGMENTS = 8, 4
"""Segments in a full window, about, and in the largest one, where it is no longer the path that
limits but what each segment costs. Every second one is answered."""


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
        window = self.window.num_bytes
        fitting = window // (SEGMENTS if window < MAX_WINDOW else FASTEST_SEGMENTS)
        return max(fitting, MIN_DATA_BYTES)

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
