"""Ways of training side by side: what runs have come to, over seeds. Values and arithmetic only."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import msgspec

from semantic_net.errors import DataError
from semantic_net.monitoring.digests import verdict
from semantic_net.monitoring.runs import Participant, check_one_run, names_of
from semantic_net.records import RoundRecord

Metrics = dict[str, float]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one run has come to."""

    seed: int | None
    task: str
    """Empty where no process has left a summary."""
    rounds: int
    curve: dict[int, Metrics]
    """By round: the mean over devices."""
    sent: dict[int, float]
    """By round: bytes that a device has sent until its end, the mean over devices."""
    devices: list[Metrics]
    """Of the model of each device that came to the last round that any of them closed."""
    is_common: bool
    """All of these devices have one state of what they share."""
    bytes_sent: float
    """By a device, the mean."""
    bytes_received: float
    messages_received: float | None
    """By a device in a round, the mean; None where one does not count them."""
    server_bytes: int | None
    """Sent and received by the server; None where there is none."""
    time_s: float
    """Training, encoding, exchange and fold of all rounds, of the slowest process that counts: one
    that has no peer to wait for while another evaluates, or the server."""
    energy_j: float | None
    """Of the whole machine; None where it does not tell."""
    device_energy_j: float | None
    """Of a device as a simulation reckons it, the mean; None where one has none."""
    notes: list[str]
    """What makes the figures less than they seem."""


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way of training."""

    name: str
    title: str
    text: str
    """What it is, in a line."""
    outcomes: list[Outcome]
    """One a seed."""


class SideBySide(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison shows."""

    task: str
    metric: str
    """Name of the main one."""
    higher_is_better: bool
    last: int
    """A result is the mean over so many last rounds."""
    reference: str
    """The way that the others are held against, by name."""
    ways: list[Way]


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over seeds."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of at least one value."""
        found = list(values)
        return cls(statistics.mean(found), min(found), max(found))


def outcome_of(
    run: Sequence[Participant], *, last: int, seed: int | None = None, energy_j: float | None = None
) -> Outcome:
    """Return what a run has come to.

    Args:
        run: All that took part.
        last: A device's result is the mean over so many last rounds.
        seed: Of the run, where it is known.
        energy_j: Of the whole machine, where it is known.

    Raises:
        DataError: No device has evaluated a model, though there was one to learn.
    """
    servers = [each for each in run if each.role == "server"]
    devices = [each for each in run if each.role != "server"] or servers
    notes = _notes(run)
    if devices is servers:
        notes.append("metrics are the clients' as the server heard them, and its own bytes")
    numbers = sorted({record.round for each in devices for record in each.records})
    # The model of who left earlier is not what the run has come to.
    at_end = [each for each in devices if each.records[-1].round == numbers[-1]]
    if len(at_end) < len(devices):
        left = len(devices) - len(at_end)
        notes.append(
            f"{left} of {len(devices)} devices did not come to round {numbers[-1]}, and their "
            "models do not count"
        )
    ends = [_result(each.records, last) for each in at_end]
    if not any(ends) and any(each.learns for each in run):
        raise DataError(
            f"{names_of(run)}: no device has evaluated a model; give a "
            "folder that holds the folder of one that has"
        )
    # Others wait in their exchange for one that evaluates for all.
    judges = [each for each, end in zip(at_end, ends, strict=True) if end]
    clocks = servers or judges or at_end
    digests = {each.records[-1].state_digest for each in at_end}
    sent = [_running_sum(each.records) for each in devices]
    messages = [r.messages_received for each in devices for r in each.records]
    energies = [each.energy_j for each in devices]
    return Outcome(
        seed=seed,
        task=next((each.summary.task for each in run if each.summary is not None), ""),
        rounds=numbers[-1],
        curve={
            number: _means(r.metrics for each in devices for r in each.records if r.round == number)
            for number in numbers
        },
        sent={
            number: statistics.mean(each[number] for each in sent if number in each)
            for number in numbers
        },
        devices=ends,
        is_common=len(at_end) > 1 and len(digests) == 1 and "" not in digests,
        bytes_sent=statistics.mean(sum(r.bytes_sent for r in each.records) for each in devices),
        bytes_received=statistics.mean(
            sum(r.bytes_received for r in each.records) for each in devices
        ),
        messages_received=None
        if None in messages
        else statistics.mean(number for number in messages if number is not None),
        server_bytes=sum(r.bytes_sent + r.bytes_received for s in servers for r in s.records)
        if servers
        else None,
        time_s=max(sum(map(_working_s, each.records)) for each in clocks),
        energy_j=energy_j,
        device_energy_j=None
        if None in energies
        else statistics.mean(joules for joules in energies if joules is not None),
        notes=notes,
    )


