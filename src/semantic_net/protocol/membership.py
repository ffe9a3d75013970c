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
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.identity import (
    PEER_ID_CHARS,
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    PeerId,
    SignatureCheck,
    Signer,
    consent,
    endorse,
    is_bound,
    peer_id_of,
    signature_valid,
)
from semantic_net.protocol.update import MALFORMED, MAX_AUTHORS, MAX_ROUND, RunDigest

NEVER = MAX_ROUND + 1
"""The round from which on a device is out that is not."""

MAX_BINDINGS = 4 * MAX_AUTHORS
"""Most peers that are remembered with their devices; who does not belong gives way first."""

MAX_SPOKEN_OF = MAX_AUTHORS
"""Most devices that one may speak of."""

_CONTEXT = b"statement 1"

_Key = Annotated[bytes, msgspec.Meta(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]
_Signature = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


class Binding(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """This peer runs on this device: the word of both."""

    peer_key: _Key
    device_key: _Key
    endorsement: _Signature
    """The device's."""
    consent: _Signature
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
    device_key: _Key
    signature: _Signature


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
        self._run = run
        self._votes = votes
        self._is_valid = is_valid
        self._standing: Mapping[PeerId, Standing] = {}
        self._let_in: set[PeerId] = set()  # by the trust file, at one time or another
        self._bindings: dict[tuple[PeerId, PeerId], Binding] = {}  # by peer and device
        self._devices: dict[PeerId, tuple[PeerId, ...]] = {}  # of each peer, ascending
        self._said: dict[tuple[PeerId, PeerId], _Said] = {}  # by signer and subject
        self._belonging: dict[PeerId, int] = {}  # devices, and from when on each is out
        self._out_from: dict[PeerId, int] = {}  # of each peer
        self._keep(
            Binding(
                peer.public_key,
                device.public_key,
                endorse(device, peer.public_key),
                consent(peer, device.public_key),
            )
        )
        self._settle()

    # What counts.

    def out_from(self, peer: PeerId) -> int:
        """Return the first round in which updates of a peer do not count; 0 for an unknown one."""
        return self._out_from.get(peer, 0)

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
            first.setdefault(self._devices[author][0], author)
        return sorted(first.values())

    def device_of(self, peer: PeerId) -> PeerId | None:
        """Return the device that a peer runs on, if that is known."""
        return next(iter(self._devices.get(peer, ())), None)

    # What is known.

    def records(self) -> list[Record]:
        """Return everything that is known, in an order in which it can be taken in."""
        return [*self._bindings.values(), *(said.message for said in self._said.values())]

    def load(self, records: Iterable[Record]) -> None:
        """Take in what an earlier process of this peer has kept.

        Raises:
            RemoteProtocolError: It was not kept by this peer, in this run.
        """
        for record in records:
            self.take(record)

    def take(self, record: Record) -> Change | None:
        """Take in a record; return what it has changed, or None where it is no news.

        Raises:
            RemoteProtocolError: It is malformed, or not signed by those whose word it is.
        """
        is_news = self._bind(record) if isinstance(record, Binding) else self._hear(record)
        return self._settle() if is_news else None

    def trust(self, standing: Mapping[PeerId, Standing]) -> Change:
        """Take what the trust file says from now on; `speak` says it to the others."""
        self._standing = dict(standing)
        self._let_in |= {device for device, each in standing.items() if each.lets_in}
        return self._settle()

    def speak(self, next_round: int) -> tuple[list[Statement], Change]:
        """Make the statements that are due: of those who take part, where it matters.

        Args:
            next_round: From which those are out that the trust file keeps out, if it names none.
        """
        me = self._device.peer_id
        made: list[Statement] = []
        # Those whom others reach by statements, once they reach us, need no word of ours.
        reached = self._closure({me})
        subjects = {device for devices in self._devices.values() for device in devices}
        for about in sorted(subjects - {me}):
            out_from = self._word_on(about, next_round, is_reached=about in reached)
            if out_from is not None:
                made.append(self._say(about, out_from))
                reached = self._closure({me})
        return made, self._settle() if made else Change({})

    # The inside.

    def _bind(self, binding: Binding) -> bool:
        peer, device = peer_id_of(binding.peer_key), peer_id_of(binding.device_key)
        if (peer, device) in self._bindings:
            return False
        if not is_bound(
            binding.device_key,
            binding.peer_key,
            binding.endorsement,
            binding.consent,
            self._is_valid,
        ):
            raise RemoteProtocolError("a peer's device that one of the two did not sign")
        self._keep(binding)
        return True

    def _keep(self, binding: Binding) -> None:
        peer, device = peer_id_of(binding.peer_key), peer_id_of(binding.device_key)
        self._bindings[peer, device] = binding
        self._devices[peer] = tuple(sorted({*self._devices.get(peer, ()), device}))
        if len(self._bindings) > MAX_BINDINGS:
            self._forget_one()

    def _forget_one(self) -> None:
        """Forget the oldest peer of a device that does not belong, or else the last to come."""
        newest = next(reversed(self._bindings))
        strangers = (key for key in self._bindings if key[1] not in self._belonging)
        peer, device = next((key for key in strangers if key != newest), newest)
        del self._bindings[peer, device]
        left = tuple(other for other in self._devices[peer] if other != device)
        if left:
            self._devices[peer] = left
        else:
            del self._devices[peer]

    def _hear(self, statement: Statement) -> bool:
        try:
            body = _BODY.decode(statement.body)
        except MALFORMED as exc:
            raise RemoteProtocolError(f"malformed statement: {exc}") from exc
        if body.run != self._run:
            raise RemoteProtocolError("a statement of another run")
        signer, about = peer_id_of(statement.device_key), PeerId(body.about)
        said = _Said(body, statement)
        before = self._said.get((signer, about))
        if before is not None and said.rank <= before.rank:
            return False
        if before is None and (
            signer == about or not self._is_heard(signer) or self._num_said(signer) >= MAX_SPOKEN_OF
        ):
            return False
        if not self._is_valid(statement.device_key, _CONTEXT, statement.body, statement.signature):
            raise RemoteProtocolError("a statement that its device did not sign")
        self._said[signer, about] = said
        return True

    def _is_heard(self, signer: PeerId) -> bool:
        """Tell whether a device takes part; what others say is not kept."""
        return signer in self._belonging or any(device == signer for _, device in self._bindings)

    def _num_said(self, signer: PeerId) -> int:
        return sum(own == signer for own, _ in self._said)

    def _word_on(self, about: PeerId, next_round: int, *, is_reached: bool) -> int | None:
        """Return from which round on a device shall be out, if that is to be said now."""
        said = self._said.get((self._device.peer_id, about))
        before = None if said is None else said.body.out_from
        standing = self._standing.get(about)
        if standing is not None and standing.lets_in:
            if before is None:
                return None if is_reached else NEVER
            return NEVER if before != NEVER else None
        if standing is None and before is None:
            return None
        void_from = None if standing is None else standing.void_from
        wanted = next_round if void_from is None else min(void_from, next_round)
        if before is None or before == NEVER:
            return wanted
        return wanted if void_from is not None and wanted < before else None

    def _say(self, about: PeerId, out_from: int) -> Statement:
        me = self._device.peer_id
        before = self._said.get((me, about))
        version = 1 if before is None else before.body.version + 1
        vouches = about in self._let_in or (before is not None and before.body.vouches)
        body = StatementBody(self._run, about, version, out_from, vouches)
        encoded = msgspec.msgpack.encode(body)
        statement = Statement(
            encoded, self._device.public_key, self._device.sign(_CONTEXT, encoded)
        )
        self._said[me, about] = _Said(body, statement)
        return statement

    def _settle(self) -> Change:
        """Find out anew who belongs and who is out; return what has changed."""
        were, before = self._out_from, self._belonging
        spoken_of: dict[PeerId, list[PeerId]] = {}
        for signer, about in self._said:
            spoken_of.setdefault(about, []).append(signer)
        belonging = self._who_belongs()
        last_words = {
            device: self._last_word(device, belonging.intersection(spoken_of.get(device, ())))
            for device in belonging
        }
        told = [
            self._tell_out(device, out_from, spoken_of[device])
            for device, out_from in sorted(last_words.items())
            if out_from < NEVER and out_from != before.get(device)
        ]
        told += [
            f"{self.name_of(device)} counts again"
            for device, out_from in sorted(before.items())
            if out_from < NEVER == last_words.get(device)
        ]
        self._belonging = last_words
        # This one goes on with what it has, whatever the others make of it.
        rounds = last_words | {self._device.peer_id: NEVER}
        self._out_from = {
            peer: min(rounds.get(device, 0) for device in devices)
            for peer, devices in self._devices.items()
        }
        changed = {
            peer: max(min(was, is_now), 1)
            for peer in were.keys() | self._out_from.keys()
            if (was := were.get(peer, 0)) != (is_now := self.out_from(peer))
        }
        return Change(changed, tuple(told))

    def _who_belongs(self) -> set[PeerId]:
        me = self._device.peer_id
        own = (about for (by, about), said in self._said.items() if by == me and said.body.vouches)
        return self._closure({me, *self._let_in, *own})

    def _closure(self, found: set[PeerId]) -> set[PeerId]:
        """Return who belongs if these do: add those for whom enough of them vouch, and so on."""
        votes: Counter[PeerId] = Counter()
        subjects: dict[PeerId, list[PeerId]] = {}
        for (signer, about), said in self._said.items():
            if said.body.vouches:
                subjects.setdefault(signer, []).append(about)
        found, new = set(found), list(found)
        while new:
            for about in subjects.get(new.pop(), ()):
                votes[about] += 1
                if votes[about] >= self._votes and about not in found:
                    found.add(about)
                    new.append(about)
        return found

    def _last_word(self, device: PeerId, signers: Iterable[PeerId]) -> int:
        rounds = sorted(self._said[signer, device].body.out_from for signer in signers)
        return rounds[self._votes - 1] if len(rounds) >= self._votes else NEVER

    def _tell_out(self, device: PeerId, out_from: int, signers: Iterable[PeerId]) -> str:
        against = [s for s in signers if self._said[s, device].body.out_from < NEVER]
        who = ", ".join(sorted(map(self.name_of, against)))
        name = self.name_of(device)
        return f"nothing of {name} counts from round {out_from} on: revoked on {who}"

    def name_of(self, device: PeerId) -> str:
        """Return what people call a device."""
        if device == self._device.peer_id:
            return "this device"
        standing = self._standing.get(device)
        return (standing.name if standing else "") or f"{device[:4]}-{device[4:8]}"
