"""A learner that learns nothing: for what the protocol alone costs in a fleet of any size.

Payloads are noise of a given size, a fold is a hash of what it folds, and each costs what a real
model of that size would in virtual time.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

from semantic_net.errors import RemoteProtocolError
from semantic_net.federated.base_store import BaseStore
from semantic_net.federated.parts import Encoded, Trained
from semantic_net.federated.snapshot import BaseSizes
from semantic_net.protocol.actions import FoldPlan
from semantic_net.protocol.bases import Base
from semantic_net.protocol.history import (
    MAX_HISTORY_BYTES,
    History,
    decode_history,
    encode_history,
    history_of_origin,
)
from semantic_net.protocol.update import Update, UpdateId, hash_payload
from semantic_net.records import NOISE
from semantic_net.semantic.codec import Codec

CODEC = NOISE

_STATE_BYTES = 32


class NoiseLearner:
    """Publishes noise; a `Learner` and a `ModelSide`. Its payloads parse to nothing."""

    def __init__(
        self,
        seed: str,
        payload_bytes: int,
        spend: Callable[[float], None] = lambda seconds: None,
        train_s: float = 0.0,
    ) -> None:
        """Begin at an origin that is the same for all.

        Args:
            seed: Of the noise.
            payload_bytes: Size of each update.
            spend: Told how many virtual seconds work takes.
            train_s: Of a round's training.
        """
        self.bases = BaseStore()
        self.base, _ = self.bases.put([bytes(_STATE_BYTES)])
        self.history = history_of_origin(self.base)
        self.taken_back: dict[UpdateId, int] = {}
        self._random = random.Random(seed)  # reproducible, not secret  # nosec B311
        self._payload_bytes = payload_bytes
        self._spend = spend
        self._train_s = train_s

    @property
    def base_sizes(self) -> BaseSizes:
        """What the transfer forms of bases take."""
        return BaseSizes(_STATE_BYTES, _STATE_BYTES + MAX_HISTORY_BYTES)

    def max_payload_bytes(self, codec: str) -> int | None:
        """Return the size of the largest payload of a codec; None for an unknown one."""
        return self._payload_bytes if codec == CODEC else None

    def parsed_bytes(self, parsed: None) -> int:
        """Return 0: nothing comes of a payload."""
        return 0

    def parse(self, codec: str, payload: memoryview) -> None:
        """Make nothing of a payload."""

    def history_of(self, data: memoryview, base: Base) -> History:
        """Return the history of a base that has arrived.

        Raises:
            RemoteProtocolError: It is not what its peer said.
        """
        if base.frontier == 0:
            history = history_of_origin(hash_payload(data))
        else:
            history = decode_history(data[_STATE_BYTES:])
        if Base.of(base.digest, len(data), history, given=base.given) != base:
            raise RemoteProtocolError("a base that is not what its peer said")
        return history

    def make_base(
        self, plan: FoldPlan, history: History, parsed: Callable[[Update], None]
    ) -> tuple[UpdateId, int]:
        """Store the base that includes all that a plan folds; return its digest and its size."""
        return self.bases.put([self.fold(plan, parsed), encode_history(history)])

    def fold(self, plan: FoldPlan, parsed: Callable[[Update], None]) -> bytes:
        """Return the digest of what a plan folds, which is all there is of a state."""
        state = bytes(self.bases.read(plan.base)[:_STATE_BYTES])
        for number in sorted(plan.rounds):
            ids = b"".join(update.id for update in plan.rounds[number])
            state = hashlib.sha256(state + ids).digest()
        return state

    def train(self, round_index: int, *, is_ahead: bool = False) -> Trained:
        """Let the time of a training pass."""
        self._spend(self._train_s)
        return Trained(None, 1)

    def encode(self, codec: Codec, max_bytes: int | None = None) -> Encoded:
        """Return noise."""
        payload = self._random.randbytes(self._payload_bytes)
        return Encoded(CODEC, payload, self._payload_bytes)

    def take_back(self, own: Update, parsed: None) -> None:
        """Note that an own update does not count."""
        self.taken_back[own.id] = own.round

    def count_again(self, own: Update, parsed: None) -> None:
        """Note that it does after all."""
        self.taken_back.pop(own.id, None)

    def evaluate(self) -> dict[str, float]:
        """Return nothing: there is no model."""
        return {}

    def stop(self) -> None:
        """Do nothing: no time passes outside the clock."""
