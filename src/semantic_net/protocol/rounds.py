"""One peer's rounds, as a state machine without I/O.

    STARTING --peers met, or timeout--> TRAINING --trained--> AUTHORING
        AUTHORING --authored, or skipped--> COLLECTING --all in, or deadline--> FOLDING
        FOLDING --folded--> TRAINING of the next round
        COLLECTING of the last round --> SERVING --equal sets, or deadline--> FOLDING --> FINISHED
    STARTING --all published, the last not recorded--> COLLECTING of the last round

When a round closes and under which round to publish is decided here and nowhere else; whom it
waits for, in `expected`. Time comes in as ``now``; what the peer knows of others it reads from the
roster, the update set and the sync.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Set
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
from semantic_net.protocol.bases import Bases
from semantic_net.protocol.expected import Alive, Expected
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.messages import HeartbeatBody
from semantic_net.protocol.roster import Roster
from semantic_net.protocol.sync import Sync
from semantic_net.protocol.turns import Turns
from semantic_net.protocol.update import MAX_ROUND, Update, UpdateId
from semantic_net.protocol.update_set import UpdateSet

START_PATIENCE = 10
"""Times ``start_timeout_s`` that a start may take while updates of the others still arrive."""

MAX_ROUNDS_NAMED = 5

WATCH_PATIENCE = 10
"""Times ``listen_timeout_s`` that who watches a round waits for somebody to publish in it."""

TRAININGS_WATCHED = 3
"""Trainings as long as our own for which it waits at least."""

NEVER = MAX_ROUND + 1
"""The next round of who publishes nothing."""


class Ahead(enum.Enum):
    """Whether the next round is trained while this one is still open."""

    NO = "no"
    TRAINING = "training"
    TRAINED = "trained"


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
    num_peers: int = 0
    """Other peers of the run, as far as they are known: the start waits to hear of as many."""
    is_sparse: bool = False
    """Not only neighbours take part from the first round on, however few of those are known."""
    settle_s: float = 0.0
    """Where others turn up by themselves, of whom no list tells: seconds without anyone new after
    which those found are all that the start waits for. 0: nobody is looked for."""
    quorum: float = 1.0
    """Share of the expected updates whose arrival closes a round, in (0, 1]."""
    overlaps: bool = False
    """Trains the next round while the last one's updates still arrive."""
    observes: bool = False
    """Publishes nothing: relays, folds and records what the others learn."""
    hearsay_s: float = 0.0
    """Where rounds are not everybody's turn: seconds that it may take to hear whose one is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What an earlier process of this peer left behind."""

    closed_round: int = 0
    """The last round that it recorded."""
    authored_round: int = 0
    """The last round that it put its name to, whether or not the update survived."""
    last_own: Update | None = None
    """Its last update, if that survived."""

    @property
    def last_round(self) -> int:
        """The last round that is not to be opened again."""
        own = self.last_own.round if self.last_own is not None else 0
        return max(self.closed_round, self.authored_round, own)


