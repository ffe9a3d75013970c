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

from semantic_net.config import Config
from semantic_net.federated.finding import discovery_of, load_discovery
from semantic_net.federated.folder import Identity, RunFolder
from semantic_net.federated.loaded import leave, load_run
from semantic_net.federated.page import load_page, page_address, page_of
from semantic_net.federated.peer import INTERRUPTED, Peer
from semantic_net.federated.runner import ThreadRunner
from semantic_net.federated.security import (
    device_of_run,
    known_addresses,
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
from semantic_net.records import RoundRecord
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
    loaded = load_run(
        config,
        folder,
        identity,
        incarnation,
        trainer,
        checkpoint,
        options.printer(config.training.rounds, task.metric),
        init=options.init,
        device=device,
    )
    machine, transport, recording = loaded.machine, loaded.transport, loaded.recording
    teller = Teller(
        StatusKeeper(
            machine,
            lambda other: peer.name(other),
            run=config.p2p.run,
            task=config.task.name,
            rounds=config.training.rounds,
        ),
        transport,
        StatusFile(folder.status),
        options.service,
        task.metric,
        show=options.on_status,
        preview=_preview(task, trainer),
        is_private=trainer.is_private,
    )
    runner = ThreadRunner()

    def listening(address: str) -> None:
        teller.keeper.address = address
        leave(folder.address, address + "\n")
        log.info("peer %s listens on %s, run %r", signer.peer_id, address, config.p2p.run)
        tell_who_may_join(config, device)
        if discovery is not None:
            discovery.start(address, lambda found: peer.found(found), known_addresses(device))
        options.service.ready()

    parts = loaded.parts(
        runner, lambda closed: teller.closed(recording.closed(closed), recording.totals)
    )
    peer = Peer(replace(parts, on_listening=listening, on_event=teller.keeper.saw))
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


def _preview(task: Task, trainer: Trainer) -> Callable[[], Sequence[Sample]] | None:
    """Return what the model makes of a few examples, if the task has pictures of that."""
    preview = task.preview
    if preview is None:
        return None
    return lambda: preview(trainer.model.eval(), trainer.device)
