"""Whose updates count: what devices say of each other, signed, and spread to every peer of a run.

A peer runs on a device; a `Binding`, signed by both, says so. A `Statement` is a device's word on
another: that it belongs to the run, or that nothing of it counts from some round on. Of what one
says of another the latest counts. Both are spread as updates are, and whose updates count is a pure
function of all of them, whatever the order in which they came:

- A device belongs when this one trusts it, or ``votes`` devices that belong vouch for it. With one
  vote that is whoever is connected to us by a chain of trust, and so the same for all of them.
- It is out once ``votes`` that belong say so: from the first round that an honest one of them can
  have named, if fewer than ``votes`` lie.

What a revoked device has said of others still counts: otherwise two that revoke each other would
have no answer. With one vote, therefore, any device that is trusted can put out any other.

Only the words of devices that belong are kept, with the bindings of those that they vouch for: of
each device only so much, the lowest ids first, and of all together what `reach` has a place for. So
what is kept does not depend on the order either. What a peer lacks, because it could not take it
in, or had no place for it, when it came, it is told again by neighbours whose heartbeats show
another `digest`. Once no neighbour has anything that another one would keep,

- all that are connected by a chain of trust hold the same, if there is a place for all of it;
- if there is not, those hold the same that trust the same devices, as with one trust file for all.
  The others differ in who is far away from each, until whoever has let in too many is revoked on
  all devices that let it in. Then whom it has brought in takes no place from anybody else, and all
  hold the same again, if there is a place for everybody else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.identity import (
    PEER_ID_CHARS,
    PeerId,
    PublicKey,
    Signature,
    SignatureCheck,
    Signer,
    consent,
    endorse,
    is_bound,
    peer_id_of,
    signature_valid,
)
from semantic_net.protocol.reach import MAX_DEVICES, MAX_STATEMENTS, Reach, reach
from semantic_net.protocol.update import MALFORMED, MAX_AUTHORS, MAX_ROUND, RunDigest

NEVER = MAX_ROUND + 1
"""The round from which on a device is out that is not."""

MAX_PEERS = 16
"""Most peers of one device: those with the lowest ids."""

MAX_SPOKEN_OF = MAX_AUTHORS
"""Most devices that one may speak of: those with the lowest ids."""

MAX_STRANGERS = 256
"""Most bindings that wait for somebody to vouch for their device; the oldest gives way."""

SETTLED_AT_ONCE = 1024
"""Statements up to which it costs nothing to speak of to settle anew after each."""

DIGEST_BYTES = 8

_LATER = -1

_CONTEXT = b"statement 1"


class Binding(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """This peer runs on this device: the word of both."""

    peer_key: PublicKey
    device_key: PublicKey
    endorsement: Signature
    """The device's."""
    consent: Signature
    """The peer's: nobody can claim another's peer, to be revoked with it."""


