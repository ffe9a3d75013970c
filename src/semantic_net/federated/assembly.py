"""The parts of a peer that follow from its configuration, its key and its learner.

Here a configuration's words become the machine's; what the protocol's parts need to know, they are
told nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import semantic_net
from semantic_net.aggregation.fold import FoldConfig
from semantic_net.aggregation.topology import FULL, needs_own_place
from semantic_net.config import Config
from semantic_net.errors import RemoteProtocolError
from semantic_net.federated.folder import Identity
from semantic_net.federated.learner import ModelLearner
from semantic_net.federated.snapshot import max_base_bytes, origin_bytes
from semantic_net.federated.store import UpdateStore
from semantic_net.federated.transports import transport_of
from semantic_net.protocol.bases import Base, BaseConfig
from semantic_net.protocol.facts import run_digest
from semantic_net.protocol.handshake import HelloContent
from semantic_net.protocol.identity import Signer
from semantic_net.protocol.machine import MachineConfig, PeerMachine
from semantic_net.protocol.membership import Membership, Record
from semantic_net.protocol.rounds import RoundsConfig
from semantic_net.protocol.update import Admission, Update
from semantic_net.protocol.update_set import UpdateSet
from semantic_net.semantic.decoder import ParsedDelta, max_payload_bytes
from semantic_net.transport.base import Transport
from semantic_net.transport.device import DeviceIdentity

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Assembled:
    """The parts of a peer that follow from its configuration, its key and its learner."""

    machine: PeerMachine
    transport: Transport
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
    hello = HelloContent(
        facts,
        incarnation,
        f"semantic-net {semantic_net.__version__}",
        endorsement=b"" if device is None else device.endorse(signer.public_key),
    )
    transport = transport_of(config, signer, hello, pins)
    return Assembled(machine, transport, store)


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
            settle_s=p2p.liveness_s if p2p.finds_peers else 0.0,
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


def _is_unpublished(update: Update, identity: Identity) -> bool:
    """Tell whether an own update was stored but not journaled: no byte of it has left."""
    is_own = update.author == identity.signer.peer_id
    return is_own and update.round > identity.journal.last_round
