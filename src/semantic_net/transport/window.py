"""How much of a byte stream may be under way, and when an answer is late.

What is under way beyond what the path holds only waits in a queue, and every control frame behind
it: so it may take `QUEUE_S` longer than the fastest answer, and no more. Pure: time comes in.
"""

from __future__ import annotations

import math

MIN_WINDOW, FIRST_WINDOW, MAX_WINDOW = 16 * 1024, 64 * 1024, 8 * 1024 * 1024
"""Bytes under way: the fewest, those at first, and the most, which also bound what a stream may
hold in memory."""

QUEUE_S = 0.1
"""Seconds that what is under way should wait in queues at most."""

BASE_S = 10.0
"""Seconds after which the fastest answer is looked for anew: routes change."""

FIRST_TIMEOUT_S, MIN_TIMEOUT_S, MAX_TIMEOUT_S = 1.0, 0.2, 2.0
"""When an answer is late: before the first one, at the earliest and at the latest. To ask costs a
message of some bytes, so that there is no need to wait for long when a link is gone."""


class Window:
    """Follows one path by the answers that come over it."""

    def __init__(self) -> None:
        self.timeout_s = FIRST_TIMEOUT_S
        """After how long an answer is late."""
        self._num_bytes = FIRST_WINDOW
        self._smooth_s: float | None = None
        self._varies_s = 0.0
        self._base_s = math.inf
        self._base_at = 0.0
        self._looks_from: int | None = None  # the number whose answer gives the fastest anew
        self._changed_with = 0

    @property
    def num_bytes(self) -> int:
        """How much may be under way."""
        return self._num_bytes if self._looks_from is None else MIN_WINDOW

    def answered(
        self,
        number: int,
        took_s: float,
        delivered: int,
        now: float,
        *,
        next_number: int,
        full: bool,
    ) -> None:
        """Learn from an answer.

        Args:
            number: What is answered.
            took_s: For how long that was under way.
            delivered: Bytes that arrived meanwhile.
            now: The time.
            next_number: What is sent next will have it.
            full: More would have been sent, had the window let it: else it says nothing of speed.
        """
        self._time(took_s)
        if took_s <= self._base_s or (self._looks_from is not None and number >= self._looks_from):
            self._base_s, self._base_at, self._looks_from = took_s, now, None
        elif self._looks_from is None and now - self._base_at > BASE_S:
            self._looks_from = next_number
        if not full or self._looks_from is not None or number < self._changed_with:
            return
        self._changed_with = next_number  # once in a round trip
        if took_s < self._base_s + QUEUE_S / 2:
            wanted = self._num_bytes + delivered
        else:
            drains = int(delivered / took_s * (self._base_s + QUEUE_S))
            wanted = max(drains, self._num_bytes // 2)
        self._num_bytes = min(max(wanted, MIN_WINDOW), MAX_WINDOW)

    def _time(self, took_s: float) -> None:
        if self._smooth_s is None:
            self._smooth_s, self._varies_s = took_s, took_s / 2
        else:
            self._varies_s += (abs(took_s - self._smooth_s) - self._varies_s) / 4
            self._smooth_s += (took_s - self._smooth_s) / 8
        late_s = self._smooth_s + 4 * self._varies_s
        self.timeout_s = min(max(late_s, MIN_TIMEOUT_S), MAX_TIMEOUT_S)
