"""One peer of a simulated world: the real machine, with stand-ins for all that costs time.

Training, folding and payloads cost virtual seconds and are otherwise pure functions. What a real
disk would keep (the journal at once, the held updates with each round) a node keeps in its `Disk`;
a crash takes the rest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from semantic_net.protocol.actions import (
    Action,
    Author,
    Check,
    CheckBase,
    Close,
    CountAgain,
    Cut,
    Dial,
    Discard,
    Diverged,
    Finish,
    FoldPlan,
    Forget,
    HangUp,
    Keep,
    Remove,
    Send,
    Serve,
    TakeBack,
    Tell,
    Train,
    Write,
)
from semantic_net.protocol.bases import BaseConfig
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.item import Item
from semantic_net.protocol.links import MeshConfig
from semantic_net.protocol.machine import MachineConfig, PeerMachine
from semantic_net.protocol.membership import Membership, Record, Standing
from semantic_net.protocol.mesh import Parting
from semantic_net.protocol.messages import Absent, Message
from semantic_net.protocol.rounds import RoundsConfig
from semantic_net.protocol.turns import Turns
from semantic_net.protocol.update import (
    Admission,
    Update,
    UpdateBody,
    UpdateId,
    hash_payload,
    sign_update,
)
from semantic_net.protocol.update_set import UpdateSet
from semantic_net.simulation.stubs import (
    Fold,
    StoredBase,
    StubSigner,
    make_base,
    origin_base,
    read_base,
    stub_signature_valid,
)

RUN = b"simulated run..."
CODEC = "stub"
MAX_PAYLOAD_BYTES = 1 << 20
TURN_S = (0.0, 0.005)
"""A turn of the event loop: what arrives in it is looked at together."""
FLUSH_S = 1.0
"""Time that a peer takes to end its connections in good order."""
MAX_BASE_BYTES = 1 << 24
CHUNK_BYTES = 16

Span = tuple[float, float]
"""Shortest and longest of a time that is drawn, in seconds."""

Event = Callable[[PeerMachine, float], list[Action]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Sizes and times of a peer, in seconds of the virtual clock."""

    rounds: int = 5
    listen_timeout_s: float = 20.0
    start_timeout_s: float = 10.0
    settle_s: float = 0.0
    heartbeat_s: float = 1.0
    liveness_s: float = 5.0
    train_s: Span = (0.5, 3.0)
    work_s: Span = (0.0, 0.05)
    """A check, an encoding or a fold."""
    payload_bytes: int = 40
    base_every: int = 4
    """Rounds."""
    quorum: float = 1.0
    overlaps: bool = False
    observes: bool = False
    turn_period: int = 1
    """Rounds in which each peer has one turn."""
    budget_bytes: int | None = None
    """Of payloads, from which on compaction does not wait for the silent."""
    mesh_links: int | None = None
    """Links of a mesh that organises itself, from the seeds of each node; None: links are given."""
    max_liars: int | None = None
    """Devices that may lie; None: peers have no devices, and anyone may join."""


@dataclass(slots=True)
class Disk:
    """What survives a crash."""

    incarnation: int = 0
    authored_round: int = 0
    closed_round: int = 0
    last_own: UpdateId | None = None
    updates: dict[UpdateId, tuple[Update, bytes]] = field(default_factory=dict)
    """With their payloads; the evidence of void slots has none."""
    base: StoredBase | None = None
    residual: Counter[UpdateId] = field(default_factory=Counter)
    """See `Node.residual`; valid beside one own update only."""
    residual_of: UpdateId | None = None
    taken_back: dict[UpdateId, int] = field(default_factory=dict)
    """With the residual."""
    taken_back_before: dict[UpdateId, int] = field(default_factory=dict)
    """With the last own update: in the journal."""
    records: tuple[Record, ...] = ()
    """Of the membership."""


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
    """Seconds from the own update (or its skip) to the close; from the opening where it only
    watched."""
    is_watched: bool
    """It was not this peer's turn, or it observes."""
    is_cut_off: bool
    """Others were heard of and did not say goodbye, and nobody is alive."""


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

    def finished(self) -> None:
        """Note that a node came to its end."""
        ...

    def opened(self, node: Node, round_index: int) -> None:
        """Let happen what was to happen when a node opens a round."""
        ...

    def node_down(self, node: Node) -> None:
        """Break every connection of a node that is gone."""
        ...

    def learned(self, node: Node, name: str) -> None:
        """Let a node dial another that it was not told of."""
        ...

    def forgotten(self, node: Node, name: str) -> None:
        """Let a node dial another no more."""
        ...

    def hang_up(self, node: Node, peer: PeerId, how: Parting) -> None:
        """End a node's session with a peer."""
        ...

    def not_met(self, node: Node) -> tuple[str, ...]:
        """Return whom a node was to meet and has not met in this life."""
        ...