def final(outcome: Outcome, name: str) -> float | None:
    """Return a metric's mean over devices; None where none has it."""
    found = [metrics[name] for metrics in outcome.devices if name in metrics]
    return statistics.mean(found) if found else None


def best(outcome: Outcome, name: str, *, higher_is_better: bool) -> float | None:
    """Return a metric of the device that does best; None where none has it."""
    found = [metrics[name] for metrics in outcome.devices if name in metrics]
    choose = max if higher_is_better else min
    return choose(found) if found else None


def differences(way: Way, other: Way, name: str) -> list[float]:
    """Return by how much a metric is above that of another way, for each seed that both have."""
    theirs = {outcome.seed: final(outcome, name) for outcome in other.outcomes}
    pairs = [(final(outcome, name), theirs.get(outcome.seed)) for outcome in way.outcomes]
    return [mine - their for mine, their in pairs if mine is not None and their is not None]


def mean_curve(way: Way, name: str) -> dict[int, Spread]:
    """Return a metric by round, over the seeds that have it."""
    by_round: dict[int, list[float]] = {}
    for outcome in way.outcomes:
        for number, metrics in outcome.curve.items():
            if name in metrics:
                by_round.setdefault(number, []).append(metrics[name])
    return {number: Spread.of(by_round[number]) for number in sorted(by_round)}


def mean_sent(way: Way) -> dict[int, float]:
    """Return the bytes that a device has sent until the end of each round, the mean over seeds."""
    numbers = sorted({number for outcome in way.outcomes for number in outcome.sent})
    return {
        number: statistics.mean(o.sent[number] for o in way.outcomes if number in o.sent)
        for number in numbers
    }


def _result(records: Sequence[RoundRecord], last: int) -> Metrics:
    return _means(record.metrics for record in records[-last:])


def _working_s(record: RoundRecord) -> float:
    return record.train_s + record.encode_s + record.exchange_s + record.fold_s


def _could_not_train(whose: Participant, record: RoundRecord) -> bool:
    """Tell whether nothing came of a round's training; out of turn, a peer does not begin any."""
    if record.loss is not None or not whose.learns:
        return False
    began = record.train_s > 0 or any("nothing published" in note for note in record.notes)
    return began or whose.role != "peer"


def _means(of: Iterable[Metrics]) -> Metrics:
    by_name: dict[str, list[float]] = {}
    for metrics in of:
        for name, value in metrics.items():
            by_name.setdefault(name, []).append(value)
    return {name: statistics.mean(values) for name, values in by_name.items()}


def _running_sum(records: Sequence[RoundRecord]) -> dict[int, int]:
    totals = accumulate(record.bytes_sent for record in records)
    return {record.round: total for record, total in zip(records, totals, strict=True)}


def _notes(run: Sequence[Participant]) -> list[str]:
    notes = []
    check_one_run(run)
    open_ = [each.name for each in run if each.summary is None or not each.summary.finished]
    if open_:
        notes.append(f"not ended: {', '.join(open_)}")
    # In the classic mode the server knows who was missing; its clients do not.
    incomplete = {r.round for each in run for r in each.records if r.missing}
    if incomplete:
        notes.append(f"somebody was missing when {len(incomplete)} of the rounds closed")
    trainers = [each for each in run if each.role != "server"]
    untrained = sum(_could_not_train(each, record) for each in trainers for record in each.records)
    if untrained:
        notes.append(f"{untrained} times a device could not train in a round")
    peers = [each for each in run if each.role == "peer"]
    if len(peers) > 1:
        judged = verdict([p.records for p in peers], max(p.records[-1].round for p in peers))
        if not judged.agreed:
            notes.append(judged.sentence)
    return notes
