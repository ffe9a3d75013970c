"""How many bytes a second something carries: a number, no limit, or what a trace has recorded.

Pure arithmetic. A trace is a step function that begins anew when it ends; bytes are its integral,
found by bisection of running sums, however long the trace and however late the time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise


class RateTrace:
    """Bytes a second over time, step by step, again and again."""

    __slots__ = ("_begins_s", "_offset_s", "_rates", "_sums")

    def __init__(self, steps: Sequence[tuple[float, float]], *, offset_s: float = 0.0) -> None:
        """Take how long each step lasts, in seconds, and its bytes a second.

        Args:
            steps: Of which one may be 0 bytes a second, but not all.
            offset_s: Where in the trace time 0 is.

        Raises:
            ValueError: A step has no length, a rate is below 0, or nothing ever passes.
        """
        if not all(length_s > 0 and rate >= 0 for length_s, rate in steps):
            raise ValueError("each step of a trace needs a length above 0 and a rate of 0 or more")
        self._rates = [rate for _, rate in steps]
        self._begins_s = [0.0, *accumulate(length_s for length_s, _ in steps)]
        self._sums = [0.0, *accumulate(length_s * rate for length_s, rate in steps)]
        if not self._sums[-1] > 0:
            raise ValueError("a trace needs a rate above 0")
        self._offset_s = offset_s % self.length_s

    @property
    def length_s(self) -> float:
        """After how many seconds it begins anew."""
        return self._begins_s[-1]

    def shifted(self, offset_s: float) -> RateTrace:
        """Return the same trace with time 0 elsewhere in it; the steps are shared."""
        other = object.__new__(RateTrace)
        other._rates, other._begins_s, other._sums = self._rates, self._begins_s, self._sums
        other._offset_s = offset_s % self.length_s
        return other

    def at(self, now: float) -> float:
        """Return the bytes a second at a time."""
        return self._rates[self._step((now + self._offset_s) % self.length_s)]

    def end_s(self, begin_s: float, num_bytes: float) -> float:
        """Return when bytes are through that begin to pass at ``begin_s``."""
        if not num_bytes:
            return begin_s
        cycles, since_s = divmod(begin_s + self._offset_s, self.length_s)
        step = self._step(since_s)
        passed = self._sums[step] + (since_s - self._begins_s[step]) * self._rates[step]
        more_cycles, due = divmod(passed + num_bytes, self._sums[-1])
        if not due:  # with the very end of a cycle, and not with what may be a pause after it
            more_cycles, due = more_cycles - 1, self._sums[-1]
        step = bisect_left(self._sums, due) - 1
        in_cycle_s = self._begins_s[step] + (due - self._sums[step]) / self._rates[step]
        end_s = (cycles + more_cycles) * self.length_s + in_cycle_s - self._offset_s
        return max(end_s, begin_s)

    def _step(self, since_s: float) -> int:
        return min(bisect_right(self._begins_s, since_s), len(self._rates)) - 1


Bandwidth = float | RateTrace | None
"""Bytes a second; None for no limit."""


def end_s(bandwidth: Bandwidth, begin_s: float, num_bytes: float) -> float:
    """Return when bytes are through that begin to pass at ``begin_s``."""
    if bandwidth is None:
        return begin_s
    if isinstance(bandwidth, RateTrace):
        return bandwidth.end_s(begin_s, num_bytes)
    return begin_s + num_bytes / bandwidth


def bytes_s(bandwidth: float | RateTrace, now: float) -> float:
    """Return the bytes a second at a time."""
    return bandwidth.at(now) if isinstance(bandwidth, RateTrace) else bandwidth


def steps_of(times_s: Sequence[float], rates: Sequence[float]) -> list[tuple[float, float]]:
    """Return the steps of a trace of samples: each holds until the next one.

    The last holds as long as the one before it, and a single one for a second.
    """
    lengths = [after - before for before, after in pairwise(times_s)]
    return list(zip([*lengths, lengths[-1] if lengths else 1.0], rates, strict=True))
