"""Whose turn it is: rounds in which a part of a large fleet trains, without a coordinator. Pure.

    rounds    1 ........ period | period + 1 ... 2 period | ...
    a peer    in one of them    | in one of them          | ...

In each epoch of ``period`` rounds every peer has one turn, which the hash of run, epoch and peer id
picks. So each knows its own by itself, everybody can check everybody's, and all have the same
number of turns, where drawing each round anew would leave some out for long (sampling without
replacement: Malinovsky et al. 2023, "Federated learning with regularized client participation",
arXiv 2302.03662).
"""

from __future__ import annotations

import hashlib

from semantic_net.protocol.identity import PeerId

MAX_KNOWN = 4096
"""Turns that are remembered."""


class Turns:
    """The turns of every peer of a run."""

    def __init__(self, run: bytes = b"", period: int = 1) -> None:
        """Take what all peers of the run share.

        Args:
            run: Digest of the run.
            period: Rounds of an epoch, at least 1; with 1 everybody trains in every round.
        """
        self._run = run
        self.period = period
        self._known: dict[tuple[PeerId, int], int] = {}  # asked for far more often than drawn

    @property
    def is_sampled(self) -> bool:
        """Whether there are rounds that are not everybody's."""
        return self.period > 1

    def has(self, peer: PeerId, round_index: int) -> bool:
        """Tell whether a round is a peer's turn."""
        return self.next(peer, round_index) == round_index

    def next(self, peer: PeerId, first: int) -> int:
        """Return the round of a peer's first turn from a round on, that one included."""
        if not self.is_sampled:
            return first
        epoch = (first - 1) // self.period
        own = self._turn(peer, epoch)
        return own if own >= first else self._turn(peer, epoch + 1)

    def _turn(self, peer: PeerId, epoch: int) -> int:
        turn = self._known.get((peer, epoch))
        if turn is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            turn = self._known[peer, epoch] = self._draw(peer, epoch)
        return turn

    def _draw(self, peer: PeerId, epoch: int) -> int:
        text = b"turn %s %d %s" % (self._run, epoch, peer.encode("ascii"))
        drawn = int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
        return epoch * self.period + 1 + drawn % self.period
