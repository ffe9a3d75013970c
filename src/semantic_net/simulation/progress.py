"""What is known of a simulation's rounds while it runs, whichever process a peer runs in."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from semantic_net.monitoring.digests import Agreement, agreement
from semantic_net.records import RoundRecord
from semantic_net.simulation.spread import Part, Report, What


class Listener(Protocol):
    """Is told of peers as they come, close rounds and go."""

    now: Callable[[], float]
    """Virtual seconds; given when they begin."""

    def begun(self, index: int) -> None:
        """Note a peer that runs."""
        ...

    def closed(self, index: int, record: RoundRecord) -> None:
        """Note a record."""
        ...

    def gone(self, index: int) -> None:
        """Note a peer that runs no more."""
        ...


@dataclass(slots=True)
class RoundOfAll:
    """One round, as far as peers have closed it."""

    number: int
    records: dict[int, RoundRecord]
    """The last of each peer."""
    closed_at_s: float = 0.0
    """Virtual seconds at which the last of them did."""

    @property
    def agreement(self) -> Agreement:
        """Whether those that have closed it hold one model."""
        return agreement([*self.records.values()])

    @property
    def num_participants(self) -> int:
        """How many have published."""
        return len(self._published)

    @property
    def _published(self) -> set[str]:
        return {record.peer for record in self.records.values() if record.payload_bytes > 0}

    @property
    def missing(self) -> tuple[float, str]:
        """How many updates each lacks, on average, that were published or expected, and why most.

        What a peer did not expect it lacks as well: where all are cut off, nobody expects any.
        """
        published, why, total = self._published, Counter[str](), 0
        for _, record in sorted(self.records.items()):  # they come in any order
            if num := len(published.union(record.missing).difference(record.updates_in)):
                total += num
                why[_why_missing(record.close_reason)] += num
        return total / len(self.records), why.most_common(1)[0][0] if why else ""


def _why_missing(close_reason: str) -> str:
    """Return why a round was closed without some updates, without how many a peer missed."""
    if close_reason == "all in":
        return "not expected"
    return re.sub(r"^\d+ |, \d+ missing$|^deadline, (?=cut)", "", close_reason)


class Progress:
    """Gathers what peers record, and tells when all that run are through; a `Listener`."""

    def __init__(self, show: Callable[[RoundOfAll], None]) -> None:
        """Take what shows a round to a person."""
        self.rounds: dict[int, RoundOfAll] = {}
        self._show = show
        self._shown = 0
        self._latest: dict[int, int] = {}  # round of each peer that runs; 0: none so far
        self.now: Callable[[], float] = time.monotonic
        self.told_at = time.monotonic()
        """When a person has last seen anything."""

    @property
    def num_running(self) -> int:
        """How many peers run."""
        return len(self._latest)

    def begun(self, index: int) -> None:
        """Note a peer that runs."""
        self._latest[index] = 0

    def gone(self, index: int) -> None:
        """Note a peer that runs no more."""
        del self._latest[index]
        self._look()

    def closed(self, index: int, record: RoundRecord) -> None:
        """Note a record."""
        self._closed(index, record, self.now())

    def hear(self, report: Report) -> None:
        """Note what a peer does in another process."""
        if report.what == "begun":
            self.begun(report.peer)
        elif report.what == "gone":
            self.gone(report.peer)
        elif report.record is not None:
            self._closed(report.peer, report.record, report.at_s)

    def _closed(self, index: int, record: RoundRecord, at_s: float) -> None:
        found = self.rounds.setdefault(record.round, RoundOfAll(record.round, {}))
        found.records[index] = record
        found.closed_at_s = max(found.closed_at_s, at_s)
        self._latest[index] = max(self._latest[index], record.round)
        self._look()

    def over(self) -> None:
        """Show what is left: nobody runs any more."""
        self._show_through(max(self.rounds, default=0))

    def _look(self) -> None:
        # Who has skipped a round, or came later, never closes it, and is past it all the same.
        if self._latest:  # else they may come back
            self._show_through(min(self._latest.values()))

    def _show_through(self, number: int) -> None:
        while self._shown < number:
            self._shown += 1
            if (found := self.rounds.get(self._shown)) is not None:
                self.told_at = time.monotonic()
                self._show(found)


class Reports:
    """Passes on what peers do to the process that shows it; a `Listener`."""

    def __init__(self, part: Part) -> None:
        """Take the part of the simulation that is here."""
        self.now: Callable[[], float] = time.monotonic
        self._part = part

    def begun(self, index: int) -> None:
        """Report a peer that runs."""
        self._report(index, "begun")

    def closed(self, index: int, record: RoundRecord) -> None:
        """Report a record."""
        self._report(index, "closed", record)

    def gone(self, index: int) -> None:
        """Report a peer that runs no more."""
        self._report(index, "gone")

    def _report(self, index: int, what: What, record: RoundRecord | None = None) -> None:
        self._part.report(Report(index, what, self.now(), record))
