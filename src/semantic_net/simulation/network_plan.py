"""What a network description means for so many peers and a seed.

Nothing depends on how many peers there are: the first ten of a hundred are like ten. Links are
looked at as they are asked for, since there may be a million of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING

from semantic_net.config.checks import require
from semantic_net.errors import ConfigError
from semantic_net.simulation.faults import (
    Fault,
    Start,
    absences,
    cuts_off,
    dice,
    pair_cuts,
    partitions,
)
from semantic_net.simulation.network_sections import (
    BYTES_S_PER_MBIT_S,
    DEFAULT_DEVICE,
    DEFAULT_LINK,
    EnergySection,
    LinkSection,
    MachineSection,
    TraceSection,
    overlay,
)
from semantic_net.transport.bandwidth import Bandwidth
from semantic_net.transport.link import LinkQuality
from semantic_net.transport.medium import MachineQuality
from semantic_net.transport.memory_network import MemoryNetwork

if TYPE_CHECKING:
    from semantic_net.simulation.network_file import NetworkDescription


MIN_AHEAD_S = 1e-6
"""Delay that gives several processes anything to do before they meet again."""


@dataclass(frozen=True, slots=True)
class DeviceCosts:
    """How long a peer's device computes."""

    step_s: float
    encode_s_per_million: float
    fold_s_per_million: float
    evaluate_s: float

    def train_s(self, num_steps: int) -> float:
        """Return the seconds of so many optimiser steps."""
        return num_steps * self.step_s

    def encode_s(self, num_parameters: int) -> float:
        """Return the seconds that encoding an update takes."""
        return num_parameters / 1e6 * self.encode_s_per_million

    def fold_s(self, num_parameters: int, num_updates: int) -> float:
        """Return the seconds that decoding and folding so many updates takes."""
        return num_parameters / 1e6 * num_updates * self.fold_s_per_million


