"""A world of peers without sockets, threads or waiting: the real machines under a virtual clock.

Links delay, repeat, break and split as a script or a seed tells. Control messages of a session
arrive in order and before payloads sent later; payloads go one after the other, chunk by chunk,
and a heartbeat may overtake them. The same seed gives the same world to the last byte, so that a
failure is replayed by its seed alone.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from semantic_net.protocol.actions import Action
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.machine import PeerMachine
from semantic_net.protocol.mesh import Parting
from semantic_net.protocol.messages import Chunk, Message
from semantic_net.protocol.update import UpdateId
from semantic_net.simulation.node import CHUNK_BYTES, Node, NodeConfig, Span, address_of, name_at

Pair = frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """How messages travel, in seconds of the virtual clock."""

    delay_s: Span = (0.001, 0.1)
    """Travel of a message."""
    chunk_s: Span = (0.001, 0.01)
    """Time that the line is busy with one chunk."""
    redial_s: Span = (0.05, 1.0)
    """Wait before a lost or failed connection is tried again."""
    repeat_share: float = 0.0
    """Share of the messages that arrive twice, the second time late."""
    repeat_s: Span = (0.0, 3.0)
    """How late."""


@dataclass(slots=True)
class _Way:
    """One direction of a session."""

    sender: Node
    receiver: Node
    sender_id: PeerId
    arrives_at: float = 0.0
    """When the last control message does."""
    bulk: dict[UpdateId, tuple[bytes, int]] = field(default_factory=dict)
    """What is to be streamed, in order: the bytes, and how far it is."""
    is_pumping: bool = False
    is_up: bool = True


class World:
    """Nodes, the links between them, and the one clock."""

    def __init__(
        self,
        names: Iterable[str],
        cfg: NodeConfig,
        seed: int = 0,
        *,
        link: LinkConfig | None = None,
        links: Iterable[tuple[str, str]] | None = None,
        keys: Mapping[str, str] | None = None,
    ) -> None:
        """Make the nodes, all of them down.

        Args:
            names: Of the nodes.
            cfg: Of every node; a node's own may be replaced before it starts.
            seed: Of everything that is drawn.
            link: How messages travel.
            links: Who may talk to whom; None for everyone to everyone. In a mesh everyone may, and
                does with those that it dials.
            keys: What a node's key is made from, where that is not its name: two nodes with one
                key are two instances of one peer.
        """
        self.random = random.Random(seed)  # reproducible, not secret  # nosec B311
        self.link = link if link is not None else LinkConfig()
        self._now = 0.0
        key_of = {name: (keys or {}).get(name, name) for name in names}
        self.nodes = {name: Node(self, name, cfg, key) for name, key in key_of.items()}
        for name, node in self.nodes.items():
            node.has_twin = list(key_of.values()).count(key_of[name]) > 1
        self._is_mesh = cfg.mesh_links is not None
        self._dialled: set[tuple[str, str]] = set()  # in a mesh: who dials what
        if links is not None or self._is_mesh:
            pairs = links or ()
        else:
            pairs = itertools.combinations(self.nodes, 2)
        self.links = sorted((frozenset(pair) for pair in pairs), key=sorted)
        self.slow: dict[Pair, Span] = {}
        """Links that take longer for a chunk than the others."""
        self.grows = False
        """Nodes may dial those that they learn of: new links."""
        self.max_sessions = 64
        """In a mesh: sessions of a node beyond which nobody else may call."""
        self.unannounced: set[str] = set()
        """Nodes that nobody waits for at the start."""
        self._down: set[Pair] = set()
        self._sessions: dict[Pair, tuple[_Way, _Way]] = {}
        self._ways: dict[tuple[str, PeerId], _Way] = {}
        self._num_sessions: Counter[str] = Counter()
        self._met: dict[str, set[str]] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._someone_finished = False
        self.script: dict[tuple[str, int], list[Callable[[], None]]] = {}
        """What happens when a node begins to train for a round; see `at_round`."""
        for pair in self.links:
            self._dial(pair)

    @property
    def now(self) -> float:
        """The virtual time, in seconds."""
        return self._now

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Let something happen later."""
        heapq.heappush(self._events, (self._now + delay_s, next(self._count), call))

    def at_round(self, name: str, round_index: int, call: Callable[[], None]) -> None:
        """Let something happen when a node begins to train for a round, for the first time."""
        self.script.setdefault((name, round_index), []).append(call)

    def run(self, until: float) -> None:
        """Let time pass until an instant, or until everyone has finished."""
        while self._events and self._events[0][0] <= until:
            self._now, _, call = heapq.heappop(self._events)
            call()
            if self._someone_finished and self.all_finished():
                return
        self._now = max(self._now, until)

    def all_finished(self) -> bool:
        """Tell whether every node came to its end."""
        return all(n.machine is None and n.finished is not None for n in self.nodes.values())

    def retire(self, name: str) -> None:
        """Take a node down for good."""
        node = self.nodes[name]
        if node.machine is not None:
            node.crash()
        del self.nodes[name]
        self.links = [pair for pair in self.links if name not in pair]

    # Links

    def cut(self, a: str, b: str) -> None:
        """Break a link; both ends notice at once, messages on it are lost."""
        pair = frozenset((a, b))
        self._down.add(pair)
        self._break(pair)

    def heal(self, a: str, b: str) -> None:
        """Mend a link."""
        self._down.discard(frozenset((a, b)))

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut every link between groups, mend every link within one."""
        side = {name: i for i, group in enumerate(groups) for name in group}
        pairs = itertools.combinations(sorted(self.nodes), 2) if self._is_mesh else self.links
        for pair in pairs:
            a, b = sorted(pair)
            if side.get(a) == side.get(b):
                self.heal(a, b)
            else:
                self.cut(a, b)

    # What nodes need: see `Surroundings`.

    def opened(self, node: Node, round_index: int) -> None:
        """Let happen what the script has for this node and round."""
        for call in self.script.pop((node.name, round_index), ()):
            self.after(0.0, call)  # not in the midst of what the node does

    def finished(self) -> None:
        """Note that a node came to its end."""
        self._someone_finished = True

    def node_down(self, node: Node) -> None:
        """Break every connection of a node that is gone."""
        self._met.pop(node.name, None)
        self._dialled = {dialled for dialled in self._dialled if dialled[0] != node.name}
        for pair in [*self.links, *(self._sessions if self._is_mesh else ())]:
            if node.name in pair:
                self._break(pair)

    def learned(self, node: Node, address: str) -> None:
        """Let a node dial another that it was not told of, where links may grow."""
        if self._is_mesh:
            self._dialled.add((node.name, address))
            self.after(self._draw(self.link.delay_s), lambda: self._call(node.name, address))
            return
        name = name_at(address)
        pair = frozenset((node.name, name))
        if self.grows and name in self.nodes and pair not in self.links and len(pair) == 2:
            self.links.append(pair)
            self.unannounced.add(name)  # nobody was told to wait for it
            self._dial(pair)

    def forgotten(self, node: Node, address: str) -> None:
        """Let a node dial another no more."""
        self._dialled.discard((node.name, address))

    def hang_up(self, node: Node, peer: PeerId, how: Parting) -> None:
        """End a node's session with a peer."""
        if (way := self._ways.get((node.name, peer))) is not None:
            self._break(frozenset((way.sender.name, way.receiver.name)), how)

    def neighbours(self) -> dict[str, set[str]]:
        """Return whom each node that is up has a session with."""
        up = {name for name, node in self.nodes.items() if node.machine is not None}
        pairs = [sorted(pair) for pair in self._sessions if pair <= up]
        found: dict[str, set[str]] = {name: set() for name in self.nodes if name in up}
        for a, b in pairs:
            found[a].add(b)
            found[b].add(a)
        return found

    def not_met(self, node: Node) -> tuple[str, ...]:
        """Return the names at the other ends of a node's links that it has not met in this life."""
        others = {name for pair in self.links if node.name in pair for name in pair - {node.name}}
        return tuple(sorted(others - self._met.get(node.name, set()) - self.unannounced))

    def send(self, sender: Node, to: PeerId, message: Message) -> None:
        """Carry a small message, in order, unless its session breaks first."""
        way = self._ways.get((sender.name, to))
        if way is not None:
            at = max(self._now + self._draw(self.link.delay_s), way.arrives_at)
            way.arrives_at = at
            self._deliver(way, message, at)

    def stream(self, sender: Node, to: PeerId, item: UpdateId, data: bytes, offset: int) -> None:
        """Carry an item's bytes, behind those that are under way to the same peer."""
        way = self._ways.get((sender.name, to))
        if way is not None:
            if not (way.is_pumping and item == next(iter(way.bulk), None)):
                way.bulk.pop(item, None)  # to the end, but for what is being sent
            way.bulk[item] = (data, offset)
            self._pump(way)

    # The inside

    def _draw(self, span: Span) -> float:
        return self.random.uniform(*span)

    def _deliver(self, way: _Way, message: Message, at: float) -> None:
        def take(machine: PeerMachine, now: float) -> list[Action]:
            # It may have waited for a frozen receiver, which then hung up.
            return machine.received(way.sender_id, message, now) if way.is_up else []

        def arrive() -> None:
            if way.is_up:
                way.receiver.receive(take)

        self.after(at - self._now, arrive)
        if self.link.repeat_share and self.random.random() < self.link.repeat_share:
            self.after(at - self._now + self._draw(self.link.repeat_s), arrive)

    def _pump(self, way: _Way) -> None:
        if way.is_pumping or not way.bulk:
            return
        item, (data, offset) = next(iter(way.bulk.items()))
        part = data[offset : offset + CHUNK_BYTES]
        if not part:
            del way.bulk[item]
            self._pump(way)
            return
        way.bulk[item] = (data, offset + len(part))
        way.is_pumping = True
        pair = frozenset((way.sender.name, way.receiver.name))
        busy_s = self._draw(self.slow.get(pair, self.link.chunk_s))

        def drained() -> None:
            way.is_pumping = False
            if way.is_up:
                at = max(self._now + self.link.delay_s[0], way.arrives_at)
                self._deliver(way, Chunk(item, offset, memoryview(part)), at)
                self._pump(way)

        self.after(busy_s, drained)

    def _break(self, pair: Pair, how: Parting = Parting.LOST) -> None:
        for way in self._sessions.pop(pair, ()):
            self._num_sessions[way.sender.name] -= 1
            way.is_up = False
            way.bulk.clear()
            self._ways = {key: w for key, w in self._ways.items() if w is not way}
            lost = way.sender_id
            way.receiver.feed(lambda m, now, lost=lost: m.disconnected(lost, now, how))  # type: ignore[misc]

    def _dial(self, pair: Pair) -> None:
        if pair not in self.links:
            return
        self._meet(pair)
        self.after(self._draw(self.link.redial_s), lambda: self._dial(pair))

    def _call(self, caller: str, address: str) -> None:
        if (caller, address) not in self._dialled:
            return
        called = name_at(address)
        if called in self.nodes and called != caller:
            node, other = self.nodes[caller], self.nodes[called].id
            if (caller, other) in self._ways:
                node.feed(lambda m, now: m.led_to(other, address, now))
            elif self._num_sessions[called] < self.max_sessions:
                self._meet(frozenset((caller, called)), caller)
            else:
                node.feed(lambda m, now: m.not_reached(address, now))
        self.after(self._draw(self.link.redial_s), lambda: self._call(caller, address))

    def _meet(self, pair: Pair, caller: str | None = None) -> None:
        if pair not in self._down and pair not in self._sessions:
            a, b = (self.nodes[name] for name in sorted(pair))
            both_run = a.machine is not None and b.machine is not None
            # One session a peer: a second instance of a connected one is refused at the hello.
            if both_run and (a.name, b.id) not in self._ways and (b.name, a.id) not in self._ways:
                self._connect(pair, a, b, caller)

    def _connect(self, pair: Pair, a: Node, b: Node, caller: str | None) -> None:
        there, back = _Way(a, b, a.id), _Way(b, a, b.id)
        self._sessions[pair] = (there, back)
        self._ways[a.name, b.id], self._ways[b.name, a.id] = there, back
        for node, other in ((a, b), (b, a)):
            self._num_sessions[node.name] += 1
            self._met.setdefault(node.name, set()).add(other.name)
            seen_at = address_of(other.name) if node.name == caller else ""
            _feed_both(node, other, seen_at, self.not_met(node))


def _feed_both(node: Node, other: Node, seen_at: str, not_met: tuple[str, ...]) -> None:
    # Some pairs list all that they hold at once, as with a peer that sums nothing up.
    sums_up = sum(map(ord, node.name + other.name)) % 3 > 0
    peer = other.id

    def connected(machine: PeerMachine, now: float) -> list[Action]:
        return machine.connected(peer, now, (address_of(other.name),), seen_at, sums_up=sums_up)

    def waiting(machine: PeerMachine, now: float) -> list[Action]:
        return machine.waiting_for(not_met, now)

    node.feed(connected)
    node.feed(waiting)
