"""The half of a reliable byte stream that receives: what has arrived, and what to say of it.

Pure: time comes in.
"""

from __future__ import annotations

from collections import deque

from semantic_net.transport.segment import Flags, Segment
from semantic_net.transport.window import FIRST_WINDOW, MAX_WINDOW

ACK_S = 0.02
"""Seconds that an answer may wait for something to travel with."""


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
