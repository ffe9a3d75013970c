"""From a closed round to what a person and the next process find: record, model, checkpoint."""

from __future__ import annotations

import logging
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

import semantic_net
from semantic_net.config import Config
from semantic_net.errors import OutputError
from semantic_net.federated.checkpoint import Checkpoint, Progress
from semantic_net.federated.folder import RunFolder
from semantic_net.federated.journal import by_name
from semantic_net.federated.learner import ModelLearner
from semantic_net.federated.parts import ClosedRound
from semantic_net.federated.store import UpdateStore
from semantic_net.federated.weights import save_state_dict, write_atomically
from semantic_net.monitoring.recorder import Recorder
from semantic_net.monitoring.tracking import Tracker
from semantic_net.protocol.actions import Diverged
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.machine import PeerMachine
from semantic_net.protocol.update import Update
from semantic_net.records import DeviceRecord, Divergence, HeldUpdate, Role, RoundRecord, Summary
from semantic_net.semantic.decoder import ParsedDelta
from semantic_net.task.base import Task

log = logging.getLogger(__name__)

MAX_DIVERGENCES = 16
"""Reports of divergences that a folder holds."""


class Recording:
    """Everything that a run leaves in its folder, round by round and at its end."""

    def __init__(
        self,
        config: Config,
        task: Task,
        folder: RunFolder,
        learner: ModelLearner,
        machine: PeerMachine,
        store: UpdateStore[ParsedDelta],
        facts: dict[str, str],
        progress: Progress | None,
        authored_round: int,
        show: Callable[[RoundRecord], None],
        energy_of: Callable[[ClosedRound], float | None] = lambda closed: None,
    ) -> None:
        """Go on after an earlier process, or start a new record.

        Args:
            config: Of the run.
            task: What is learned.
            folder: Where everything goes.
            learner: The model's side.
            machine: The protocol's side.
            store: The payloads.
            facts: Of the run.
            progress: The checkpoint's; None without one.
            authored_round: The last round that this peer has signed an update for.
            show: Shows a round to a person.
            energy_of: Tells what a round has taken, if that is known.
        """
        self._energy_of = energy_of
        self._config = config
        self._task = task
        self._folder = folder
        self._learner = learner
        self._machine = machine
        self._facts = facts
        self._store = store
        self._show = show
        closed_round = self._closed_round = progress.closed_round if progress else 0
        self._base = progress.base if progress else learner.base.hex()  # of the last checkpoint
        # Rounds that were recorded after the checkpoint are not run again, but for the last of
        # all: its model is folded once more, and what this peer did in it stands.
        last = config.training.rounds
        closes_last_again = closed_round < last <= authored_round
        kept_to = last - 1 if closes_last_again else max(closed_round, authored_round)
        self._recorder = Recorder(folder.root, kept_to)
        self._tracker = Tracker(folder.tensorboard) if config.monitoring.tensorboard else None
        if self._tracker is not None:
            self._tracker.start(self._recorder.resumed)
        self._before = {record.round: record for record in self._recorder.dropped}
        self._totals = dict(progress.totals) if progress else {}
        self._best_round = progress.best_round if progress else None
        self._best_metrics = progress.best_metrics if progress else {}
        self._last: RoundRecord | None = None
        self._notes: list[str] = []
        self._told_of_metric = False
        for record in self._recorder.resumed:
            if record.round > closed_round:
                self._count(record)

    @property
    def totals(self) -> Mapping[str, float]:
        """What the run has taken so far, earlier processes of it included."""
        return self._totals

    def closed(self, closed: ClosedRound) -> RoundRecord:
        """Record a round, keep the model if it is the best, write a checkpoint if one is due."""
        record = self._record(closed)
        self._last, self._closed_round = record, record.round
        self._notes.clear()
        if self._count(record):
            self._save_model(best=True)
        # First the record: a resumed run may drop one, but cannot make any up.
        self._recorder.record(record)
        if self._tracker is not None:
            self._tracker.record(record)
        log.debug("recorded: %s", msgspec.json.encode(record).decode())
        self._show(record)
        every = self._config.p2p.checkpoint_every
        # Until a checkpoint stands on the new base, everything that the old one needs must stay.
        if (every and record.round % every == 0) or self._learner.base.hex() != self._base:
            self.checkpoint()
        self._clear_away()
        return record

    def diverged(self, report: Diverged, held: Sequence[Update]) -> None:
        """Write down from what the state was folded that another peer says it has not."""
        slots = Counter((update.round, update.author) for update in held)
        divergence = Divergence(
            peer=self._machine.me,
            other=report.peer,
            round=report.round,
            base=self._learner.base.hex(),
            set_digest=report.set_digest.hex(),
            state_digest=report.ours.hex(),
            other_state_digest=report.theirs.hex(),
            updates=[
                HeldUpdate(
                    round=update.round,
                    author=update.author,
                    id=update.id.hex(),
                    weight=update.weight,
                    codec=update.codec,
                    payload_bytes=update.payload_bytes,
                    payload_hash=update.payload_hash.hex(),
                    void=slots[update.round, update.author] > 1,
                )
                for update in held
            ],
            versions=_versions(),
        )
        if len(list(self._folder.root.glob("diverged-*.json"))) >= MAX_DIVERGENCES:
            return  # one tells as much as a hundred, and anyone may claim one
        path = self._folder.root / f"diverged-{report.round:06d}-{report.peer[:8]}.json"
        text = msgspec.json.format(msgspec.json.encode(divergence), indent=1)
        try:
            write_atomically(path, lambda part: _write(part, text))
            log.error("what this peer holds of round %d is in %s", report.round, path)
        except OSError as exc:
            self._warn(path, exc)

    def checkpoint(self) -> None:
        """Write everything that the next process needs; a full disk is a warning."""
        self._save_model(best=False)
        self._store.persist(self._machine.updates.evidence())
        learner, own = self._learner, self._machine.rounds.last_own
        residual = learner.residual
        progress = Progress(
            facts=self._facts,
            closed_round=self._closed_round,
            base=learner.base.hex(),
            frontier=learner.history.frontier,
            base_given=self._machine.base.given,
            residual_of=own.id.hex() if own is not None and residual is not None else "",
            changed_norm=learner.changed_norm,
            taken_back=by_name(learner.taken_back),
            best_round=self._best_round,
            best_metrics=self._best_metrics,
            totals=self._totals,
            trainer={},
        )
        checkpoint = Checkpoint(
            progress,
            residual if residual is not None else torch.empty(0),
            learner.trainer.state(),
        )
        try:
            self._folder.progress.save(checkpoint)
            self._base = progress.base
        except OSError as exc:
            self._warn(self._folder.checkpoint, exc)

    def _clear_away(self) -> None:
        """Remove what neither this process nor the next one needs of rounds that are compacted."""
        learner, machine, kept = self._learner, self._machine, self._folder.progress
        frontier = learner.history.frontier if kept.frontier is None else kept.frontier
        try:
            self._store.remove_files(frontier)
            self._folder.bases.keep_only(lambda: {learner.base, *kept.bases, *machine.bases_needed})
        except OSError as exc:
            self._warn(self._folder.checkpoint, exc)

    def finish(self, *, finished: bool, refused_by: Sequence[str] = ()) -> None:
        """Write the last checkpoint and the summary.

        Args:
            finished: The run has come to its end.
            refused_by: Who has turned this peer away to the end.

        Raises:
            OutputError: The model or the checkpoint cannot be written.
        """
        self._notes.clear()
        if self._last is not None or self._machine.rounds.last_own is not None:
            self._learner.restore()  # an interrupted round leaves what this peer alone has learned
            self.checkpoint()
            self._clear_away()
        if self._last is not None:
            self._recorder.summary(self._summary(self._last, finished, refused_by))
        self.abandon()
        if self._notes:
            raise OutputError("; ".join(self._notes).replace(", the run goes on", ""))

    def abandon(self) -> None:
        """Close what is open, and write nothing more: as a crash leaves it."""
        self._recorder.close()
        if self._tracker is not None:
            self._tracker.close()

    def _record(self, closed: ClosedRound) -> RoundRecord:
        facts = closed.facts
        delta, energy_j = self._config.privacy.delta, self._energy_of(closed)
        record = record_of(closed, self._machine.me, delta, self._notes, energy_j)
        before = self._before.get(record.round)
        return record if before is None or facts.payload_bytes else _joined(before, record)

    def _count(self, record: RoundRecord) -> bool:
        """Add a round to the totals; tell whether it is the best so far."""
        add_to(self._totals, record)
        is_best = self._is_best(record.metrics)
        if is_best:
            self._best_round, self._best_metrics = record.round, record.metrics
        return is_best

    def _is_best(self, metrics: dict[str, float]) -> bool:
        name = self._task.metric or next(iter(metrics), "")
        if name not in metrics:
            if metrics and not self._told_of_metric:
                self._told_of_metric = True
                known = ", ".join(metrics)
                log.warning("the task's metric %r is not among %s: no best model", name, known)
            return False
        before = self._best_metrics.get(name)
        if before is None:
            return True
        return metrics[name] > before if self._task.higher_is_better else metrics[name] < before

    def _save_model(self, *, best: bool) -> None:
        path = self._folder.best_model if best else self._folder.model
        state: dict[str, Tensor] = self._learner.trainer.model.state_dict()
        metadata = {"task": self._config.task.name, "run": self._config.p2p.run}
        try:
            save_state_dict(path, state, metadata)
        except OSError as exc:
            self._warn(path, exc)

    def _warn(self, path: Path, exc: OSError) -> None:
        """Say that a disk is full or read-only, in the log and in the next record."""
        text = f"{path} cannot be written, the run goes on: {exc.strerror or exc}"
        log.warning("%s", text)
        self._notes.append(text)

    def _summary(self, last: RoundRecord, finished: bool, refused_by: Sequence[str]) -> Summary:
        summary = summary_of(
            self._config,
            last,
            self._totals,
            metric=self._task.metric,
            higher_is_better=self._task.higher_is_better,
            finished=finished,
            best_round=self._best_round,
            best_metrics=self._best_metrics,
            num_parameters=self._learner.schema.num_parameters,
        )
        return msgspec.structs.replace(
            summary, devices=self._devices(), refused_by=list(refused_by)
        )

    def _devices(self) -> list[DeviceRecord]:
        membership = self._machine.membership
        return [
            DeviceRecord(id=each.id, name=each.name, peers=list(each.peers), out_from=each.out_from)
            for each in (membership.devices() if membership is not None else ())
        ]