class Rounds:
    """The round machine of one peer."""

    def __init__(
        self,
        cfg: RoundsConfig,
        me: PeerId,
        roster: Roster,
        updates: UpdateSet,
        sync: Sync,
        bases: Bases,
        past: Past,
        turns: Turns | None = None,
    ) -> None:
        """Start before the first round, or after those of an earlier process.

        Args:
            cfg: Deadlines and the number of rounds.
            me: This peer.
            roster: Who is alive.
            updates: What is held.
            sync: What is under way.
            bases: What the rounds are folded on.
            past: What an earlier process left.
            turns: Who publishes in which round; None: everybody in each.
        """
        self._cfg = cfg
        self._turns = turns or Turns()
        self._me = me
        self._roster = roster
        self._updates = updates
        self._sync = sync
        self._bases = bases
        self.phase = Phase.STARTING
        self.round = 0
        """The open round; 0 before the first."""
        self.last_own = past.last_own
        self._expected = Expected(updates, sync, roster, self._turns)
        self.deadline: float | None = None
        self.waiting_for: tuple[str, ...] = ()
        """Named addresses at which nobody has said hello so far."""
        self.refused: frozenset[str] = frozenset()
        """Addresses where one end turns the other away: no network that heals changes that."""
        self.settles_at: float | None = None
        """When the start stops looking for more peers, if nobody new turns up by then."""
        self.next_round = NEVER if cfg.observes else self._own_turn(past.last_round + 1)
        """The promise: no new own update below it."""
        self._own_floor = past.last_round + 1  # no own update below it: some may be signed already
        self._past = past
        self._patience_ends_at = 0.0
        self._num_found = 0  # peers heard of so far, at the start
        self._start_goal = 0  # past the start timeout: fetch what is older than this round
        self._plan_base: UpdateId | None = None
        self._folded = 0  # the last round that a plan has gone through
        self._changed_from = 1  # the first round that differs from the last plan
        self._late: list[int] = []  # rounds of updates that came after their fold
        self._is_late = False  # the deadline has closed the round
        self._is_cut_off = False
        self._is_watching = False
        self._train_from = 0.0
        self._trained_s = 0.0  # the longest own training
        self._has_heard = False  # of anybody: a large fleet forgets those who fall silent
        self._opened_at = 0.0
        self.last_round_s = 0.0
        """Seconds that the last round took in which somebody published."""
        self._quiet_until = 0.0  # before that nobody needs to have been heard of in this round
        self._ahead = Ahead.NO
        self._served: frozenset[PeerId] = frozenset()  # who was there when serving began

    @property
    def expected(self) -> frozenset[PeerId]:
        """Whose updates the open round waits for."""
        return self._expected.peers

    @property
    def is_ready(self) -> bool:
        """Holds what it has heard of, and will publish again."""
        may_publish = self.next_round <= self._cfg.rounds and not self._cfg.observes
        return self.phase is not Phase.STARTING and may_publish

    @property
    def _is_collecting(self) -> bool:
        return self.phase is Phase.COLLECTING

    @property
    def is_watching(self) -> bool:
        """Waits for the first update of a round that is not its turn."""
        return self._is_watching

    @property
    def has_begun(self) -> bool:
        """Has folded rounds on its base, in this process or an earlier one."""
        return self.round > 0 or self._past.last_round > 0

    @property
    def is_ending(self) -> bool:
        """Closes no round any more after the one that is open."""
        return self.phase in (Phase.SERVING, Phase.FINISHED)

    @property
    def nothing_new_through(self) -> int:
        """The last round that we have opened and will publish nothing in any more."""
        return min(self.next_round - 1, self.round)

    def begin(self, now: float) -> list[Action]:
        """Start the clock of `Phase.STARTING`."""
        self.deadline = now + self._cfg.start_timeout_s
        self._patience_ends_at = now + START_PATIENCE * self._cfg.start_timeout_s
        awaited = [f"waiting for {', '.join(self.waiting_for)}"] if self.waiting_for else []
        if self._cfg.settle_s:
            awaited.append("looking for peers")
        if not awaited:
            return []
        text = f"{' and '.join(awaited)}, at most {self._cfg.start_timeout_s:g} s"
        return [Tell(Level.INFO, text, noted=False)]

    def heard(self, peer: PeerId, body: HeartbeatBody) -> None:
        """Note a heartbeat: the next one may overtake the update that this one tells of."""
        self._has_heard = True
        self._expected.heard(peer, body)
        # Of whose turn it is a large fleet hears bit by bit.
        if self._turns.is_sampled:
            self._expected.expect_more({peer: body})

    def own_round_known(self, round_index: int) -> None:
        """Note that an earlier process of this peer has signed an update for a round."""
        self._own_floor = max(self._own_floor, round_index + 1)

    def changed(self, round_index: int, *, by_arrival: bool) -> None:
        """Note that the updates of a round differ from what was folded: one came, or is void."""
        self._changed_from = min(self._changed_from, round_index)
        if by_arrival and round_index <= self._folded:
            self._late.append(round_index)

    def base_taken_over(self) -> None:
        """Fold on another base from now on, from its frontier."""
        self._changed_from = self._updates.frontier + 1

    def trained(self, now: float) -> list[Action]:
        """Training is over: say under which round to publish."""
        if self._ahead is Ahead.TRAINING and self.phase is not Phase.TRAINING:
            self._ahead = Ahead.TRAINED
            return []
        assert self.phase is Phase.TRAINING, self.phase
        self._ahead = Ahead.NO
        self._trained_s = max(self._trained_s, now - self._train_from)
        # One round behind is ordinary: the others fold us in late. Two or more would leave us
        # for ever behind, so the update goes under the round that is open now.
        # With turns its next one may be as far off, and the others know of this one.
        open_now = self._open_elsewhere(now)
        moves = open_now >= self.round + 2 and not self._turns.is_sampled
        number = max(open_now if moves else self.round, self._own_from())
        if number > self._cfg.rounds or not self._is_own_turn(number):
            text = f"round {self.round}: nothing published: this key may sign for no later one"
            return [Tell(Level.WARNING, text), *self._collect(now)]
        self.phase = Phase.AUTHORING
        skipped = tuple(range(self.round, number))
        if not skipped:
            return [Author(number, ())]
        self.round = number
        self._expect(now)
        why = "over, or signed already"
        if number == open_now:
            why = f"the others are in round {open_now}"
        return [Author(number, skipped), _info(f"skipped {_span(skipped)}: {why}")]

    def authored(self, update: Update, now: float) -> list[Action]:
        """The own update is journaled and in the set."""
        assert self.phase is Phase.AUTHORING, self.phase
        self.last_own = update
        actions = self._collect(now)
        may_train = self.round < self._cfg.rounds and self._is_own_turn(self.round + 1)
        if self._cfg.overlaps and self._is_collecting and may_train:
            self._ahead = Ahead.TRAINING
            actions.append(Train(self.round + 1, None, frozenset(), is_ahead=True))
        return actions

    def skipped(self, reason: str, now: float) -> list[Action]:
        """There is no own update this round."""
        assert self.phase is Phase.AUTHORING, self.phase
        tell = Tell(Level.WARNING, f"round {self.round}: nothing published: {reason}")
        return [tell, *self._collect(now)]

    def folded(self, now: float) -> list[Action]:
        """The round is folded and recorded: open the next one, or finish."""
        assert self.phase is Phase.FOLDING, self.phase
        if self.round >= self._cfg.rounds:
            return self._finish(f"done, after round {self._cfg.rounds}")
        following = max(self.round, self._updates.frontier) + 1
        number = max(following, self._open_elsewhere(now))
        if number > following:
            skipped = _span(tuple(range(following, number)))
            tell = _info(f"skipped {skipped}: the others are in round {number}")
            late = self._tell_late()
            return [tell, *late, *self._open(number, now)]
        if self._plan_base == self._bases.base.digest:
            return self._open(number, now, is_folded=True)
        return [*self._tell_late(), *self._open(number, now)]

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
        # Whatever others say: who has published nothing in the last round may still do so.
        first = max(self._past.last_round + 1, self._own_from(), self._open_elsewhere(now))
        alive = self._roster.alive(now)
        is_behind = not self._sync.settled(alive, self._start_goal or first, self._me, now)
        neighbours = filter(self._roster.may_take_part, self._sync.neighbours())
        heard = all(self._roster.latest(p) is not None for p in neighbours)
        actions: list[Action] = []
        if self._past.closed_round >= self._cfg.rounds:
            return self._finish(
                f"nothing to do: all rounds up to training.rounds = {self._cfg.rounds} are done; "
                "more of them (--rounds) goes on, --resume never starts afresh"
            )
        # Where two say that the first round is over, nobody waits for those who may be anywhere.
        is_over = self._roster.open_round(now, believes_one=False) > 1
        is_alone = self._roster.num_known < self._cfg.num_peers
        is_unmet = not self.refused.issuperset(self.waiting_for)
        is_gathering = self._is_gathering(now)
        is_early = (is_unmet or is_alone or is_gathering) and not is_over
        if is_early or is_behind or not heard:
            if now < self.deadline:
                return []
            wait_until = min(self._sync.fetching_until(), self._patience_ends_at)
            if is_behind and now < wait_until:
                return self._fetch_on(first, wait_until)
            actions.append(Tell(Level.WARNING, self._why_unready(is_early, is_behind)))
        if first <= self._cfg.rounds:
            actions += self._tell_where_we_are(first, now)
            return [*actions, *self._open(first, now)]
        return [*actions, *self._open_last(now)]

    def _is_gathering(self, now: float) -> bool:
        """Tell whether more peers may turn up soon: nobody has, or somebody new a moment ago.

        How many there are nobody can know, so this is a bet: devices that are switched on together
        find each other within seconds, one after the other, and for those that come minutes later
        no wait would be long enough. They join in a later round.
        """
        if not self._cfg.settle_s:
            return False
        known = self._roster.num_known
        if known > self._num_found:
            self._num_found = known
            self.settles_at = now + self._cfg.settle_s
        if self.settles_at is not None and now >= self.settles_at:
            self.settles_at = None  # or it would be a wake-up again and again
        return known == 0 or self.settles_at is not None

    def _fetch_on(self, first: int, until: float) -> list[Action]:
        """Start later: a state without most of the updates is nothing to train on.

        What is published from now on is not waited for, or a slow link would never catch up.
        """
        self.deadline = until
        if self._start_goal:
            return []
        self._start_goal = first
        return [_info("still fetching the others' updates at the start timeout; starting after")]

    def _why_unready(self, is_early: bool, is_behind: bool) -> str:
        limit_s = self._cfg.start_timeout_s
        if is_early and not self.refused.issuperset(self.waiting_for):
            return f"not connected to {', '.join(self.waiting_for)} in {limit_s:g} s; going on"
        if is_early and self._cfg.settle_s:
            return f"found {self._roster.num_known or 'no'} peers in {limit_s:g} s; going on"
        if is_early:
            heard, all_peers = self._roster.num_known, self._cfg.num_peers
            return f"heard of {heard} of {all_peers} peers in {limit_s:g} s; going on"
        what = "updates" if is_behind else "heartbeats"
        return f"still without some of the others' {what} after {limit_s:g} s; going on"

    def _tell_where_we_are(self, first: int, now: float) -> list[Action]:
        elsewhere = self._roster.open_round(now)
        others = f"; the others are in round {elsewhere}" if elsewhere else ""
        if self._past.last_round:
            return [_info(f"resumed at round {first}{others}")]
        return [_info(f"joining at round {first}{others}")] if first > 1 else []

    def next_round_for_all(self, now: float, without: Set[PeerId] = frozenset()) -> int | None:
        """Return the round after any that is open somewhere; None as long as we do not know.

        It is one of this run, or the first after it. A peer that alone says where it is can move it
        by one round only: it may stand by whoever is to be put out, or lie.

        Args:
            now: The time.
            without: Devices that have no say in it: those that are to be put out, to begin with.
        """
        if self.phase is Phase.STARTING:
            return None
        here, roster = self._open_here, self._roster
        alone = min(roster.open_round(now, without=without), here + 1)
        latest = max(here, alone, roster.open_round(now, believes_one=False, without=without))
        return min(latest, self._cfg.rounds) + 1

    def latest_open(self, now: float) -> int:
        """Return the last round that is open here or, as far as we know, elsewhere."""
        return max(self._open_here, self._roster.open_round(now))

    @property
    def _open_here(self) -> int:
        return max(self.round, self._past.last_round, self._updates.frontier)

    def _own_from(self) -> int:
        """Return the first round without an own update, as far as anyone here knows."""
        updates = self._updates
        return max(self._own_floor, updates.last_round_of(self._me) + 1, updates.frontier + 1)

    # TRAINING

    def _open(self, number: int, now: float, *, is_folded: bool = False) -> list[Action]:
        """Open a round, on what the rounds before it fold to: folded by now, or to be folded."""
        if number > self._cfg.rounds:  # the base that was taken over goes beyond
            return self._open_last(now)
        self.round, self._opened_at = number, now
        self._expect(now)
        if self._cfg.observes:
            return self._watch(now)
        if not self._is_own_turn(number):
            self.next_round = max(self.next_round, self._own_turn(number))
            return self._watch(now)
        if self._ahead is not Ahead.NO:
            return self._go_on_ahead(now)
        self.next_round = max(self.next_round, number)
        self.phase, self.deadline = Phase.TRAINING, None
        self._train_from = now
        return [Train(number, None if is_folded else self.plan(number - 1), self.expected)]

    def _open_last(self, now: float) -> list[Action]:
        """Open the last round for others only: there is nothing more to publish, but to fold."""
        self.round = self._cfg.rounds
        self._expect(now)
        return self._collect(now)

    def _go_on_ahead(self, now: float) -> list[Action]:
        """Open a round that is trained already, or about to be; the next plan folds the rest."""
        self.phase, self.deadline = Phase.TRAINING, None
        self.next_round = max(self.next_round, self.round)
        return self.trained(now) if self._ahead is Ahead.TRAINED else []

    def _watch(self, now: float) -> list[Action]:
        """Collect without an update of one's own; the clock starts with somebody else's.

        It cannot know how long others train. Nor does it wait for ever: whose turn it is may say
        so and publish nothing. An observer does, which holds nobody up.
        """
        watched_s = max(
            WATCH_PATIENCE * self._cfg.listen_timeout_s, TRAININGS_WATCHED * self._trained_s
        )
        self.phase, self._is_watching = Phase.COLLECTING, True
        self.deadline = math.inf if self._cfg.observes else now + watched_s
        # A round in which nobody publishes lasts as long as others do. Else a few that are cut off
        # from the rest, and seldom have a turn, would be many rounds ahead when they are back.
        self._quiet_until = now + max(self._cfg.hearsay_s, self.last_round_s)
        return self.step(now)

    def _is_own_turn(self, number: int) -> bool:
        return self._turns.has(self._me, number)

    def _own_turn(self, first: int) -> int:
        return min(self._turns.next(self._me, first), NEVER)

    def _expect(self, now: float) -> None:
        alive = self._roster.alive(now)
        unready: Collection[PeerId] = ()
        if self.round == 1:  # whoever said hello in time, even if it is still getting ready
            knows_all = self._cfg.num_peers or self._cfg.is_sparse
            unready = alive.keys() if knows_all else set(self._sync.neighbours())
        self._expected.open(self.round, alive, unready)

    def _open_elsewhere(self, now: float) -> int:
        return min(self._roster.open_round(now), self._cfg.rounds)

    # COLLECTING

    def _collect(self, now: float) -> list[Action]:
        if not self._cfg.observes:
            self.next_round = self._own_turn(self.round + 1)
        self.phase, self._is_watching = Phase.COLLECTING, False
        self.deadline = now + self._cfg.listen_timeout_s
        return self.step(now)

    def _step_collecting(self, now: float) -> list[Action]:
        assert self.deadline is not None, "_collect() sets it"
        if self.round <= self._updates.frontier < self._cfg.rounds:
            return self._skip_included(now)
        alive = self._roster.alive(now)
        if self._cfg.observes:  # it was not there to see who is ready when the others were
            self._expected.expect_more(alive)
        if self._is_watching:
            if self._is_under_way(now) or self._is_nobodys(alive, now):
                self._is_watching = False
                self.deadline = now + self._cfg.listen_timeout_s
            elif now < self.deadline:
                return []
        # Who looks for others has some, as who was told of them has, and must not run away alone.
        known = self._cfg.settle_s > 0 or self._has_heard
        known = known or not self.refused.issuperset(self.waiting_for)
        cut_off = known and not alive and not self._roster.all_said_goodbye()
        actions: list[Action] = []
        if cut_off and not self._is_cut_off:
            text = (
                "no peer is heard: training goes on alone, and each round waits "
                f"{self._cfg.listen_timeout_s:g} s for one (p2p.listen_timeout_s)"
            )
            if self._cfg.observes:
                text = "no peer is heard: there is nothing to observe until one is back"
            actions.append(Tell(Level.WARNING, text))
        elif self._is_cut_off and alive:
            actions.append(_info("peers are heard again"))
        self._is_cut_off = cut_off
        enough = math.ceil(self._cfg.quorum * len(self.expected))
        most = len(self.expected) - enough
        is_open = cut_off or self._expected.num_outstanding(alive, most) is None
        if is_open and now < self.deadline:
            return actions
        self._is_late = is_open
        if self.round >= self._cfg.rounds:
            self.phase, self._served = Phase.SERVING, frozenset(alive)
            return [*actions, *self.step(now)]
        return [*actions, *self._close(now)]

    def outstanding(self, now: float) -> tuple[PeerId, ...]:
        """Return whom the open round waits for, by id; nobody unless it collects."""
        if self.phase is not Phase.COLLECTING:
            return ()
        return self._expected.outstanding(self._roster.alive(now))

    def _is_nobodys(self, alive: Alive, now: float) -> bool:
        """Tell whether it seems that nobody publishes in a round that is not our turn.

        As long as somebody trains whose turn it is, there is no deadline for those who watch.
        """
        if self._cfg.observes or now < self._quiet_until:
            return False
        return not alive or self._expected.num_outstanding(alive) == 0

    def _is_under_way(self, now: float) -> bool:
        """Tell whether somebody has published in the open round, or it is over elsewhere."""
        return bool(self._updates.live(self.round)) or self._open_elsewhere(now) > self.round

    def _skip_included(self, now: float) -> list[Action]:
        """Go on behind the base that was taken over: the open round is part of it."""
        number = max(self._updates.frontier + 1, self._open_elsewhere(now))
        skipped = _span(tuple(range(self.round, number)))
        tell = _info(f"skipped {skipped}: part of the base that was taken over")
        return [tell, *self._tell_late(), *self._open(number, now)]

    def _why_close(self, num_outstanding: int, num_missing: int) -> str:
        if num_outstanding:
            why = "deadline" if self._is_late else "quorum"
            return f"{why}, {num_outstanding} missing"
        if self._is_cut_off:
            return "deadline, cut off"
        if num_missing:
            return f"{num_missing} gone or moved on"
        return "all in" if self.expected else "nobody expected"

    # SERVING

    def _step_serving(self, now: float) -> list[Action]:
        assert self.deadline is not None, "_collect() sets it"
        if now < self.deadline and not self._sets_are_equal(now):
            return []
        return self._close(now)

    def _sets_are_equal(self, now: float) -> bool:
        """Tell whether all live peers hold what we hold, and can get nothing new in our rounds.

        A heartbeat of each says so. An update that it could not know of yet would be its author's
        or be held by another, whose heartbeat then says something else.
        """
        last, alive = self._cfg.rounds, self._roster.alive(now)
        if self._turns.is_sampled:  # what others have told of the rest is old by now
            alive = {p: alive[p] for p in self._sync.neighbours() if p in alive}
        for peer, body in self._roster.silent(now).items():
            if peer in self._served and body.held != self._updates.digest:
                return False  # cut off in the middle of it, and back perhaps before the deadline
        for peer, body in alive.items():
            if body.next_round <= last:
                return False
            if body.round > last:  # its run is longer: there is more in its set than in ours
                if not self._sync.has_all(peer, last):
                    return False
            elif body.held != self._updates.digest:
                return False
        return self._sync.settled(alive, last + 1, self._me, now)

    # FOLDING

    def _close(self, now: float) -> list[Action]:
        self.phase, self.deadline = Phase.FOLDING, None
        self._is_watching = False
        if self._updates.live(self.round):
            self.last_round_s = now - self._opened_at
        late = self._tell_late()
        missing, alive = self._expected.missing(), self._roster.alive(now)
        reason = self._why_close(self._expected.num_outstanding(alive) or 0, len(missing))
        if self._is_late:
            self._expected.waited_in_vain(alive)
        plan = self.plan(self.round)
        return [*late, Close(self.round, reason, missing, self.waiting_for, plan)]

    def _tell_late(self) -> list[Action]:
        """Say why the model differs from what the rounds so far have led to."""
        rounds, self._late = sorted(set(self._late)), []
        if not rounds:
            return []
        which = ", ".join(map(str, rounds[:MAX_ROUNDS_NAMED]))
        more = ", ..." if len(rounds) > MAX_ROUNDS_NAMED else ""
        which = f"round {which}" if len(rounds) == 1 else f"rounds {which}{more}"
        return [_info(f"updates of {which} came late, and are folded in now")]

    def plan(self, through: int) -> FoldPlan:
        """Return what to fold, and take it for folded."""
        plan = self.plan_again(max(through, self._updates.frontier))
        self._folded, self._changed_from = plan.through, plan.through + 1
        self._plan_base = plan.base
        return plan

    def plan_again(self, through: int) -> FoldPlan:
        """Return what to fold to get to a round, wherever the fold stands."""
        updates = self._updates
        numbers = [n for n in updates.rounds() if n <= through]
        return FoldPlan(
            self._bases.base.digest,
            updates.frontier,
            through,
            max(min(self._changed_from, self._folded + 1), updates.frontier + 1),
            {n: updates.live(n) for n in numbers},
            updates.set_digest(through),
        )

    def _finish(self, reason: str) -> list[Action]:
        self.phase, self.deadline = Phase.FINISHED, None
        return [Finish(reason)]


def _info(text: str) -> Tell:
    return Tell(Level.INFO, text)


def _span(rounds: tuple[int, ...]) -> str:
    first, last = rounds[0], rounds[-1]
    return f"round {first}" if first == last else f"rounds {first} to {last}"
