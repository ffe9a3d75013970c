"""What a base stands for: every round up to its frontier, without the updates.

    origin --updates of rounds 1 to F, folded--> base with the frontier F

The *origin* is the base of frontier 0: the state that the first round is folded on. A base with a
later frontier takes the place of the updates before it (compaction): state and momentum are sent
as a *snapshot*, and the history beside them says what was folded in. A digest chain runs through
both, from the origin over all rounds to the last update, so that peers with different bases can
tell whether they hold the same.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Iterable
from typing import Annotated

import msgspec

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.update import (
    MALFORMED,
    MAX_AUTHORS,
    MAX_ROUND,
    Hash32,
    Update,
    UpdateId,
)

SHORT_ID_BYTES = 16
"""Of an update's id in a history: enough to find one's own again, and half the bytes."""

MAX_HISTORY_BYTES = 1 << 24
"""Of the encoded form: a million updates."""

MAX_HISTORY_ROUNDS = 1 << 17
"""Most rounds of which it tells, and most marks: what one of them takes in memory is more than its
bytes."""

_ENTRY_BYTES = 40
"""At least what a mark takes, or a round beside its ids."""

Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_ROUND)]
Ids = Annotated[
    bytes, msgspec.Meta(min_length=SHORT_ID_BYTES, max_length=SHORT_ID_BYTES * MAX_AUTHORS)
]


class History(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The rounds that a base includes."""

    marks: Annotated[tuple[tuple[Number, Hash32], ...], msgspec.Meta(max_length=MAX_HISTORY_ROUNDS)]
    """Set digests through rounds: 0, some between, the frontier at last."""
    included: Annotated[
        tuple[tuple[Number, Ids], ...], msgspec.Meta(max_length=MAX_HISTORY_ROUNDS)
    ] = ()
    """Of each round with updates the beginnings of their ids, ascending; void slots have none."""

    @property
    def frontier(self) -> int:
        """The last round that is included; 0 for an origin."""
        return self.marks[-1][0]

    @property
    def set_digest(self) -> bytes:
        """The digest of everything included, and of the origin."""
        return self.marks[-1][1]

    @property
    def num_included(self) -> int:
        """Number of updates included."""
        return sum(len(ids) for _, ids in self.included) // SHORT_ID_BYTES

    @property
    def is_full(self) -> bool:
        """Whether it is near the most that anyone reads."""
        num_bytes = SHORT_ID_BYTES * self.num_included
        num_bytes += _ENTRY_BYTES * (len(self.marks) + len(self.included))
        num_entries = max(len(self.marks), len(self.included))
        return num_bytes > MAX_HISTORY_BYTES or num_entries > MAX_HISTORY_ROUNDS

    def digest_at(self, round_index: int) -> bytes | None:
        """Return the set digest through one of the marked rounds; None for another round."""
        place = bisect.bisect_left(self.marks, (round_index, b""))
        mark = self.marks[place] if place < len(self.marks) else None
        return mark[1] if mark is not None and mark[0] == round_index else None

    def includes(self, update: Update) -> bool:
        """Tell whether an update was folded in."""
        place = bisect.bisect_left(self.included, (update.round, b""))
        if place == len(self.included) or self.included[place][0] != update.round:
            return False
        return short(update.id) in _split(self.included[place][1])

    def short_ids(self) -> set[bytes]:
        """Return the beginnings of the ids of all that was folded in."""
        return {part for _, ids in self.included for part in _split(ids)}

    def grown(
        self, marks: Iterable[tuple[int, bytes]], rounds: Iterable[tuple[int, Iterable[Update]]]
    ) -> History:
        """Return the history that goes on to a later frontier.

        Args:
            marks: Later rounds with the set digests through them, ascending; the frontier at last.
            rounds: What counts in each round up to there, ascending.
        """
        added = ((number, _short_ids(updates)) for number, updates in rounds)
        included = (*self.included, *(entry for entry in added if entry[1]))
        return History((*self.marks, *marks), included)


def short(update_id: UpdateId) -> bytes:
    """Return the beginning of an id, by which a history knows an update."""
    return update_id[:SHORT_ID_BYTES]


def history_of_origin(origin: UpdateId) -> History:
    """Return the history of a state before the first round."""
    return History(((0, hashlib.sha256(b"semantic-net set 2\0" + origin).digest()),))


def encode_history(history: History) -> bytes:
    """Return the form that travels in a snapshot; equal histories have equal forms."""
    return msgspec.msgpack.encode(history)


def decode_history(encoded: bytes | memoryview) -> History:
    """Read a stranger's history.

    Raises:
        RemoteProtocolError: It is malformed.
    """
    try:
        history = _decoder.decode(encoded)
    except MALFORMED as exc:
        raise RemoteProtocolError(f"malformed history of a base: {exc}") from exc
    marked = [number for number, _ in history.marks]
    rounds = [number for number, _ in history.included]
    is_sound = (
        marked[:1] == [0]
        and _ascend(marked)
        and _ascend([0, *rounds, marked[-1] + 1])
        and all(_are_in_order(ids) for _, ids in history.included)
    )
    if not is_sound:
        raise RemoteProtocolError("malformed history of a base: its entries are out of order")
    return history


_decoder = msgspec.msgpack.Decoder(History)


def _short_ids(updates: Iterable[Update]) -> bytes:
    return b"".join(sorted(short(update.id) for update in updates))


def _split(ids: bytes) -> list[bytes]:
    return [ids[i : i + SHORT_ID_BYTES] for i in range(0, len(ids), SHORT_ID_BYTES)]


def _are_in_order(ids: bytes) -> bool:
    parts = _split(ids)
    return len(parts[-1]) == SHORT_ID_BYTES and all(a < b for a, b in itertools.pairwise(parts))


def _ascend(numbers: list[int]) -> bool:
    return all(before < after for before, after in itertools.pairwise(numbers))
