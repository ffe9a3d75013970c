"""One peer of a simulated world: the real machine, with stand-ins for all that costs time.

Training, folding and payloads cost virtual seconds and are otherwise pure functions. What a real
disk would keep (the journal at once, the held updates with each round) a node keeps in its `Disk`;
a crash takes the rest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from semantic_net.protocol.actions import (
    Action,
    AdoptBase,
    Author,
    Check,
    CheckBase,
    Close,
    Dial,
    Discard,
    Diverged,
    Finish,
    FoldPlan,
    Send,
    Serve,
    Tell,
    Train,
    Write,
)
from semantic_net.protocol.identity import PeerId, Signer
from semantic_net.protocol.machine import Base, MachineConfig, PeerMachine
from semantic_net.protocol.messages import Message
from semantic_net.protocol.rounds import RoundsConfig
from semantic_net.protocol.update import (
    Admission,
    Item,
    Update,
    UpdateBody,
    UpdateId,
    hash_payload,
    sign_update,
)
from semantic_net.protocol.update_set import UpdateSet

RUN = b"simulated run..."
CODEC = "stub"
MAX_PAYLOAD_BYTES = 1 << 20
CHUNK_BYTES = 16

Span = tuple[float, float]
"""Shortest and longest of a time that is drawn, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Sizes and times of a peer, in seconds of the virtual clock."""

    rounds: int = 5
    listen_timeout_s: float = 20.0
    start_timeout_s: float = 10.0
    heartbeat_s: float = 1.0
    liveness_s: float = 5.0
    train_s: Span = (0.5, 3.0)
    work_s: Span = (0.0, 0.05)
    """A check, an encoding or a fold."""
    payload_bytes: int = 40


@dataclass(slots=True)
class Disk:
    """What survives a crash."""

    incarnation: int = 0
    authored_round: int = 0
    closed_round: int = 0
    last_own: UpdateId | None = None
    updates: dict[UpdateId, tuple[Update, bytes]] = field(default_factory=dict)
    """With their payloads; the evidence of void slots has none."""
    base: tuple[bytes, bool] | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """A round as a node recorded it."""

    round: int
    reason: str
    missing: tuple[PeerId, ...]
    base: bytes
    state_digest: bytes
    set_digest: bytes
    at: float
    waited_s: float
    """Seconds from the own update (or its skip) to the close."""


class Surroundings(Protocol):
    """What a node needs of its world."""

    random: random.Random

    @property
    def now(self) -> float:
        """The virtual time."""
        ...

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Let something happen later."""
        ...

    def send(self, sender: Node, to: PeerId, message: Message) -> None:
        """Carry a small message."""
        ...

    def stream(self, sender: Node, to: PeerId, item: UpdateId, data: bytes, offset: int) -> None:
        """Carry an item's bytes, behind those that are under way to the same peer."""
        ...

    def node_down(self, node: Node) -> None:
        """Break every connection of a node that is gone."""
        ...

    def learned(self, node: Node, name: str) -> None:
        """Let a node dial another that it was not told of."""
        ...

    def not_met(self, node: Node) -> tuple[str, ...]:
        """Return whom a node was to meet and has not met in this life."""
        ...


