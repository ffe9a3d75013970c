"""A network in memory: links with bandwidth, delay and loss, and the faults that befall them.

Everything runs on a `VirtualTimeLoop`, which never sleeps, and orders what comes at one instant. A
link leads from one named machine to another; all links of a machine share its uplink and downlink,
if those have a limit. As in TCP what is sent arrives, in order, for as long as
the connection lives: loss shows as delay, and where it goes on, or a link stays cut for
``dead_after_s``, as a broken connection. A fault touches the connections of its machines alone.
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from operator import attrgetter

from semantic_net.protocol.address import Address, parse_address
from semantic_net.protocol.frames import Kind
from semantic_net.transport.connection import Connection
from semantic_net.transport.hub import Hub
from semantic_net.transport.link import Link, LinkQuality
from semantic_net.transport.medium import Machine, MachineQuality, Medium
from semantic_net.transport.memory_border import Border, Elsewhere, Message, NoBorder, What
from semantic_net.transport.memory_ends import Dial, FarEnd, Mark, clock
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
        seed: object = 0,
        border: Border | None = None,
    ) -> None:
        """Make a network without machines.

        Args:
            quality: Of every link that is not set otherwise; machines have no limit.
            dead_after_s: How long a link must be cut for its connections to break.
            seed: Of jitter, loss and windows; each machine draws its own.
            border: To other processes, where it does not have all machines.
        """
        default = quality or LinkQuality()
        self.dead_after_s = dead_after_s
        self._seed = seed
        self._border = border or NoBorder()
        self._quality_of: Callable[[str, str], LinkQuality] = lambda source, target: default
        self._machine_quality_of: Callable[[str], MachineQuality] = lambda name: MachineQuality()
        self._links: dict[tuple[str, str], Link] = {}
        self._machines: dict[str, Machine] = {}
        self._channels: dict[str, Medium] = {}
        self._listeners: dict[Address, Hub] = {}
        self._wires_of: dict[str, dict[MemoryWire, None]] = {}  # by either machine
        self._cuts: set[frozenset[str]] = set()
        self._isolated: set[str] = set()
        self._side_of: dict[str, int] = {}
        self._dice: dict[str, random.Random] = {}
        self._num_dials: Counter[str] = Counter()
        self._asking: dict[Dial, asyncio.Future[bool]] = {}
        # Ends that are to be opened, with those that have dialled, where both are here; and ends
        # of which the other is not here, by their machines.
        self._opening: dict[Dial, tuple[MemoryWire, MemoryWire]] = {}
        self._spread: dict[tuple[Dial, str], MemoryWire] = {}
        self._over: set[tuple[Dial, str]] = set()  # of those to which nothing more is sent

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
        opening = (theirs for theirs, _ in self._opening.values())
        for wire in [*self._wires_of.get(a, ()), *opening]:
            if {wire.source, wire.target} == {a, b}:
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

    def is_here(self, name: str) -> bool:
        """Tell whether a machine is in this process."""
        return self._border.is_here(name)

    def listen(self, address: Address, hub: Hub) -> None:
        """Let others connect to ``address``, whose host is a machine's name.

        Raises:
            OSError: Another transport listens there.
        """
        if address in self._listeners:
            raise OSError(errno.EADDRINUSE, "address in use")
        self._listeners[address] = hub

    def stop_listening(self, address: Address, hub: Hub) -> None:
        """Let nobody connect to ``address`` any more, if it is ``hub`` that listens."""
        if self._listeners.get(address) is hub:
            del self._listeners[address]

    # Connections. As in TCP one is asked for, an answer comes back, and whoever asked says that it
    # has come: with that the other end opens, too.

    async def connect(self, name: str, hub: Hub, address: Address) -> Connection:
        """Open a connection from the machine ``name`` and begin its handshake.

        Raises:
            OSError: Nobody listens there, or the machine does not answer.
        """
        self._num_dials[name] += 1
        dial = name, self._num_dials[name]
        if not await self._ask(address, dial):
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
        target = address.host
        ours = MemoryWire(self, name, target, dial)
        other: FarEnd
        if self.is_here(target):
            other = theirs = MemoryWire(self, target, name, dial)
            self._opening[dial] = theirs, ours
        else:
            other = self._elsewhere(ours)
        self._tell(name, target, dial, "accepted", str(address))
        return ours.open(hub, other, str(address), dialled=True)

    async def _ask(self, address: Address, dial: Dial) -> bool:
        """Return whether somebody listens at an address."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asking[dial] = answer
        try:
            for retry_s in SYN_RETRIES_S:
                if not self.is_cut(dial[0], address.host):
                    self._tell(dial[0], address.host, dial, "asked", str(address))
                await asyncio.wait((answer,), timeout=retry_s)
                if answer.done():
                    return answer.result()
        finally:
            del self._asking[dial]
        raise TimeoutError(errno.ETIMEDOUT, "timed out")

    def _asked(self, message: Message) -> None:
        if not self.is_cut(message.source, message.target):
            (address,) = message.args
            is_heard = parse_address(address) in self._listeners
            self._tell(message.target, message.source, message.dial, "answered", is_heard)

    def _answered(self, message: Message) -> None:
        answer = self._asking.get(message.dial)  # None: nobody waits for it any more
        is_lost = self.is_cut(message.source, message.target)
        if answer is not None and not answer.done() and not is_lost:
            (is_heard,) = message.args
            answer.set_result(is_heard)

    def _accepted(self, message: Message) -> None:
        dialler, number = message.dial
        other: FarEnd
        if (both := self._opening.pop(message.dial, None)) is not None:
            theirs, other = both
        else:
            theirs = MemoryWire(self, message.target, dialler, message.dial)
            other = self._elsewhere(theirs)
        (address,) = message.args
        if theirs.is_gone:  # whoever has dialled is gone already
            theirs.never_open()
        elif (hub := self._listeners.get(parse_address(address))) is None:
            theirs.never_open()
            other.break_at(message.at_s + theirs.link.quality.delay_s, "Connection reset by peer")
            self._nothing_more(theirs)
        else:
            port = EPHEMERAL_PORTS[number % len(EPHEMERAL_PORTS)]
            theirs.open(hub, other, f"{dialler}:{port}", dialled=False)

    # What crosses links.

    def _tell(self, source: str, target: str, dial: Dial, what: What, *args: object) -> None:
        """Let something of no size cross a link."""
        at_s = clock().time() + self.link(source, target).quality.delay_s
        message = Message(at_s, source, target, dial, what, args)
        if self.is_here(target):
            self.take(message)
        else:
            self._border.send(message)

    def _elsewhere(self, wire: MemoryWire) -> FarEnd:
        """Return the other end of a wire, which is in another process."""
        self._spread[wire.dial, wire.source] = wire
        return Elsewhere(self._border, wire.source, wire.target, wire.dial)

    def take(self, message: Message) -> None:
        """Take what is to arrive here, before it does."""
        if message.what == "acknowledge":
            if (wire := self._spread.get((message.dial, message.target))) is not None:
                wire.acknowledge(message.at_s, *message.args)
        else:
            rank = 0, message.source, message.target
            clock().call_in_rank(message.at_s, rank, self._arrived, message)

    def _arrived(self, message: Message) -> None:
        match message.what:
            case "asked":
                self._asked(message)
            case "answered":
                self._answered(message)
            case "accepted":
                self._accepted(message)
            case "arrive":
                item, on_line, enters_s = message.args
                item = item if isinstance(item, bytes) else Mark(item)
                self._spread[message.dial, message.target].arrived(item, on_line, enters_s)
            case "break":
                if (wire := self._spread.get((message.dial, message.target))) is not None:
                    wire.break_(*message.args)
            case "over":
                key = message.dial, message.target
                self._over.add(key)
                self._forget(key)
            case "acknowledge":
                raise AssertionError("it counts from an instant of its own")

    def _forget(self, key: tuple[Dial, str]) -> None:
        """Forget an end of which the other is elsewhere, once nothing comes of either any more."""
        if key in self._over and self._spread[key].is_gone:
            del self._spread[key]
            self._over.remove(key)

    # What wires need.

    def add(self, wire: MemoryWire) -> None:
        """Count a wire in; what has befallen its link while it was opened befalls it, too."""
        for name in (wire.source, wire.target):
            self._wires_of.setdefault(name, {})[wire] = None
        if self.is_cut(wire.source, wire.target):
            self._cut_now([wire])

    def remove(self, wire: MemoryWire) -> None:
        """Forget a wire."""
        for name in (wire.source, wire.target):
            self._wires_of.get(name, {}).pop(wire, None)
        self._nothing_more(wire)

    def _nothing_more(self, wire: MemoryWire) -> None:
        """Let the other end know, if it is elsewhere, that nothing more is sent."""
        if (key := (wire.dial, wire.source)) in self._spread:
            at_s = max(clock().time() + wire.link.quality.delay_s, wire.link.last_arrival_s)
            self._border.send(Message(at_s, wire.source, wire.target, wire.dial, "over"))
            self._forget(key)

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

    def dice(self, name: str) -> random.Random:
        """Return a machine's dice for jitter, loss and windows, always the same ones."""
        if (dice := self._dice.get(name)) is None:
            dice = random.Random(f"{self._seed}:{name}")  # a simulation, no secret  # nosec B311
            self._dice[name] = dice
        return dice

    def _use(self, machine: Machine, quality: MachineQuality) -> None:
        name = quality.channel
        machine.use(quality, None if name is None else self._channels.setdefault(name, Medium()))

    def _changed(self, names: Iterable[str]) -> None:
        """See which connections of some machines are cut now, or no longer."""
        found = {wire for name in names for wire in self._wires_of.get(name, ())}
        newly_cut: list[MemoryWire] = []
        for wire in sorted(found, key=attrgetter("order")):
            is_cut = self.is_cut(wire.source, wire.target)
            if is_cut and wire.cut_since_s is None:
                newly_cut.append(wire)
            elif not is_cut and wire.cut_since_s is not None:
                wire.healed()
        if newly_cut:
            self._cut_now(newly_cut)

    def _cut_now(self, wires: Sequence[MemoryWire]) -> None:
        now = clock().time()
        for wire in wires:
            wire.cut_since_s = now
        clock().call_later(self.dead_after_s, _break_if_still_cut, wires, now)


def _break_if_still_cut(wires: Iterable[MemoryWire], since_s: float) -> None:
    for wire in wires:
        if wire.cut_since_s == since_s:
            wire.break_("Connection timed out")
