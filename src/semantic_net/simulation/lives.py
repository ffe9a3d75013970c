"""A simulated peer from a start to a stop: the real shell, machine, transport and record.

Its key and its journal last over its lives, as a disk does, and what it learns over the network is
the same object for all peers that get it.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from semantic_net.config import Config
from semantic_net.federated.assembly import MakeTransport, Process, assemble, turn_s
from semantic_net.federated.folder import Identity, RunFolder
from semantic_net.federated.journal import Journal
from semantic_net.federated.loaded import Surroundings, load_run
from semantic_net.federated.parts import ClosedRound, PeerParts
from semantic_net.federated.peer import Peer
from semantic_net.federated.recording import add_to, record_of, summary_of
from semantic_net.federated.shards import load_own
from semantic_net.federated.store import Payload
from semantic_net.federated.transports import transport_settings
from semantic_net.monitoring.recorder import Recorder
from semantic_net.protocol.handshake import HelloContent
from semantic_net.protocol.identity import Signer, signature_valid
from semantic_net.protocol.update import UpdateId
from semantic_net.records import NOISE, RoundRecord
from semantic_net.semantic.rate import FixedRate
from semantic_net.semantic.schema import ModelSchema
from semantic_net.simulation.costs import VirtualRunner
from semantic_net.simulation.engines import Engine, Jobs
from semantic_net.simulation.learning import (
    Device,
    RemoteTrainer,
    SharedParsing,
    SimulatedLearner,
)
from semantic_net.simulation.protocol_only import CODEC, NoiseLearner
from semantic_net.simulation.scenario import Scenario
from semantic_net.transport.base import Transport, TransportEvent, TransportHandler
from semantic_net.transport.memory import MemoryNetwork, MemoryTransport
from semantic_net.transport.tls import Pins

Show = Callable[[int, RoundRecord], None]
"""Told of each round that a peer, by its number, has closed."""

PEER: contextvars.ContextVar[str] = contextvars.ContextVar("peer")
"""The name of the peer that does something, for the log."""

SIGNATURES_KNOWN = 1 << 16
"""Signatures that no second peer checks again: the first has, and the answer is the same."""

PAYLOADS_KNOWN = 4096
"""Latest payloads that are shared; those of a peer that lags behind may be its own."""


@dataclass(slots=True, kw_only=True)
class Life:
    """A peer that runs, or is about to."""

    peer: Peer[Any]
    transport: MemoryTransport
    close: Callable[[str], None]
    """Leaves what it has come to; told how it ended: ``done``, ``left`` or ``crashed``."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)


class MakeLife(Protocol):
    """Begins a life of a peer."""

    def __call__(self, index: int, network: MemoryNetwork) -> Life:
        """Return a life; each call begins the next one of a peer."""
        ...


@dataclass(slots=True)
class _Lasting:
    """What of a peer lasts over its lives."""

    signer: Signer
    journal: Journal = field(default_factory=lambda: Journal(None))
    num_lives: int = 0

    def next_incarnation(self) -> int:
        """Count one more life."""
        self.num_lives += 1
        return self.journal.start(floor=1)


class _Shared:
    """Payloads, of which all peers hold the same object."""

    def __init__(self) -> None:
        self._known: OrderedDict[UpdateId, Payload] = OrderedDict()

    def get(self, update_id: UpdateId, payload: Payload) -> Payload:
        """Return what the first peer held that asked."""
        known = self._known.setdefault(update_id, payload)
        if len(self._known) > PAYLOADS_KNOWN:
            self._known.popitem(last=False)
        return known


class _NamedTransport(MemoryTransport):
    """Says of whatever an event leads to whose it is: its timer was set by who has sent it."""

    async def start(self, handler: TransportHandler) -> None:
        """Listen and begin to dial; see `MemoryTransport.start`."""

        def named(event: TransportEvent) -> None:
            before = PEER.set(self._name)
            try:
                handler(event)
            finally:
                PEER.reset(before)

        await super().start(named)