class NetworkPlan:
    """A network for peers from 0 to ``num_peers - 1``, drawn from a seed."""

    def __init__(self, description: NetworkDescription, num_peers: int, seed: int) -> None:
        """Plan.

        Raises:
            ConfigError: The description speaks of a peer that there is not.
        """
        require(num_peers >= 1, "the number of peers", ">= 1", num_peers)
        self.description = description
        self.num_peers = num_peers
        self.seed = seed
        self._links: dict[LinkSection, LinkQuality] = {}
        self._check()

    @property
    def energy(self) -> EnergySection | None:
        """What devices take, if the description says so."""
        return self.description.energy

    @property
    def has_peer_faults(self) -> bool:
        """Whether peers go and come back."""
        return bool(self.description.absences) or self.description.churn is not None

    @property
    def min_delay_s(self) -> float:
        """No link takes less."""
        found = self.description
        sections = [found.link, *(overlay(found.link, pair) for pair in found.links)]
        # Where several speak of one link any of them may be the one that says its delay.
        delays_s = (overlay(DEFAULT_LINK, section).delay_s for section in sections)
        return min(delay_s for delay_s in delays_s if delay_s is not None)

    @property
    def keeps_together(self) -> str:
        """What its machines have in common beside links, if anything: one process has them all."""
        found = self.description
        machines = [found.machine, *(overlay(found.machine, some) for some in found.machines)]
        for is_so, what in (
            (self.has_peer_faults, "peers that go and come"),
            (any(machine.channel is not None for machine in machines), "a channel"),
            (any(machine.queue == "fifo" for machine in machines), "plain queues"),
            (self.min_delay_s < MIN_AHEAD_S, "links without delay"),
        ):
            if is_so:
                return what
        return ""

    def link(self, source: int, target: int) -> LinkQuality:
        """Return what the link from one peer to another is like."""
        section = self.description.link
        for pair in self.description.links:
            if pair.is_of(source, target):
                section = overlay(section, pair)
        if section.trace is not None:
            bandwidth = self._follow(section.trace, "link", source, target)
            return _link_quality(section, bandwidth)
        if section not in self._links:  # those of a thousand peers are of a few kinds
            self._links[section] = _link_quality(section, _bytes_s(section.bandwidth_mbit_s))
        return self._links[section]

    def machine(self, peer: int) -> MachineQuality:
        """Return what a peer's machine is like."""
        section = self.description.machine
        for some in self.description.machines:
            if peer in some.peers:
                section = overlay(section, some)
        up: Bandwidth = _bytes_s(section.up_mbit_s)
        down: Bandwidth = _bytes_s(section.down_mbit_s)
        if section.up_trace is not None:
            up = self._follow(section.up_trace, "machine", peer)
        if section.down_trace is not None:
            down = self._follow(section.down_trace, "machine", peer)
        return MachineQuality(
            up_bytes_s=up,
            down_bytes_s=up if section.channel is not None and down is None else down,
            is_fifo=section.queue == "fifo",
            queue_bytes=1000 * (section.queue_kb or 0.0),
            half_duplex=bool(section.half_duplex),
            channel=section.channel,
        )

    def device(self, peer: int) -> DeviceCosts:
        """Return how long a peer's device computes."""
        section = overlay(DEFAULT_DEVICE, self.description.device)
        for some in self.description.devices:
            if peer in some.peers:
                section = overlay(section, some)
        slowness = dice(self.seed, "device", peer).lognormvariate(0.0, section.spread or 0.0)

        def costs(seconds: float | None) -> float:
            # To a billionth: the last digits of an exponential differ between machines.
            return round((seconds or 0.0) * slowness, 9)

        return DeviceCosts(
            step_s=costs(section.step_s),
            encode_s_per_million=costs(section.encode_s_per_million),
            fold_s_per_million=costs(section.fold_s_per_million),
            evaluate_s=costs(section.evaluate_s),
        )

    def is_there_at_start(self, peer: int) -> bool:
        """Whether a peer begins with the others; one that does not may come later."""
        return not any(
            absence.from_s == 0 and peer in absence.peers for absence in self.description.absences
        )

    def comes(self, peer: int, away_since_s: float) -> bool:
        """Whether a peer comes back that is away, or has never been there (since -inf)."""
        found = self.description
        faults = absences(peer, found.absences, found.churn, self.seed)
        following = next((fault for fault in faults if fault.at_s > away_since_s), None)
        return isinstance(following, Start)

    def faults(self) -> Iterator[Fault]:
        """Yield what befalls the network, sorted by time: without end where any is drawn."""
        found = self.description
        sources: list[Iterator[Fault]] = [partitions(found.outages), *pair_cuts(found.outages)]
        for peer in range(self.num_peers):
            sources.append(cuts_off(peer, found.outages, found.random_outages, self.seed))
            sources.append(absences(peer, found.absences, found.churn, self.seed))
        return heapq.merge(*sources, key=attrgetter("at_s"))

    def faults_until(self, end_s: float) -> list[Fault]:
        """Return what befalls the network before a time."""
        found: list[Fault] = []
        for fault in self.faults():
            if fault.at_s >= end_s:
                break
            found.append(fault)
        return found

    def apply_to(self, network: MemoryNetwork, names: Sequence[str]) -> None:
        """Make a network like this, before anything connects.

        Args:
            network: Its links and machines are looked up here as they are first used.
            names: Of the machines, in the order of their peers; others are like a plain network.
        """
        peer_of = {name: peer for peer, name in enumerate(names)}

        def quality_of(source: str, target: str) -> LinkQuality:
            if source in peer_of and target in peer_of:
                return self.link(peer_of[source], peer_of[target])
            return LinkQuality()

        def machine_quality_of(name: str) -> MachineQuality:
            return self.machine(peer_of[name]) if name in peer_of else MachineQuality()

        network.set_defaults(quality_of, machine_quality_of)

    def _follow(self, section: TraceSection, *whose: object) -> Bandwidth:
        trace = self.description.traces[section]
        if not section.shift:
            return trace
        # Up and down, and whatever else is in the same file, are of the same moment.
        return trace.shifted(dice(self.seed, "trace", *whose).random() * trace.length_s)

    def _check(self) -> None:
        found = self.description
        for index, machine in enumerate(found.machines):
            _check_channel(f"machines[{index}]", overlay(found.machine, machine))
        _check_channel("machine", found.machine)
        named: list[tuple[str, Collection[int]]] = []
        for name in ("machines", "devices", "absences", "outages"):
            for index, section in enumerate(getattr(found, name)):
                named.append((f"{name}[{index}].peers", section.peers or ()))
        for index, pair in enumerate(found.links):
            named += [(f"links[{index}].between", peers) for peers in pair.between]
        for index, outage in enumerate(found.outages):
            named += [(f"outages[{index}].between", peers) for peers in outage.between]
            named += [(f"outages[{index}].groups", peers) for peers in outage.groups]
        needed = 1 + max((max(peers, default=0) for _, peers in named), default=0)
        for key, peers in named:
            if max(peers, default=0) >= self.num_peers:
                raise ConfigError(
                    f"{key}: there is no peer {max(peers)}; {self.num_peers} peers are numbered "
                    f"from 0 to {self.num_peers - 1}, and this network needs {needed} (--peers)"
                )
        peers = range(self.num_peers)
        if not any(self.is_there_at_start(peer) or self.comes(peer, -inf) for peer in peers):
            raise ConfigError("absences: all peers are away from the start, and nobody ever comes")


def _check_channel(key: str, section: MachineSection) -> None:
    has_rate = section.up_mbit_s is not None or section.up_trace is not None
    require(
        section.channel is None or has_rate, f"{key}.channel", "with up_mbit_s", section.channel
    )


def _bytes_s(mbit_s: float | None) -> float | None:
    return None if mbit_s is None else mbit_s * BYTES_S_PER_MBIT_S


def _link_quality(section: LinkSection, bandwidth: Bandwidth) -> LinkQuality:
    section = overlay(DEFAULT_LINK, section)
    assert section.delay_s is not None
    assert section.jitter_s is not None
    assert section.loss is not None
    assert section.header_bytes is not None
    assert section.segment_bytes is not None
    return LinkQuality(
        bandwidth_bytes_s=bandwidth,
        delay_s=section.delay_s,
        jitter_s=section.jitter_s,
        loss=section.loss,
        header_bytes=section.header_bytes,
        segment_bytes=section.segment_bytes,
    )
