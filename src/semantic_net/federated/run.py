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

import semantic_net
from semantic_net.aggregation.fold import FoldConfig
from semantic_net.aggregation.topology import FULL, needs_own_place
from semantic_net.config import Config, dump_config
from semantic_net.errors import CheckpointError, ConfigError, RemoteProtocolError
from semantic_net.federated.checkpoint import Checkpoint
from semantic_net.federated.dialled import addresses_to_dial
from semantic_net.federated.facts import run_facts
from semantic_net.federated.finding import discovery_of, load_discovery
from semantic_net.federated.folder import Identity, RunFolder
from semantic_net.federated.journal import by_id
from semantic_net.federated.learner import ModelLearner, fold_config_of
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
from semantic_net.federated.snapshot import max_base_bytes, origin_bytes
from semantic_net.federated.status import StatusKeeper
from semantic_net.federated.store import UpdateStore
from semantic_net.federated.teller import Teller, load_page, page_of
from semantic_net.federated.weights import load_into, load_state_dict
from semantic_net.monitoring.dashboard.access import host_and_port
from semantic_net.monitoring.progress import logged_if_long
from semantic_net.monitoring.sd_notify import ServiceManager
from semantic_net.monitoring.status_file import StatusFile
from semantic_net.monitoring.tracking import load_tensorboard
from semantic_net.protocol.bases import Base, BaseConfig
from semantic_net.protocol.handshake import HelloContent, differing_facts, run_digest
from semantic_net.protocol.identity import Signer
from semantic_net.protocol.machine import MachineConfig, PeerMachine
from semantic_net.protocol.membership import Membership, Record
from semantic_net.protocol.rounds import RoundsConfig
from semantic_net.protocol.update import Admission, Update
from semantic_net.protocol.update_set import UpdateSet
from semantic_net.records import RoundRecord
from semantic_net.semantic.decoder import ParsedDelta, max_payload_bytes
from semantic_net.semantic.rate import rate_controller
from semantic_net.semantic.schema import ModelSchema
from semantic_net.status import Sample, Status
from semantic_net.task.base import Task
from semantic_net.training.trainer import Trainer, make_initial_model
from semantic_net.transport.ad_hoc import AdHocTransport
from semantic_net.transport.device import DeviceIdentity
from semantic_net.transport.settings import TransportSettings

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
    if config.monitoring.tensorboard:
        load_tensorboard()
    if config.monitoring.dashboard is not None:
        host_and_port(config.monitoring.dashboard)
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
        with page_of(config, task, folder, machine.me, teller):
            async with teller:
                reason = await peer.run(stop)
                log.info("%s", reason)
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


@dataclass(frozen=True, slots=True)
class Assembled:
    """The parts of a peer that follow from its configuration, its key and its learner."""

    machine: PeerMachine
    transport: AdHocTransport
    store: UpdateStore[ParsedDelta]


def assemble(
    config: Config,
    identity: Identity,
    incarnation: int,
    learner: ModelLearner,
    facts: dict[str, str],
    *,
    base_given: bool = False,
    device: DeviceIdentity | None = None,
    updates_folder: Path | None = None,
    records: Sequence[Record] = (),
    closed_round: int = 0,
) -> Assembled:
    """Put a peer's machine, transport and store together, with what the folder holds."""
    signer, journal = identity.signer, identity.journal
    admission = Admission(run_digest(facts), lambda codec: max_payload_bytes(codec, learner.schema))
    budget = int(config.p2p.memory_budget_mb * 1e6)
    store: UpdateStore[ParsedDelta] = UpdateStore(
        learner.parse, updates_folder, budget, lambda parsed: parsed.own_bytes
    )
    history = learner.history
    loaded = list(store.load(admission))
    for unpublished in [u for u in loaded if _is_unpublished(u, identity)]:
        loaded.remove(unpublished)
        store.discard(unpublished.id)
    pins = None if device is None else device.pins()
    membership = None
    if device is not None and pins is not None:
        membership = _membership(config, device, signer, admission, records)
        membership.trust(pins.trust.standing())
    updates = UpdateSet(history, loaded, membership)
    passed = [update for update in loaded if update.id not in updates and update.id in store]
    base_size = len(learner.bases.read(learner.base))
    machine = PeerMachine(
        _machine_config(config, admission, incarnation, learner.fold_config),
        signer,
        Base.of(learner.base, base_size, history, given=base_given),
        updates,
        passed=passed,
        taken_back=learner.taken_back,
        last_own=next((u for u in loaded if u.id == journal.last_id), None),
        closed_round=closed_round,
        authored_round=journal.last_round,
        membership=membership,
    )
    transport = AdHocTransport(
        signer,
        _transport_settings(config),
        HelloContent(
            facts,
            incarnation,
            f"semantic-net {semantic_net.__version__}",
            endorsement=b"" if device is None else device.endorse(signer.public_key),
        ),
        pins=pins,
    )
    return Assembled(machine, transport, store)


