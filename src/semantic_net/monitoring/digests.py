"""Whether peers hold one model: their records' digests compared, round by round. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from semantic_net.records import RoundRecord


class Agreement(Enum):
    """What the records of one round say together."""

    OPEN = "not all peers have recorded it"
    EQUAL = "one digest"
    OTHER_UPDATES = "not all peers had the same updates when they closed it"
    UNEQUAL = "unequal digests of the same updates: a bug"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the records of a whole run say together."""

    agreed: bool
    """One digest on all peers in every round of the run."""
    sentence: str
    state_digest: str
    """Of the last round, where all agree on it; empty otherwise."""


def agreement(records: Sequence[RoundRecord | None]) -> Agreement:
    """Compare one round's records, one a peer; None stands for a peer that has none."""
    known = [record for record in records if record is not None]
    by_set: dict[str, set[str]] = {}
    for record in known:
        by_set.setdefault(record.set_digest, set()).add(record.state_digest)
    if any(len(states) > 1 for states in by_set.values()):
        return Agreement.UNEQUAL
    if len(by_set) > 1:
        return Agreement.OTHER_UPDATES
    return Agreement.EQUAL if known and len(known) == len(records) else Agreement.OPEN


def verdict(histories: Sequence[Sequence[RoundRecord]], rounds: int) -> Verdict:
    """Judge a whole run.

    Args:
        histories: The records of each peer.
        rounds: Rounds that each peer should have recorded.
    """
    by_round = [{record.round: record for record in history} for history in histories]
    numbers = range(1, rounds + 1)
    found = {n: agreement([records.get(n) for records in by_round]) for n in numbers}
    others = [(n, each) for n, each in found.items() if each is not Agreement.EQUAL]
    if others or not histories:
        told = "state_digest NOT equal: "
        if Agreement.UNEQUAL not in found.values():  # digests of other updates say nothing
            num_equal = rounds - len(others)
            told = f"state_digest unequal in no round, equal in {num_equal} of {rounds}; "
        else:
            others.sort(key=lambda other: other[1] is not Agreement.UNEQUAL)
        whys = "; ".join(f"round {number}: {each.value}" for number, each in others[:3])
        more = f"; and {len(others) - 3} more rounds" if len(others) > 3 else ""
        return Verdict(False, f"{told}{whys}{more}", "")
    digest = by_round[0][rounds].state_digest
    sentence = f"state_digest equal on all {len(histories)} peers in all {rounds} rounds: {digest}"
    return Verdict(True, sentence, digest)
