"""The half of a reliable byte stream that receives: what has arrived, and what to say of it.

Pure: time comes in.
"""

from __future__ import annotations

import math
from collections import deque

from semantic_net.transport.segment import Flags, Segment
from semantic_net.transport.window import FIRST_WINDOW, MAX_WINDOW

ACK_S = 0.02
"""Seconds that an answer may wait for something to travel with."""

MAX_EARLY = 512
"""Segments that wait for something before them: of large ones eight fill a window, but of small
ones an honest peer may have hundreds under way. All are looked through for each that arrives."""

EARLY_BYTES = 100
"""What each of them counts beside its bytes: it may have none."""


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
        self._full_from = math.inf  # nothing from here on is kept until this has arrived in order
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
        if offset <= self.next:
            self._append(offset, data, is_last=is_last)
        elif offset not in self._early and offset < self._full_from:
            self._early[offset] = data, is_last
            self._early_bytes += len(data) + EARLY_BYTES
        while self._early and (first := min(self._early)) <= self.next:
            data, is_last = self._take_early(first)
            self._append(first, data, is_last=is_last)
        if self.next > self._full_from:
            self._full_from = math.inf
        # They may overlap, so that where they end does not bound them. What has to go is the end,
        # and all that comes behind it: gaps are filled one in a round trip, the end at once.
        while len(self._early) > MAX_EARLY or self._early_bytes > max(self.limit - self.next, 0):
            self._full_from = last = max(self._early)
            self._take_early(last)

    def _take_early(self, offset: int) -> tuple[memoryview, bool]:
        data, is_last = self._early.pop(offset)
        self._early_bytes -= len(data) + EARLY_BYTES
        return data, is_last

    def _append(self, offset: int, data: memoryview, *, is_last: bool) -> None:
        end = offset + len(data)
        if self._end is None and end > self.next:
            new = data[self.next - offset :]
            # A view of a part would hold all of the message. Honest ones never overlap.
            self.ready.append(new if offset == self.next else memoryview(bytes(new)))
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
