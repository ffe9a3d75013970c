"""The sections of a network file, each key with its unit and its range; faults are elsewhere.

Peers are numbered from 0. In ``link``, ``machine`` and ``device``, and in what some of them say
otherwise, a key that is not given is as it is elsewhere: see `overlay`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, TypeVar, get_args

from semantic_net.config.checks import require, require_one_of
from semantic_net.errors import ConfigError
from semantic_net.transport.link import ETHERNET_HEADER_BYTES, SEGMENT_BYTES

MAX_PEERS = 100_000
BYTES_S_PER_MBIT_S = 125_000
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")


class Peers(frozenset[int]):
    """Some peers, by number: ``3``, ``"0-9"``, or a list of such."""

    @classmethod
    def from_yaml(cls, value: object, key: str) -> Peers:
        """Return the peers that a file names.

        Raises:
            ConfigError: It names none, or makes no sense.
        """
        found: set[int] = set()
        for item in value if isinstance(value, list) else [value]:
            match = _RANGE.fullmatch(str(item)) if isinstance(item, int | str) else None
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if isinstance(item, bool) or not first <= last < MAX_PEERS:
                raise ConfigError(
                    f'{key}: expected peers by number, such as 3, "0-9" or [0, "5-7"], got {item!r}'
                )
            found.update(range(first, last + 1))
        require(bool(found), key, "one peer at least", value)
        return cls(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSection:
    """A bandwidth that follows a table in a file: each row holds until the next one's time."""

    path: str
    """CSV with a header, relative to the network file. It begins anew when it ends."""
    time: str = "t_s"
    """Column of the time, in seconds."""
    rate: str = "mbit_s"
    """Column of the bandwidth, in Mbit/s."""
    scale: float = 1.0
    """Factor on the bandwidth: 0.001 where the column says kbit/s."""
    shift: bool = True
    """Whether each peer begins elsewhere in it, drawn from the seed."""

    def check(self, key: str) -> None:
        """Raise a `ConfigError` unless the values are in range."""
        require(self.scale > 0, f"{key}.scale", "> 0", self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSection:
    """``link``: what every link is like, in each direction."""

    bandwidth_mbit_s: float | None = None
    """Of the link alone, in Mbit/s, headers included. No limit unless given."""
    trace: TraceSection | None = None
    """What the bandwidth follows instead."""
    delay_s: float | None = None
    """One way."""
    jitter_s: float | None = None
    """Added to the delay, uniformly from 0 to this."""
    loss: float | None = None
    """Share of what is written at once that is lost, and sent again after a timeout of 0.2 s or
    twice the delay, in [0, 0.5]. Loss that the link itself repairs is jitter."""
    header_bytes: int | None = None
    """What each segment takes besides what it carries: 66 as ``tc`` counts on Ethernet."""
    segment_bytes: int | None = None
    """What a segment carries, at most."""

    INSTEAD: ClassVar[tuple[tuple[str, str], ...]] = (("trace", "bandwidth_mbit_s"),)

    def check(self, key: str) -> None:
        """Raise a `ConfigError` unless the values are in range."""
        _check_rate(self, key, "bandwidth_mbit_s", "trace")
        check_within(self, key, "delay_s", 0, 600, "s")
        check_within(self, key, "jitter_s", 0, 600, "s")
        check_within(self, key, "loss", 0, 0.5)
        check_within(self, key, "header_bytes", 0, 1000, "bytes")
        check_within(self, key, "segment_bytes", 1, 65535, "bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSection(LinkSection):
    """One of ``links``: what links between some peers are like."""

    between: tuple[Peers, ...]
    """Two lists of peers: the links from each of the first to each of the second, and back."""
    one_way: bool = False
    """Whether the links back are as they are elsewhere."""

    def check(self, key: str) -> None:
        """Raise a `ConfigError` unless the values are in range."""
        LinkSection.check(self, key)
        check_two(f"{key}.between", self.between)

    def is_of(self, source: int, target: int) -> bool:
        """Tell whether it says what the link from one peer to another is like."""
        first, second = self.between
        back = not self.one_way and source in second and target in first
        return (source in first and target in second) or back


Queue = Literal["fair", "fifo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSection:
    """``machine``: what all links of a peer's machine share."""

    up_mbit_s: float | None = None
    """Of all that it sends, in Mbit/s, headers included. No limit unless given."""
    down_mbit_s: float | None = None
    """Of all that it receives."""
    up_trace: TraceSection | None = None
    """What the uplink follows instead."""
    down_trace: TraceSection | None = None
    """What the downlink follows instead."""
    queue: Queue | None = None
    """How up- and downlink are waited for: in ``fair`` turns, as Linux's fq_codel gives them, or in
    a plain queue, ``fifo``, as in ``tc tbf``, switches and most modems. A channel has turns."""
    queue_kb: float | None = None
    """What a plain queue before the downlink holds, in kB: what finds it full is sent again."""
    half_duplex: bool | None = None
    """Whether it cannot send while it receives."""
    channel: str | None = None
    """Name of a channel: of all machines in it one sends at a time, at its own up_mbit_s."""

    INSTEAD: ClassVar[tuple[tuple[str, str], ...]] = (
        ("up_trace", "up_mbit_s"),
        ("down_trace", "down_mbit_s"),
    )

    def check(self, key: str) -> None:
        """Raise a `ConfigError` unless the values are in range."""
        _check_rate(self, key, "up_mbit_s", "up_trace")
        _check_rate(self, key, "down_mbit_s", "down_trace")
        require(self.channel != "", f"{key}.channel", "a name", self.channel)
        check_within(self, key, "queue_kb", 0, 1e6, "kB")
        if self.queue is not None:
            require_one_of(f"{key}.queue", self.queue, get_args(Queue))


@dataclass(frozen=True, slots=True, kw_only=True)
class SomeMachinesSection(MachineSection):
    """One of ``machines``: what those of some peers share."""

    peers: Peers
    """Whose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSection:
    """``device``: how long computing takes."""

    step_s: float | None = None
    """An optimiser step. A run's ``train_s`` divided by its steps calibrates it."""
    encode_s_per_million: float | None = None
    """Encoding a million parameters: ``encode_s`` of a run's rounds."""
    fold_s_per_million: float | None = None
    """Decoding and folding a million parameters of one update: ``fold_s`` of a run's rounds."""
    evaluate_s: float | None = None
    """Evaluating the model once."""
    spread: float | None = None
    """How unlike devices are: the standard deviation of ln(speed), in [0, 2]. 0.5: two thirds are
    between 0.6 and 1.6 times as fast."""

    INSTEAD: ClassVar[tuple[tuple[str, str], ...]] = ()

    def check(self, key: str) -> None:
        """Raise a `ConfigError` unless the values are in range."""
        for name in ("step_s", "encode_s_per_million", "fold_s_per_million", "evaluate_s"):
            check_within(self, key, name, 0, 1e5, "s")
        check_within(self, key, "spread", 0, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class SomeDevicesSection(DeviceSection):
    """One of ``devices``: how long computing takes some peers."""

    peers: Peers
    """Whose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergySection:
    """``energy``: what a device takes."""

    idle_w: float
    """Watts while it does not train."""
    training_w: float
    """Watts while it trains, those above included."""
    sent_j_per_mb: float = 0.0
    """Joules more for a megabyte (a million bytes) sent."""
    received_j_per_mb: float = 0.0
    """Joules more for a megabyte received."""

    def check(self, key: str) -> None:
        """Raise a `ConfigError` unless the values are in range."""
        for name in ("idle_w", "training_w"):
            check_within(self, key, name, 0, 1e5, "W")
        for name in ("sent_j_per_mb", "received_j_per_mb"):
            check_within(self, key, name, 0, 1e6, "J")

    def joules(self, seconds: float, train_s: float, bytes_sent: int, bytes_received: int) -> float:
        """Return the energy of a device.

        Args:
            seconds: That it was on.
            train_s: In which it trained, of these.
            bytes_sent: By its sockets.
            bytes_received: By its sockets.
        """
        on_j = self.idle_w * (seconds - train_s) + self.training_w * train_s
        sent_j = self.sent_j_per_mb * bytes_sent / 1e6
        return on_j + sent_j + self.received_j_per_mb * bytes_received / 1e6


DEFAULT_LINK = LinkSection(
    delay_s=0.001,
    jitter_s=0.0,
    loss=0.0,
    header_bytes=ETHERNET_HEADER_BYTES,
    segment_bytes=SEGMENT_BYTES,
)
DEFAULT_MACHINE = MachineSection(queue="fair", queue_kb=64.0, half_duplex=False)
DEFAULT_DEVICE = DeviceSection(
    step_s=0.1,
    # A core of a small board: about three times what docs/results.md measures on a server's.
    encode_s_per_million=0.03,
    fold_s_per_million=0.02,
    evaluate_s=1.0,
    spread=0.0,
)

S = TypeVar("S", LinkSection, MachineSection, DeviceSection)


def overlay(base: S, over: S) -> S:
    """Return a section with what another one gives; of a trace and a number the other's counts."""
    names = [field.name for field in fields(base)]
    given: dict[str, Any] = {
        name: value for name in names if (value := getattr(over, name)) is not None
    }
    for pair in over.INSTEAD:
        if any(name in given for name in pair):
            given.update({name: getattr(over, name) for name in pair})
    return replace(base, **given)


def check_two(key: str, between: tuple[Peers, ...]) -> None:
    """Raise a `ConfigError` unless there are two lists of peers."""
    require(len(between) == 2, key, "two lists of peers", [sorted(peers) for peers in between])


def check_within(
    section: object, key: str, name: str, least: float, most: float, unit: str = ""
) -> None:
    """Raise a `ConfigError` unless a section's value is in a range, or not given."""
    value = getattr(section, name)
    rule = f"in [{least:g}, {most:g}]{' ' * bool(unit)}{unit}"
    require(value is None or least <= value <= most, f"{key}.{name}", rule, value)


def _check_rate(section: object, key: str, number: str, trace: str) -> None:
    check_within(section, key, number, 1e-6, 1e6, "Mbit/s")
    follows: TraceSection | None = getattr(section, trace)
    if follows is not None:
        follows.check(f"{key}.{trace}")
        require(
            getattr(section, number) is None,
            f"{key}.{number}",
            f"unset beside {key}.{trace}",
            getattr(section, number),
        )
