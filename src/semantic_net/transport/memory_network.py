"""A network in memory: links with bandwidth, delay and loss, and the faults that befall them.

Everything runs on the event loop's clock, so under `VirtualTimeLoop` nothing ever sleeps. A link
leads from one named machine to another. As in TCP what is sent arrives, in order, for as long as
the connection lives: loss shows as delay, and where it goes on, or a link stays cut for
``dead_after_s``, as a broken connection.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import random
from collections.abc import Collection, Iterable

from semantic_net.protocol.frames import Kind
from semantic_net.transport.address import Address
from semantic_net.transport.connection import Connection
from semantic_net.transport.hub import Hub
from semantic_net.transport.link import Link, LinkQuality
from semantic_net.transport.memory_wire import MemoryWire

SYN_RETRIES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""When a machine that does not answer is asked again for a connection, as kernels do."""

HANDSHAKE_KINDS = frozenset({Kind.HELLO, Kind.CONFIRM, Kind.REFUSE})


class MemoryNetwork:
    """Machines, known by name, and the links between them."""

    def __init__(
        self,
        *,
        quality: LinkQuality | None = None,
        dead_after_s: float = 10.0,
        rng: random.Random | None = None,
    ) -> None:
        """Make a network without machines.

        Args:
            quality: Of every link that is not set otherwise.
            dead_after_s: How long a link must be cut for its connections to break.
            rng: For jitter and loss.
        """
        self.dead_after_s = dead_after_s
        self._quality = quality or LinkQuality()
        self._rng = rng or random.Random(0)  # nosec B311  # a simulation, no secret
        self._links: dict[tuple[str, str], Link] = {}
        self._listeners: dict[Address, tuple[str, Hub]] = {}
        self._wires: dict[MemoryWire, None] = {}
        self._cuts: set[frozenset[str]] = set()
        self._side_of: dict[str, int] = {}
        self._cut_since_s: dict[frozenset[str], float] = {}
        self._ports = itertools.count(49152)

    # Faults.

    def set_link(self, a: str, b: str, quality: LinkQuality, *, both_ways: bool = True) -> None:
        """Change what the link from ``a`` to ``b`` is like, by default that back too."""
        self._link(a, b).quality = quality
        if both_ways:
            self._link(b, a).quality = quality

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut every link between different groups; machines in no group form one more."""
        self._side_of = {name: side for side, group in enumerate(groups, start=1) for name in group}
        self._links_changed()

    def cut(self, a: str, b: str) -> None:
        """Cut the link between two machines."""
        self._cuts.add(frozenset((a, b)))
        self._links_changed()

    def heal(self) -> None:
        """Undo every cut and partition; connections that have not broken go on."""
        self._cuts.clear()
        self._side_of = {}
        self._links_changed()

    def drop(self, pairs: Iterable[tuple[str, str]], kinds: Collection[Kind] | None = None) -> None:
        """Swallow frames from the first to the second of each pair; their sessions live on.

        Args:
            pairs: Sender and receiver.
            kinds: Which frames; all but the handshake's by default. Empty: none any more.
        """
        chosen = frozenset(Kind) - HANDSHAKE_KINDS if kinds is None else frozenset(kinds)
        for source, target in pairs:
            self._link(source, target).swallowed = chosen

    def reset(self, a: str, b: str) -> None:
        """Break the connections between two machines now; they may dial again."""
        for wire in list(self._wires):
            if {wire.source, wire.target} == {a, b}:
                wire.break_("Connection reset by peer")

    def lose(self, a: str, b: str) -> None:
        """Break the connections between two machines as ``a`` sees it; ``b`` does not notice."""
        for wire in list(self._wires):
            if (wire.source, wire.target) == (a, b):
                wire.break_("Connection timed out")

    def is_cut(self, a: str, b: str) -> bool:
        """Whether nothing passes between two machines."""
        return frozenset((a, b)) in self._cuts or self._side_of.get(a, 0) != self._side_of.get(b, 0)

    # Machines.

    def listen(self, address: Address, name: str, hub: Hub) -> None:
        """Let others connect to ``address``.

        Raises:
            OSError: Another transport listens there.
        """
        if address in self._listeners:
            raise OSError(errno.EADDRINUSE, "address in use")
        self._listeners[address] = (name, hub)

    def stop_listening(self, address: Address, hub: Hub) -> None:
        """Let nobody connect to ``address`` any more, if it is ``hub`` that listens."""
        if self._listeners.get(address, ("", None))[1] is hub:
            del self._listeners[address]

    async def connect(self, name: str, hub: Hub, address: Address) -> Connection:
        """Open a connection from the machine ``name`` and begin its handshake.

        Raises:
            OSError: Nobody listens there, or the machine does not answer.
        """
        target = await self._reach(name, address)
        if address not in self._listeners:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
        listener = self._listeners[address][1]
        ours, theirs = MemoryWire(self, hub, name, target), MemoryWire(self, listener, target, name)
        theirs.open(ours, f"{name}:{next(self._ports)}", dialled=False)
        return ours.open(theirs, str(address), dialled=True)

    async def _reach(self, name: str, address: Address) -> str:
        for retry_s in SYN_RETRIES_S:
            target = self._listeners[address][0] if address in self._listeners else address.host
            if not self.is_cut(name, target):
                there, back = self._link(name, target), self._link(target, name)
                await asyncio.sleep(there.quality.delay_s + back.quality.delay_s)
                if not self.is_cut(name, target):
                    return target
            await asyncio.sleep(retry_s)
        raise TimeoutError(errno.ETIMEDOUT, "timed out")

    # What wires need.

    def add(self, wire: MemoryWire) -> None:
        """Count a wire in."""
        self._wires[wire] = None

    def remove(self, wire: MemoryWire) -> None:
        """Forget a wire."""
        self._wires.pop(wire, None)

    def arrival_s(self, wire: MemoryWire, num_bytes: int) -> float | None:
        """Return when bytes that ``wire`` sends now arrive; None: never."""
        now = asyncio.get_running_loop().time()
        return self._link(wire.source, wire.target).send(num_bytes, now, self._rng)

    def busy_until_s(self, wire: MemoryWire) -> float:
        """Return when the wire's link takes more."""
        return self._link(wire.source, wire.target).busy_until_s

    def swallows(self, wire: MemoryWire, kind: Kind) -> bool:
        """Whether frames of ``kind`` on this wire are dropped by script."""
        return kind in self._link(wire.source, wire.target).swallowed

    def _link(self, source: str, target: str) -> Link:
        if (link := self._links.get((source, target))) is None:
            link = self._links[source, target] = Link(self._quality)
        return link

    def _links_changed(self) -> None:
        loop = asyncio.get_running_loop()
        for wire in list(self._wires):
            pair = frozenset((wire.source, wire.target))
            if not self.is_cut(wire.source, wire.target):
                self._cut_since_s.pop(pair, None)
                wire.healed()
            elif pair not in self._cut_since_s:
                self._cut_since_s[pair] = loop.time()
                loop.call_later(self.dead_after_s, self._break_if_cut, pair, loop.time())

    def _break_if_cut(self, pair: frozenset[str], since_s: float) -> None:
        if self._cut_since_s.get(pair) != since_s:
            return
        del self._cut_since_s[pair]
        for wire in list(self._wires):
            if {wire.source, wire.target} == pair:
                wire.break_("Connection timed out")
