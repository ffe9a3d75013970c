"""What a peer is made of, and what its parts hand to each other.

`Peer` joins the parts that are named here, and knows none of them closer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from semantic_net.federated.base_store import BaseStore
from semantic_net.federated.store import UpdateStore
from semantic_net.protocol.actions import Close, Diverged, FoldPlan
from semantic_net.protocol.bases import Base
from semantic_net.protocol.history import History
from semantic_net.protocol.identity import PeerId, Signer
from semantic_net.protocol.machine import PeerMachine
from semantic_net.protocol.membership import Record
from semantic_net.protocol.update import Update, UpdateId
from semantic_net.protocol.vitals import Vitals
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.rate import RateController
from semantic_net.transport.base import Transport, TransportEvent

T = TypeVar("T")
Parsed = TypeVar("Parsed")


class LearningStoppedError(Exception):
    """``Learner.stop`` ended a round of training early."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An own update's payload, before it is signed."""

    codec: str
    payload: bytes | memoryview
    dense_bytes: int
    kept_ratio: float | None = None
    """Share of the parameters that were kept, in [0, 1]; None where that is not known."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What local training gave."""

    loss: float | None
    num_examples: int
    notes: tuple[str, ...] = ()
    epsilon: float | None = None
    """What all training so far has cost in privacy; None where there is no account."""


class Learner(Protocol[Parsed]):
    """The model's side of a peer. All of it but ``parse`` and ``stop`` runs in one thread."""

    taken_back: dict[UpdateId, int]
    """The rounds of the own updates that are taken back."""

    def history_of(self, data: memoryview, base: Base) -> History:
        """Return the history of a base that has arrived; runs in any thread.

        Raises:
            RemoteProtocolError: It is not what its peer said.
        """
        ...

    def make_base(
        self, plan: FoldPlan, history: History, parsed: Callable[[Update], Parsed]
    ) -> tuple[UpdateId, int]:
        """Store the base that includes all that a plan folds; return its digest and its size."""
        ...

    def parse(self, codec: str, payload: memoryview) -> Parsed:
        """Return what the fold reads.

        Raises:
            RemoteProtocolError: The payload breaks its codec or the schema.
        """
        ...

    def fold(self, plan: FoldPlan, parsed: Callable[[Update], Parsed]) -> bytes:
        """Fold a plan and return the digest of the state; the model is that state from now on.

        The plan's base is in the store of bases.
        """
        ...

    def train(self, round_index: int, *, is_ahead: bool = False) -> Trained:
        """Train for a round.

        Args:
            round_index: From 1.
            is_ahead: The round before is not folded yet: go on from what it has trained, and set
                aside what changes, since that fold comes before the encoding.

        Raises:
            TrainingError: No update can come of it.
            LearningStoppedError: ``stop`` was called.
        """
        ...

    def encode(self, codec: Codec, max_bytes: int | None = None) -> Encoded:
        """Encode what training changed and the residual; what is left is the new residual.

        Args:
            codec: Mode and strength.
            max_bytes: Most that the payload should take, for which less may be kept.

        Raises:
            TrainingError: Training has left the finite numbers.
        """
        ...

    def take_back(self, own: Update, parsed: Parsed) -> None:
        """Add to the residual, once, what an own update carried: it does not count any more."""
        ...

    def count_again(self, own: Update, parsed: Parsed) -> None:
        """Subtract from the residual what was taken back of an own update: it counts after all."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Return the validation metrics of the folded model.

        Raises:
            TrainingError: It cannot be evaluated on this device.
        """
        ...

    def stop(self) -> None:
        """Make a running ``train`` end early; called from another thread."""
        ...


class Runner(Protocol):
    """Where the learner's work is done."""

    def learn(self, work: Callable[[], T]) -> Awaitable[T]:
        """Do a piece of the learner's work, one after the other."""
        ...

    def check(self, work: Callable[[], T]) -> Awaitable[T]:
        """Hash and parse something that has arrived, while the learner may be busy."""
        ...


@dataclass(slots=True)
class RoundFacts:
    """What the shell saw of the round that is under way."""

    opened_at: float
    train_s: float = 0.0
    encode_s: float = 0.0
    collecting_since: float = field(init=False)
    """When the own update was published or skipped; the opening, until then."""
    loss: float | None = None
    epsilon: float | None = None
    codec: str = ""
    """Of the own update, and why it is this one."""
    codec_reason: str = ""
    payload_bytes: int = 0
    dense_bytes: int = 0
    num_examples: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.collecting_since = self.opened_at

    def after(self, before: RoundFacts) -> RoundFacts:
        """Return these facts, and what must not be lost of a round that has no record."""
        return replace(
            self,
            payload_bytes=before.payload_bytes + self.payload_bytes,
            dense_bytes=before.dense_bytes + self.dense_bytes,
            rejected=dict(Counter(before.rejected) + Counter(self.rejected)),
            notes=[*before.notes, *self.notes],
        )


@dataclass(frozen=True, slots=True)
class ClosedRound:
    """A folded and evaluated round, for the recorder."""

    close: Close
    facts: RoundFacts
    metrics: dict[str, float]
    state_digest: bytes
    exchange_s: float
    fold_s: float
    time_s: float
    sent: int
    received: int
    authors: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerParts(Generic[Parsed]):
    """What a peer is made of."""

    machine: PeerMachine
    signer: Signer
    transport: Transport
    learner: Learner[Parsed]
    store: UpdateStore[Parsed]
    bases: BaseStore
    rate: RateController
    runner: Runner
    journal: Callable[[int, UpdateId], None]
    """Makes an own (round, id) durable; raises OSError if it cannot."""
    on_round: Callable[[ClosedRound], Vitals | None]
    """Records a round; runs in the learner's thread, so that it may write a checkpoint. Returns
    what others that watch should hear of it."""
    keep_records: Callable[[Sequence[Record]], None] = lambda records: None
    """Writes what devices have said of each other; raises OSError if it cannot."""
    on_diverged: Callable[[Diverged, tuple[Update, ...]], None] = lambda report, held: None
    """Writes a report of a divergence, with all that is held through its round."""
    turn_s: float = 0.0
    """Seconds for which what arrives is waited for, to be looked at together."""
    on_listening: Callable[[str], None] = lambda address: None
    """Told where the transport listens."""
    on_event: Callable[[TransportEvent], None] = lambda event: None
    """Told what the transport says of other peers, but for their frames."""
