"""What our closed rounds have led to, and whether others were led to the same. Pure."""

from __future__ import annotations

from semantic_net.protocol.actions import Action, Diverged, Level, Tell
from semantic_net.protocol.identity import PeerId, short_id
from semantic_net.protocol.messages import HeartbeatBody

MAX_DIVERGED = 64
"""Reports of divergence in one process: each is an error in the log and a look at the updates."""

DIGESTS_KEPT = 64
"""Rounds whose digests are kept for comparison with what peers report."""


class ClosedRounds:
    """The digests of the rounds that were closed: of the updates that were folded, and the model.

    Equal sets, from the same origin, must have given equal models.
    """

    def __init__(self) -> None:
        self.last = 0
        """The last round that was closed."""
        self._digests: dict[int, tuple[bytes, bytes]] = {}
        self._reported: set[tuple[PeerId, int]] = set()

    def add(self, number: int, set_digest: bytes, state_digest: bytes) -> None:
        """Note what a round has led to; a later fold of it takes the place of an earlier one."""
        self.last = number
        self._digests[number] = (set_digest, state_digest)
        for forgotten in sorted(self._digests)[:-DIGESTS_KEPT]:
            del self._digests[forgotten]

    @property
    def last_digests(self) -> tuple[bytes, bytes]:
        """Of the set and the model of the last round; empty before the first."""
        return self._digests.get(self.last, (b"", b""))

    def agrees(self, body: HeartbeatBody) -> bool | None:
        """Tell whether a peer's last round led to our model of that round.

        None where that cannot be said: ours is of other updates, not closed yet or forgotten.
        """
        mine = self._digests.get(body.closed_round)
        if mine is None or body.set_digest != mine[0]:
            return None
        return body.state_digest == mine[1]

    def compare(self, peer: PeerId, body: HeartbeatBody) -> list[Action]:
        """Report a peer whose model is another one, once a round."""
        key = (peer, body.closed_round)
        if (
            self.agrees(body) is not False
            or key in self._reported
            or len(self._reported) >= MAX_DIVERGED
        ):
            return []
        self._reported.add(key)
        text = (
            f"{short_id(peer)} holds the same updates through round {body.closed_round} and "
            "another model: a bug or broken hardware, please report it"
        )
        set_digest, ours = self._digests[body.closed_round]
        report = Diverged(peer, body.closed_round, set_digest, ours, body.state_digest)
        return [Tell(Level.ERROR, text), report]
