"""What waits for one connection: control frames, what is passed on, and payloads.

Pure bookkeeping: no socket and no clock; seconds come in.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Sequence

from semantic_net.protocol.frames import MAX_CHUNK_BYTES
from semantic_net.transport.base import Buffer, BulkSource

MIN_CHUNK_BYTES = 16 * 1024
FIRST_CHUNK_BYTES = 32 * 1024
FRAME_S = 0.1
"""Seconds that one bulk frame should take to drain: a control frame waits no longer than that."""

MAX_DEBT_S = 5.0
"""Seconds for which payloads pay, at most, for what went out at once."""

BURST_S = 0.1
"""Seconds' worth of a rate limit that may go out at once."""

WINDOW_S = 1.0
"""Seconds over which the speed is measured."""


LATEST_BYTES = 4 * 1024
"""Bytes of what is passed on that go out before payloads have a turn."""

MAX_LATEST_BYTES = 1024 * 1024
"""Bytes of it that wait for one peer: heartbeats of three thousand."""


class RateLimit:
    """How much may be sent now, all connections together: a bucket that fills at a rate.

    What must go out at once is counted and never held back; the rest pays for it.
    """

    def __init__(self, bytes_s: float | None) -> None:
        """Take the rate; None for no limit."""
        self._bytes_s = bytes_s
        self._burst = max(BURST_S * bytes_s, float(MIN_CHUNK_BYTES)) if bytes_s else 0.0
        self._level = self._burst
        self._at = 0.0

    @property
    def chunk_bytes(self) -> int:
        """The largest chunk that should go out at once."""
        return int(self._burst) if self._bytes_s else MAX_CHUNK_BYTES

    def spend(self, num_bytes: int, now: float) -> None:
        """Note bytes that are sent."""
        if self._bytes_s:
            self._fill(now)
            # Who makes us answer a lot holds up our payloads for so long at most, not for ever.
            self._level = max(self._level - num_bytes, -MAX_DEBT_S * self._bytes_s)

    def wait_s(self, now: float) -> float:
        """Return the seconds until something more may be sent."""
        if not self._bytes_s:
            return 0.0
        self._fill(now)
        return 0.0 if self._level > 0 else (1.0 - self._level) / self._bytes_s

    def _fill(self, now: float) -> None:
        assert self._bytes_s is not None
        self._level = min(self._burst, self._level + (now - self._at) * self._bytes_s)
        self._at = now


class Lanes:
    """Control frames first; behind them, in turns, what is passed on and payloads.

    Payloads are pulled when there is room, one after the other. Of what is passed on only the
    latest of each kind waits: others decide how much comes, and a slow link must bear it.
    """

    def __init__(self) -> None:
        self._control: deque[bytes] = deque()
        self._latest: dict[bytes, bytes] = {}
        self._latest_bytes = 0
        self._bulk: deque[BulkSource] = deque()
        self.control_bytes = 0
        """Bytes of the control frames that wait."""

    def add_control(self, frame: bytes) -> None:
        """Queue a control frame."""
        self._control.append(frame)
        self.control_bytes += len(frame)

    def add_latest(self, key: bytes, frame: bytes) -> None:
        """Queue a frame in the place of an earlier one with its key, if that still waits.

        Beyond `MAX_LATEST_BYTES` the oldest go: others decide how many keys there are.
        """
        self._latest_bytes += len(frame) - len(self._latest.get(key, b""))
        self._latest[key] = frame
        while self._latest_bytes > MAX_LATEST_BYTES:
            self._latest_bytes -= len(self._latest.pop(next(iter(self._latest))))

    def add_bulk(self, source: BulkSource) -> None:
        """Queue a payload, or move one that waits to the end."""
        with contextlib.suppress(ValueError):
            self._bulk.remove(source)
        self._bulk.append(source)

    def take_control(self) -> bytes:
        """Return all control frames that wait, as one buffer."""
        frames = self._control[0] if len(self._control) == 1 else b"".join(self._control)
        self._control.clear()
        self.control_bytes = 0
        return frames

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits; a payload does until it has said that nothing more comes of it."""
        return not (self.control_bytes or self._latest or self._bulk)

    def take_latest(self) -> bytes:
        """Return some of what waits to be passed on, the oldest first, as one buffer."""
        frames: list[bytes] = []
        num_bytes = 0
        while self._latest and num_bytes < LATEST_BYTES:
            frames.append(self._latest.pop(next(iter(self._latest))))
            num_bytes += len(frames[-1])
        self._latest_bytes -= num_bytes
        return b"".join(frames)

    def next_bulk(self, max_bytes: int) -> Sequence[Buffer] | None:
        """Pull the next frame of the first payload that still has one, or None."""
        while self._bulk:
            if (buffers := self._bulk[0].next_frame(max_bytes)) is not None:
                return buffers
            self._bulk.popleft()
        return None

    def clear(self) -> None:
        """Forget everything that waits."""
        self._control.clear()
        self._latest.clear()
        self._latest_bytes = 0
        self._bulk.clear()
        self.control_bytes = 0


class Pace:
    """How many bytes the next bulk frame should carry, from what the last ones took to drain.

    Counts the bytes that drained within about the last second in which bulk was waiting. One
    frame alone says little: a send buffer takes the first ones at once, however slow the link.
    """

    def __init__(self) -> None:
        self.chunk_bytes = FIRST_CHUNK_BYTES
        self._drained_bytes = FIRST_CHUNK_BYTES * WINDOW_S / FRAME_S
        self._pulled_at: float | None = None
        self._pulled_bytes = 0

    def pulled(self, num_bytes: int, now: float) -> None:
        """Note that a frame was handed over; the one before it has therefore drained."""
        if self._pulled_at is not None:
            self._drained_bytes *= math.exp((self._pulled_at - now) / WINDOW_S)
            self._drained_bytes += self._pulled_bytes
            wanted = int(self._drained_bytes * FRAME_S / WINDOW_S)
            self.chunk_bytes = max(MIN_CHUNK_BYTES, min(wanted, MAX_CHUNK_BYTES))
        self._pulled_at = now
        self._pulled_bytes = num_bytes

    def idle(self) -> None:
        """Note that nothing is left to pull: the next frame's wait will say nothing of speed."""
        self._pulled_at = None
