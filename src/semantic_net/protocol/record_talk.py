"""What devices say of each other: when neighbours are told, and what it means for updates. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.actions import Action, Keep, Level, Send, Tell
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.membership import Membership, Record
from semantic_net.protocol.messages import HeartbeatBody
from semantic_net.protocol.roster import Roster
from semantic_net.protocol.rounds import Rounds
from semantic_net.protocol.sync import Sync
from semantic_net.protocol.update_set import UpdateSet


@dataclass(slots=True)
class _Told:
    """When a neighbour is told all records again, should its own differ until then."""

    again_at: float
    wait_s: float


class RecordTalk:
    """A membership among neighbours; without one nothing is said, and everybody counts."""

    def __init__(
        self,
        membership: Membership | None,
        updates: UpdateSet,
        roster: Roster,
        sync: Sync,
        rounds: Rounds,
        *,
        heartbeat_s: float,
        liveness_s: float,
    ) -> None:
        """Take whose records they are, and who is to know what they change.

        Args:
            membership: Whose updates count; None: everybody's.
            updates: What is held: it asks the same membership.
            roster: Who is heard of.
            sync: Who is a neighbour.
            rounds: Which rounds are open and folded.
            heartbeat_s: Seconds between two times that news go out.
            liveness_s: Seconds after which a neighbour that differs is told everything again.
        """
        self._membership = membership
        self._updates = updates
        self._roster = roster
        self._sync = sync
        self._rounds = rounds
        self._heartbeat_s = heartbeat_s
        self._liveness_s = liveness_s
        self._due_at = 0.0
        self._told: dict[PeerId, _Told] = {}

    def next_wakeup(self, now: float) -> float | None:
        """Return when news are due, if there are any."""
        if self._membership is None or not self._membership.has_news:
            return None
        return max(self._due_at, now + 1e-3)

    def connected(self, peer: PeerId, now: float) -> list[Record]:
        """Return what a new neighbour should hear first."""
        self._told[peer] = _Told(now + self._liveness_s, self._liveness_s)
        return [] if self._membership is None else self._membership.records()

    def disconnected(self, peer: PeerId) -> None:
        """Forget what a neighbour was told."""
        self._told.pop(peer, None)

    def take(self, record: Record) -> list[Action]:
        """Take a record; what follows from it shows when somebody asks.

        Raises:
            RemoteProtocolError: No devices are known in this run, or the record is not genuine.
        """
        if self._membership is None:
            raise RemoteProtocolError("a record of devices in a run that anyone may join")
        self._membership.take(record)
        return []

    def settle(self, closed_round: int, now: float) -> list[Action]:
        """Let the updates count, or not, as the membership has changed its mind.

        Where there is much to settle it waits until news are due: whoever sends one record after
        another is not to keep us busy.

        Args:
            closed_round: The last round that was folded and recorded.
            now: The time.
        """
        if self._membership is None or (now < self._due_at and self._membership.takes_long):
            return []
        change = self._membership.settle()
        actions: list[Action] = [Tell(Level.WARNING, text) for text in change.told]
        first = self._updates.recount(change.first_rounds) if change.first_rounds else None
        if first is not None:
            self._rounds.changed(first, by_arrival=False)
            if first <= closed_round:
                text = f"rounds from {first} on are folded anew: other updates count now"
                actions.append(Tell(Level.INFO, text))
        out = [peer for peer in change.first_rounds if not self._membership.is_in(peer)]
        for peer in out:
            self._roster.forget(peer)
        frontier = self._updates.frontier
        if any(0 < self._membership.out_from(peer) <= frontier for peer in out):
            text = f"what it taught up to round {frontier} is in a snapshot, and stays"
            actions.append(Tell(Level.WARNING, text))
        return actions

    def tell(self, closed_round: int, now: float) -> list[Action]:
        """Say of other devices what is due; pass on and keep what is new, once a heartbeat."""
        actions = self.settle(closed_round, now)
        if self._membership is None or not self._membership.has_news or now < self._due_at:
            return actions
        kept_out = self._membership.kept_out  # who is to be put out has no say from when on
        self._membership.speak(self._rounds.next_round_for_all(now, without=kept_out))
        actions += self.settle(closed_round, now)
        self._due_at = now + self._heartbeat_s
        if news := self._membership.take_news():
            if neighbours := self._sync.neighbours():
                actions += [Send(neighbours, record) for record in news]
            actions.append(Keep(tuple(self._membership.records())))
        return actions

    def tell_all(self, peer: PeerId, body: HeartbeatBody, now: float) -> list[Action]:
        """Tell a neighbour everything again whose records differ from ours for long."""
        told = self._told[peer]
        if self._membership is None or body.members == self._membership.digest:
            told.wait_s = self._liveness_s
            told.again_at = now + told.wait_s
            return []
        if now < told.again_at:
            return []
        told.wait_s *= 2  # what we cannot agree on is not to fill the link
        told.again_at = now + told.wait_s
        return [Send((peer,), record) for record in self._membership.records()]