def address_of(name: str) -> str:
    """Return where a node can be dialled."""
    return f"{name}:1"


def name_at(address: str) -> str:
    """Return which node can be dialled at an address."""
    return address.removesuffix(":1")


class Node:
    """One peer of a world, up or down."""

    def __init__(self, world: Surroundings, name: str, cfg: NodeConfig, key: str) -> None:
        self.world = world
        self.name = name
        self.cfg = cfg
        self.signer = StubSigner(key.encode())
        self.device = StubSigner(b"device of " + name.encode())
        self.standing: dict[PeerId, Standing] = {}
        """What its trust file says of other devices."""
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
        self.seeds: tuple[str, ...] = ()
        """Where it begins in a mesh."""
        self.origin = hashlib.sha256(b"base " + name.encode()).digest()
        """What it would start from by itself."""
        self.is_given = False
        """That is by hand."""
        self.train_s: float | None = None
        """A fixed time for training; None draws one."""
        self.skip_rounds: set[int] = set()
        """Rounds in which training gives no update."""
        self.has_twin = False
        """Another node has the same key."""
        self.dies_authoring = False
        """Crashes as soon as the journal is written, before a byte leaves."""
        self.carried: dict[UpdateId, Counter[UpdateId]] = {}
        """What each own update carried: what was learned in its round, which has its id for a
        name, and what the residual had taken back."""
        self.residual: Counter[UpdateId] = Counter()
        """What the next own update will carry, by the round that it was learned in."""
        self.taken_back: dict[UpdateId, int] = {}
        """The rounds of own updates whose content is in the residual, or has gone out anew."""
        self.num_cuts = 0
        """Bases made."""
        self.num_adopted = 0
        """Bases taken over."""
        self.frozen_s = 0.0
        """Seconds that it was stopped, as by SIGSTOP, all together."""
        self._is_frozen = False
        self._waiting: list[Event] = []
        self._turn_ends = False
        self._fold = Fold()
        self._bases: dict[UpdateId, StoredBase] = {}
        self._payloads: dict[UpdateId, bytes] = {}
        self._incoming: dict[Item, bytearray] = {}
        self._collecting_since = 0.0
        self._authoring = 0  # the last round that was to have an own update
        self._learns_until = 0.0

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
        self._learns_until = 0.0
        self._turn_ends = False
        self._fold = Fold()
        self._payloads = {item: payload for item, (_, payload) in disk.updates.items()}
        if disk.residual_of == disk.last_own:
            self.residual, self.taken_back = disk.residual.copy(), disk.taken_back.copy()
        else:
            self.residual, self.taken_back = Counter(), disk.taken_back_before.copy()
        stored = disk.base or origin_base(self.origin, given=self.is_given)
        self._bases = {stored.base.digest: stored}
        membership = None if cfg.max_liars is None else self._membership(cfg.max_liars)
        held = (update for update, _ in disk.updates.values())
        updates = UpdateSet(stored.history, held, membership)
        machine = PeerMachine(
            MachineConfig(
                rounds=RoundsConfig(
                    rounds=cfg.rounds,
                    listen_timeout_s=cfg.listen_timeout_s,
                    start_timeout_s=cfg.start_timeout_s,
                    settle_s=cfg.settle_s,
                    is_sparse=cfg.mesh_links is not None and cfg.turn_period == 1,
                    quorum=cfg.quorum,
                    overlaps=cfg.overlaps,
                    observes=cfg.observes,
                    hearsay_s=cfg.heartbeat_s,
                ),
                bases=BaseConfig(
                    every=cfg.base_every,
                    origin_bytes=len(self.origin),
                    max_bytes=MAX_BASE_BYTES,
                    budget_bytes=cfg.budget_bytes,
                    others_passed_bytes=cfg.budget_bytes,
                    max_liars=cfg.max_liars or 0,
                    knows_all=cfg.turn_period == 1,
                ),
                admission=Admission(
                    RUN,
                    {CODEC: MAX_PAYLOAD_BYTES}.get,
                    stub_signature_valid,
                    Turns(RUN, cfg.turn_period),
                ),
                incarnation=disk.incarnation,
                heartbeat_s=cfg.heartbeat_s,
                liveness_s=cfg.liveness_s,
                progress_bytes=CHUNK_BYTES,
                mesh=None
                if cfg.mesh_links is None
                else MeshConfig(links=cfg.mesh_links, seeds=tuple(map(address_of, self.seeds))),
                max_liars=cfg.max_liars or 0,
            ),
            self.signer,
            stored.base,
            updates,
            last_own=updates.get(disk.last_own) if disk.last_own is not None else None,
            closed_round=disk.closed_round,
            authored_round=disk.authored_round,
            passed=[
                update
                for update, payload in disk.updates.values()
                if update.id not in updates and payload
            ],
            taken_back=self.taken_back,
            membership=membership,
        )
        self.machine = machine
        machine.rounds.waiting_for = self.world.not_met(self) if has_peers else ()
        self._do(machine.start(self.world.now))
        self._set_alarm()

    def _membership(self, max_liars: int) -> Membership:
        membership = Membership(
            self.device, self.signer, RUN, votes=max_liars + 1, is_valid=stub_signature_valid
        )
        for record in self.disk.records:
            membership.take(record)
        membership.trust(self.standing)
        return membership

    def set_standing(self, device: PeerId, standing: Standing) -> None:
        """Write a line of the trust file."""
        self.standing[device] = standing
        self.feed(lambda machine, now: machine.trust_changed(self.standing, now))

    def crash(self, *, keep_disk: bool = True) -> None:
        """Die at once: nothing is said."""
        self.machine = None
        self.life += 1
        self._waiting, self._is_frozen = [], False
        if not keep_disk:
            key = b"%s %d" % (self.name.encode(), self.life)
            self.disk = Disk()
            self.signer = StubSigner(key)  # no journal: a fresh key
        self.world.node_down(self)

    def freeze(self, seconds: float) -> None:
        """Stop for a while: what happens meanwhile is found afterwards, all at once."""
        if self.machine is None or self._is_frozen:
            return
        self.frozen_s += seconds
        self._is_frozen = True
        self._later((seconds, seconds), self.thaw)

    def thaw(self) -> None:
        """Go on, if frozen."""
        if not self._is_frozen:
            return
        life = self.life
        while self._waiting and self.machine is not None:
            # What comes of it waits behind the rest: a session ends after it has begun.
            self._do(self._waiting.pop(0)(self.machine, self.world.now))
        self._is_frozen = False
        self.feed(PeerMachine.tick)  # sockets come before alarms in an event loop
        if life == self.life:
            self._set_alarm()

    def feed(self, call: Event) -> None:
        """Give the machine an event and carry out what it decides."""
        if self._is_frozen:
            self._waiting.append(call)
        elif self.machine is not None:
            self._do(call(self.machine, self.world.now))

    def receive(self, call: Event) -> None:
        """Feed a message; the machine looks at all that came in one turn of the loop at once."""
        self.feed(call)
        if not self._turn_ends:
            self._turn_ends = True
            self._later(TURN_S, self._end_turn)

    def _end_turn(self) -> None:
        self._turn_ends = False
        self.feed(PeerMachine.look)

    # Time

    def _later(self, span: Span, call: Callable[[], None]) -> None:
        """Do something in this life, after a time drawn from ``span``."""
        life = self.life
        delay_s = self.world.random.uniform(*span)
        self.world.after(delay_s, lambda: call() if life == self.life else None)

    def _learn(self, span: Span, call: Callable[[], None]) -> None:
        """Do a piece of the learner's work, one after the other, as `_later`."""
        now = self.world.now
        self._learns_until = max(now, self._learns_until) + self.world.random.uniform(*span)
        wait_s = self._learns_until - now
        self._later((wait_s, wait_s), call)

    def _set_alarm(self) -> None:
        life, now = self.life, self.world.now
        due = self.running.next_wakeup(now)
        self.num_spins += due <= now

        def ring() -> None:
            if life == self.life and not self._is_frozen:
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

    def _keep(self, action: Keep) -> None:
        self.disk.records = action.records

    def _serve(self, action: Serve) -> None:
        stored = self._bases.get(action.id)
        data = stored.data if stored is not None else self._payloads.get(action.id)
        if data is None:
            self._send(Send((action.to,), Absent(action.id)))
            return
        self.world.stream(self, action.to, action.id, data, action.offset)

    def _write(self, action: Write) -> None:
        buffer = self._incoming.setdefault(action.item, bytearray(action.size))
        buffer[action.offset : action.offset + len(action.data)] = action.data

    def _discard(self, action: Discard) -> None:
        self._incoming.pop(action.item, None)

    def _remove(self, action: Remove) -> None:
        # The payload stays: some fold may still want it, and a node does not live for long.
        self.disk.updates.pop(action.update.id, None)

    def _check(self, action: Check) -> None:
        update = action.update
        payload = bytes(self._incoming.pop(Item(update.id), b""))

        def done() -> None:
            assert hash_payload(payload) == update.payload_hash, "links do not corrupt"
            self._payloads[update.id] = payload
            self.receive(lambda m, now: m.payload_checked(update, None, now))

        self._later(self.cfg.work_s, done)

    def _check_base(self, action: CheckBase) -> None:
        base = action.base

        def done() -> None:
            data = self._incoming.pop(Item(base.digest, base), None)
            if data is None:
                return  # not wanted any more
            stored = read_base(base, bytes(data))
            self._bases[base.digest] = stored
            before = self.running.base.digest

            def checked(machine: PeerMachine, now: float) -> list[Action]:
                return machine.base_checked(base, stored.history, now)

            self.feed(checked)
            self.num_adopted += self.machine is not None and before != self.running.base.digest

        self._later(self.cfg.work_s, done)

    def _cut(self, action: Cut) -> None:
        def done() -> None:
            state = self._fold.fold(action.plan, self._bases[action.plan.base].state)
            stored = make_base(action.history, state, given=self.running.base.given)
            self._bases[stored.base.digest] = stored
            self.num_cuts += 1
            self.feed(lambda m, now: m.base_made(action, stored.base, now))

        self._learn(self.cfg.work_s, done)

    def _take_back(self, action: TakeBack) -> None:
        for own in action.updates:
            if own.id in self._payloads and own.id not in self.taken_back:
                self.residual.update(self._carried(own))
                self.taken_back[own.id] = own.round

    def _count_again(self, action: CountAgain) -> None:
        for own in action.updates:
            if own.id in self._payloads and own.id in self.taken_back:
                self.residual.subtract(self._carried(own))
                del self.taken_back[own.id]

    def _carried(self, own: Update) -> Counter[UpdateId]:
        return self.carried.get(own.id, Counter([own.id]))  # a twin's

    def fold_afresh(self, plan: FoldPlan) -> bytes:
        """Return what a plan folds to, whatever was folded before."""
        start = self._bases[plan.base].state
        return Fold().fold(dataclasses.replace(plan, changed_from=plan.frontier + 1), start)

    def _fold_plan(self, plan: FoldPlan) -> bytes:
        """Fold as the learner does; count it if the plan has not told all that has changed."""
        state = self._fold.fold(plan, self._bases[plan.base].state)
        self.num_wrong_folds += state != self.fold_afresh(plan)
        return state

    def _train(self, action: Train) -> None:
        self.world.opened(self, action.round)
        if (plan := action.plan) is not None:
            self._learn(self.cfg.work_s, lambda: self._fold_opening(plan))
        span = self.cfg.train_s if self.train_s is None else (self.train_s, self.train_s)
        self._learn(span, lambda: self.feed(PeerMachine.trained))

    def _fold_opening(self, plan: FoldPlan) -> None:
        self._fold_plan(plan)

    def _author(self, action: Author) -> None:
        def done() -> None:
            self._collecting_since, self._authoring = self.world.now, action.round
            if action.round in self.skip_rounds:
                self.feed(lambda m, now: m.skipped("the script says so", now))
                return
            payload = self.world.random.randbytes(self.cfg.payload_bytes)
            body = UpdateBody(RUN, action.round, 1, CODEC, len(payload), hash_payload(payload))
            update = sign_update(body, self.signer)
            self.authored.append(update)
            self.carried[update.id] = Counter([update.id])
            self.carried[update.id].update(self.residual)
            self.residual = Counter()
            self._payloads[update.id] = payload
            self.disk.updates[update.id] = (update, payload)
            self.disk.authored_round, self.disk.last_own = action.round, update.id
            self.disk.taken_back_before = self.taken_back.copy()
            if self.dies_authoring:
                self.dies_authoring = False
                self.crash()
                return
            self.feed(lambda m, now: m.authored(update, now))

        self._learn(self.cfg.work_s, done)

    def _close(self, action: Close) -> None:
        began, plan = self.world.now, action.plan
        roster = self.running.roster
        is_cut_off = bool(roster.silent(began)) and not roster.alive(began)

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
                    action.round != self._authoring,
                    is_cut_off,
                )
            )
            self._collecting_since = self.world.now
            self._write_disk(action.round)
            self.feed(lambda m, now: m.folded(plan, digest, now))

        self._learn(self.cfg.work_s, done)

    def _write_disk(self, closed_round: int) -> None:
        base, before = self.running.base, self.disk.base
        self.disk.closed_round, self.disk.base = closed_round, self._bases[base.digest]
        for update in self.running.updates:
            kept = (update, self._payloads.get(update.id, b""))
            self.disk.updates.setdefault(update.id, kept)
        needed_from = min(base.frontier, before.base.frontier if before is not None else 0)
        self.disk.residual, self.disk.residual_of = self.residual.copy(), self.disk.last_own
        self.disk.taken_back = self.taken_back.copy()
        passed = {update.id for update in self.running.passed.kept}
        old = [i for i, (u, _) in self.disk.updates.items() if u.round <= needed_from]
        for item in set(old) - passed:
            del self.disk.updates[item]
            self._payloads.pop(item, None)

    def _tell(self, action: Tell) -> None:
        self.told.append(action.text)

    def _dial(self, action: Dial) -> None:
        self.world.learned(self, action.address)

    def _forget(self, action: Forget) -> None:
        self.world.forgotten(self, action.address)

    def _hang_up(self, action: HangUp) -> None:
        how = Parting.CROWDED if action.is_surplus else Parting.LOST
        self.world.hang_up(self, action.peer, how)

    def _diverged(self, action: Diverged) -> None:
        self.diverged.append(action)

    def _finish(self, action: Finish) -> None:
        self.finished = action.reason
        self.world.finished()
        self.feed(PeerMachine.leave)
        self.machine = None
        self.life += 1
        # What is on its way, the goodbye above all, still arrives.
        self._later((FLUSH_S, FLUSH_S), lambda: self.world.node_down(self))


_CARRY_OUT: dict[type[Action], Callable[[Node, Any], None]] = {
    Send: Node._send,
    Keep: Node._keep,
    Serve: Node._serve,
    Write: Node._write,
    Discard: Node._discard,
    Remove: Node._remove,
    Check: Node._check,
    CheckBase: Node._check_base,
    Cut: Node._cut,
    TakeBack: Node._take_back,
    CountAgain: Node._count_again,
    Train: Node._train,
    Author: Node._author,
    Close: Node._close,
    Tell: Node._tell,
    Dial: Node._dial,
    Forget: Node._forget,
    HangUp: Node._hang_up,
    Diverged: Node._diverged,
    Finish: Node._finish,
}
