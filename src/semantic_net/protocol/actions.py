"""What the protocol asks its shell to do, as frozen values, each with its reason.

The shell carries them out in order and feeds back what came of them; it decides nothing. Those that
come by the thousand are structs, which are made in a third of the time.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from semantic_net.protocol.bases import Base
from semantic_net.protocol.history import History
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.item import Item
from semantic_net.protocol.membership import Record
from semantic_net.protocol.messages import Message, PackedChunk
from semantic_net.protocol.update import Update, UpdateId


class Send(msgspec.Struct, frozen=True):
    """Send a small message to these peers."""

    to: tuple[PeerId, ...]
    message: Message


@dataclass(frozen=True, slots=True)
class Keep:
    """Write the records of the membership to disk, in the place of earlier ones."""

    records: tuple[Record, ...]


class Serve(msgspec.Struct, frozen=True):
    """Stream an item's bytes, from an offset on, to a peer; replaces an earlier Serve of it."""

    to: PeerId
    id: UpdateId
    offset: int


class Write(msgspec.Struct, frozen=True):
    """Put bytes in their place in an incoming item; ``data`` is only valid now."""

    item: Item
    size: int
    offset: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class Open:
    """Decompress a neighbour's part of a base, and hand it in as a `Chunk`; only valid now."""

    peer: PeerId
    part: PackedChunk


class Check(msgspec.Struct, frozen=True):
    """An incoming payload is whole: hash and parse it, then call ``payload_checked``."""

    update: Update


@dataclass(frozen=True, slots=True)
class CheckBase:
    """An incoming base is whole: see that it is what it was said to be; call ``base_checked``."""

    base: Base


@dataclass(frozen=True, slots=True)
class Cut:
    """Make the base that includes all that the plan folds; then call ``base_made``."""

    plan: FoldPlan
    history: History
    """Of the new base."""


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Add to the residual what these own updates carried: they do not count any more."""

    updates: tuple[Update, ...]


@dataclass(frozen=True, slots=True)
class CountAgain:
    """Subtract from the residual what these own updates carried: they count after all."""

    updates: tuple[Update, ...]


@dataclass(frozen=True, slots=True)
class Discard:
    """Forget what has arrived of an item that is not held: it is void, or of no use."""

    item: Item


@dataclass(frozen=True, slots=True)
class Remove:
    """Forget an update that is not held any more, once what was planned with it is folded."""

    update: Update


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to this address: a live peer that is no neighbour yet may be there."""

    address: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Dial this address no more; a session with its peer stays."""

    address: str


@dataclass(frozen=True, slots=True)
class HangUp:
    """End the session with a neighbour: nothing has come over it for too long."""

    peer: PeerId
    is_surplus: bool = False
    """We have more than enough, and it has others."""


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """A snapshot of what to fold, untouched by what arrives while the fold runs."""

    base: UpdateId
    frontier: int
    """The last round that the base includes."""
    through: int
    """At least the frontier."""
    changed_from: int
    """First round whose updates differ from the fold before."""
    rounds: Mapping[int, tuple[Update, ...]]
    set_digest: bytes


@dataclass(frozen=True, slots=True)
class Train:
    """Open a round: fold the plan, if there is one, and train; then call ``trained``."""

    round: int
    plan: FoldPlan | None
    expected: frozenset[PeerId]
    is_ahead: bool = False
    """The round before is still open: go on from what it has trained, and set the delta aside."""


@dataclass(frozen=True, slots=True)
class Author:
    """Encode, journal and store the own update under this round; then call ``authored``.

    If there is nothing to publish, call ``skipped`` instead.
    """

    round: int
    skipped: tuple[int, ...]
    """Rounds that this peer lets pass because the others have moved on."""


@dataclass(frozen=True, slots=True)
class Close:
    """The round is over: fold the plan, evaluate and record it; then call ``folded``."""

    round: int
    reason: str
    missing: tuple[PeerId, ...]
    unreachable: tuple[str, ...]
    """Named addresses at which nobody has said hello so far."""
    plan: FoldPlan


class Level(enum.Enum):
    """How much a message matters to a person."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the user, and note it in the round's record."""

    level: Level
    text: str
    noted: bool = True
    """Whether it goes into the record; not if it is over before the round is."""


@dataclass(frozen=True, slots=True)
class Diverged:
    """A peer says that it holds the same updates and another state: a bug, or broken hardware."""

    peer: PeerId
    round: int
    set_digest: bytes
    """Of what both hold through the round."""
    ours: bytes
    """Our state digest; so is the peer's."""
    theirs: bytes


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over."""

    reason: str


Action = (
    Send
    | Keep
    | Serve
    | Write
    | Open
    | Check
    | CheckBase
    | Cut
    | TakeBack
    | CountAgain
    | Discard
    | Remove
    | Dial
    | Forget
    | HangUp
    | Train
    | Author
    | Close
    | Tell
    | Diverged
    | Finish
)