def _leave(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        log.warning("%s cannot be written: %s", path, exc.strerror)


def _machine_config(
    config: Config, admission: Admission, incarnation: int, fold: FoldConfig
) -> MachineConfig:
    p2p = config.p2p
    disk_budget = int(p2p.disk_budget_mb * 1e6)
    return MachineConfig(
        rounds=RoundsConfig(
            rounds=config.training.rounds,
            listen_timeout_s=p2p.listen_timeout_s,
            start_timeout_s=p2p.start_timeout_s,
            # Whoever is there says something within that time, or would count as gone.
            settle_s=p2p.liveness_s if p2p.discovery != "static" else 0.0,
            # In a graph over the whole list most of them are no neighbours.
            num_peers=len(p2p.peers) - 1 if needs_own_place(p2p.topology) else 0,
            quorum=p2p.quorum,
            overlaps=p2p.overlap,
            observes=p2p.observe,
        ),
        bases=BaseConfig(
            every=p2p.base_every,
            origin_bytes=origin_bytes(fold),
            max_bytes=max_base_bytes(fold),
            budget_bytes=disk_budget // 2,
            own_passed_bytes=disk_budget * 3 // 8,
            others_passed_bytes=disk_budget // 8,
            max_liars=config.security.max_liars,
        ),
        admission=admission,
        incarnation=incarnation,
        heartbeat_s=p2p.beat_s,
        liveness_s=p2p.liveness_s,
        dials_learned=p2p.topology == FULL,
        max_liars=config.security.max_liars,
        watches=config.monitoring.dashboard is not None,
    )


def _preview(task: Task, trainer: Trainer) -> Callable[[], Sequence[Sample]] | None:
    """Return what the model makes of a few examples, if the task has pictures of that."""
    preview = task.preview
    if preview is None:
        return None
    return lambda: preview(trainer.model.eval(), trainer.device)


def _membership(
    config: Config,
    device: DeviceIdentity,
    peer: Signer,
    admission: Admission,
    records: Sequence[Record],
) -> Membership:
    """Return whose updates count, as far as the trust file and an earlier process know."""
    votes = config.security.max_liars + 1
    membership = Membership(device.signer, peer, admission.run, votes=votes)
    try:
        for record in records:
            membership.take(record)
        membership.settle()
    except RemoteProtocolError as exc:  # the others will tell
        log.warning("what other devices have said before is not used: %s", exc)
    return membership


def _transport_settings(config: Config) -> TransportSettings:
    p2p = config.p2p
    return TransportSettings(
        host=p2p.host,
        port=p2p.port,
        peers=addresses_to_dial(p2p),
        liveness_s=p2p.liveness_s,
        max_rate_bytes_s=None if p2p.max_rate is None else 1000 * p2p.max_rate,
    )


def _is_unpublished(update: Update, identity: Identity) -> bool:
    """Tell whether an own update was stored but not journaled: no byte of it has left."""
    is_own = update.author == identity.signer.peer_id
    return is_own and update.round > identity.journal.last_round


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