def record_of(
    closed: ClosedRound,
    peer: PeerId,
    delta: float,
    notes: Sequence[str] = (),
    energy_j: float | None = None,
) -> RoundRecord:
    """Return the record of a closed round.

    Args:
        closed: What the shell says of it.
        peer: Whose it is.
        delta: The chance that a promise of privacy does not hold, where there is one.
        notes: What a person should know beside the shell's own.
        energy_j: What the round has taken, if that is known.
    """
    close, facts = closed.close, closed.facts
    return RoundRecord(
        round=close.round,
        peer=peer,
        time_s=round(closed.time_s, 4),
        train_s=round(facts.train_s, 4),
        encode_s=round(facts.encode_s, 4),
        exchange_s=round(closed.exchange_s, 4),
        fold_s=round(closed.fold_s, 4),
        loss=facts.loss,
        metrics=closed.metrics,
        epsilon=facts.epsilon,
        delta=None if facts.epsilon is None else delta,
        codec=facts.codec,
        codec_reason=facts.codec_reason,
        payload_bytes=facts.payload_bytes,
        dense_bytes=facts.dense_bytes,
        bytes_sent=closed.sent,
        bytes_received=closed.received,
        updates_in=list(closed.authors),
        missing=list(close.missing),
        unreachable=list(close.unreachable),
        close_reason=close.reason,
        state_digest=closed.state_digest.hex(),
        set_digest=close.plan.set_digest.hex(),
        num_examples=facts.num_examples,
        rejected=facts.rejected,
        energy_j=energy_j,
        notes=[*facts.notes, *notes],
    )


