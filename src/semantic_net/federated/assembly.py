"""The parts of a peer that follow from its configuration, its key and its learner.

Here a configuration's words become the machine's; what the protocol's parts need to know, they are
told nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol

import semantic_net
from semantic_net.aggregation.topology import FULL, needs_own_place
from semantic_net.config import Config, P2PConfig
from semantic_net.errors import ConfigError, RemoteProtocolError
from semantic_net.federated.base_store import BaseStore
from semantic_net.federated.folder import Identity
from semantic_net.federated.parts import Parsed
from semantic_net.federated.snapshot import BaseSizes
from semantic_net.federated.store import Payload, UpdateStore
from semantic_net.federated.transports import transport_of
from semantic_net.protocol.address import parse_address
from semantic_net.protocol.bases import Base, BaseConfig
from semantic_net.protocol.facts import run_digest
from semantic_net.protocol.handshake import HelloContent
from semantic_net.protocol.history import History
from semantic_net.protocol.identity import SignatureCheck, Signer, signature_valid
from semantic_net.protocol.links import MeshConfig
from semantic_net.protocol.machine import MachineConfig, PeerMachine
from semantic_net.protocol.membership import Membership, Record
from semantic_net.protocol.rounds import RoundsConfig
from semantic_net.protocol.turns import Turns
from semantic_net.protocol.update import Admission, Update, UpdateId, UpdateMessage
from semantic_net.protocol.update_set import UpdateSet
from semantic_net.transport.base import Transport
from semantic_net.transport.device import DeviceIdentity
from semantic_net.transport.tls import Pins

log = logging.getLogger(__name__)


TURN_S = 0.05
"""In a large fleet much is told of at about the same time, and is looked at together."""


class ModelSide(Protocol[Parsed]):
    """What the protocol's side has to know of the model's: `ModelLearner`, or a stand-in."""

    bases: BaseStore
    base: UpdateId
    """What its fold stands on."""
    history: History
    """Of that base."""
    taken_back: dict[UpdateId, int]

    @property
    def base_sizes(self) -> BaseSizes:
        """What the transfer forms of bases take."""
        ...

    def parse(self, codec: str, payload: memoryview) -> Parsed:
        """Return what the fold reads; raises RemoteProtocolError where it breaks its codec."""
        ...

    def parsed_bytes(self, parsed: Parsed) -> int:
        """Return what that takes in memory beside the payload."""
        ...

    def max_payload_bytes(self, codec: str) -> int | None:
        """Return the size of the largest payload of a codec; None for an unknown one."""
        ...


@dataclass(frozen=True, slots=True)
class Process:
    """What the peers of one process have in common: nothing, but in a simulation."""

    is_valid: SignatureCheck = signature_valid
    """May remember what another peer has checked."""
    admitted: MutableMapping[UpdateMessage, Update] | None = None
    """See `Admission.known`."""
    share: Callable[[UpdateId, Payload], Payload] = lambda update_id, payload: payload
    """Returns a payload that another peer holds, in the place of an equal one."""


ALONE = Process()


class MakeTransport(Protocol):
    """Makes a transport, which does not open anything yet; `transport_of` is one."""

    def __call__(
        self, config: Config, signer: Signer, hello: HelloContent, pins: Pins | None
    ) -> Transport:
        """Return a transport from the addresses and limits of a configuration, a key, the hello
        and whom to let in."""
        ...


@dataclass(frozen=True, slots=True)
class Assembled(Generic[Parsed]):
    """The parts of a peer that follow from its configuration, its key and its learner."""

    machine: PeerMachine
    transport: Transport
    store: UpdateStore[Parsed]


def assemble(
    config: Config,
    identity: Identity,
    incarnation: int,
    learner: ModelSide[Parsed],
    facts: dict[str, str],
    *,
    base_given: bool = False,
    device: DeviceIdentity | None = None,
    updates_folder: Path | None = None,
    records: Sequence[Record] = (),
    closed_round: int = 0,
    make_transport: MakeTransport = transport_of,
    process: Process = ALONE,
) -> Assembled[Parsed]:
    """Put a peer's machine, transport and store together, with what the folder holds.

    Args:
        config: Of the run.
        identity: The peer's key and journal.
        incarnation: Grows with every start.
        learner: The model's side.
        facts: What all peers of the run share.
        base_given: The learner's base was given by hand.
        device: On which the peer runs, where devices are pinned.
        updates_folder: Where the held updates lie; None keeps them in memory.
        records: What devices have said of each other.
        closed_round: The last that an earlier process has recorded.
        make_transport: Over which the peer talks.
        process: What peers of one process have in common.
    """
    signer, journal = identity.signer, identity.journal
    run = run_digest(facts)
    admission = Admission(
        run,
        learner.max_payload_bytes,
        process.is_valid,
        Turns(run, config.p2p.turn_period),
        process.admitted,
    )
    budget = int(config.p2p.memory_budget_mb * 1e6)
    store: UpdateStore[Parsed] = UpdateStore(
        learner.parse, updates_folder, budget, learner.parsed_bytes, process.share
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
        _machine_config(config, admission, incarnation, learner.base_sizes),
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
    transport = make_transport(config, signer, hello, pins)
    return Assembled(machine, transport, store)


def turn_s(p2p: P2PConfig) -> float:
    """Return for how long what arrives is waited for, to be looked at together."""
    return TURN_S if p2p.turn_period > 1 else 0.0


def _machine_config(
    config: Config, admission: Admission, incarnation: int, sizes: BaseSizes
) -> MachineConfig:
    p2p = config.p2p
    disk_budget = int(p2p.disk_budget_mb * 1e6)
    hears_all = not admission.turns.is_sampled
    return MachineConfig(
        rounds=RoundsConfig(
            rounds=config.training.rounds,
            listen_timeout_s=p2p.listen_timeout_s,
            start_timeout_s=p2p.start_timeout_s,
            # Whoever is there says something within that time, or would count as gone.
            settle_s=p2p.liveness_s if p2p.finds_peers or p2p.mesh_links is not None else 0.0,
            # In a graph over the whole list most of them are no neighbours.
            num_peers=len(p2p.peers) - 1 if hears_all and needs_own_place(p2p.topology) else 0,
            is_sparse=hears_all and p2p.mesh_links is not None,
            quorum=p2p.quorum,
            overlaps=p2p.overlap,
            observes=p2p.observe,
            hearsay_s=p2p.beat_s,
        ),
        bases=BaseConfig(
            every=p2p.base_every,
            origin_bytes=sizes.origin_bytes,
            max_bytes=sizes.max_bytes,
            budget_bytes=disk_budget // 2,
            own_passed_bytes=disk_budget * 3 // 8,
            others_passed_bytes=disk_budget // 8,
            max_liars=config.security.max_liars,
            knows_all=hears_all,
        ),
        admission=admission,
        incarnation=incarnation,
        heartbeat_s=p2p.beat_s,
        liveness_s=p2p.liveness_s,
        dials_learned=p2p.topology == FULL,
        mesh=_mesh_config(p2p),
        max_liars=config.security.max_liars,
        watches=config.monitoring.dashboard is not None,
    )


def _mesh_config(p2p: P2PConfig) -> MeshConfig | None:
    if p2p.mesh_links is None:
        return None
    try:
        seeds = tuple(str(parse_address(peer)) for peer in p2p.peers)
    except ValueError as exc:
        raise ConfigError(f"p2p.peers: {exc}") from exc
    return MeshConfig(links=p2p.mesh_links, seeds=seeds)


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
