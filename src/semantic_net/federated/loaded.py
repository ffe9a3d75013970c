"""A run before its first event: learner, machine and record, as an earlier process left them.

What can be wrong with a checkpoint is found here, before a socket opens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from semantic_net.config import AggregationConfig, Config, dump_config
from semantic_net.errors import CheckpointError, ConfigError
from semantic_net.federated.assembly import ALONE, MakeTransport, Process, assemble, turn_s
from semantic_net.federated.base_store import BaseStore
from semantic_net.federated.checkpoint import Checkpoint
from semantic_net.federated.facts import run_facts
from semantic_net.federated.folder import Identity, RunFolder
from semantic_net.federated.journal import by_id
from semantic_net.federated.learner import ModelLearner, fold_config_of
from semantic_net.federated.parts import ClosedRound, PeerParts, Runner
from semantic_net.federated.record_file import read_records, write_records
from semantic_net.federated.recording import Recording
from semantic_net.federated.security import security_mode
from semantic_net.federated.store import UpdateStore
from semantic_net.federated.transports import transport_of
from semantic_net.protocol.facts import differing_facts
from semantic_net.protocol.machine import PeerMachine
from semantic_net.protocol.update import UpdateId
from semantic_net.protocol.vitals import Vitals
from semantic_net.records import RoundRecord
from semantic_net.semantic.decoder import ParsedDelta
from semantic_net.semantic.rate import rate_controller
from semantic_net.semantic.schema import ModelSchema
from semantic_net.training.trainer import Trainer
from semantic_net.transport.base import Transport
from semantic_net.transport.device import DeviceIdentity

log = logging.getLogger(__name__)


class MakeLearner(Protocol):
    """Makes the model's side; `ModelLearner` is one."""

    def __call__(
        self,
        trainer: Trainer,
        aggregation: AggregationConfig,
        bases: BaseStore,
        *,
        base: UpdateId | None,
        cache_dir: Path | None,
    ) -> ModelLearner:
        """Return a learner; see `ModelLearner`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a peer on a device of its own has otherwise than one in a simulation."""

    make_learner: MakeLearner = ModelLearner
    make_transport: MakeTransport = transport_of
    process: Process = ALONE
    energy_of: Callable[[ClosedRound], float | None] = lambda closed: None


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """What a peer is made of, ready to begin or to go on."""

    config: Config
    folder: RunFolder
    identity: Identity
    learner: ModelLearner
    machine: PeerMachine
    transport: Transport
    store: UpdateStore[ParsedDelta]
    recording: Recording

    def parts(
        self,
        runner: Runner,
        on_round: Callable[[ClosedRound], Vitals | None],
    ) -> PeerParts[ParsedDelta]:
        """Return what the shell joins.

        Args:
            runner: Where the learner's work is done.
            on_round: Told of each round; ``recording.closed`` is to be called by it.
        """
        config, journal, learner = self.config, self.identity.journal, self.learner
        max_rate = None if config.p2p.max_rate is None else 1000 * config.p2p.max_rate
        return PeerParts(
            machine=self.machine,
            signer=self.identity.signer,
            transport=self.transport,
            learner=learner,
            store=self.store,
            bases=self.folder.bases,
            rate=rate_controller(
                config.semantic.resolved(config.p2p.turn_period), learner.schema, max_rate
            ),
            runner=runner,
            turn_s=turn_s(config.p2p),
            journal=lambda number, own: journal.author(number, own, learner.taken_back),
            on_round=on_round,
            keep_records=lambda records: write_records(self.folder.records, records),
            on_diverged=self.recording.diverged,
        )