class Node:
    """One peer of a world, up or down."""

    def __init__(self, world: Surroundings, name: str, cfg: NodeConfig, key: str) -> None:
        self.world = world
        self.name = name
        self.cfg = cfg
        self.signer = Signer(hashlib.sha256(key.encode()).digest())
        self.disk = Disk()
        self.machine: PeerMachine | None = None
        self.life = 0
        """Grows with every start and stop; what an earlier life left in the air is void."""
        self.closed: list[Closed] = []
        self.told: list[str] = []
        self.diverged: list[Diverged] = []
        self.finished: str | None = None
        self.authored: list[Update] = []
        self.num_wrong_folds = 0
        """Folds whose plan does not tell all that has changed."""
        self.num_spins = 0
        """Alarms that were due at once, again."""
        self.base = (hashlib.sha256(b"base " + name.encode()).digest(), False)
        """Digest, and whether it was given by hand. In this world a base is its own digest."""
        self.train_s: float | None = None
        """A fixed time for training; None draws one."""
        self.skip_rounds: set[int] = set()
        """Rounds in which training gives no update."""
        self.has_twin = False
        """Another node has the same key."""
        self.dies_authoring = False
        """Crashes as soon as the journal is written, before a byte leaves."""
        self.frozen_s = 0.0
        """Seconds that it was stopped, as by SIGSTOP, all together."""
        self._waiting: list[Callable[[PeerMachine, float], list[Action]]] = []
        self._fold = Fold()
        self._payloads: dict[UpdateId, bytes] = {}
        self._incoming: dict[Item, bytearray] = {}
        self._collecting_since = 0.0

    @property
    def id(self) -> PeerId:
        """The peer's id."""
        return self.signer.peer_id

    @property
    def running(self) -> PeerMachine:
        """The machine of a node that runs."""
        assert self.machine is not None, f"{self.name} is down"
        return self.machine

    def start(self, *, has_peers: bool = True) -> None:
        """Start, or start again with what the disk holds; does nothing if it runs."""
        if self.machine is not None:
            return
        cfg, disk = self.cfg, self.disk
        self.life += 1
        disk.incarnation = max(disk.incarnation + 1, int(1000 * self.world.now))
        self.finished = None
        self._collecting_since = self.world.now
        self._incoming.clear()
        self._fold = Fold()
        self._payloads = {item: payload for item, (_, payload) in disk.updates.items()}
        digest, given = self.base = disk.base or self.base
        updates = UpdateSet(update for update, _ in disk.updates.values())
        machine = PeerMachine(
            MachineConfig(
                rounds=RoundsConfig(
                    rounds=cfg.rounds,
                    listen_timeout_s=cfg.listen_timeout_s,
                    start_timeout_s=cfg.start_timeout_s,
                ),
                admission=Admission(RUN, {CODEC: MAX_PAYLOAD_BYTES}.get),
                incarnation=disk.incarnation,
                heartbeat_s=cfg.heartbeat_s,
                liveness_s=cfg.liveness_s,
                progress_bytes=CHUNK_BYTES,
            ),
            self.signer,
            Base(digest, given, len(digest)),
            updates=updates,
            last_own=updates.get(disk.last_own) if disk.last_own is not None else None,
            closed_round=disk.closed_round,
            authored_round=disk.authored_round,
        )
        self.machine = machine
        machine.rounds.waiting_for = self.world.not_met(self) if has_peers else ()
        self._do(machine.start(self.world.now))
        self._set_alarm()

    def crash(self, *, keep_disk: bool = True) -> None:
        """Die at once: nothing is said."""
        self.machine = None
        self.life += 1
        self._waiting = []
        if not keep_disk:
            key = b"%s %d" % (self.name.encode(), self.life)
            self.disk = Disk()
            self.signer = Signer(hashlib.sha256(key).digest())  # no journal: a fresh key
        self.world.node_down(self)

    def freeze(self, seconds: float) -> None:
        """Stop for a while: what happens meanwhile is found afterwards, all at once."""
        if self.machine is None or self._waiting:
            return
        self.frozen_s += seconds
        self._waiting = [PeerMachine.tick]  # the alarm is the first to ring
        self._later((seconds, seconds), self.thaw)

    def thaw(self) -> None:
        """Go on, if frozen."""
        if not self._waiting:
            return
        life, waiting, self._waiting = self.life, self._waiting, []
        for call in waiting:
            self.feed(call)
        if life == self.life:
            self._set_alarm()

    def feed(self, call: Callable[[PeerMachine, float], list[Action]]) -> None:
        """Give the machine an event and carry out what it decides."""
        if self._waiting:
            self._waiting.append(call)
        elif self.machine is not None:
            self._do(call(self.machine, self.world.now))
            if self.machine is not None:
                self._do(self.machine.look(self.world.now))

    # Time

    def _later(self, span: Span, call: Callable[[], None]) -> None:
        """Do something in this life, after a time drawn from ``span``."""
        life = self.life
        delay_s = self.world.random.uniform(*span)
        self.world.after(delay_s, lambda: call() if life == self.life else None)

    def _set_alarm(self) -> None:
        life, now = self.life, self.world.now
        due = self.running.next_wakeup(now)
        self.num_spins += due <= now

        def ring() -> None:
            if life == self.life and not self._waiting:
                self.feed(PeerMachine.tick)
                if life == self.life:
                    self._set_alarm()

        # Never twice at one instant: a machine that asks for that would spin.
        self.world.after(max(due - now, 1e-3), ring)

    # Actions

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            _CARRY_OUT[type(action)](self, action)

    def _send(self, action: Send) -> None:
        for peer in action.to:
            self.world.send(self, peer, action.message)

    def _serve(self, action: Serve) -> None:
        is_base = action.id == self.base[0]
        data = self.base[0] if is_base else self._payloads[action.id]
        self.world.stream(self, action.to, action.id, data, action.offset)

    def _write(self, action: Write) -> None:
        buffer = self._incoming.setdefault(action.item, bytearray(action.size))
        buffer[action.offset : action.offset + len(action.data)] = action.data

    def _discard(self, action: Discard) -> None:
        self._incoming.pop(action.item, None)

    def _check(self, action: Check) -> None:
        update = action.update
        payload = bytes(self._incoming.pop(Item(update.id, is_base=False), b""))

        def done() -> None:
            assert hash_payload(payload) == update.payload_hash, "links do not corrupt"
            self._payloads[update.id] = payload
            self.feed(lambda m, now: m.payload_checked(update, None, now))

        self._later(self.cfg.work_s, done)

    def _check_base(self, action: CheckBase) -> None:
        def done() -> None:
            if (data := self._incoming.get(Item(action.id, is_base=True))) is not None:
                assert data == action.id, "links do not corrupt"
            self.feed(lambda m, now: m.base_checked(action.id, now))

        self._later(self.cfg.work_s, done)

    def _adopt_base(self, action: AdoptBase) -> None:
        del self._incoming[Item(action.id, is_base=True)]
        self.base = (action.id, action.given)

    def _fold_plan(self, plan: FoldPlan) -> bytes:
        state = self._fold.fold(plan)
        self.num_wrong_folds += state != fold_afresh(plan)
        return state

    def _train(self, action: Train) -> None:
        if action.plan is not None:
            self._fold_plan(action.plan)
        span = self.cfg.train_s if self.train_s is None else (self.train_s, self.train_s)
        self._later(span, lambda: self.feed(PeerMachine.trained))

    def _author(self, action: Author) -> None:
        def done() -> None:
            self._collecting_since = self.world.now
            if action.round in self.skip_rounds:
                self.feed(lambda m, now: m.skipped("the script says so", now))
                return
            payload = self.world.random.randbytes(self.cfg.payload_bytes)
            body = UpdateBody(RUN, action.round, 1, CODEC, len(payload), hash_payload(payload))
            update = sign_update(body, self.signer)
            self.authored.append(update)
            self.disk.authored_round, self.disk.last_own = action.round, update.id
            if self.dies_authoring:
                self.dies_authoring = False
                self.crash()
                return
            self._payloads[update.id] = payload
            self.feed(lambda m, now: m.authored(update, now))

        self._later(self.cfg.work_s, done)

    def _close(self, action: Close) -> None:
        began, plan = self.world.now, action.plan

        def done() -> None:
            digest = self._fold_plan(plan)
            self.closed.append(
                Closed(
                    action.round,
                    action.reason,
                    action.missing,
                    plan.base,
                    digest,
                    plan.set_digest,
                    began,
                    began - self._collecting_since,
                )
            )
            self._write_disk(action.round)
            self.feed(lambda m, now: m.folded(plan, digest, now))

        self._later(self.cfg.work_s, done)

    def _write_disk(self, closed_round: int) -> None:
        self.disk.closed_round, self.disk.base = closed_round, self.base
        for update in self.running.updates:
            kept = (update, self._payloads.get(update.id, b""))
            self.disk.updates.setdefault(update.id, kept)

    def _tell(self, action: Tell) -> None:
        self.told.append(action.text)

    def _dial(self, action: Dial) -> None:
        self.world.learned(self, action.address)

    def _diverged(self, action: Diverged) -> None:
        self.diverged.append(action)

    def _finish(self, action: Finish) -> None:
        self.finished = action.reason
        self.feed(PeerMachine.leave)
        self.machine = None
        self.life += 1
        self.world.node_down(self)


