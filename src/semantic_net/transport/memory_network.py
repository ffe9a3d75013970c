"""A network in memory: links with bandwidth, delay and loss, and the faults that befall them.

Everything runs on the event loop's clock, so under `VirtualTimeLoop` nothing ever sleeps. A link
leads from one named machine to another; all links of a machine share its uplink and its downlink,
if those have a limit. As in TCP what is sent arrives, in order, for as long as
the connection lives: loss shows as delay, and where it goes on, or a link stays cut for
``dead_after_s``, as a broken connection. A fault touches the connections of its machines alone.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import random
from collections.abc import Callable, Collection, Iterable

from semantic_net.protocol.frames import Kind
from semantic_net.transport.address import Address
from semantic_net.transport.connection import Connection
from semantic_net.transport.hub import Hub
from semantic_net.transport.link import Link, LinkQuality
from semantic_net.transport.medium import Machine, MachineQuality, Medium
from semantic_net.transport.memory_wire import MemoryWire

SYN_RETRIES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""When a machine that does not answer is asked again for a connection, as kernels do."""

EPHEMERAL_PORTS = range(49152, 65536)

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
            quality: Of every link that is not set otherwise; machines have no limit.
            dead_after_s: How long a link must be cut for its connections to break.
            rng: For jitter and loss.
        """
        default = quality or LinkQuality()
        self.dead_after_s = dead_after_s
        self.rng = rng or random.Random(0)  # nosec B311  # a simulation, no secret
        self._quality_of: Callable[[str, str], LinkQuality] = lambda source, target: default
        self._machine_quality_of: Callable[[str], MachineQuality] = lambda name: MachineQuality()
        self._links: dict[tuple[str, str], Link] = {}
        self._machines: dict[str, Machine] = {}
        self._channels: dict[str, Medium] = {}
        self._listeners: dict[Address, tuple[str, Hub]] = {}
        self._wires_of: dict[str, dict[MemoryWire, None]] = {}  # by either machine
        self._cuts: set[frozenset[str]] = set()
        self._isolated: set[str] = set()
        self._side_of: dict[str, int] = {}
        self._ports = itertools.cycle(EPHEMERAL_PORTS)

    # What it is like.

    def set_defaults(
        self,
        quality_of: Callable[[str, str], LinkQuality],
        machine_quality_of: Callable[[str], MachineQuality] | None = None,
    ) -> None:
        """Say what links, by source and target, and machines are like that are not set otherwise.

        Each is asked for once, when it is first used: do this before anything is.
        """
        self._quality_of = quality_of
        if machine_quality_of is not None:
            self._machine_quality_of = machine_quality_of

    def set_link(self, a: str, b: str, quality: LinkQuality, *, both_ways: bool = True) -> None:
        """Change what the link from ``a`` to ``b`` is like, by default that back too."""
        self.link(a, b).quality = quality
        if both_ways:
            self.link(b, a).quality = quality

    def set_machine(self, name: str, quality: MachineQuality) -> None:
        """Change what all links of a machine share; its channel only before it is used."""
        self._use(self.machine(name), quality)

    # Faults.

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut every link between different groups; machines in no group form one more.

        Without a group there is no partition any more.
        """
        self._side_of = {name: side for side, group in enumerate(groups, start=1) for name in group}
        self._changed(self._wires_of)

    def cut(self, a: str, b: str) -> None:
        """Cut the link between two machines."""
        self._cuts.add(frozenset((a, b)))
        self._changed((a,))

    def mend(self, a: str, b: str) -> None:
        """Undo the cut of one link."""
        self._cuts.discard(frozenset((a, b)))
        self._changed((a,))

    def isolate(self, name: str) -> None:
        """Cut all links of a machine."""
        self._isolated.add(name)
        self._changed((name,))

    def rejoin(self, name: str) -> None:
        """Undo what `isolate` did."""
        self._isolated.discard(name)
        self._changed((name,))

    def heal(self) -> None:
        """Undo every cut, isolation and partition; connections that have not broken go on."""
        self._cuts.clear()
        self._isolated.clear()
        self._side_of = {}
        self._changed(self._wires_of)

    def drop(self, pairs: Iterable[tuple[str, str]], kinds: Collection[Kind] | None = None) -> None:
        """Swallow frames from the first to the second of each pair; their sessions live on.

        Args:
            pairs: Sender and receiver.
            kinds: Which frames; all but the handshake's by default. Empty: none any more.
        """
        chosen = frozenset(Kind) - HANDSHAKE_KINDS if kinds is None else frozenset(kinds)
        for source, target in pairs:
            self.link(source, target).swallowed = chosen

    def reset(self, a: str, b: str) -> None:
        """Break the connections between two machines now; they may dial again."""
        for wire in list(self._wires_of.get(a, ())):
            if b in (wire.source, wire.target):
                wire.break_("Connection reset by peer")

    def lose(self, a: str, b: str) -> None:
        """Break the connections between two machines as ``a`` sees it; ``b`` does not notice."""
        for wire in list(self._wires_of.get(a, ())):
            if (wire.source, wire.target) == (a, b):
                wire.break_("Connection timed out")

    def is_cut(self, a: str, b: str) -> bool:
        """Whether nothing passes between two machines."""
        return (
            a in self._isolated
            or b in self._isolated
            or self._side_of.get(a, 0) != self._side_of.get(b, 0)
            or (bool(self._cuts) and frozenset((a, b)) in self._cuts)
        )

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
                there, back = self.link(name, target), self.link(target, name)
                await asyncio.sleep(there.quality.delay_s + back.quality.delay_s)
                if not self.is_cut(name, target):
                    return target
            await asyncio.sleep(retry_s)
        raise TimeoutError(errno.ETIMEDOUT, "timed out")

    # What wires need.

    def add(self, wire: MemoryWire) -> None:
        """Count a wire in."""
        for name in (wire.source, wire.target):
            self._wires_of.setdefault(name, {})[wire] = None

    def remove(self, wire: MemoryWire) -> None:
        """Forget a wire."""
        for name in (wire.source, wire.target):
            self._wires_of[name].pop(wire, None)

    def link(self, source: str, target: str) -> Link:
        """Return the link from one machine to another, always the same one."""
        if (link := self._links.get((source, target))) is None:
            link = self._links[source, target] = Link(self._quality_of(source, target))
        return link

    def machine(self, name: str) -> Machine:
        """Return a machine, always the same one."""
        if (machine := self._machines.get(name)) is None:
            machine = self._machines[name] = Machine()
            self._use(machine, self._machine_quality_of(name))
        return machine

    def _use(self, machine: Machine, quality: MachineQuality) -> None:
        name = quality.channel
        machine.use(quality, None if name is None else self._channels.setdefault(name, Medium()))

    def _changed(self, names: Iterable[str]) -> None:
        """See which connections of some machines are cut now, or no longer."""
        loop = asyncio.get_running_loop()
        wires = dict.fromkeys(wire for name in names for wire in self._wires_of.get(name, ()))
        newly_cut: list[MemoryWire] = []
        for wire in wires:
            is_cut = self.is_cut(wire.source, wire.target)
            if is_cut and wire.cut_since_s is None:
                wire.cut_since_s = loop.time()
                newly_cut.append(wire)
            elif not is_cut and wire.cut_since_s is not None:
                wire.healed()
        if newly_cut:
            loop.call_later(self.dead_after_s, _break_if_still_cut, newly_cut, loop.time())


def _break_if_still_cut(wires: Iterable[MemoryWire], since_s: float) -> None:
    for wire in wires:
        if wire.cut_since_s == since_s:
            wire.break_("Connection timed out")
