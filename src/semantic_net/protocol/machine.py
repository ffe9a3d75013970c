"""One peer's whole protocol: the machine that the network and the simulator drive alike.

Events and ``now`` come in as method calls, actions come out. `PeerMachine` routes messages to the
sync, keeps the heartbeats and the choice of the base, and lets the round machine look at the
world after every event. It does no I/O, reads no clock and draws no random number.
"""

from __future__ import annotations

from dataclasses import dataclass

from semantic_net.protocol.actions import (
    Action,
    AdoptBase,
    Diverged,
    Finish,
    FoldPlan,
    Level,
    Send,
    Tell,
)
from semantic_net.protocol.identity import PeerId, Signer, short_id
from semantic_net.protocol.membership import Roster
from semantic_net.protocol.messages import (
    Absent,
    Chunk,
    Have,
    HeartbeatBody,
    HeartbeatMessage,
    Message,
    Want,
    read_heartbeat,
    sign_heartbeat,
    verify_heartbeat,
)
from semantic_net.protocol.rounds import Phase, Rounds, RoundsConfig
from semantic_net.protocol.sync import Sync
from semantic_net.protocol.update import Admission, Update, UpdateId, UpdateMessage, admit
from semantic_net.protocol.update_set import UpdateSet

DIGESTS_KEPT = 64
"""Rounds whose digests are kept for comparison with what peers report."""


