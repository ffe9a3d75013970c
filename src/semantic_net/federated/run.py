"""A peer from a configuration and a folder: the parts put together, run, and taken apart.

Order matters: everything that can be wrong is found before a socket opens, and what a run has
learned is on disk before it ends, however it ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from semantic_net.config import Config, dump_config
from semantic_net.errors import CheckpointError, ConfigError
from semantic_net.federated.assembly import assemble
from semantic_net.federated.checkpoint import Checkpoint
from semantic_net.federated.facts import run_facts
from semantic_net.federated.finding import discovery_of, load_discovery
from semantic_net.federated.folder import Identity, RunFolder
from semantic_net.federated.journal import by_id
from semantic_net.federated.learner import ModelLearner, fold_config_of
from semantic_net.federated.page import load_page, page_address, page_of
from semantic_net.federated.parts import PeerParts
from semantic_net.federated.peer import INTERRUPTED, Peer
from semantic_net.federated.record_file import read_records, write_records
from semantic_net.federated.recording import Recording
from semantic_net.federated.runner import ThreadRunner
from semantic_net.federated.security import (
    device_of_run,
    known_addresses,
    security_mode,
    tell_who_may_join,
    with_known_addresses,
)
from semantic_net.federated.shards import load_own, seed_of_peer
from semantic_net.federated.status import StatusKeeper
from semantic_net.federated.teller import Teller
from semantic_net.federated.transports import load_zenoh
from semantic_net.federated.weights import load_into, load_state_dict
from semantic_net.monitoring.progress import logged_if_long
from semantic_net.monitoring.sd_notify import ServiceManager
from semantic_net.monitoring.status_file import StatusFile
from semantic_net.monitoring.tracking import load_tensorboard
from semantic_net.protocol.facts import differing_facts
from semantic_net.records import RoundRecord
from semantic_net.semantic.rate import rate_controller
from semantic_net.semantic.schema import ModelSchema
from semantic_net.status import Sample, Status
from semantic_net.task.base import Task
from semantic_net.training.trainer import Trainer, make_initial_model
from semantic_net.transport.device import DeviceIdentity

log = logging.getLogger(__name__)


def _unseen(record: RoundRecord) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a command says beside the configuration."""

    resume: bool = True
    """Go on from the folder's checkpoint, if there is one."""
    init: Path | None = None
    """Weights to start from instead of random ones."""
    device_folder: Path | None = None
    """Where this device's key lies; mode pinned needs it."""
    printer: Callable[[int, str], Callable[[RoundRecord], None]] = lambda rounds, metric: _unseen
    """Makes what shows each record to a person, from the number of rounds and the main metric."""
    on_status: Callable[[Status], None] = lambda status: None
    """Told what the peer is at, about once a second; in a thread, which it may hold up."""
    service: ServiceManager = field(default_factory=ServiceManager)
    """Told when the peer listens, what it is at, and that it ends."""


async def run_peer(
    config: Config, folder: RunFolder, options: RunOptions, stop: asyncio.Event
) -> bool:
    """Run one peer to its last round, or until ``stop`` is set.

    Returns:
        Whether the run came to its end, rather than being interrupted.

    Raises:
        ConfigError: The configuration does not fit the task.
        StartError: The data, the checkpoint or the port is not usable.
    """
    _check_extras(config)
    if not options.resume:
        folder.forget()
    device = device_of_run(config, options.device_folder)
    if device is not None:
        config = with_known_addresses(config, device)
    identity = folder.identity()
    try:
        return await _run(config, folder, options, identity, device, stop)
    finally:
        options.service.close()
        identity.journal.close()


def _check_extras(config: Config) -> None:
    """Find out what is missing before an earlier run is put away for this one."""
    load_discovery(config.p2p)
    load_zenoh(config.p2p)
    if config.monitoring.tensorboard:
        load_tensorboard()
    if config.monitoring.dashboard is not None:
        page_address(config.monitoring.dashboard)
        load_page()


