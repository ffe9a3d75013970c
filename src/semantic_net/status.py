"""What a running peer is at, as of now: what ``status`` prints and the page shows.

Like the records it is written by the peer and read by whatever shows it; keys are only ever added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from semantic_net.records import SCHEMA

STATUS_FILE = "status.json"

MAX_METRIC_CHARS = 32

_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class DeviceVitals(msgspec.Struct, frozen=True, kw_only=True):
    """How a device fares; None where it does not tell."""

    power_w: float | None = None
    battery_percent: float | None = None
    temperature_c: float | None = None
    """Of its hottest part."""


class LastRound(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer says of its last round; others tell us theirs, so that it has its bounds."""

    round: Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
    loss: float | None = None
    """Of training; None where nothing was trained."""
    metric: Annotated[str, msgspec.Meta(max_length=MAX_METRIC_CHARS)] = ""
    """Name of the main metric."""
    value: float | None = None
    """Of the main metric, after the fold; None where it was not evaluated."""
    bytes_sent: _Count = 0
    """Socket bytes of the run so far."""
    bytes_received: _Count = 0
    num_missing: _Count = 0
    """Peers that were expected in the round, and absent."""


class PeerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Another peer, as this one knows it."""

    peer: str
    name: str = ""
    """Of its device, where that is known."""
    is_connected: bool
    is_alive: bool
    """Heard within the liveness, itself or through others."""
    has_left: bool = False
    """Its last word was goodbye."""
    heard_s: float | None = None
    """Seconds since its last heartbeat reached us."""
    round: int = 0
    """That is open there; 0 before the first."""
    closed_round: int = 0
    agrees: bool | None = None
    """Whether its last round led to our model; None where that cannot be compared."""
    waited_for: str = ""
    """Why the open round waits for it; empty where it does not."""
    problem: str = ""
    """Why it is not connected, refused or kept out."""
    sent_bytes: int = 0
    """That its link has carried to it while payloads were under way."""
    bytes_per_s: float | None = None
    """Of its link, while payloads were under way."""
    last: LastRound | None = None
    device: DeviceVitals | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A running peer."""

    schema: int = SCHEMA
    peer: str
    pid: int
    run: str
    task: str
    address: str
    written_at: float
    """Seconds since 1970, by this device's clock."""
    phase: str
    """starting, training, authoring, collecting, serving, folding or finished."""
    round: int
    rounds: int
    doing: str
    """In words, with what it waits for."""
    phase_s: float
    """For how long."""
    deadline_s: float | None = None
    """Until it goes on in any case; None where no clock runs."""
    bytes_sent: int = 0
    """Of this process."""
    bytes_received: int = 0
    peers: list[PeerStatus] = []
    num_peers: int = 0
    """All that are known; the list may be shorter."""
    unmet: dict[str, str] = {}
    """Addresses at which nobody has said hello so far, and why."""
    device: DeviceVitals | None = None

    def ended(self) -> Status:
        """Return the last status of a peer that runs no more."""
        doing = "done" if self.phase == "finished" else f"ended while {self.phase}"
        return msgspec.structs.replace(self, phase="finished", doing=doing, deadline_s=None)


@dataclass(frozen=True, slots=True)
class Sample:
    """One example and what the model makes of it, for people: pictures, or lines."""

    title: str
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """PNG or JPEG files by what they show: image, truth, prediction. Small: a page sends them
    over slow links."""
    lines: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """Values at equal steps by what they are: truth, forecast; None where there is none."""