class _Peers:
    """What lives of learning peers and of those that learn nothing have in common."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._names = scenario.names
        self._lasting: dict[int, _Lasting] = {}
        self._process = Process(
            functools.lru_cache(SIGNATURES_KNOWN)(signature_valid), {}, _Shared().get
        )

    def _next_life(self, index: int) -> tuple[_Lasting, int]:
        if index not in self._lasting:
            self._lasting[index] = _Lasting(self.scenario.signer_of(index))
        lasting = self._lasting[index]
        return lasting, lasting.next_incarnation()

    def _transports(self, index: int, network: MemoryNetwork) -> MakeTransport:
        def make(
            config: Config, signer: Signer, hello: HelloContent, pins: Pins | None
        ) -> Transport:
            # Drawn for each life anew, so that it may fare otherwise.
            lives = self._lasting[index].num_lives
            text = f"{self.scenario.seed}:transport:{index}:{lives}"
            rng = random.Random(text)  # reproducible, not secret  # nosec B311
            settings = transport_settings(config.p2p)
            return _NamedTransport(network, self._names[index], signer, settings, hello, rng)

        return make

    def _energy_of(self, closed: ClosedRound) -> float | None:
        energy = self.scenario.plan.energy
        if energy is None:
            return None
        took_s, train_s = closed.time_s, closed.facts.train_s
        return round(energy.joules(took_s, train_s, closed.sent, closed.received), 3)


class LearningPeers(_Peers):
    """Peers that train, each in a folder of its own as a real one."""

    def __init__(
        self, scenario: Scenario, engine: Engine, jobs: Jobs | None, out: Path, show: Show
    ) -> None:
        """Take where they train, and where they leave what they have learned."""
        super().__init__(scenario)
        self._engine = engine
        self._jobs = jobs
        self._out = out
        self._show = show
        self._parsing = SharedParsing()
        self._task = load_own(scenario.config, 0, observe=True)

    def __call__(self, index: int, network: MemoryNetwork) -> Life:
        """Begin a life; a later one goes on from the checkpoint of the one before."""
        lasting, incarnation = self._next_life(index)
        own = self.scenario.config_of(index)
        runner = VirtualRunner(None if self._jobs is None else self._jobs.begin)
        device = Device(self.scenario.plan.device(index), runner.spend, self._parsing)
        folder = RunFolder(self._out / self._names[index])
        trainer = RemoteTrainer(own, self._task, index, self._engine, self._jobs)
        loaded = load_run(
            own,
            folder,
            Identity(lasting.signer, lasting.journal),
            incarnation,
            trainer,
            folder.progress.load(),
            lambda record: self._show(index, record),
            surroundings=Surroundings(
                make_learner=functools.partial(SimulatedLearner, device),
                make_transport=self._transports(index, network),
                process=self._process,
                energy_of=self._energy_of,
            ),
        )
        recording = loaded.recording

        def on_round(closed: ClosedRound) -> None:
            recording.closed(closed)

        peer = Peer(loaded.parts(runner, on_round))

        def close(how: str) -> None:
            if how == "crashed":
                recording.abandon()
            else:
                recording.finish(finished=how == "done", refused_by=peer.refused_by)
            folder.__exit__(None, None, None)

        assert isinstance(loaded.transport, MemoryTransport)
        return Life(peer=peer, transport=loaded.transport, close=close)


class NoisePeers(_Peers):
    """Peers that learn nothing: for what the protocol costs. Who crashes loses all but its key."""

    def __init__(self, scenario: Scenario, out: Path, show: Show) -> None:
        """Take where the records go."""
        super().__init__(scenario)
        self._out = out
        self._show = show
        self._records: dict[int, dict[int, RoundRecord]] = {}
        config = scenario.config
        self._facts = {"run": config.p2p.run, "model": "noise"}

    def __call__(self, index: int, network: MemoryNetwork) -> Life:
        """Begin a life."""
        scenario = self.scenario
        lasting, incarnation = self._next_life(index)
        own = scenario.config_of(index)
        runner = VirtualRunner()
        assert scenario.payload_bytes is not None, "else they learn"
        learner = NoiseLearner(
            f"{scenario.seed}:noise:{index}:{lasting.num_lives}",
            scenario.payload_bytes,
            runner.spend,
            scenario.train_s,
        )
        assembled = assemble(
            own,
            Identity(lasting.signer, lasting.journal),
            incarnation,
            learner,
            self._facts,
            make_transport=self._transports(index, network),
            process=self._process,
        )
        kept = self._records.setdefault(index, {})
        transport, num_frames = assembled.transport, 0
        assert isinstance(transport, MemoryTransport)

        def on_round(closed: ClosedRound) -> None:
            nonlocal num_frames
            before, num_frames = num_frames, transport.frames_received
            me, energy_j = assembled.machine.me, self._energy_of(closed)
            record = record_of(closed, me, own.privacy.delta, energy_j=energy_j)
            record = msgspec.structs.replace(record, messages_received=num_frames - before)
            if record.codec:  # that of the configuration, which nobody has used
                record = msgspec.structs.replace(record, codec=CODEC, codec_reason="")
            kept[record.round] = record
            self._show(index, record)

        peer = Peer(
            PeerParts(
                machine=assembled.machine,
                signer=lasting.signer,
                transport=transport,
                learner=learner,
                store=assembled.store,
                bases=learner.bases,
                rate=FixedRate(own.semantic, ModelSchema(())),
                runner=runner,
                journal=lasting.journal.author,
                turn_s=turn_s(own.p2p),
                on_round=on_round,
            )
        )
        return Life(
            peer=peer,
            transport=transport,
            close=lambda how: self._leave(index, own, finished=how == "done"),
        )

    def _leave(self, index: int, config: Config, *, finished: bool) -> None:
        """Write the records of a peer's lives so far, of each round the last."""
        records = [record for _, record in sorted(self._records[index].items())]
        if not records:
            return
        recorder = Recorder(self._out / self._names[index])
        totals: dict[str, float] = {}
        for record in records:
            recorder.record(record)
            add_to(totals, record)
        summary = summary_of(
            config,
            records[-1],
            totals,
            metric="",
            higher_is_better=True,
            finished=finished,
            best_round=None,
            best_metrics={},
            num_parameters=0,
        )
        recorder.summary(msgspec.structs.replace(summary, task=NOISE, mode=NOISE))
        recorder.close()