async def _run(
    config: Config,
    folder: RunFolder,
    options: RunOptions,
    identity: Identity,
    device: DeviceIdentity | None,
    stop: asyncio.Event,
) -> bool:
    signer, journal = identity.signer, identity.journal
    discovery = discovery_of(config.p2p, signer.peer_id)
    incarnation = journal.start(floor=time.time_ns())
    if config.training.num_threads is not None:
        torch.set_num_threads(config.training.num_threads)
    # A named shard makes an experiment that can be repeated; a device has its key.
    shard = config.data.partition.shard
    seed = seed_of_peer(signer.peer_id) if shard is None else shard
    observes = config.p2p.observe
    with logged_if_long("preparing the data"):
        # Not in this thread: a second signal must get in.
        task = await asyncio.to_thread(load_own, config, seed, observe=observes)
    model = make_initial_model(task, config.task.seed, config.training.local_layers)
    checkpoint = folder.progress.load()
    if options.init is not None and checkpoint is None:
        load_into(model, load_state_dict(options.init), str(options.init))
    trainer = Trainer(task, config.training, seed=seed, model=model, privacy=config.privacy)
    schema = ModelSchema.of(trainer.model)
    facts = run_facts(config, task, schema, fold_config_of(schema, config.aggregation))
    if checkpoint is not None:
        if options.init is not None:
            log.warning(
                "--init %s is not used: the run goes on from its checkpoint in %s",
                options.init,
                folder.root,
            )
        _check_fits(checkpoint, facts, schema, folder)
        trainer.load_state(checkpoint.trainer)
        if journal.num_after(0):  # else nothing of this device's data has left it
            _check_account(checkpoint, trainer, folder)
    # What was published after the last checkpoint has cost as much.
    closed = checkpoint.progress.closed_round if checkpoint is not None else 0
    trainer.count_lost_rounds(journal.num_after(closed))
    learner = ModelLearner(
        trainer,
        config.aggregation,
        folder.bases,
        base=bytes.fromhex(checkpoint.progress.base) if checkpoint else None,
        cache_dir=folder.cache,
    )
    base_given = checkpoint.progress.base_given if checkpoint else options.init is not None
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
        base_given=base_given,
        device=device,
        updates_folder=folder.updates,
        records=read_records(folder.records) if device is not None else (),
        closed_round=checkpoint.progress.closed_round if checkpoint else 0,
    )
    machine, store = assembled.machine, assembled.store
    recording = Recording(
        config,
        task,
        folder,
        learner,
        machine,
        store,
        facts,
        checkpoint.progress if checkpoint else None,
        journal.last_round,
        options.printer(config.training.rounds, task.metric),
    )
    if checkpoint is None or checkpoint.progress.closed_round < config.training.rounds:
        resolved = replace(
            config,
            semantic=config.semantic.resolved(),
            security=replace(config.security, mode=security_mode(config)),
        )
        _leave(folder.config, dump_config(resolved))  # else it says how the model was made
    teller = Teller(
        StatusKeeper(
            machine,
            lambda other: peer.name(other),
            run=config.p2p.run,
            task=config.task.name,
            rounds=config.training.rounds,
        ),
        assembled.transport,
        StatusFile(folder.status),
        options.service,
        task.metric,
        show=options.on_status,
        preview=_preview(task, trainer),
        is_private=trainer.private is not None,
    )
    runner = ThreadRunner()
    max_rate = None if config.p2p.max_rate is None else 1000 * config.p2p.max_rate

    def listening(address: str) -> None:
        teller.keeper.address = address
        _leave(folder.address, address + "\n")
        log.info("peer %s listens on %s, run %r", signer.peer_id, address, config.p2p.run)
        tell_who_may_join(config, device)
        if discovery is not None:
            discovery.start(address, assembled.transport.add_address, known_addresses(device))
        options.service.ready()

    peer = Peer(
        PeerParts(
            machine=machine,
            signer=signer,
            transport=assembled.transport,
            learner=learner,
            store=store,
            bases=folder.bases,
            rate=rate_controller(config.semantic, schema, max_rate),
            runner=runner,
            journal=lambda number, own: journal.author(number, own, learner.taken_back),
            on_round=lambda closed: teller.closed(recording.closed(closed), recording.totals),
            keep_records=lambda records: write_records(folder.records, records),
            on_diverged=recording.diverged,
            on_listening=listening,
            on_event=teller.keeper.saw,
        )
    )
    reason = None
    try:
        with page_of(config, folder.root, machine.me, teller):
            async with teller:
                reason = await peer.run(stop)
                log.info("%s; what it leaves is in %s", reason, folder.root)
                if peer.refused_by:
                    log.warning("turned away to the end by %s", "; ".join(peer.refused_by))
    finally:
        if discovery is not None:
            await discovery.close()
        options.service.stopping()
        # Not in this thread: it waits for a training step, and a second signal must still get in.
        await asyncio.to_thread(runner.close)
        recording.finish(finished=reason not in (None, INTERRUPTED), refused_by=peer.refused_by)
    return reason != INTERRUPTED


def _leave(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        log.warning("%s cannot be written: %s", path, exc.strerror)


def _preview(task: Task, trainer: Trainer) -> Callable[[], Sequence[Sample]] | None:
    """Return what the model makes of a few examples, if the task has pictures of that."""
    preview = task.preview
    if preview is None:
        return None
    return lambda: preview(trainer.model.eval(), trainer.device)


def _check_account(checkpoint: Checkpoint, trainer: Trainer, folder: RunFolder) -> None:
    """Refuse to mix rounds with noise and rounds without: no promise would hold of them.

    Raises:
        ConfigError: The rounds so far were of the other kind.
    """
    was_private = "history" in dict(checkpoint.trainer.get("privacy", {}))
    is_private = trainer.private is not None
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
