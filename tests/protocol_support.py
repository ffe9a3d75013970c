"""Small parts for tests of the protocol: keys, updates and heartbeats by name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from semantic_net.protocol.actions import Action
from semantic_net.protocol.bases import Base, BaseConfig
from semantic_net.protocol.handshake import Established, Refusal
from semantic_net.protocol.history import History, history_of_origin
from semantic_net.protocol.identity import PeerId, Signer
from semantic_net.protocol.messages import HeartbeatBody, HeartbeatMessage, sign_heartbeat
from semantic_net.protocol.update import Admission, Update, UpdateBody, hash_payload, sign_update
from semantic_net.protocol.update_set import UpdateSet

RUN = b"r" * 16
BASE = b"b" * 32
ORIGIN = history_of_origin(BASE)
BASES = BaseConfig(every=4, origin_bytes=2, max_bytes=10_000)
EMPTY_SET = ORIGIN.set_digest
ADMISSION = Admission(RUN, {"stub": 1000}.get)

A = TypeVar("A", bound=Action)


@dataclass
class Book:
    """A peer's other connections, as a test wants them: none, unless it says so."""

    lost: list[bytes] = field(default_factory=list)
    objects: Refusal | None = None
    full: Refusal | None = None
    asked_for_room: int = 0

    def lost_sessions(self, peer: PeerId) -> Sequence[bytes]:
        return self.lost

    def objection(
        self, peer: PeerId, incarnation: int, *, dialled: bool, device: PeerId | None = None
    ) -> Refusal | None:
        return self.objects

    def no_room(self, candidate: Established) -> Refusal | None:
        self.asked_for_room += 1
        return self.full


def signer(name: str) -> Signer:
    """Return the same key for the same name, every time."""
    return Signer(hashlib.sha256(name.encode()).digest())


def payload(text: str) -> bytes:
    return text.encode()


def update(
    author: Signer, round_index: int, content: str = "x", *, weight: int = 1, run: bytes = RUN
) -> Update:
    """Return a signed update whose payload is ``content``."""
    data = payload(content)
    body = UpdateBody(run, round_index, weight, "stub", len(data), hash_payload(data))
    return sign_update(body, author)


def heartbeat_body(
    *,
    incarnation: int = 1,
    sequence: int = 1,
    round_index: int = 0,
    next_round: int = 1,
    last: Update | None = None,
    ready: bool = True,
    leaving: bool = False,
    closed: tuple[int, bytes, bytes] = (0, b"", b""),
    held: bytes = EMPTY_SET,
    base: bytes = BASE,
    base_given: bool = False,
    base_bytes: int = 2,
    history: History | None = None,
    marks: tuple[tuple[int, bytes], ...] = (),
    run: bytes = RUN,
    members: bytes = b"",
    watches: bool = False,
) -> HeartbeatBody:
    history = history if history is not None else history_of_origin(base)
    return HeartbeatBody(
        run=run,
        incarnation=incarnation,
        sequence=sequence,
        round=round_index,
        next_round=next_round,
        last_round=last.round if last is not None else 0,
        last_id=last.id if last is not None else b"",
        ready=ready,
        leaving=leaving,
        closed_round=closed[0],
        set_digest=closed[1],
        state_digest=closed[2],
        held=held,
        base=base,
        base_given=base_given,
        base_bytes=base_bytes,
        frontier=history.frontier,
        base_set=history.set_digest,
        num_included=history.num_included,
        members=members,
        marks=marks,
        watches=watches,
    )


def held(*updates: Update, history: History = ORIGIN) -> UpdateSet:
    """Return the set of these updates."""
    return UpdateSet(history, updates)


def origin(digest: bytes, size: int = 2, *, given: bool = False) -> Base:
    """Return the base of frontier 0 with this digest."""
    return Base.of(digest, size, history_of_origin(digest), given=given)


def heartbeat(author: Signer, body: HeartbeatBody) -> HeartbeatMessage:
    return sign_heartbeat(body, author)


def only(actions: Sequence[Action], kind: type[A]) -> list[A]:
    """Return the actions of one kind."""
    return [action for action in actions if isinstance(action, kind)]