_CARRY_OUT: dict[type[Action], Callable[[Node, Any], None]] = {
    Send: Node._send,
    Serve: Node._serve,
    Write: Node._write,
    Discard: Node._discard,
    Check: Node._check,
    CheckBase: Node._check_base,
    AdoptBase: Node._adopt_base,
    Train: Node._train,
    Author: Node._author,
    Close: Node._close,
    Tell: Node._tell,
    Dial: Node._dial,
    Diverged: Node._diverged,
    Finish: Node._finish,
}


class Fold:
    """Stands in for the model: the state after a round is a hash of all before it.

    As the real one it keeps the states of earlier rounds, and trusts a plan's ``changed_from``.
    """

    def __init__(self) -> None:
        self._states: dict[int, bytes] = {}

    def fold(self, plan: FoldPlan) -> bytes:
        """Return the state after the plan's last round."""
        kept = {n: state for n, state in self._states.items() if n < plan.changed_from}
        state = kept[max(kept)] if kept else hashlib.sha256(plan.base).digest()
        for number in sorted(n for n in plan.rounds if n >= plan.changed_from):
            ids = b"".join(update.id for update in plan.rounds[number])
            state = kept[number] = hashlib.sha256(state + ids).digest()
        self._states = kept
        return state


def fold_afresh(plan: FoldPlan) -> bytes:
    """Return what a plan folds to, whatever was folded before."""
    return Fold().fold(dataclasses.replace(plan, changed_from=1))