class StatementBody(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a device signs."""

    run: RunDigest
    about: Annotated[str, msgspec.Meta(min_length=PEER_ID_CHARS, max_length=PEER_ID_CHARS)]
    """The id of another device."""
    version: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
    """Grows with every word of this device on that one."""
    out_from: Annotated[int, msgspec.Meta(ge=1, le=NEVER)]
    """The first round in which nothing of it counts."""
    vouches: bool
    """It has let that one in, at least before."""


class Statement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A statement as it travels."""

    body: Annotated[bytes, msgspec.Meta(max_length=128)]
    device_key: PublicKey
    signature: Signature


Record = Binding | Statement

_BODY = msgspec.msgpack.Decoder(StatementBody)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the trust file of this device says of another."""

    lets_in: bool
    void_from: int | None = None
    """Of one that is kept out: the first round in which it shall count no more; None: the next."""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What a record has changed."""

    first_rounds: Mapping[PeerId, int]
    """Of each peer whose updates count otherwise now: the first round in which they do."""
    told: tuple[str, ...] = ()
    """What people should know."""


@dataclass(frozen=True, slots=True)
class MemberDevice:
    """A device whose updates count, or did, as this peer knows it."""

    id: PeerId
    name: str
    peers: tuple[PeerId, ...]
    """That run on it."""
    out_from: int | None
    """The first round in which they count no more."""


@dataclass(frozen=True, slots=True)
class _Place:
    out_from: int
    device: PeerId
    """The first of its devices."""
    voice: PeerId
    """Which device that we trust ourselves it was vouched for through, itself perhaps."""


@dataclass(frozen=True, slots=True)
class _Said:
    body: StatementBody
    message: Statement

    @property
    def rank(self) -> tuple[int, bytes]:
        """The later of two statements, on every peer."""
        return self.body.version, self.message.body


class Membership:
    """All records that one peer holds, and what follows from them."""

    def __init__(
        self,
        device: Signer,
        peer: Signer,
        run: bytes,
        *,
        votes: int = 1,
        is_valid: SignatureCheck = signature_valid,
    ) -> None:
        """Begin with this peer alone.

        Args:
            device: The key of the device that it runs on.
            peer: Its own.
            run: Digest of the run.
            votes: Devices that must say the same before it holds: one more than may lie.
            is_valid: Checks signatures.
        """
        self._device = device
        self._me = device.peer_id
        self._peer = peer.peer_id
        self._run = run
        self._votes = votes
        self._is_valid = is_valid
        self._standing: Mapping[PeerId, Standing] | None = None
        self._let_in: set[PeerId] = set()  # by the trust file, at one time or another
        self._to_say: set[PeerId] = set()  # on whom the trust file has a word that may be new
        self._bindings: dict[PeerId, dict[PeerId, Binding]] = {}  # by device and peer
        self._waiting: dict[tuple[PeerId, PeerId], Binding] = {}  # of strangers, oldest first
        self._said: dict[PeerId, dict[PeerId, _Said]] = {}  # by signer and subject
        self._out_from: dict[PeerId, int] = {}  # of each device that belongs
        self._places: dict[PeerId, _Place] = {}  # of each peer
        self._news: dict[tuple[PeerId, PeerId, type[Record]], Record] = {}
        self._is_stale = self._may_speak = True
        self._reached: Reach[_Said] | None = None  # None: something was said since
        self._num_unsettled = 0  # records that may be more than have a place
        self._digest: bytes | None = None
        words = endorse(device, peer.public_key), consent(peer, device.public_key)
        self._keep(Binding(peer.public_key, device.public_key, *words))
        self.settle()

    # What counts.

    def out_from(self, peer: PeerId) -> int:
        """Return the first round in which updates of a peer do not count; 0 for an unknown one."""
        place = self._places.get(peer)
        return 0 if place is None else place.out_from

    def is_in(self, peer: PeerId) -> bool:
        """Tell whether a peer takes part, and will."""
        return self.out_from(peer) == NEVER

    def counting(self, round_index: int, authors: Iterable[PeerId]) -> list[PeerId]:
        """Return those of a round's authors whose updates count.

        Where devices may lie, each has one vote: of its peers the first one counts.
        """
        found = [author for author in authors if self.out_from(author) > round_index]
        if self._votes == 1:
            return found
        first: dict[PeerId, PeerId] = {}
        for author in sorted(found):
            first.setdefault(self._places[author].device, author)
        return sorted(first.values())

    def device_of(self, peer: PeerId) -> PeerId | None:
        """Return the device that a peer runs on, if that is known."""
        place = self._places.get(peer)
        return None if place is None else place.device

    def voice_of(self, peer: PeerId) -> PeerId | None:
        """Return through which device that we trust ourselves we know a peer.

        Whoever may vouch for any number of others may not speak with as many voices.
        """
        place = self._places.get(peer)
        return None if place is None else place.voice

    def name_of(self, device: PeerId) -> str:
        """Return what people call a device."""
        if device == self._me:
            return "this device"
        standing = (self._standing or {}).get(device)
        return (standing.name if standing else "") or f"{device[:4]}-{device[4:8]}"

    # What is known.

    def devices(self) -> list[MemberDevice]:
        """Return those that take part, or did, this one first."""
        order = sorted(self._out_from, key=lambda device: (device != self._me, device))
        return [
            MemberDevice(
                device,
                self.name_of(device),
                tuple(sorted(self._bindings.get(device, ()))),
                None if self._out_from[device] == NEVER else self._out_from[device],
            )
            for device in order
        ]

    def records(self) -> list[Record]:
        """Return everything that is known of those who belong.

        In an order in which who trusts us can take it in: bindings first, and nobody's word before
        one that vouches for it.
        """
        found: list[Record] = []
        known = self._reach()
        by_us = reach({self._me}, known.said, self._votes).belonging
        order = [device for device in by_us | known.belonging if device in known.belonging]
        for device in order + [other for other in known.heard_of if other not in known.belonging]:
            found += self._bindings.get(device, {}).values()
        for device in order:
            found += (said.message for said in known.said.get(device, {}).values())
        return found

    @property
    def digest(self) -> bytes:
        """A hash that is equal where the records are, in whatever order, once all are settled."""
        if self._digest is None:
            hasher = hashlib.sha256()
            for encoded in sorted(map(msgspec.msgpack.encode, self.records())):
                hasher.update(len(encoded).to_bytes(4, "big") + encoded)
            self._digest = hasher.digest()[:DIGEST_BYTES]
        return self._digest

    @property
    def kept_out(self) -> frozenset[PeerId]:
        """Devices that the trust file keeps out, or lets in no more: they may be heard still."""
        if self._standing is None:
            return frozenset()
        let_in = {device for device, standing in self._standing.items() if standing.lets_in}
        return frozenset((self._roots() | self._standing.keys()) - let_in)

    @property
    def has_news(self) -> bool:
        """Whether something is to be passed on and kept, or perhaps to be said."""
        return bool(self._news) or self._may_speak

    @property
    def takes_long(self) -> bool:
        """Whether there is so much to settle that it is not to be done after each record."""
        return self._is_stale and sum(map(len, self._said.values())) > SETTLED_AT_ONCE

    def take(self, record: Record) -> None:
        """Take in a record; what follows from it, `settle` tells.

        Raises:
            RemoteProtocolError: It is malformed, or not signed by those whose word it is.
        """
        if isinstance(record, Binding):
            self._bind(record)
        else:
            self._hear(record)

    def take_news(self) -> list[Record]:
        """Return what has come, or was said, since the last time: it goes to all neighbours."""
        news = [record for key, record in self._news.items() if self._has_place(*key)]
        self._news = {}
        return sorted(news, key=lambda record: not isinstance(record, Binding))

    def trust(self, standing: Mapping[PeerId, Standing]) -> None:
        """Take what the trust file says from now on; `speak` says it to the others."""
        before = self._standing
        if before is None:  # whatever an earlier process has said may be old
            self._to_say.update(standing, self._said.get(self._me, ()))
            before = standing
        devices = before.keys() | standing.keys()
        self._to_say.update(d for d in devices if before.get(d) != standing.get(d))
        self._standing = dict(standing)
        self._let_in |= {device for device, each in standing.items() if each.lets_in}
        self._is_stale = self._may_speak = True
        self._reached = None

    def speak(self, next_round: int | None) -> None:
        """Make the statements that are due: of those who take part, where it matters.

        Only a word of the trust file that is new is held against what this device has said
        before: another process of it may have read a later one.

        Args:
            next_round: From which those are out that the trust file keeps out, if it names none;
                None: nobody can say yet, and so that waits.
        """
        self._may_speak = False
        # Those whom others reach by statements, once they reach us, need no word of ours.
        reached = self._reached_by_us()
        for about in sorted(self._bindings.keys() - {self._me}):
            said = self._said.get(self._me, {}).get(about)
            if said is not None and about not in self._to_say:
                continue
            out_from = self._word_on(about, said, next_round, is_reached=about in reached)
            if out_from == _LATER:
                self._may_speak = True
                continue
            self._to_say.discard(about)
            if out_from is not None and self._say(about, out_from):
                reached = self._reached_by_us()

    def settle(self) -> Change:
        """Find out anew who belongs and who is out, if records have come; return what changed."""
        if not self._is_stale:
            return Change({})
        self._let_strangers_in()
        self._make_room()
        self._is_stale, self._digest = False, None
        were, places = self._out_from, self._places
        self._out_from = {device: self._last_word(device) for device in self._reach().belonging}
        self._places = self._find_places()
        told = [
            self._tell_out(device, out_from)
            for device, out_from in sorted(self._out_from.items())
            if out_from < NEVER and out_from != were.get(device)
        ]
        told += [
            f"{self.name_of(device)} counts again"
            for device, out_from in sorted(were.items())
            if out_from < NEVER == self._out_from.get(device)
        ]
        nowhere = _Place(0, PeerId(""), PeerId(""))
        changed = {}
        for peer in places.keys() | self._places.keys():
            was, is_now = places.get(peer, nowhere), self._places.get(peer, nowhere)
            if (was.out_from, was.device) != (is_now.out_from, is_now.device):
                differs = was.out_from != is_now.out_from
                changed[peer] = max(min(was.out_from, is_now.out_from), 1) if differs else 1
        return Change(changed, tuple(told))

    # The inside.

    def _bind(self, binding: Binding) -> None:
        peer, device = peer_id_of(binding.peer_key), peer_id_of(binding.device_key)
        if peer in self._bindings.get(device, ()) or (device, peer) in self._waiting:
            return
        if not is_bound(
            binding.device_key,
            binding.peer_key,
            binding.endorsement,
            binding.consent,
            self._is_valid,
        ):
            raise RemoteProtocolError("a peer's device that one of the two did not sign")
        if device in self._reach().heard_of:
            self._keep(binding)
            return
        self._waiting[device, peer] = binding
        if len(self._waiting) > MAX_STRANGERS:
            del self._waiting[next(iter(self._waiting))]

    def _keep(self, binding: Binding) -> None:
        peer, device = peer_id_of(binding.peer_key), peer_id_of(binding.device_key)
        peers = self._bindings.setdefault(device, {})
        peers[peer] = binding
        if self._cut(peers, MAX_PEERS, peer, device):
            self._note(device, peer, binding)

    def _hear(self, statement: Statement) -> None:
        try:
            body = _BODY.decode(statement.body)
        except MALFORMED as exc:
            raise RemoteProtocolError(f"malformed statement: {exc}") from exc
        if body.run != self._run:
            raise RemoteProtocolError("a statement of another run")
        signer, about = peer_id_of(statement.device_key), PeerId(body.about)
        said = _Said(body, statement)
        before = self._said.get(signer, {}).get(about)
        if signer == about or (before is not None and said.rank <= before.rank):
            return
        if not (self._belongs(signer) and signer in self._bindings):
            return  # told again once it belongs
        if not self._is_valid(statement.device_key, _CONTEXT, statement.body, statement.signature):
            raise RemoteProtocolError("a statement that its device did not sign")
        subjects = self._said.setdefault(signer, {})
        subjects[about] = said
        if self._cut(subjects, MAX_SPOKEN_OF, about, signer):
            self._reached = None
            self._note(signer, about, statement)
        self._num_unsettled += 1
        if self._num_unsettled > MAX_STATEMENTS:
            self._make_room()

    def _cut(self, kept: dict[PeerId, Any], most: int, added: PeerId, device: PeerId) -> bool:
        """Keep the lowest ids only, and our own peer's; tell whether what was added is kept."""
        if len(kept) > most:
            last = max(key for key in kept if key != self._peer)
            del kept[last]
            self._news.pop((device, last, Binding), None)
            self._news.pop((device, last, Statement), None)
        return added in kept

    def _note(self, device: PeerId, other: PeerId, record: Record) -> None:
        self._news[device, other, type(record)] = record
        self._is_stale = self._may_speak = True

    def _belongs(self, device: PeerId) -> bool:
        if device not in self._out_from and self._is_stale:
            self._let_strangers_in()
        return device in self._out_from

    def _let_strangers_in(self) -> None:
        """Keep the bindings of those who belong by now; with them their words count."""
        known = self._reach()
        for device in known.belonging:
            self._out_from.setdefault(device, NEVER)  # until it is settled
        for key in [key for key in self._waiting if key[0] in known.heard_of]:
            self._keep(self._waiting.pop(key))

    def _reach(self) -> Reach[_Said]:
        """Return who belongs as far as is known, and what is kept of what they say."""
        if self._reached is None:
            self._reached = reach({self._me, *self._roots()}, self._said, self._votes)
        return self._reached

    def _reached_by_us(self) -> Set[PeerId]:
        return reach({self._me}, self._said, self._votes).belonging.keys()

    def _make_room(self) -> None:
        """Forget what has no place, once there is too much.

        Until then the words of those who do not belong any more are held: they may again.
        """
        self._num_unsettled = 0
        num_said = sum(map(len, self._said.values()))
        if num_said <= MAX_STATEMENTS and len(self._bindings) <= MAX_DEVICES:
            return
        known = self._reach()
        own = self._said.get(self._me, {})  # the versions of what we say go on
        self._said = {signer: dict(words) for signer, words in known.said.items()}
        self._said[self._me] = own
        self._bindings = {d: b for d, b in self._bindings.items() if d in known.heard_of}

    def _has_place(self, device: PeerId, other: PeerId, kind: type[Record]) -> bool:
        known = self._reach()
        if kind is Binding:
            return device in known.heard_of
        return other in known.said.get(device, ())

    def _roots(self) -> set[PeerId]:
        """Return those that this device vouches for."""
        own = self._said.get(self._me, {}).items()
        return self._let_in.union(about for about, said in own if said.body.vouches)

    def _word_on(
        self, about: PeerId, said: _Said | None, next_round: int | None, *, is_reached: bool
    ) -> int | None:
        """Return from which round on a device shall be out, if that is to be said now."""
        before = None if said is None else said.body.out_from
        standing = (self._standing or {}).get(about)
        if standing is not None and standing.lets_in:
            is_said = is_reached if before is None else before == NEVER
            return None if is_said else NEVER
        if standing is None and before is None:
            return None
        void_from = None if standing is None else standing.void_from
        if before is not None and before < NEVER and (void_from is None or void_from >= before):
            return None
        if next_round is None:
            return _LATER
        out_from = next_round if void_from is None else min(void_from, next_round)
        return max(1, min(out_from, MAX_ROUND))  # or it would be no word, or that it is in

    def _say(self, about: PeerId, out_from: int) -> bool:
        """Make a statement; tell whether it vouches for one for whom we did not."""
        subjects = self._said.setdefault(self._me, {})
        before = subjects.get(about)
        version = 1 if before is None else before.body.version + 1
        vouches = about in self._let_in or (before is not None and before.body.vouches)
        body = StatementBody(self._run, about, version, out_from, vouches)
        encoded = msgspec.msgpack.encode(body)
        signature = self._device.sign(_CONTEXT, encoded)
        statement = Statement(encoded, self._device.public_key, signature)
        subjects[about] = _Said(body, statement)
        if self._cut(subjects, MAX_SPOKEN_OF, about, self._me):
            may_speak = self._may_speak
            self._note(self._me, about, statement)
            self._may_speak = may_speak
        self._reached = None
        return vouches and not (before is not None and before.body.vouches)

    def _voices(self) -> dict[PeerId, PeerId]:
        """Return of each device through which of those that we trust it was vouched for."""
        known = self._reach()
        voices = {root: root for root in sorted({self._me, *self._roots()})}
        new = list(voices)
        for device in new:  # it grows meanwhile
            for about, said in sorted(known.said.get(device, {}).items()):
                if said.body.vouches and about in known.belonging and about not in voices:
                    voices[about] = voices[device]
                    new.append(about)
        return voices

    def _find_places(self) -> dict[PeerId, _Place]:
        places: dict[PeerId, _Place] = {}
        voices = self._voices() if self._votes == 1 else {}
        for device in sorted(self._out_from):
            for peer in self._bindings.get(device, ()):
                # This one goes on with what it has, whatever the others make of it.
                out_from = NEVER if peer == self._peer else self._out_from[device]
                before = places.get(peer)
                if before is None:
                    places[peer] = _Place(out_from, device, voices.get(device, device))
                else:
                    places[peer] = replace(before, out_from=min(before.out_from, out_from))
        return places

    def _last_word(self, device: PeerId) -> int:
        rounds = sorted(out_from for out_from, _ in self._reach().against.get(device, ()))
        return rounds[self._votes - 1] if len(rounds) >= self._votes else NEVER

    def _tell_out(self, device: PeerId, out_from: int) -> str:
        against = self._reach().against.get(device, ())
        name, who = self.name_of(device), ", ".join(sorted(self.name_of(by) for _, by in against))
        return f"nothing of {name} counts from round {out_from} on: revoked on {who}"
