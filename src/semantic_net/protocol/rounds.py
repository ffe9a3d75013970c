"""One peer's rounds, as a state machine without I/O.

    STARTING --peers met, or timeout--> TRAINING --trained--> AUTHORING
        AUTHORING --authored, or skipped--> COLLECTING --all in, or deadline--> FOLDING
        FOLDING --folded--> TRAINING of the next round
        COLLECTING of the last round --> SERVING --equal sets, or deadline--> FOLDING --> FINISHED

Who is expected, when a round closes and under which round to publish is decided here and nowhere
else. Time comes in as ``now``; what the peer knows of others it reads from the roster, the update
set and the sync.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from semantic_net.protocol.actions import (
    Action,
    Author,
    Close,
    Finish,
    FoldPlan,
    Level,
    Tell,
    Train,
)
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.membership import Roster
from semantic_net.protocol.messages import HeartbeatBody
from semantic_net.protocol.sync import Sync
from semantic_net.protocol.update import Update, UpdateId
from semantic_net.protocol.update_set import UpdateSet


class Phase(enum.Enum):
    """Where a peer is in its round."""

    STARTING = "starting"
    TRAINING = "training"
    AUTHORING = "authoring"
    COLLECTING = "collecting"
    SERVING = "serving"
    FOLDING = "folding"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundsConfig:
    """How long a peer waits, and for how many rounds."""

    rounds: int
    listen_timeout_s: float
    start_timeout_s: float
    has_peers: bool
    """Peers were named; without, nobody is waited for."""


class Rounds:
    """The round machine of one peer."""

    def __init__(
        self,
        cfg: RoundsConfig,
        me: PeerId,
        roster: Roster,
        updates: UpdateSet,
        sync: Sync,
        base: UpdateId,
        *,
        last_own: Update | None = None,
        closed_round: int = 0,
    ) -> None:
        """Start before the first round, or after ``closed_round`` of an earlier process.

        Args:
            cfg: Deadlines and the number of rounds.
            me: This peer.
            roster: Who is alive.
            updates: What is held.
            sync: What is under way.
            base: What the rounds are folded on.
            last_own: The last own update of an earlier process.
            closed_round: The last round that an earlier process recorded.
        """
        self._cfg = cfg
        self._me = me
        self._roster = roster
        self._updates = updates
        self._sync = sync
        self.base = base
        self.phase = Phase.STARTING
        self.round = 0
        """The open round; 0 before the first."""
        self.last_own = last_own
        self.expected: frozenset[PeerId] = frozenset()
        self.deadline: float | None = None
        self.waiting_for: tuple[str, ...] = ()
        """Addresses that have not said hello yet."""
        self._first = max(closed_round, last_own.round if last_own is not None else 0) + 1
        self.next_round = self._first
        """The promise: no new own update below it."""
        self._folded = 0  # the last round that a plan has gone through
        self._changed_from = 1  # the first round that differs from the last plan
        self._close_reason = ""
        self._missing: tuple[PeerId, ...] = ()
        self._is_cut_off = False

    def begin(self, now: float) -> None:
        """Start the clock of `Phase.STARTING`."""
        self.deadline = now + self._cfg.start_timeout_s

    def changed(self, round_index: int) -> None:
        """Note that the updates of a round differ from what was folded."""
        self._changed_from = min(self._changed_from, round_index)

    def base_changed(self, base: UpdateId) -> None:
        """Fold on another base from now on, from the first round."""
        self.base, self._changed_from = base, 1

    def trained(self, now: float) -> list[Action]:
        """Training is over: say under which round to publish."""
        assert self.phase is Phase.TRAINING, self.phase
        self.phase = Phase.AUTHORING
        # One round behind is ordinary: the others fold us in late. Two or more would leave us
        # for ever behind, so the update goes under the round that is open now.
        open_now = min(self._roster.open_round(now), self._cfg.rounds)
        skipped: tuple[int, ...] = ()
        if open_now >= self.round + 2:
            skipped = tuple(range(self.round, open_now))
            self.round = open_now
        actions: list[Action] = [Author(self.round, skipped)]
        if skipped:
            actions.append(_info(f"the others are in round {open_now}: skipped {_span(skipped)}"))
        return actions

    def authored(self, update: Update, now: float) -> list[Action]:
        """The own update is journaled and in the set."""
        assert self.phase is Phase.AUTHORING, self.phase
        self.last_own = update
        return self._collect(now)

    def skipped(self, reason: str, now: float) -> list[Action]:
        """There is no own update this round."""
        assert self.phase is Phase.AUTHORING, self.phase
        tell = Tell(Level.WARNING, f"round {self.round}: nothing published: {reason}")
        return [tell, *self._collect(now)]

    def folded(self, now: float) -> list[Action]:
        """The round is folded and recorded: open the next one, or finish."""
        assert self.phase is Phase.FOLDING, self.phase
        if self.round >= self._cfg.rounds:
            return self._finish(f"all {self._cfg.rounds} rounds done")
        return self._open(self.round + 1, None, now)

    def step(self, now: float) -> list[Action]:
        """Look at the world again: something arrived, somebody left, or time went by."""
        if self.phase is Phase.STARTING:
            return self._step_starting(now)
        if self.phase is Phase.COLLECTING:
            return self._step_collecting(now)
        if self.phase is Phase.SERVING:
            return self._step_serving(now)
        return []

    # STARTING

    def _step_starting(self, now: float) -> list[Action]:
        assert self.deadline is not None, "begin() comes first"
        heard = all(self._roster.latest(p) is not None for p in self._sync.neighbours())
        met = not self.waiting_for and heard and self._sync.settled()
        actions: list[Action] = []
        if not met:
            if now < self.deadline:
                return []
            if self.waiting_for:
                names = ", ".join(self.waiting_for)
                text = f"no answer from {names} in {self._cfg.start_timeout_s:g} s; going on"
            else:
                text = "still behind the other peers' updates at the start timeout; going on"
            actions.append(Tell(Level.WARNING, text))
        # The own updates that others hold count even if no journal tells of them.
        own = self._updates.last_round_of(self._me)
        first = max(self._first, own + 1, self._roster.open_round(now))
        if first > self._cfg.rounds:
            reason = f"round {first} is next, and the run ends with round {self._cfg.rounds}"
            return [*actions, *self._finish(reason)]
        return [*actions, *self._open(first, self.plan(first - 1), now)]

    def _open(self, number: int, plan: FoldPlan | None, now: float) -> list[Action]:
        alive = self._roster.alive(now)
        expected = {p for p, body in alive.items() if body.ready and body.next_round <= number}
        if number == 1:  # whoever said hello in time, even if it is still getting ready
            expected |= {
                p for p in self._sync.neighbours() if p in alive and alive[p].next_round <= 1
            }
        self.round, self.expected = number, frozenset(expected)
        self.next_round = max(self.next_round, number)
        self.phase, self.deadline = Phase.TRAINING, None
        return [Train(number, plan, self.expected)]

    # COLLECTING

    def _collect(self, now: float) -> list[Action]:
        self.next_round = self.round + 1
        self.phase = Phase.COLLECTING
        self.deadline = now + self._cfg.listen_timeout_s
        return self.step(now)

    def _step_collecting(self, now: float) -> list[Action]:
        assert self.deadline is not None
        alive = self._roster.alive(now)
        outstanding = sorted(p for p in self.expected if not self._is_settled(p, alive))
        known = self._cfg.has_peers or self._roster.num_known > 0
        cut_off = known and not alive and not self._roster.all_said_goodbye()
        actions: list[Action] = []
        if cut_off and not self._is_cut_off:
            actions.append(Tell(Level.WARNING, "no peer is heard; training goes on alone"))
        elif self._is_cut_off and alive:
            actions.append(_info("peers are heard again"))
        self._is_cut_off = cut_off
        late = now >= self.deadline
        if (outstanding or cut_off) and not late:
            return actions
        self._missing = tuple(
            sorted(p for p in self.expected if not self._updates.holds(self.round, p))
        )
        if outstanding:
            self._close_reason = f"deadline, {len(outstanding)} missing"
        elif cut_off:
            self._close_reason = "deadline, cut off"
        elif self._missing:
            self._close_reason = f"{len(self._missing)} gone or moved on"
        elif self.expected:
            self._close_reason = "all in"
        else:
            self._close_reason = "nobody expected"
        if self.round >= self._cfg.rounds:
            self.phase = Phase.SERVING
            self.deadline = now + self._cfg.listen_timeout_s
            return [*actions, *self.step(now)]
        return [*actions, self._close()]

    def _is_settled(self, peer: PeerId, alive: dict[PeerId, HeartbeatBody]) -> bool:
        """Tell whether nothing more of an expected peer is to be waited for in this round."""
        if self._updates.holds(self.round, peer) or self._sync.refused(self.round, peer):
            return True
        if self._sync.pending(self.round, peer):
            return False  # somebody has it
        body = alive.get(peer)
        if body is None:
            return True  # gone
        return body.next_round > self.round and body.last_round != self.round  # moved past

    # SERVING

    def _step_serving(self, now: float) -> list[Action]:
        assert self.deadline is not None
        if now < self.deadline and not self._sets_are_equal(now):
            return []
        return [self._close()]

    def _sets_are_equal(self, now: float) -> bool:
        alive = self._roster.alive(now)
        if not self._sync.settled():
            return False
        for peer, body in alive.items():
            if body.next_round <= self._cfg.rounds:
                return False  # it may yet publish in a round of ours
            if body.last_round and not (
                self._updates.holds(body.last_round, peer)
                or self._sync.refused(body.last_round, peer)
            ):
                return False
        ours = {u.id for u in self._updates if not self._updates.is_void(u.round, u.author)}
        return all(self._sync.holds_all(p, ours) for p in self._sync.neighbours() if p in alive)

    # FOLDING

    def _close(self) -> Close:
        self.phase, self.deadline = Phase.FOLDING, None
        plan = self.plan(self.round)
        return Close(self.round, self._close_reason, self._missing, plan)

    def plan(self, through: int) -> FoldPlan:
        changed_from = min(self._changed_from, self._folded + 1)
        numbers = [n for n in self._updates.rounds() if n <= through]
        plan = FoldPlan(
            self.base,
            through,
            changed_from,
            {n: self._updates.live(n) for n in numbers},
            self._updates.set_digest(through),
        )
        self._folded, self._changed_from = through, through + 1
        return plan

    def _finish(self, reason: str) -> list[Action]:
        self.phase, self.deadline = Phase.FINISHED, None
        return [Finish(reason)]


def _info(text: str) -> Tell:
    return Tell(Level.INFO, text)


def _span(rounds: tuple[int, ...]) -> str:
    first, last = rounds[0], rounds[-1]
    return f"round {first}" if first == last else f"rounds {first} to {last}"
