"""What peers tell of their last round, for people who watch: small, signed and passed on.

Nothing is decided by it. It travels only while somebody who is alive watches, as heartbeats say,
so that a run that nobody looks at pays nothing for it.
"""

from __future__ import annotations

from collections.abc import KeysView
from typing import Annotated

import msgspec

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.facts import printable
from semantic_net.protocol.identity import (
    PeerId,
    PublicKey,
    Signature,
    SignatureCheck,
    Signer,
    peer_id_of,
)
from semantic_net.protocol.update import MALFORMED, RunDigest
from semantic_net.status import MAX_METRIC_CHARS, DeviceVitals, LastRound

_CONTEXT = b"vitals 1"

_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """One peer's last round in a few figures, and how its device fares."""

    last: LastRound
    device: DeviceVitals | None = None
    """None where it tells nothing."""


class _Body(msgspec.Struct, frozen=True, array_like=True):
    run: RunDigest
    incarnation: _Count
    vitals: Vitals


class VitalsMessage(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Vitals as they travel."""

    body: Annotated[bytes, msgspec.Meta(max_length=512)]
    public_key: PublicKey
    signature: Signature


_decoder = msgspec.msgpack.Decoder(_Body)


class VitalSigns:
    """The latest vitals of every peer that this one has heard of."""

    def __init__(self, run: bytes, incarnation: int, signature_valid: SignatureCheck) -> None:
        """Begin with none.

        Args:
            run: The run digest; those of other runs are refused.
            incarnation: Of this process.
            signature_valid: Verifies a signature.
        """
        self._run = run
        self._incarnation = incarnation
        self._signature_valid = signature_valid
        self._latest: dict[PeerId, tuple[int, Vitals]] = {}

    @property
    def peers(self) -> KeysView[PeerId]:
        """Those that have told of themselves."""
        return self._latest.keys()

    def latest(self, peer: PeerId) -> Vitals | None:
        """Return what a peer has told last."""
        found = self._latest.get(peer)
        return None if found is None else found[1]

    def sign(self, vitals: Vitals, signer: Signer) -> VitalsMessage:
        """Return one's own, to be sent."""
        body = msgspec.msgpack.encode(_Body(self._run, self._incarnation, vitals))
        return VitalsMessage(body, signer.public_key, signer.sign(_CONTEXT, body))

    def hear(self, message: VitalsMessage) -> bool:
        """Take in a peer's vitals; tell whether they are news.

        Raises:
            RemoteProtocolError: Malformed, of another run, or not signed by its peer.
        """
        try:
            body = _decoder.decode(message.body)
        except MALFORMED as exc:
            raise RemoteProtocolError(f"malformed vitals: {exc}") from exc
        if body.run != self._run:
            raise RemoteProtocolError("vitals of another run")
        peer = peer_id_of(message.public_key)
        incarnation, before = self._latest.get(peer, (-1, None))
        since = (incarnation, -1 if before is None else before.last.round)
        if (body.incarnation, body.vitals.last.round) <= since:
            return False
        if not self._signature_valid(message.public_key, _CONTEXT, message.body, message.signature):
            raise RemoteProtocolError("vitals that their peer did not sign")
        # People read it, on terminals, too.
        metric = printable(body.vitals.last.metric, MAX_METRIC_CHARS)
        last = msgspec.structs.replace(body.vitals.last, metric=metric)
        vitals = msgspec.structs.replace(body.vitals, last=last)
        self._latest[peer] = (body.incarnation, vitals)
        return True

    def forget(self, peer: PeerId) -> None:
        """Forget a peer that is remembered no more."""
        self._latest.pop(peer, None)
