"""A world of peers without sockets, threads or waiting: the real machines under a virtual clock.

Every `Node` drives a real `PeerMachine`; training, folding and payloads are stand-ins that cost
virtual seconds. Links delay, break and split as a script or a seed tells. The same seed gives the
same world to the last byte, so that a failure is replayed by its seed alone.

What a real disk would keep (the journal, the held updates) a node keeps in its `Disk`; a crash
takes the rest.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from semantic_net.protocol.actions import (
    Action,
    AdoptBase,
    Author,
    Check,
    CheckBase,
    Close,
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
from semantic_net.protocol.messages import Chunk, Message
from semantic_net.protocol.rounds import RoundsConfig
from semantic_net.protocol.update import (
    Admission,
    Update,
    UpdateBody,
    UpdateId,
    hash_payload,
    sign_update,
)
from semantic_net.protocol.update_set import UpdateSet

RUN = b"simulated run..."
CODEC = "stub"
CHUNK_BYTES = 16
MAX_PAYLOAD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """Sizes and times of a simulated run, in seconds of the virtual clock."""

    rounds: int = 5
    listen_timeout_s: float = 20.0
    start_timeout_s: float = 10.0
    heartbeat_s: float = 1.0
    liveness_s: float = 5.0
    train_s: tuple[float, float] = (0.5, 3.0)
    """Shortest and longest training."""
    work_s: tuple[float, float] = (0.0, 0.05)
    """Shortest and longest check, encode or fold."""
    delay_s: tuple[float, float] = (0.001, 0.1)
    """Shortest and longest travel of a message."""
    redial_s: tuple[float, float] = (0.05, 1.0)
    """Shortest and longest wait before a lost or failed connection is tried again."""
    payload_bytes: int = 40


@dataclass(slots=True)
class Disk:
    """What survives a crash."""

    updates: dict[UpdateId, Update] = field(default_factory=dict)
    payloads: dict[UpdateId, bytes] = field(default_factory=dict)
    last_own: Update | None = None
    closed_round: int = 0
    incarnation: int = 0
    base: tuple[bytes, bool] | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """A round as a node recorded it."""

    round: int
    reason: str
    missing: tuple[PeerId, ...]
    state_digest: bytes
    set_digest: bytes
    waited_s: float
    """Seconds from the own update (or its skip) to the close."""


class Node:
    """One peer of a world."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.signer = Signer(hashlib.sha256(name.encode()).digest())
        self.disk = Disk()
        self.machine: PeerMachine | None = None
        self.life = 0
        """Grows with every start and stop; what an earlier life left in the air is void."""
        self.closed: list[Closed] = []
        self.told: list[str] = []
        self.finished: str | None = None
        self.authored: list[Update] = []
        self.base = (hashlib.sha256(b"base " + name.encode()).digest(), False)
        self.train_s: float | None = None
        """A fixed time for training; None draws one."""
        self.skip_rounds: set[int] = set()
        """Rounds in which training gives no update."""
        self._incoming: dict[UpdateId, bytearray] = {}
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
        """Start, or start again with what the disk holds."""
        cfg, disk = self.world.cfg, self.disk
        assert self.machine is None, f"{self.name} runs already"
        self.life += 1
        disk.incarnation += 1
        self.finished = None
        self._incoming.clear()
        digest, given = self.base = disk.base or self.base
        self.machine = PeerMachine(
            MachineConfig(
                rounds=RoundsConfig(
                    rounds=cfg.rounds,
                    listen_timeout_s=cfg.listen_timeout_s,
                    start_timeout_s=cfg.start_timeout_s,
                    has_peers=has_peers,
                ),
                admission=Admission(RUN, {CODEC: MAX_PAYLOAD_BYTES}.get),
                incarnation=disk.incarnation,
                heartbeat_s=cfg.heartbeat_s,
                liveness_s=cfg.liveness_s,
            ),
            self.signer,
            Base(digest, given, len(digest)),
            updates=UpdateSet(disk.updates.values()),
            last_own=disk.last_own,
            closed_round=disk.closed_round,
        )
        self._do(self.machine.start(self.world.now))
        self._tick()

    def crash(self, *, keep_disk: bool = True) -> None:
        """Die at once: nothing is said, connections break when the others notice."""
        self.machine = None
        self.life += 1
        if not keep_disk:
            key = b"%s %d" % (self.name.encode(), self.life)
            self.disk = Disk()
            self.signer = Signer(hashlib.sha256(key).digest())  # no journal: a fresh key
        self.world.node_down(self)

    def feed(self, call: Callable[[PeerMachine], list[Action]]) -> None:
        """Give the machine an event and carry out what it decides."""
        if self.machine is not None:
            self._do(call(self.machine))

    def _later(self, span: tuple[float, float], call: Callable[[], None]) -> None:
        """Do something in this life, after a time drawn from ``span``."""
        life = self.life
        self.world.after(self.world.draw(span), lambda: call() if life == self.life else None)

    def _tick(self) -> None:
        life, machine = self.life, self.running
        due = machine.next_wakeup(self.world.now)

        def tick() -> None:
            if life == self.life and self.machine is machine:
                self._do(machine.tick(self.world.now))
                if self.machine is machine:
                    self._tick()

        # Never twice at one instant: a machine that asks for that would spin.
        self.world.after(max(due - self.world.now, 1e-3), tick)

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            _CARRY_OUT[type(action)](self, action)

    def _send(self, action: Send) -> None:
        for peer in action.to:
            self.world.deliver(self, peer, action.message)

    def _serve(self, action: Serve) -> None:
        data = self.base[0] if action.id == self.base[0] else self.disk.payloads.get(action.id, b"")
        for offset in range(action.offset, len(data), CHUNK_BYTES):
            part = memoryview(data[offset : offset + CHUNK_BYTES])
            self.world.deliver(self, action.to, Chunk(action.id, offset, part))

    def _write(self, action: Write) -> None:
        buffer = self._incoming.setdefault(action.id, bytearray(action.size))
        buffer[action.offset : action.offset + len(action.data)] = action.data

    def _discard(self, action: Discard) -> None:
        self._incoming.pop(action.id, None)

    def _check(self, action: Check) -> None:
        update = action.update

        def done() -> None:
            payload = bytes(self._incoming.pop(update.id, b""))
            assert hash_payload(payload) == update.payload_hash, "links do not corrupt"
            self.disk.payloads[update.id] = payload
            self.feed(lambda m: m.payload_checked(update, None, self.world.now))
            self._keep()

        self._later(self.world.cfg.work_s, done)

    def _check_base(self, action: CheckBase) -> None:
        self._later(
            self.world.cfg.work_s,
            lambda: self.feed(lambda m: m.base_checked(action.id, self.world.now)),
        )

    def _adopt_base(self, action: AdoptBase) -> None:
        self.base = self.disk.base = (action.id, self.running.base.given)

    def _train(self, action: Train) -> None:
        cfg = self.world.cfg
        span = cfg.train_s if self.train_s is None else (self.train_s, self.train_s)
        self._later(span, lambda: self.feed(lambda m: m.trained(self.world.now)))

    def _author(self, action: Author) -> None:
        def done() -> None:
            self._collecting_since = self.world.now
            if action.round in self.skip_rounds:
                self.feed(lambda m: m.skipped("the script says so", self.world.now))
                return
            payload = self.world.random.randbytes(self.world.cfg.payload_bytes)
            body = UpdateBody(RUN, action.round, 1, CODEC, len(payload), hash_payload(payload))
            update = sign_update(body, self.signer)
            self.disk.last_own = update
            self.disk.payloads[update.id] = payload
            self.authored.append(update)
            self.feed(lambda m: m.authored(update, self.world.now))
            self._keep()

        self._later(self.world.cfg.work_s, done)

    def _close(self, action: Close) -> None:
        def done() -> None:
            digest = fold_digest(action.plan)
            waited = began - self._collecting_since
            self.closed.append(
                Closed(
                    action.round,
                    action.reason,
                    action.missing,
                    digest,
                    action.plan.set_digest,
                    waited,
                )
            )
            self.disk.closed_round = action.round
            self._keep()
            self.feed(lambda m: m.folded(action.plan, digest, self.world.now))

        began = self.world.now
        self._later(self.world.cfg.work_s, done)

    def _tell(self, action: Tell) -> None:
        self.told.append(action.text)

    def _diverged(self, action: Diverged) -> None:
        self.world.diverged.append((self.name, action))

    def _finish(self, action: Finish) -> None:
        self.finished = action.reason
        self.feed(lambda m: m.leave(self.world.now))
        self._keep()
        self.machine = None
        self.life += 1
        self.world.node_down(self)

    def _keep(self) -> None:
        """Write the set to the disk: what is held survives a crash."""
        if self.machine is not None:
            self.disk.updates = {u.id: u for u in self.machine.updates}


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
    Diverged: Node._diverged,
    Finish: Node._finish,
}