@dataclass(frozen=True, slots=True)
class Base:
    """The state that the rounds are folded on: round 0."""

    digest: UpdateId
    given: bool
    """By hand (``--init``), not from a seed."""
    size: int
    """Bytes of its transfer form; the same for every base of a run."""

    def beats(self, other: Base) -> bool:
        """Tell whether this base is the one to use, of two: given by hand, then lower digest."""
        return (not self.given, self.digest) < (not other.given, other.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig:
    """What a machine needs to know before the first event."""

    rounds: RoundsConfig
    admission: Admission
    incarnation: int
    heartbeat_s: float
    liveness_s: float


class PeerMachine:
    """Everything that one peer decides."""

    def __init__(
        self,
        cfg: MachineConfig,
        signer: Signer,
        base: Base,
        *,
        updates: UpdateSet | None = None,
        last_own: Update | None = None,
        closed_round: int = 0,
    ) -> None:
        """Take the configuration, and what an earlier process of this peer left.

        Args:
            cfg: Deadlines, limits, the run.
            signer: This peer's key.
            base: What our rounds are folded on, as far as we know.
            updates: The set held so far.
            last_own: The last own update of the journal.
            closed_round: The last recorded round.
        """
        self._cfg = cfg
        self._signer = signer
        self.me = signer.peer_id
        self.run = cfg.admission.run
        self.base = base
        self.updates = updates if updates is not None else UpdateSet()
        self.roster = Roster(cfg.liveness_s)
        self.sync = Sync(self.updates, stall_s=cfg.liveness_s)
        self.rounds = Rounds(
            cfg.rounds,
            self.me,
            self.roster,
            self.updates,
            self.sync,
            base.digest,
            last_own=last_own,
            closed_round=closed_round,
        )
        self._sequence = 0
        self._said: tuple[object, ...] = ()  # what the last heartbeat said
        self._heartbeat_at = 0.0
        self._leaving = False
        self._better_bases: dict[UpdateId, Base] = {}
        self._digests: dict[int, tuple[bytes, bytes]] = {}  # of the present base: set, state
        self._closed_round = 0
        self._diverged: set[tuple[PeerId, int]] = set()

    # Life

    def start(self, now: float) -> list[Action]:
        """Begin: nothing is connected yet."""
        self._heartbeat_at = now
        self.rounds.begin(now)
        return self._after([], now)

    def tick(self, now: float) -> list[Action]:
        """Let time pass."""
        return self._after(self.sync.tick(now), now)

    def next_wakeup(self, now: float) -> float:
        """Return when `tick` is due at the latest."""
        times = [
            self._heartbeat_at + self._cfg.heartbeat_s,
            self.rounds.deadline,
            self.roster.next_expiry(now),
            self.sync.next_stall(),
        ]
        return min(t for t in times if t is not None)

    def leave(self, now: float) -> list[Action]:
        """Say goodbye: the last thing that anyone hears of this incarnation."""
        self._leaving = True
        return self._heartbeat(now)

    # The network

    def waiting_for(self, addresses: tuple[str, ...], now: float) -> list[Action]:
        """Note the addresses that have not said hello."""
        self.rounds.waiting_for = addresses
        return self._after([], now)

    def connected(self, peer: PeerId, now: float) -> list[Action]:
        """A session is up: show ourselves and those we hear, and list what we hold."""
        heartbeats = [self._sign_heartbeat(), *self.roster.messages(now)]
        actions: list[Action] = [Send((peer,), message) for message in heartbeats]
        return self._after([*actions, *self.sync.connected(peer)], now)

    def disconnected(self, peer: PeerId, now: float) -> list[Action]:
        """A session is gone; the peer may still be alive, and heard through others."""
        return self._after(self.sync.disconnected(peer, now), now)

    def received(self, peer: PeerId, message: Message, now: float) -> list[Action]:
        """Take a neighbour's message.

        Raises:
            RemoteProtocolError: It breaks the protocol; the session with the neighbour must end.
        """
        actions: list[Action]
        if isinstance(message, Chunk):
            actions = self.sync.chunk(peer, message, now)
        elif isinstance(message, HeartbeatMessage):
            actions = self._hear(peer, message, now)
        elif isinstance(message, Have):
            actions = self.sync.have(peer, message, now)
        elif isinstance(message, Want):
            actions = self.sync.want(peer, message, self.base.digest)
        elif isinstance(message, UpdateMessage):
            actions = self._header(peer, message, now)
        else:
            assert isinstance(message, Absent), message
            actions = self.sync.absent(peer, message, now)
        return self._after(actions, now)

    def payload_checked(self, update: Update, fault: str | None, now: float) -> list[Action]:
        """The payload of an update is whole and decodes, or the fault of its author is named."""
        if not self.sync.wanted(update.id):  # voided meanwhile
            return []
        if fault is not None:
            text = f"update of {short_id(update.author)} for round {update.round}: {fault}"
            tell = Tell(Level.WARNING, text)
            return self._after([tell, *self.sync.inadmissible(update, now)], now)
        return self._after(self._add(update, now), now)

    def payload_corrupt(self, item: UpdateId, now: float) -> tuple[list[Action], PeerId | None]:
        """The bytes do not match the hash: fetch them anew; return who served them."""
        if not self.sync.wanted(item):
            return [], None
        actions, culprit = self.sync.corrupt(item, now)
        return self._after(actions, now), culprit

    def base_checked(self, item: UpdateId, now: float) -> list[Action]:
        """A base that was better than ours when it was offered is here, and intact."""
        base = self._better_bases.pop(item)
        actions = self.sync.base_accepted(item, now)
        if base.beats(self.base):
            self.base = base
            self._digests.clear()
            self.rounds.base_changed(item)
            text = f"starting weights taken over from another peer: {item.hex()[:12]}"
            actions = [AdoptBase(item), Tell(Level.INFO, text), *actions]
        return self._after(actions, now)

    # The own rounds

    def trained(self, now: float) -> list[Action]:
        """Local training has ended, well or not."""
        return self._after(self.rounds.trained(now), now)

    def authored(self, update: Update, now: float) -> list[Action]:
        """The own update is stored, and journaled if there is a disk: publish it."""
        announced = self._add(update, now)
        return self._after([*announced, *self.rounds.authored(update, now)], now)

    def skipped(self, reason: str, now: float) -> list[Action]:
        """There is no own update in this round."""
        return self._after(self.rounds.skipped(reason, now), now)

    def folded(self, plan: FoldPlan, state_digest: bytes, now: float) -> list[Action]:
        """The round that was closed is folded and recorded."""
        self._closed_round = plan.through
        if plan.base == self.base.digest:
            self._digests[plan.through] = (plan.set_digest, state_digest)
            self._digests.pop(plan.through - DIGESTS_KEPT, None)
        actions: list[Action] = []
        for peer, body in self.roster.alive(now).items():
            actions += self._compare(peer, body)
        return self._after([*actions, *self.rounds.folded(now)], now)

    # The inside

    def _after(self, actions: list[Action], now: float) -> list[Action]:
        """Let the round machine look again, and say what has changed."""
        actions = actions + self.rounds.step(now)
        if not any(isinstance(action, Finish) for action in actions) and (
            now >= self._heartbeat_at + self._cfg.heartbeat_s or self._news() != self._said
        ):
            actions += self._heartbeat(now)
        return actions

    def _news(self) -> tuple[object, ...]:
        """What others wait to hear: it goes out at once."""
        rounds = self.rounds
        last = rounds.last_own.id if rounds.last_own is not None else b""
        return rounds.round, rounds.next_round, last, self._ready, self.base.digest

    @property
    def _ready(self) -> bool:
        return self.rounds.phase not in (Phase.STARTING, Phase.FINISHED)

    def _heartbeat(self, now: float) -> list[Action]:
        self._heartbeat_at = now
        neighbours = self.sync.neighbours()
        message = self._sign_heartbeat()
        return [Send(neighbours, message)] if neighbours else []

    def _sign_heartbeat(self) -> HeartbeatMessage:
        self._said = self._news()
        self._sequence += 1
        rounds, last = self.rounds, self.rounds.last_own
        set_digest, state_digest = self._digests.get(self._closed_round, (b"", b""))
        body = HeartbeatBody(
            run=self.run,
            incarnation=self._cfg.incarnation,
            sequence=self._sequence,
            round=rounds.round,
            next_round=rounds.next_round,
            last_round=last.round if last is not None else 0,
            last_id=last.id if last is not None else b"",
            ready=self._ready,
            leaving=self._leaving,
            closed_round=self._closed_round,
            set_digest=set_digest,
            state_digest=state_digest,
            base=self.base.digest,
            base_given=self.base.given,
        )
        return sign_heartbeat(body, self._signer)

    def _hear(self, sender: PeerId, message: HeartbeatMessage, now: float) -> list[Action]:
        peer, body = read_heartbeat(message, self.run)
        if peer == self.me or not self.roster.is_news(peer, body):
            return []
        verify_heartbeat(message)
        self.roster.hear(peer, body, message, now)
        actions: list[Action] = []
        others = tuple(n for n in self.sync.neighbours() if n not in (sender, peer))
        if others:
            actions.append(Send(others, message))
        if peer == sender:  # a neighbour serves the base that it uses
            offered = Base(body.base, body.base_given, self.base.size)
            if offered.beats(self.base):
                self._better_bases[offered.digest] = offered
                actions += self.sync.base_offered(peer, offered.digest, offered.size, now)
        return [*actions, *self._compare(peer, body)]

    def _compare(self, peer: PeerId, body: HeartbeatBody) -> list[Action]:
        """Equal sets on an equal base must have given equal states."""
        mine = self._digests.get(body.closed_round)
        if (
            mine is None
            or body.base != self.base.digest
            or body.set_digest != mine[0]
            or body.state_digest == mine[1]
            or (peer, body.closed_round) in self._diverged
        ):
            return []
        self._diverged.add((peer, body.closed_round))
        text = (
            f"{short_id(peer)} holds the same updates through round {body.closed_round} and "
            "another model: a bug or broken hardware, please report it"
        )
        return [Tell(Level.ERROR, text), Diverged(peer, body.closed_round)]

    def _header(self, peer: PeerId, message: UpdateMessage, now: float) -> list[Action]:
        update = admit(message, self._cfg.admission)
        actions, is_void = self.sync.header(peer, update, now)
        if is_void:
            self.rounds.changed(update.round)
            whose = "this peer's own key" if update.author == self.me else short_id(update.author)
            text = f"two updates of {whose} for round {update.round}: neither counts"
            actions.insert(0, Tell(Level.WARNING, text))
        return actions

    def _add(self, update: Update, now: float) -> list[Action]:
        if self.updates.add(update):
            self.rounds.changed(update.round)
        return self.sync.accepted(update, now)
