"""A network in a file: what links, machines and devices are like, and what befalls them.

`load_network` reads it, or takes a preset by its name; `NetworkDescription.plan` says what it means
for a number of peers and a seed. docs/simulation.md shows a whole file.
"""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from semantic_net.config.checks import require_one_of
from semantic_net.config.loader import build, read_yaml
from semantic_net.errors import ConfigError, DataError
from semantic_net.simulation.fault_sections import (
    AbsenceSection,
    ChurnSection,
    OutageSection,
    RandomOutagesSection,
)
from semantic_net.simulation.network_plan import NetworkPlan
from semantic_net.simulation.network_presets import PRESETS
from semantic_net.simulation.network_sections import (
    BYTES_S_PER_MBIT_S,
    DEFAULT_DEVICE,
    DEFAULT_LINK,
    DEFAULT_MACHINE,
    DeviceSection,
    EnergySection,
    LinkSection,
    MachineSection,
    PairSection,
    SomeDevicesSection,
    SomeMachinesSection,
    TraceSection,
    overlay,
)
from semantic_net.transport.bandwidth import RateTrace, steps_of


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkDescription:
    """A whole network file."""

    preset: str | None = None
    """A network to start from, by its name."""
    link: LinkSection = DEFAULT_LINK
    links: tuple[PairSection, ...] = ()
    """What links between some peers are like; where several speak of one, the last counts."""
    machine: MachineSection = DEFAULT_MACHINE
    machines: tuple[SomeMachinesSection, ...] = ()
    """What machines of some peers are like; where several speak of one, the last counts."""
    device: DeviceSection = DEFAULT_DEVICE
    devices: tuple[SomeDevicesSection, ...] = ()
    """How fast devices of some peers are; where several speak of one, the last counts."""
    outages: tuple[OutageSection, ...] = ()
    random_outages: RandomOutagesSection | None = None
    absences: tuple[AbsenceSection, ...] = ()
    churn: ChurnSection | None = None
    energy: EnergySection | None = None
    traces: Mapping[TraceSection, RateTrace] = field(
        default_factory=dict, compare=False, metadata={"key": False}
    )
    """What is in the files that the sections name."""

    def __post_init__(self) -> None:
        if self.preset is not None:
            require_one_of("preset", self.preset, PRESETS)
        for name, value in _values(self):
            if isinstance(value, tuple):
                for index, section in enumerate(value):
                    section.check(f"{name}[{index}]")
            elif hasattr(value, "check"):
                value.check(name)
        _check_partitions(self.outages)

    def plan(self, num_peers: int, seed: int) -> NetworkPlan:
        """Return what the network is like for peers from 0 to ``num_peers - 1``.

        Raises:
            ConfigError: It speaks of a peer that there is not.
        """
        return NetworkPlan(self, num_peers, seed)


def load_network(source: str) -> NetworkDescription:
    """Return a network.

    Args:
        source: Name of a preset, or path of a network file.

    Raises:
        ConfigError: It is neither, a key is unknown, a type or a value is wrong.
        DataError: A trace cannot be read.
    """
    if source in PRESETS:
        return _complete(build(NetworkDescription, PRESETS[source]), PRESETS[source])
    path = Path(source)
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        near = difflib.get_close_matches(source, PRESETS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else f" ({', '.join(PRESETS)})"
        raise ConfigError(f"network {source}: neither a file nor a preset{hint}")
    tree = read_yaml(path, "network", "link")
    found = _complete(build(NetworkDescription, tree), tree)
    traces = {section: _read_trace(path.parent, section) for section in _trace_sections(found)}
    return replace(found, traces=traces)


def _complete(given: NetworkDescription, tree: Mapping[str, Any]) -> NetworkDescription:
    """Return a description with what it does not give: from its preset, or the defaults."""
    base = NetworkDescription() if given.preset is None else load_network(given.preset)
    found: dict[str, Any] = {name: getattr(given, name) for name in tree}
    if "link" in tree:
        found["link"] = overlay(base.link, given.link)
    if "machine" in tree:
        found["machine"] = overlay(base.machine, given.machine)
    if "device" in tree:
        found["device"] = overlay(base.device, given.device)
    return replace(base, **found)


def _check_partitions(outages: tuple[OutageSection, ...]) -> None:
    """Refuse partitions that overlap: a network has one way to fall apart at a time."""
    partitions = sorted(
        (outage.from_s, index) for index, outage in enumerate(outages) if outage.groups
    )
    ends_s, before = 0.0, 0
    for from_s, index in partitions:
        if from_s < ends_s:
            raise ConfigError(
                f"outages[{index}].from_s: this partition begins before that of "
                f"outages[{before}] ends; list the groups of both in one"
            )
        for_s = outages[index].for_s
        ends_s, before = math.inf if for_s is None else from_s + for_s, index


def _values(section: Any) -> Iterator[tuple[str, Any]]:
    for each in fields(section):
        yield each.name, getattr(section, each.name)


def _trace_sections(found: NetworkDescription) -> dict[TraceSection, None]:
    sections = (found.link, *found.links, found.machine, *found.machines)
    return dict.fromkeys(
        value
        for section in sections
        for _, value in _values(section)
        if isinstance(value, TraceSection)
    )


def _read_trace(folder: Path, section: TraceSection) -> RateTrace:
    path = folder / section.path
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            times_s, rates = _read_columns(path, csv.reader(file), section)
    except (OSError, csv.Error, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise DataError(f"trace {path}: cannot be read as CSV: {reason}") from exc
    if not any(rates):
        raise DataError(f"trace {path}: no row has a {section.rate} above 0")
    factor = section.scale * BYTES_S_PER_MBIT_S
    return RateTrace(steps_of(times_s, [rate * factor for rate in rates]))


def _read_columns(path: Path, rows: Any, section: TraceSection) -> tuple[list[float], list[float]]:
    """Return the times and the rates as they stand in the file."""
    header: list[str] = [name.strip() for name in next(rows, [])]
    for key, name in (("time", section.time), ("rate", section.rate)):
        if name not in header:
            raise DataError(
                f"trace {path}: no column {name!r} ({key}); the file has {', '.join(header)}"
            )
    columns = header.index(section.time), header.index(section.rate)
    times_s: list[float] = []
    rates: list[float] = []
    for row in rows:
        if not row:
            continue
        where = f"trace {path}, line {rows.line_num}"
        try:
            time_s, rate = (float(row[column]) for column in columns)
        except (ValueError, IndexError):
            raise DataError(f"{where}: expected two numbers, got {row!r}") from None
        if not (math.isfinite(time_s) and math.isfinite(rate) and rate >= 0):
            raise DataError(f"{where}: expected a time, and a rate of 0 or more, got {row!r}")
        if times_s and time_s <= times_s[-1]:
            raise DataError(f"{where}: the time {time_s:g} is not after {times_s[-1]:g}")
        times_s.append(time_s)
        rates.append(rate)
    return times_s, rates