def fold_digest(plan: FoldPlan) -> bytes:
    """Stand in for the fold: a pure function of base and updates."""
    total = hashlib.sha256(plan.base)
    for number in sorted(plan.rounds):
        for update in plan.rounds[number]:
            total.update(update.id)
    return total.digest()


class World:
    """Nodes, the links between them, and the one clock."""

    def __init__(self, names: Iterable[str], cfg: WorldConfig, seed: int = 0) -> None:
        self.cfg = cfg
        self.random = random.Random(seed)  # nosec B311: reproducible, not secret
        self.now = 0.0
        self.nodes = {name: Node(self, name) for name in names}
        self.diverged: list[tuple[str, Diverged]] = []
        self.links = {frozenset(pair) for pair in itertools.combinations(self.nodes, 2)}
        """Who may talk to whom; take pairs out for another topology."""
        self._down: set[frozenset[str]] = set()
        self._sessions: dict[frozenset[str], int] = {}  # pair -> number of the session
        self._ids: dict[tuple[frozenset[str], str], PeerId] = {}  # who each end of a session was
        self._last_arrival: dict[tuple[str, str], float] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        for pair in sorted(self.links, key=sorted):
            self._dial(pair)

    def draw(self, span: tuple[float, float]) -> float:
        """Draw a time from a span."""
        return self.random.uniform(*span)

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Let something happen later."""
        heapq.heappush(self._events, (self.now + delay_s, next(self._count), call))

    def run(self, until: float) -> None:
        """Let time pass until an instant, or until everyone has finished."""
        while self._events and self._events[0][0] <= until:
            if self.all_finished():
                return
            self.now, _, call = heapq.heappop(self._events)
            call()
        self.now = max(self.now, until)

    def all_finished(self) -> bool:
        """Tell whether no node runs and every started one came to its end."""
        return all(n.machine is None and n.finished is not None for n in self.nodes.values())

    def alive(self) -> list[Node]:
        """Return the nodes that run."""
        return [n for n in self.nodes.values() if n.machine is not None]

    # Links

    def cut(self, a: str, b: str) -> None:
        """Break a link; both ends notice at once, messages on it are lost."""
        pair = frozenset((a, b))
        self._down.add(pair)
        self._break(pair, "link cut")

    def heal(self, a: str, b: str) -> None:
        """Mend a link."""
        self._down.discard(frozenset((a, b)))

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut every link between groups, mend every link within one."""
        side = {name: i for i, group in enumerate(groups) for name in group}
        for pair in sorted(self.links, key=sorted):
            a, b = sorted(pair)
            if side.get(a) == side.get(b):
                self.heal(a, b)
            else:
                self.cut(a, b)

    def node_down(self, node: Node) -> None:
        """Break every connection of a node that is gone."""
        for pair in sorted(self.links, key=sorted):
            if node.name in pair:
                self._break(pair, f"{node.name} is gone")

    def deliver(self, sender: Node, to: PeerId, message: Message) -> None:
        """Carry a message, in order, unless its session breaks first."""
        receiver = next((n for n in self.nodes.values() if n.id == to), None)
        if receiver is None:
            return
        pair = frozenset((sender.name, receiver.name))
        session = self._sessions.get(pair)
        if session is None:
            return
        key = (sender.name, receiver.name)
        at = max(self.now + self.draw(self.cfg.delay_s), self._last_arrival.get(key, 0.0))
        self._last_arrival[key] = at
        sender_id = sender.id

        def arrive() -> None:
            if self._sessions.get(pair) == session:
                receiver.feed(lambda m: m.received(sender_id, message, self.now))

        self.after(at - self.now, arrive)

    def _break(self, pair: frozenset[str], reason: str) -> None:
        if self._sessions.pop(pair, None) is None:
            return
        a, b = (self.nodes[name] for name in sorted(pair))
        for here, there in ((a, b), (b, a)):
            lost = self._ids[pair, there.name]
            here.feed(lambda m, lost=lost: m.disconnected(lost, self.now))  # type: ignore[misc]

    def _dial(self, pair: frozenset[str]) -> None:
        a, b = (self.nodes[name] for name in sorted(pair))
        possible = pair in self.links and pair not in self._down
        both_run = a.machine is not None and b.machine is not None
        if possible and both_run and pair not in self._sessions:
            self._sessions[pair] = next(self._count)
            self._ids[pair, a.name], self._ids[pair, b.name] = a.id, b.id
            for here, there in ((a, b), (b, a)):
                peer = there.id
                here.feed(lambda m, peer=peer: m.connected(peer, self.now))  # type: ignore[misc]
        self.after(self.draw(self.cfg.redial_s), lambda: self._dial(pair))
