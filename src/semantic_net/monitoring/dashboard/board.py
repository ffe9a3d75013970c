"""What the page shows, kept for whoever looks: the peer puts in, readers take what is new to them.

Thread-safe: the peer's thread and the page's share nothing else. Everything is bounded, and a
reader that is slow gets the latest instead of all that it has missed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from semantic_net.monitoring.text import main_metric
from semantic_net.records import RoundRecord
from semantic_net.status import LastRound, Sample, Status

MAX_POINTS = 4000
"""Points of all curves together: about 160 kB as they are sent."""

MIN_POINTS = 40
"""That a peer's curve keeps at least, however many others there are."""

MAX_CURVES = MAX_POINTS // MIN_POINTS
"""Peers that have one: who comes with a new name every minute must not fill the memory."""

MAX_TIMELINE = 40
"""Rounds of which it is told what their time went into."""

MAX_EVENTS = 200
MAX_EVENT_CHARS = 400


class Point(msgspec.Struct, frozen=True, array_like=True):
    """A peer's round, as a point of its curves."""

    round: int
    loss: float | None
    value: float | None
    bytes: int
    """Sent and received so far."""


class Span(msgspec.Struct, frozen=True, array_like=True):
    """What the time of one of this peer's rounds went into, in seconds."""

    round: int
    train_s: float
    encode_s: float
    exchange_s: float
    fold_s: float
    rest_s: float
    """Evaluation and writing."""


class Event(msgspec.Struct, frozen=True):
    """Something that happened."""

    time: float
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a reader has come."""

    status: int = 0
    rounds: int = 0
    events: int = 0
    samples: int = 0


@dataclass(slots=True)
class Board:
    """Everything that the page shows."""

    facts: dict[str, Any]
    """Of the run, as they are sent: ``peer``, ``task``, ``run``, ``metric``, ..."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _status: Status | None = None
    _status_number: int = 0
    _curves: dict[str, list[Point]] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    """When each curve changed last, as a number that counts up."""
    _number: int = 0
    _timeline: deque[Span] = field(default_factory=lambda: deque(maxlen=MAX_TIMELINE))
    _events: deque[Event] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))
    _num_events: int = 0
    _samples: Sequence[Sample] = ()
    _samples_number: int = 0
    _last: RoundRecord | None = None
    _is_closed: bool = False
    _listeners: list[Callable[[], None]] = field(default_factory=list)

    # The peer's side.

    def put_status(self, status: Status) -> None:
        """Show what the peer is at, and the last rounds of the others."""
        with self._lock:
            self._status = status
            self._status_number += 1
            for other in status.peers:
                if other.last is not None:
                    self._add(other.peer, _point(other.last))
        self._tell()

    def put_record(self, record: RoundRecord, bytes_so_far: int) -> None:
        """Show one of this peer's rounds."""
        rest_s = record.time_s - record.train_s - record.encode_s - record.exchange_s
        span = Span(
            record.round,
            record.train_s,
            record.encode_s,
            record.exchange_s,
            record.fold_s,
            round(max(rest_s - record.fold_s, 0.0), 4),
        )
        name = main_metric(record.metrics, self.facts["metric"])
        value = None if name is None else record.metrics[name]
        with self._lock:
            self._last = record
            self._timeline.append(span)
            self._add(record.peer, Point(record.round, record.loss, value, bytes_so_far))
        self._tell()

    def put_event(self, event: Event) -> None:
        """Show something that happened."""
        with self._lock:
            self._events.append(event)
            self._num_events += 1
        self._tell()

    def put_samples(self, samples: Sequence[Sample]) -> None:
        """Show sample predictions instead of those before."""
        with self._lock:
            self._samples = samples
            self._samples_number += 1
        self._tell()

    def close(self) -> None:
        """Tell the readers that nothing more will come."""
        self._is_closed = True
        self._tell()

    def _add(self, peer: str, point: Point) -> None:
        if peer not in self._curves and len(self._curves) >= MAX_CURVES:
            others = (each for each in self._curves if each != self.facts["peer"])
            oldest = min(others, key=lambda each: self._numbers[each])
            del self._curves[oldest], self._numbers[oldest]
        curve = self._curves.setdefault(peer, [])
        if curve and curve[-1].round >= point.round:
            if curve[-1] == point:
                return
            while curve and curve[-1].round >= point.round:  # a run that was resumed, or a new one
                curve.pop()
        curve.append(point)
        self._number += 1
        self._numbers[peer] = self._number
        limit = max(MAX_POINTS // len(self._curves), MIN_POINTS)
        if len(curve) > limit:
            # Half as many of the older half: what is recent is looked at most closely.
            older = len(curve) // 2
            curve[:older] = curve[:older:2]

    # The readers' side.

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Call something whenever there is something new, from any thread."""
        with self._lock:
            self._listeners.append(listener)

    def remove_listener(self, listener: Callable[[], None]) -> None:
        """Call it no more."""
        with self._lock:
            self._listeners.remove(listener)

    def _tell(self) -> None:
        with self._lock:
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more will come."""
        return self._is_closed

    @property
    def status(self) -> Status | None:
        """What the peer is at."""
        with self._lock:
            return self._status

    @property
    def last(self) -> RoundRecord | None:
        """This peer's last round."""
        with self._lock:
            return self._last

    def news(self, since: Cursor) -> tuple[dict[str, Any], Cursor]:
        """Return what is new to a reader, by kind, ready to be encoded as JSON; and where it is
        then.

        A curve that has changed is sent whole to a reader that starts, and else its last points.
        """
        with self._lock:
            found: dict[str, Any] = {}
            if since.status != self._status_number and self._status is not None:
                found["status"] = self._status
            if since.rounds != self._number:
                found["rounds"] = {
                    "curves": {
                        peer: curve
                        for peer, curve in self._curves.items()
                        if self._numbers[peer] > since.rounds
                    },
                    "timeline": list(self._timeline),
                    "last": None if self._last is None else _shown(self._last),
                }
                if since.rounds:  # a point is added at a time; some may have been missed
                    missed = self._number - since.rounds
                    curves = found["rounds"]["curves"]
                    found["rounds"]["curves"] = {p: c[-missed:] for p, c in curves.items()}
            if since.events != self._num_events:
                found["events"] = list(self._events)[-(self._num_events - since.events) :]
            if since.samples != self._samples_number:
                found["samples"] = list(self._samples)
            return found, Cursor(
                self._status_number, self._number, self._num_events, self._samples_number
            )


class BoardHandler(logging.Handler):
    """Puts what is logged on the board, from level info on."""

    def __init__(self, board: Board) -> None:
        """Take the board."""
        super().__init__(logging.INFO)
        self._board = board

    def emit(self, record: logging.LogRecord) -> None:
        """Put one record there."""
        text = " ".join(record.getMessage().split())[:MAX_EVENT_CHARS]
        self._board.put_event(Event(round(time.time(), 3), record.levelname.lower(), text))


def _shown(record: RoundRecord) -> dict[str, Any]:
    """Return what of a record is shown as it is."""
    names = ("round", "metrics", "missing", "close_reason", "state_digest", "codec", "epsilon")
    return {name: getattr(record, name) for name in names}


def _point(last: LastRound) -> Point:
    return Point(last.round, last.loss, last.value, last.bytes_sent + last.bytes_received)
