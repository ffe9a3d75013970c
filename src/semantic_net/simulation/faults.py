"""What befalls a network, as values in the order of time: drawn from a seed, and without end.

Faults of one kind on one peer never overlap: what overlaps in a file is one longer fault here.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from semantic_net.simulation.fault_sections import (
    AbsenceSection,
    ChurnSection,
    Going,
    OutageSection,
    RandomOutagesSection,
)
from semantic_net.transport.memory_network import MemoryNetwork


@dataclass(frozen=True, slots=True)
class CutOff:
    """Nothing passes between a peer and any other."""

    at_s: float
    peer: int


@dataclass(frozen=True, slots=True)
class Rejoin:
    """A peer is no longer cut off."""

    at_s: float
    peer: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Nothing passes between two peers."""

    at_s: float
    a: int
    b: int


@dataclass(frozen=True, slots=True)
class Mend:
    """The link between two peers is no longer cut."""

    at_s: float
    a: int
    b: int


@dataclass(frozen=True, slots=True)
class Partition:
    """Nothing passes between groups; peers in none form one more."""

    at_s: float
    groups: tuple[frozenset[int], ...]


@dataclass(frozen=True, slots=True)
class Heal:
    """There is no partition any more."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Crash:
    """A peer stops, without a goodbye; what is on its disk stays."""

    at_s: float
    peer: int


@dataclass(frozen=True, slots=True)
class Leave:
    """A peer says goodbye and stops."""

    at_s: float
    peer: int


@dataclass(frozen=True, slots=True)
class Start:
    """A peer comes, for the first time or again."""

    at_s: float
    peer: int


NetworkFault = CutOff | Rejoin | Cut | Mend | Partition | Heal
"""What `strike` does."""
PeerFault = Crash | Leave | Start
"""What becomes of a peer is for whoever runs it."""
Fault = NetworkFault | PeerFault

Interval = tuple[float, float, Going]
"""From when to when, and how a peer goes."""


def strike(network: MemoryNetwork, fault: NetworkFault, names: Sequence[str]) -> None:
    """Let a fault befall a network whose machines are named in the order of their peers."""
    match fault:
        case CutOff():
            network.isolate(names[fault.peer])
        case Rejoin():
            network.rejoin(names[fault.peer])
        case Cut():
            network.cut(names[fault.a], names[fault.b])
        case Mend():
            network.mend(names[fault.a], names[fault.b])
        case Partition():
            groups = [[names[peer] for peer in sorted(group)] for group in fault.groups]
            network.partition(*groups)
        case Heal():
            network.partition()


def dice(seed: int, *purpose: object) -> random.Random:
    """Return dice of their own for a purpose: equal everywhere, whatever else is drawn."""
    return random.Random(":".join(map(str, (seed, *purpose))))  # nosec B311  # a simulation


def cuts_off(
    peer: int, outages: Iterable[OutageSection], chance: RandomOutagesSection | None, seed: int
) -> Iterator[Fault]:
    """Yield when a peer is cut off, and when no longer."""
    scheduled = (
        _interval(outage.from_s, outage.for_s)
        for outage in outages
        if outage.peers and peer in outage.peers
    )
    drawn: Iterator[Interval] = iter(())
    if chance is not None:
        drawn = _drawn(
            dice(seed, "outages", peer), chance.share, chance.mean_between_s, chance.mean_for_s
        )
    for begin_s, end_s, _ in _union(sorted(scheduled), drawn):
        yield CutOff(begin_s, peer)
        if end_s < math.inf:
            yield Rejoin(end_s, peer)


def pair_cuts(outages: Iterable[OutageSection]) -> Iterator[Iterator[Fault]]:
    """Yield for each pair that is ever cut when it is."""
    intervals: dict[tuple[int, int], list[Interval]] = {}
    for outage in outages:
        if outage.between:
            for a, b in itertools.product(*outage.between):
                if a != b:
                    pair = min(a, b), max(a, b)
                    intervals.setdefault(pair, []).append(_interval(outage.from_s, outage.for_s))
    for (a, b), found in sorted(intervals.items()):
        yield _cuts(a, b, found)


def _cuts(a: int, b: int, intervals: list[Interval]) -> Iterator[Fault]:
    for begin_s, end_s, _ in _union(sorted(intervals)):
        yield Cut(begin_s, a, b)
        if end_s < math.inf:
            yield Mend(end_s, a, b)


def partitions(outages: Iterable[OutageSection]) -> Iterator[Fault]:
    """Yield when the network falls apart, and when it heals."""
    for outage in sorted((o for o in outages if o.groups), key=lambda outage: outage.from_s):
        yield Partition(outage.from_s, outage.groups)
        if outage.for_s is not None:
            yield Heal(outage.from_s + outage.for_s)


def absences(
    peer: int, scheduled: Iterable[AbsenceSection], churn: ChurnSection | None, seed: int
) -> Iterator[Fault]:
    """Yield when a peer goes and comes; who is away from the start only comes."""
    known = [
        _interval(absence.from_s, absence.for_s, absence.how)
        for absence in scheduled
        if peer in absence.peers
    ]
    drawn: Iterator[Interval] = iter(())
    if churn is not None:
        chance = dice(seed, "churn", peer)
        drawn = _drawn(chance, churn.share, churn.mean_up_s, churn.mean_down_s, churn.crash_share)
    for begin_s, end_s, how in _union(sorted(known), drawn):
        if begin_s > 0:
            yield Crash(begin_s, peer) if how == "crash" else Leave(begin_s, peer)
        if end_s < math.inf:
            yield Start(end_s, peer)


def _interval(from_s: float, for_s: float | None, how: Going = "crash") -> Interval:
    return from_s, math.inf if for_s is None else from_s + for_s, how


def _drawn(
    chance: random.Random,
    share: float,
    mean_between_s: float,
    mean_for_s: float,
    crash_share: float = 1.0,
) -> Iterator[Interval]:
    """Yield intervals without end, if the dice say that there are any."""
    now = 0.0
    while now or chance.random() < share:
        # To the microsecond: the last digits of a logarithm differ between machines.
        begin_s = round(now + chance.expovariate(1 / mean_between_s) + 1e-6, 6)
        now = round(begin_s + chance.expovariate(1 / mean_for_s) + 1e-6, 6)
        yield begin_s, now, "crash" if chance.random() < crash_share else "leave"


def _union(*sources: Iterable[Interval]) -> Iterator[Interval]:
    """Yield intervals, sorted in each source, with those that touch each other as one."""
    merged = heapq.merge(*sources)
    current = next(merged, None)
    while current is not None:
        begin_s, end_s, how = current
        following = next(merged, None) if end_s < math.inf else None
        while following is not None and following[0] <= end_s:
            end_s = max(end_s, following[1])
            following = next(merged, None) if end_s < math.inf else None
        yield begin_s, end_s, how
        current = following