def load_run(
    config: Config,
    folder: RunFolder,
    identity: Identity,
    incarnation: int,
    trainer: Trainer,
    checkpoint: Checkpoint | None,
    show: Callable[[RoundRecord], None],
    *,
    init: Path | None = None,
    device: DeviceIdentity | None = None,
    surroundings: Surroundings | None = None,
) -> LoadedRun:
    """Put together what a peer is made of, from a trainer and what the folder holds.

    Args:
        config: Of the run.
        folder: Of the peer.
        identity: Its key and journal.
        incarnation: Grows with every start.
        trainer: Of the initial model; gets the checkpoint's state.
        checkpoint: That the folder holds.
        show: Shows a round's record to a person.
        init: Weights given by hand, that the trainer's model has where there is no checkpoint.
        device: On which the peer runs, where devices are pinned.
        surroundings: Those of a simulation; None: of a device.

    Raises:
        CheckpointError: The checkpoint is damaged, or of another run.
        ConfigError: The privacy account and the configuration do not fit.
    """
    around = surroundings or Surroundings()
    schema = ModelSchema.of(trainer.model)
    fold_config = fold_config_of(schema, config.aggregation)
    facts = run_facts(config, trainer.task, schema, fold_config)
    journal = identity.journal
    if checkpoint is not None:
        if init is not None:
            log.warning(
                "--init %s is not used: the run goes on from its checkpoint in %s",
                init,
                folder.root,
            )
        _check_fits(checkpoint, facts, schema, folder)
        trainer.load_state(checkpoint.trainer)
        if journal.num_after(0):  # else nothing of this device's data has left it
            _check_account(checkpoint, trainer, folder)
    progress = checkpoint.progress if checkpoint is not None else None
    closed_round = progress.closed_round if progress is not None else 0
    # What was published after the last checkpoint has cost as much.
    trainer.count_lost_rounds(journal.num_after(closed_round))
    learner = around.make_learner(
        trainer,
        config.aggregation,
        folder.bases,
        base=bytes.fromhex(progress.base) if progress is not None else None,
        cache_dir=folder.cache,
    )
    learner.taken_back = journal.taken_back.copy()
    if checkpoint is not None and checkpoint.progress.residual_of == journal.last_id.hex() != "":
        learner.residual = checkpoint.residual.to(trainer.device)
        learner.changed_norm = checkpoint.progress.changed_norm
        learner.taken_back = by_id(checkpoint.progress.taken_back)
    assembled = assemble(
        config,
        identity,
        incarnation,
        learner,
        facts,
        base_given=progress.base_given if progress is not None else init is not None,
        device=device,
        updates_folder=folder.updates,
        records=read_records(folder.records) if device is not None else (),
        closed_round=closed_round,
        make_transport=around.make_transport,
        process=around.process,
    )
    machine, store = assembled.machine, assembled.store
    recording = Recording(
        config,
        trainer.task,
        folder,
        learner,
        machine,
        store,
        facts,
        progress,
        journal.last_round,
        show,
        around.energy_of,
    )
    if closed_round < config.training.rounds:
        resolved = replace(
            config,
            semantic=config.semantic.resolved(config.p2p.turn_period),
            security=replace(config.security, mode=security_mode(config)),
        )
        leave(folder.config, dump_config(resolved))  # else it says how the model was made
    return LoadedRun(
        config, folder, identity, learner, machine, assembled.transport, store, recording
    )


def leave(path: Path, text: str) -> None:
    """Write a file that nothing depends on; a full disk is a warning."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        log.warning("%s cannot be written: %s", path, exc.strerror)


def _check_account(checkpoint: Checkpoint, trainer: Trainer, folder: RunFolder) -> None:
    """Refuse to mix rounds with noise and rounds without: no promise would hold of them.

    Raises:
        ConfigError: The rounds so far were of the other kind.
    """
    was_private = "history" in dict(checkpoint.trainer.get("privacy", {}))
    is_private = trainer.is_private
    if was_private != is_private:
        before, now = ("with", "without") if was_private else ("without", "with")
        raise ConfigError(
            f"privacy.noise_multiplier: the rounds so far in {folder.root} were trained {before} "
            f"noise, and no epsilon holds if it goes on {now}; set it as before, or name another "
            "--out"
        )


def _check_fits(
    checkpoint: Checkpoint, facts: dict[str, str], schema: ModelSchema, folder: RunFolder
) -> None:
    differing = differing_facts(facts, checkpoint.progress.facts)
    if differing:
        raise CheckpointError(
            f"checkpoint {folder.checkpoint}: of another run ({'; '.join(differing)}, theirs being "
            "the checkpoint's); name another --out, or start afresh with --resume never"
        )
    residual_sizes = (schema.size,) if checkpoint.progress.residual_of else (0, schema.size)
    if checkpoint.residual.numel() not in residual_sizes:
        raise CheckpointError(
            f"checkpoint {folder.checkpoint}: damaged (its tensors are not the model's size); "
            "start afresh with --resume never"
        )
