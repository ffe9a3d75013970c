"""Whole peers without torch: the real shell on a network in memory, in virtual time."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from semantic_net.config import SemanticConfig
from semantic_net.errors import RemoteProtocolError, TrainingError
from semantic_net.federated.base_store import BaseStore
from semantic_net.federated.journal import Journal
from semantic_net.federated.parts import ClosedRound, Encoded, PeerParts, Trained
from semantic_net.federated.peer import Peer
from semantic_net.federated.store import UpdateStore
from semantic_net.protocol.actions import Diverged, FoldPlan
from semantic_net.protocol.bases import Base, BaseConfig
from semantic_net.protocol.facts import run_digest
from semantic_net.protocol.handshake import HelloContent
from semantic_net.protocol.history import (
    History,
    decode_history,
    encode_history,
    history_of_origin,
)
from semantic_net.protocol.identity import Signer
from semantic_net.protocol.links import MeshConfig
from semantic_net.protocol.machine import MachineConfig, PeerMachine
from semantic_net.protocol.rounds import RoundsConfig
from semantic_net.protocol.update import Admission, Update, UpdateId, hash_payload
from semantic_net.protocol.update_set import UpdateSet
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.rate import FixedRate, RateController
from semantic_net.semantic.schema import ModelSchema
from semantic_net.transport.memory import MemoryNetwork, MemoryTransport
from semantic_net.transport.settings import TransportSettings

T = TypeVar("T")
FACTS = {"run": "test"}


class StubLearner:
    """A model of a few bytes: what it folds to is the hash of what went in."""

    def __init__(self, name: str, payload_bytes: int = 5000) -> None:
        self.name = name
        self.payload_bytes = payload_bytes
        self.folded: list[FoldPlan] = []
        self.taken_back: dict[UpdateId, int] = {}
        self.carried_back: list[int] = []
        self.failing_rounds: set[int] = set()
        self.poisoned_rounds: set[int] = set()
        self.stopped = False
        self.codecs: list[Codec] = []
        self.size_of: Callable[[Codec], int] | None = None
        self.trained_ahead = 0
        self.bases = BaseStore()
        self.origin = hashlib.sha256(b"base").digest()
        self.bases.put([self.origin])
        self._random = random.Random(name)
        self._round = 0

    def history_of(self, data: memoryview, base: Base) -> History:
        if base.frontier == 0:
            return history_of_origin(hash_payload(data))
        history = decode_history(data[32:])
        assert Base.of(base.digest, len(data), history, given=base.given) == base
        return history

    def make_base(
        self, plan: FoldPlan, history: History, parsed: Callable[[Update], int]
    ) -> tuple[bytes, int]:
        return self.bases.put([self._fold(plan, parsed), encode_history(history)])

    def parse(self, codec: str, payload: memoryview) -> int:
        if bytes(payload[:6]) == b"poison":
            raise RemoteProtocolError("poison")
        return len(payload)

    def fold(self, plan: FoldPlan, parsed: Callable[[Update], int]) -> bytes:
        self.folded.append(plan)
        return self._fold(plan, parsed)

    def _fold(self, plan: FoldPlan, parsed: Callable[[Update], int]) -> bytes:
        state = bytes(self.bases.read(plan.base)[:32])
        for number in sorted(plan.rounds):
            for update in plan.rounds[number]:
                assert parsed(update) == update.payload_bytes
                state = hashlib.sha256(state + update.id).digest()
        return state

    def train(self, round_index: int, *, is_ahead: bool = False) -> Trained:
        self.trained_ahead += is_ahead
        self._round = round_index
        if round_index in self.failing_rounds:
            raise TrainingError("the loss is not finite")
        return Trained(1.0 / round_index, 10)

    def encode(self, codec: Codec, max_bytes: int | None = None) -> Encoded:
        self.codecs.append(codec)
        size = self.payload_bytes if self.size_of is None else self.size_of(codec)
        payload = self._random.randbytes(size)
        if self._round in self.poisoned_rounds:
            payload = b"poison"
        return Encoded("stub", payload, 4 * self.payload_bytes, codec.topk)

    def take_back(self, own: Update, parsed: int) -> None:
        self.carried_back.append(parsed)

    def count_again(self, own: Update, parsed: int) -> None:
        self.carried_back.remove(parsed)

    def evaluate(self) -> dict[str, float]:
        return {"score": float(len(self.folded))}

    def stop(self) -> None:
        self.stopped = True


class VirtualRunner:
    """Work that takes virtual seconds and no thread."""

    def __init__(self, learn_s: float = 0.5, check_s: float = 0.01) -> None:
        self._learn_s = learn_s
        self._check_s = check_s
        self._learning = asyncio.Lock()

    async def learn(self, work: Callable[[], T]) -> T:
        async with self._learning:
            await asyncio.sleep(self._learn_s)
            return work()

    async def check(self, work: Callable[[], T]) -> T:
        await asyncio.sleep(self._check_s)
        return work()


class Device:
    """One peer of a test: its parts, and what it recorded."""

    def __init__(
        self,
        network: MemoryNetwork,
        name: str,
        peers: tuple[str, ...],
        *,
        rounds: int = 3,
        folder: Path | None = None,
        payload_bytes: int = 5000,
        listen_timeout_s: float = 20.0,
        learn_s: float = 0.5,
        facts: dict[str, str] | None = None,
        journal: Callable[[int, bytes], None] | None = None,
        base_every: int = 4,
        overlaps: bool = False,
        rate: RateController | None = None,
        mesh_links: int | None = None,
        max_sessions: int = 256,
    ) -> None:
        self.name = name
        addresses = tuple(f"{peer}:5000" for peer in peers)
        mesh = None if mesh_links is None else MeshConfig(links=mesh_links, seeds=addresses)
        facts = FACTS if facts is None else facts
        self.signer = Signer(hashlib.sha256(name.encode()).digest())
        self.learner = StubLearner(name, payload_bytes)
        self.rounds: list[ClosedRound] = []
        self.diverged: list[tuple[Diverged, tuple[Update, ...]]] = []
        admission = Admission(run_digest(facts), {"stub": 10_000_000}.get)
        self.store: UpdateStore[int] = UpdateStore(self.learner.parse, folder)
        if journal is None and folder is not None:
            journal = Journal(folder / "journal.jsonl").author
        origin = self.learner.origin
        history = history_of_origin(hash_payload(origin))
        self.machine = PeerMachine(
            MachineConfig(
                rounds=RoundsConfig(
                    rounds=rounds,
                    listen_timeout_s=listen_timeout_s,
                    start_timeout_s=10.0,
                    settle_s=0.0 if mesh is None else 5.0,
                    is_sparse=mesh is not None,
                    overlaps=overlaps,
                ),
                bases=BaseConfig(every=base_every, origin_bytes=32, max_bytes=10_000),
                admission=admission,
                incarnation=1,
                heartbeat_s=1.0,
                liveness_s=5.0,
                mesh=mesh,
            ),
            self.signer,
            Base.of(hash_payload(origin), len(origin), history, given=False),
            UpdateSet(history),
        )
        self.transport = MemoryTransport(
            network,
            name,
            self.signer,
            TransportSettings(peers=addresses if mesh is None else (), max_sessions=max_sessions),
            HelloContent(facts, 1, "test"),
        )
        self.stop = asyncio.Event()
        self.peer = Peer(
            PeerParts(
                machine=self.machine,
                signer=self.signer,
                transport=self.transport,
                learner=self.learner,
                store=self.store,
                bases=self.learner.bases,
                rate=rate or FixedRate(SemanticConfig(), ModelSchema(())),
                runner=VirtualRunner(learn_s),
                journal=journal or (lambda round_index, update_id: None),
                on_round=self.rounds.append,
                on_diverged=lambda report, held: self.diverged.append((report, held)),
            )
        )

    async def run(self) -> str:
        return await self.peer.run(self.stop)

    @property
    def digests(self) -> list[bytes]:
        return [closed.state_digest for closed in self.rounds]
