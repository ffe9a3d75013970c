"""What the processes of one run have left, read from their folders: nothing else is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from semantic_net.errors import DataError
from semantic_net.monitoring.recorder import ROUNDS_FILE, SUMMARY_FILE, read_rounds
from semantic_net.monitoring.text import main_metric
from semantic_net.records import NOISE, Role, RoundRecord, Summary

MAX_NAMES = 4
"""Of processes that a message tells."""


@dataclass(frozen=True, slots=True)
class Participant:
    """One process of a run."""

    name: str
    records: tuple[RoundRecord, ...]
    """By ascending round, one a round: the last that it left of each."""
    summary: Summary | None
    """None where it has not come to its end, or to an interruption in good order."""

    @property
    def role(self) -> Role:
        """What kind of a process it was; its records tell it where there is no summary."""
        if self.summary is not None:
            return self.summary.role
        last = self.records[-1]
        if last.peer == "server":
            return "server"
        return _BY_CLOSE_REASON.get(last.close_reason, "peer")

    @property
    def energy_j(self) -> float | None:
        """Joules of all rounds; None where those of one are not known."""
        known = [record.energy_j for record in self.records if record.energy_j is not None]
        return sum(known) if len(known) == len(self.records) else None

    @property
    def learns(self) -> bool:
        """Whether there was anything to learn; noise teaches nobody."""
        return self.summary is None or self.summary.mode != NOISE


_BY_CLOSE_REASON: dict[str, Role] = {"server": "client", "alone": "single"}


def read_run(folder: Path) -> list[Participant]:
    """Return who took part in a run, by name.

    Args:
        folder: One process' own (``--out``), or one that holds such folders.

    Raises:
        DataError: No record of a run is there, or one cannot be read.
    """
    folders = (
        [folder]
        if (folder / ROUNDS_FILE).exists()
        else sorted(path.parent for path in folder.glob(f"*/{ROUNDS_FILE}"))
    )
    found = [_read(each) for each in folders]
    found = [each for each in found if each.records]
    if not found:
        deeper = sorted({str(path.parent.parent) for path in folder.glob(f"*/*/**/{ROUNDS_FILE}")})
        hint = f"; there are some in {', '.join(deeper[:4])}" if deeper else ""
        raise DataError(f"{folder}: no run's record ({ROUNDS_FILE}) in it or a folder of it{hint}")
    return found


def names_of(run: Sequence[Participant]) -> str:
    """Return the names of who took part, of a fleet the first few."""
    more = f" and {len(run) - MAX_NAMES} more" if len(run) > MAX_NAMES else ""
    return ", ".join(each.name for each in run[:MAX_NAMES]) + more


def check_one_run(run: Sequence[Participant]) -> None:
    """Refuse what cannot have been one run.

    Raises:
        DataError: The processes learned different tasks.
    """
    tasks = sorted({each.summary.task for each in run if each.summary is not None})
    if len(tasks) > 1:
        raise DataError(
            f"{names_of(run)}: of more than one run: {', '.join(tasks)}; give the folder of one run"
        )


def main_metric_of(run: Sequence[Participant]) -> tuple[str, bool]:
    """Return the name of a run's main metric, and whether higher is better."""
    for each in run:
        if each.summary is not None and each.summary.metric and each.role != "server":
            return each.summary.metric, each.summary.higher_is_better
    for each in run:
        if (name := main_metric(each.records[-1].metrics)) is not None:
            return name, each.summary.higher_is_better if each.summary is not None else True
    return "", True


def _read(folder: Path) -> Participant:
    by_round = {record.round: record for record in read_rounds(folder / ROUNDS_FILE)}
    path = folder / SUMMARY_FILE
    try:
        summary = msgspec.json.decode(path.read_bytes(), type=Summary)
    except FileNotFoundError:
        summary = None
    except (OSError, msgspec.DecodeError) as exc:
        raise DataError(f"{path}: cannot be read: {exc}") from exc
    return Participant(folder.name, tuple(by_round[n] for n in sorted(by_round)), summary)
