"""Stand-ins for what costs time and decides nothing: signatures, folds and snapshots."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from semantic_net.protocol.actions import FoldPlan
from semantic_net.protocol.bases import Base
from semantic_net.protocol.history import (
    History,
    decode_history,
    encode_history,
    history_of_origin,
)
from semantic_net.protocol.identity import Signer, peer_id_of, signed_bytes
from semantic_net.protocol.update import UpdateId


class StubSigner(Signer):
    """Signs by a hash that anyone could make: in a simulation nobody lies."""

    def __init__(self, private_key: bytes) -> None:
        self.public_key = hashlib.sha256(private_key).digest()
        self.peer_id = peer_id_of(self.public_key)

    def sign(self, context: bytes, body: bytes) -> bytes:
        """Return what `stub_signature_valid` takes for a signature."""
        return hashlib.sha512(self.public_key + signed_bytes(context, body)).digest()


def stub_signature_valid(public_key: bytes, context: bytes, body: bytes, signature: bytes) -> bool:
    """Tell whether nothing was changed on the way."""
    return signature == hashlib.sha512(public_key + signed_bytes(context, body)).digest()


class Fold:
    """Stands in for the model: the state after a round is a hash of all before it.

    As the real one it keeps the states of earlier rounds, and trusts a plan's ``changed_from``.
    """

    def __init__(self) -> None:
        self._states: dict[int, bytes] = {}

    def fold(self, plan: FoldPlan, start: bytes) -> bytes:
        """Return the state after the plan's last round, from that of its base."""
        first, last = plan.frontier + 1, plan.through
        states = self._states
        kept = {n: states[n] for n in states if first <= n < plan.changed_from}
        usable = [n for n in kept if n <= last]
        reached = max(usable, default=plan.frontier)
        state = kept[reached] if usable else start
        for number in sorted(n for n in plan.rounds if reached < n <= last):
            if plan.rounds[number]:
                ids = b"".join(update.id for update in plan.rounds[number])
                state = hashlib.sha256(state + ids).digest()
            kept[number] = state
        self._states = kept
        return state


@dataclass(frozen=True, slots=True)
class StoredBase:
    """A base, and what its transfer form holds."""

    base: Base
    history: History
    state: bytes
    """Stands in for the folded state."""

    @property
    def data(self) -> bytes:
        """The transfer form; an origin's is its own digest in this world."""
        if self.base.frontier == 0:
            return self.base.digest
        return self.state + encode_history(self.history)


def origin_base(digest: UpdateId, *, given: bool) -> StoredBase:
    """Return what a node starts from by itself."""
    history = history_of_origin(digest)
    return StoredBase(Base.of(digest, len(digest), history, given=given), history, digest)


def make_base(history: History, state: bytes, *, given: bool) -> StoredBase:
    """Return the base that includes all that a state was folded from."""
    data = state + encode_history(history)
    base = Base.of(hashlib.sha256(data).digest(), len(data), history, given=given)
    return StoredBase(base, history, state)


def read_base(base: Base, data: bytes) -> StoredBase:
    """Read a base's transfer form; the links of this world do not corrupt."""
    if base.frontier == 0:
        assert data == base.digest
        return origin_base(data, given=base.given)
    stored = make_base(decode_history(data[32:]), data[:32], given=base.given)
    assert stored.base == base
    return stored