def add_to(totals: dict[str, float], record: RoundRecord) -> None:
    """Add a round to what a run has taken so far."""
    for key in ("bytes_sent", "bytes_received", "payload_bytes", "dense_bytes", "time_s"):
        totals[key] = totals.get(key, 0) + getattr(record, key)
    if record.energy_j is not None:
        totals["energy_j"] = totals.get("energy_j", 0) + record.energy_j


def summary_of(
    config: Config,
    last: RoundRecord,
    totals: dict[str, float],
    *,
    metric: str,
    higher_is_better: bool,
    finished: bool,
    best_round: int | None,
    best_metrics: dict[str, float],
    num_parameters: int,
    role: Role = "peer",
) -> Summary:
    """Return a run as a whole, from its last round and what `add_to` has added up."""
    payload, dense = totals["payload_bytes"], totals["dense_bytes"]
    return Summary(
        peer=last.peer,
        role=role,
        task=config.task.name,
        mode=config.semantic.trade.mode,
        rounds=last.round,
        finished=finished,
        metrics=last.metrics,
        metric=metric or next(iter(last.metrics), ""),
        higher_is_better=higher_is_better,
        best_round=best_round,
        best_metrics=best_metrics,
        bytes_sent=int(totals["bytes_sent"]),
        bytes_received=int(totals["bytes_received"]),
        payload_bytes=int(payload),
        dense_bytes=int(dense),
        compression_ratio=round(dense / payload, 3) if payload else 1.0,
        time_s=round(totals["time_s"], 3),
        energy_j=round(totals["energy_j"], 3) if "energy_j" in totals else None,
        state_digest=last.state_digest,
        set_digest=last.set_digest,
        num_parameters=num_parameters,
        versions=_versions(),
    )


def _joined(before: RoundRecord, again: RoundRecord) -> RoundRecord:
    """Return the record of a round that was only closed again: what was done in it, once."""
    return msgspec.structs.replace(
        again,
        loss=before.loss,
        num_examples=before.num_examples,
        payload_bytes=before.payload_bytes,
        dense_bytes=before.dense_bytes,
        epsilon=before.epsilon,
        delta=before.delta,
        train_s=before.train_s,
        encode_s=before.encode_s,
        time_s=before.time_s + again.time_s,
        bytes_sent=before.bytes_sent + again.bytes_sent,
        bytes_received=before.bytes_received + again.bytes_received,
    )


def _versions() -> dict[str, str]:
    return {
        "semantic-net": semantic_net.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # not a str by itself
        "numpy": np.__version__,
    }


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
