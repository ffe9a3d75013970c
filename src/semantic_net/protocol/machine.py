"""One peer's whole protocol: the machine that the network and the simulator drive alike.

Events and ``now`` come in as method calls, actions come out. `PeerMachine` routes messages to the
sync, keeps the heartbeats and the choice of the base, and lets the round machine look at the
world after every event. It does no I/O, reads no clock and draws no random number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from semantic_net.protocol.actions import (
    Action,
    Cut,
    Dial,
    Discard,
    Finish,
    FoldPlan,
    HangUp,
    Level,
    Remove,
    Send,
    Tell,
)
from semantic_net.protocol.bases import Base, BaseConfig, Bases
from semantic_net.protocol.compaction import Compaction
from semantic_net.protocol.complaints import Complaints
from semantic_net.protocol.divergence import ClosedRounds
from semantic_net.protocol.history import History
from semantic_net.protocol.identity import PeerId, Signer, peer_id_of, short_id
from semantic_net.protocol.item import Item
from semantic_net.protocol.links import MeshConfig
from semantic_net.protocol.membership import (
    Binding,
    Membership,
    Standing,
    Statement,
)
from semantic_net.protocol.mesh import Mesh, Parting
from semantic_net.protocol.messages import (
    MAX_ADDRESSES,
    MAX_NEIGHBOURS,
    Absent,
    Chunk,
    Have,
    HeartbeatBody,
    HeartbeatMessage,
    Hints,
    Message,
    Neighbours,
    PackedChunk,
    Sums,
    Want,
    read_heartbeat,
    sign_heartbeat,
    verify_heartbeat,
)
from semantic_net.protocol.neighbourhood import Neighbourhood
from semantic_net.protocol.passed import Passed
from semantic_net.protocol.record_talk import RecordTalk
from semantic_net.protocol.relay import Relay
from semantic_net.protocol.roster import MAX_SIGHTINGS, Roster
from semantic_net.protocol.rounds import Past, Phase, Rounds, RoundsConfig
from semantic_net.protocol.sync import Sync
from semantic_net.protocol.transfers import PROGRESS_BYTES
from semantic_net.protocol.update import Admission, Update, UpdateId, UpdateMessage, admit, id_of
from semantic_net.protocol.update_set import UpdateSet
from semantic_net.protocol.vitals import Vitals, VitalSigns, VitalsMessage

MAX_DIALLED = 1024
"""Learned addresses that are remembered, so that each is asked for rarely."""

DIAL_AGAIN_S = 60.0
"""Seconds until a learned address is asked for again where that was in vain: whoever dials gives up
one where nobody answers."""

MAX_ROUNDS_AHEAD = 64
"""Rounds beyond those that we know to be open of which updates are taken in: who makes some up for
rounds to come shall not fill the disk."""

LISTS_PER_BEAT = 4
"""Most lists of neighbours in a mesh, where sessions come and go by the dozen."""

LISTED_PER_LINK = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig:
    """What a machine needs to know before the first event."""

    rounds: RoundsConfig
    bases: BaseConfig
    admission: Admission
    incarnation: int
    heartbeat_s: float
    liveness_s: float
    progress_bytes: int = PROGRESS_BYTES
    """How much of a payload counts as a sign that more will come."""
    dials_learned: bool = True
    """Connect to every live peer whose address a neighbour knows."""
    mesh: MeshConfig | None = None
    """Connect to some, of those that neighbours know, and let go of those that are too many."""
    max_liars: int = 0
    """Devices that may say what is not so: in what it is known of, one more has to say the same."""
    watches: bool = False
    """Wants to hear everybody's vitals: a person looks."""


class PeerMachine:
    """Everything that one peer decides."""

    def __init__(
        self,
        cfg: MachineConfig,
        signer: Signer,
        base: Base,
        updates: UpdateSet,
        *,
        last_own: Update | None = None,
        closed_round: int = 0,
        authored_round: int = 0,
        passed: Sequence[Update] = (),
        taken_back: Mapping[UpdateId, int] = MappingProxyType({}),
        membership: Membership | None = None,
    ) -> None:
        """Take the configuration, and what an earlier process of this peer left.

        Args:
            cfg: Deadlines, limits, the run.
            signer: This peer's key.
            base: What our rounds are folded on, as far as we know.
            updates: What is held on it.
            last_own: The last own update of the journal, if it survived.
            closed_round: The last recorded round.
            authored_round: The last round of the journal.
            passed: Updates that are not among those held, and of which the payloads are here.
            taken_back: The rounds of the own updates that are taken back.
            membership: Whose updates count, the same that ``updates`` asks; None: everybody's.
        """
        self._cfg = cfg
        self._signer = signer
        self.me = signer.peer_id
        self.run = cfg.admission.run
        self._turns = cfg.admission.turns
        self.updates = updates
        self.membership = membership
        self.roster = Roster(
            cfg.liveness_s, cfg.max_liars, membership, is_sampled=cfg.admission.turns.is_sampled
        )
        self._bases = Bases(cfg.bases, self.me, base, updates, self.roster)
        self.sync = Sync(
            self.updates, cfg.liveness_s, cfg.progress_bytes, max_item_bytes=cfg.bases.max_bytes
        )
        self._neighbourhood = _neighbourhood(cfg)
        self.mesh: Mesh | None = None
        if cfg.mesh is not None:
            secret = signer.sign(b"mesh 1", self.run)  # nobody else can make it, and it stays here
            self.mesh = Mesh(cfg.mesh, secret, cfg.liveness_s)
        self._receivers: Mapping[type[Message], Callable[[PeerId, Any, float], list[Action]]] = {
            Chunk: self.sync.chunk,
            PackedChunk: self.sync.packed_chunk,
            HeartbeatMessage: self._hear,
            Have: self.sync.have,
            Want: lambda peer, message, _: self.sync.want(peer, message, self.bases_needed),
            UpdateMessage: self._header,
            Absent: self.sync.absent,
            Sums: self.sync.sums,
            Neighbours: self._pass_on_again,
            Hints: self._told_hints,
            Binding: lambda _, message, __: self._records.take(message),
            Statement: lambda _, message, __: self._records.take(message),
            VitalsMessage: lambda peer, message, _: self._hear_vitals(peer, message),
        }
        self._relay = Relay(self.me, cfg.liveness_s)
        self._dialled: dict[str, float] = {}  # learned addresses, the first asked for first
        self.rounds = Rounds(
            cfg.rounds,
            self.me,
            self.roster,
            self.updates,
            self.sync,
            self._bases,
            Past(closed_round=closed_round, authored_round=authored_round, last_own=last_own),
            cfg.admission.turns,
        )
        self.passed = Passed(
            self.me,
            updates,
            passed,
            taken_back,
            own_bytes=cfg.bases.own_passed_bytes,
            others_bytes=cfg.bases.others_passed_bytes,
            turn_period=cfg.admission.turns.period,
        )
        self._compaction = Compaction(
            cfg.bases, self._bases, updates, self.sync, self.rounds, self.passed, self._add
        )
        self._sequence = 0
        self._said: tuple[object, ...] = ()  # what the last heartbeat said
        self._heartbeat_at = 0.0
        self._leaving = False
        self._closed = ClosedRounds()
        self._complaints = Complaints()
        self._records = RecordTalk(
            membership,
            updates,
            self.roster,
            self.sync,
            self.rounds,
            heartbeat_s=cfg.heartbeat_s,
            liveness_s=cfg.liveness_s,
        )
        self.vitals = VitalSigns(self.run, cfg.incarnation, cfg.admission.signature_valid)

    @property
    def base(self) -> Base:
        """What our rounds are folded on."""
        return self._bases.base

    @property
    def bases_needed(self) -> tuple[UpdateId, ...]:
        """Which bases we serve, or may have plans for; any thread may ask."""
        return self._compaction.bases_needed

    # Life

    def start(self, now: float) -> list[Action]:
        """Begin: nothing is connected yet."""
        self._heartbeat_at = now
        return self._after([*self.passed.settle(), *self.rounds.begin(now)], now)

    def tick(self, now: float) -> list[Action]:
        """Let time pass."""
        if self._turns.is_sampled:  # those whose turn is far off, neighbours do not tell of
            self.roster.forget_silent(self.sync.neighbours(), now)
        dead = [HangUp(peer) for peer in self._neighbourhood.dead(now)]
        return self._after([*dead, *self.sync.tick(now), *self._dial_learned(now)], now)

    def next_wakeup(self, now: float) -> float:
        """Return when `tick` is due at the latest."""
        times = [
            self._heartbeat_at + self._cfg.heartbeat_s,
            self.rounds.deadline,
            self.rounds.settles_at if self.rounds.phase is Phase.STARTING else None,
            self.roster.next_expiry(now),
            self.sync.next_wakeup(),
            self._neighbourhood.next_silence(),
            self._neighbourhood.next_death(),
            self._relay.next_due,
            self._neighbourhood.next_news(),
            self._records.next_wakeup(now),
        ]
        return min(t for t in times if t is not None)  # a heartbeat at the latest

    def leave(self, now: float) -> list[Action]:
        """Say goodbye: the last thing that anyone hears of this incarnation."""
        self._leaving = True
        return self._heartbeat(now)

    def has_left(self, peer: PeerId) -> bool:
        """Tell whether the last that was heard of a peer is its goodbye."""
        body = self.roster.latest(peer)
        return body is not None and body.leaving

    # The network

    def waiting_for(self, addresses: tuple[str, ...], now: float) -> list[Action]:
        """Note the addresses that have not said hello."""
        self.rounds.waiting_for = addresses
        return self._after([], now)

    def connected(
        self,
        peer: PeerId,
        now: float,
        addresses: tuple[str, ...] = (),
        seen_at: str = "",
        *,
        sums_up: bool = False,
        same_machine: bool = False,
    ) -> list[Action]:
        """A session is up: show ourselves and those we hear, and list what we hold.

        Args:
            peer: Who is at the other end.
            now: The time.
            addresses: Where it says that it can be dialled.
            seen_at: Where it was dialled, if we have dialled it.
            sums_up: It begins with digests of what it holds.
            same_machine: It is on this machine, so that addresses of the loopback interface that
                it tells of lead us where they lead it.
        """
        usable = addresses[:MAX_ADDRESSES]
        self._neighbourhood.connected(peer, usable, now, same_machine=same_machine)
        messages: list[Message] = [
            *self._records.connected(peer, now),
            self._sign_heartbeat(),
            *self.roster.messages_for(peer, now),
            self._neighbourhood.list(),
        ]
        actions: list[Action] = [Send((peer,), message) for message in messages]
        if self.mesh is not None:
            actions += self.mesh.connected(peer, usable, seen_at, now)
        return self._after([*actions, *self.sync.connected(peer, now, sums_up=sums_up)], now)

    def led_to(self, peer: PeerId, address: str, now: float) -> list[Action]:
        """A dial of ours has ended at a neighbour: there was a session with it already."""
        actions = [] if self.mesh is None else self.mesh.led_to(peer, address, now)
        return self._after(actions, now)

    def disconnected(self, peer: PeerId, now: float, how: Parting = Parting.LOST) -> list[Action]:
        """A session is gone; the peer may still be alive, and heard through others."""
        if self.mesh is not None:
            self.mesh.disconnected(peer, Parting.OVER if self.has_left(peer) else how, now)
        self._neighbourhood.disconnected(peer)
        self._records.disconnected(peer)
        return self._after(self.sync.disconnected(peer, now), now)

    def found(self, address: str, now: float) -> list[Action]:
        """An address of the run was found on the network, in a mesh: keep it in view."""
        assert self.mesh is not None, "without a mesh all that is found is dialled"
        self.mesh.found(address, now)
        return self._after([], now)

    def not_reached(self, address: str, now: float) -> list[Action]:
        """Nobody answers at an address that is dialled, or there is no room for us."""
        return [] if self.mesh is None else self._after(self.mesh.in_vain(address, now), now)

    def received(self, peer: PeerId, message: Message, now: float) -> list[Action]:
        """Take a neighbour's message; what it means for the rounds, `look` finds out.

        The two are apart because messages come by the thousand, and a look at everybody that is
        alive may take a while: once for all that has come together is enough. Whoever drives a
        machine looks soon after.

        Raises:
            RemoteProtocolError: It breaks the protocol; the session with the neighbour must end.
        """
        self._neighbourhood.touched(peer, now)
        return self._receivers[type(message)](peer, message, now)

    def look(self, now: float) -> list[Action]:
        """Look at what the messages received have changed."""
        return self._after([], now)

    def payload_checked(self, update: Update, fault: str | None, now: float) -> list[Action]:
        """The payload of an update is whole and decodes, or the fault of its author is named.

        What it means, `look` finds out: payloads come by the dozen.
        """
        item = Item(update.id)
        if not self.sync.wanted(item):  # voided meanwhile
            return [Discard(item)]
        if fault is not None:
            text = f"update of {short_id(update.author)} for round {update.round}: {fault}"
            return [*self._complaints.tell(text), *self.sync.inadmissible(update, now)]
        return self._add(update, now)

    def payload_corrupt(self, item: Item, now: float) -> tuple[list[Action], PeerId | None]:
        """The bytes do not match the hash: fetch them anew; return who served them, if known."""
        if not self.sync.wanted(item):
            return [Discard(item)], None
        actions, culprit = self.sync.corrupt(item, now)
        return self._after(actions, now), culprit

    def base_checked(self, base: Base, history: History, now: float) -> list[Action]:
        """A base that was better than ours when it was offered is here, and is what it said."""
        return self._after(self._compaction.base_checked(base, history, now), now)

    def base_made(self, cut: Cut, base: Base, now: float) -> list[Action]:
        """The base that was asked for is made and stored."""
        return self._after(self._compaction.base_made(cut, base, now), now)

    def trust_changed(self, standing: Mapping[PeerId, Standing], now: float) -> list[Action]:
        """The trust file of this device says something else: so do we, to everybody."""
        assert self.membership is not None, "without devices there is no trust file"
        self.membership.trust(standing)
        return self._after([], now)

    # The own rounds

    def trained(self, now: float) -> list[Action]:
        """Local training has ended, well or not."""
        return self._after([*self._settle(now), *self.rounds.trained(now)], now)

    def authored(self, update: Update, now: float) -> list[Action]:
        """The own update is stored, and journaled if there is a disk: publish it."""
        announced = self._settle(now)
        if update.round > self.updates.frontier:
            announced += self._add(update, now)
        if update.id not in self.updates:  # a base was taken over meanwhile, or the slot is void
            announced += self._no_place(update)
        return self._after([*announced, *self.rounds.authored(update, now)], now)

    def skipped(self, reason: str, now: float) -> list[Action]:
        """There is no own update in this round."""
        return self._after([*self._settle(now), *self.rounds.skipped(reason, now)], now)

    def folded(self, plan: FoldPlan, state_digest: bytes, now: float) -> list[Action]:
        """The round that was closed is folded and recorded."""
        self._closed.add(plan.through, plan.set_digest, state_digest)
        actions: list[Action] = [*self._complaints.round_over()]
        for peer, body in self.roster.alive(now).items():
            actions += self._closed.compare(peer, body)
        return self._after([*actions, *self.rounds.folded(now)], now)

    # The inside

    def _settle(self, now: float) -> list[Action]:
        """Let what others have said of devices count, before a round may close."""
        return self._records.settle(self._closed.last, now)

    def _after(self, actions: list[Action], now: float) -> list[Action]:
        """Let the round machine look again, and say what has changed."""
        actions = [
            *actions,
            *self._records.tell(self._closed.last, now),
            *self.sync.announce(now),
            *self._pass_on_waiting(now),
            *self._step(now),
            *self._compaction.look_for_cut(self._closed.last, now),
            *self._mend_mesh(now),
        ]
        neighbours = self.sync.neighbours()
        if (heard := self._neighbourhood.news(now)) is not None and neighbours:
            actions.append(Send(neighbours, heard))
        if not any(isinstance(action, Finish) for action in actions) and (
            now >= self._heartbeat_at + self._cfg.heartbeat_s or self._news() != self._said
        ):
            actions += self._heartbeat(now)
        return actions

    def _step(self, now: float) -> list[Action]:
        actions = self.rounds.step(now)
        ahead = max(MAX_ROUNDS_AHEAD, 4 * self._cfg.bases.every)
        self.sync.horizon = self.rounds.latest_open(now) + ahead
        return actions

    def _news(self) -> tuple[object, ...]:
        """What others wait to hear: it goes out at once.

        The open round is not among it: whoever is two or more behind hears of it soon enough.
        """
        rounds = self.rounds
        last = rounds.last_own.id if rounds.last_own is not None else b""
        held = self.updates.digest if rounds.phase is Phase.SERVING else b""
        is_due = self._turns.is_sampled and rounds.next_round <= rounds.round + 1
        return rounds.next_round, last, rounds.is_ready, self.base.digest, held, is_due

    def _heartbeat(self, now: float) -> list[Action]:
        self._heartbeat_at = now
        neighbours = self.sync.neighbours()
        message = self._sign_heartbeat()
        return [Send(neighbours, message)] if neighbours else []

    def _sign_heartbeat(self) -> HeartbeatMessage:
        self._said = self._news()
        self._sequence += 1
        rounds, last = self.rounds, self.rounds.last_own
        set_digest, state_digest = self._closed.last_digests
        body = HeartbeatBody(
            run=self.run,
            incarnation=self._cfg.incarnation,
            sequence=self._sequence,
            round=rounds.round,
            next_round=rounds.next_round,
            last_round=last.round if last is not None else 0,
            last_id=last.id if last is not None else b"",
            ready=rounds.is_ready,
            leaving=self._leaving,
            closed_round=self._closed.last,
            set_digest=set_digest,
            state_digest=state_digest,
            held=self.updates.digest,
            base=self.base.digest,
            base_given=self.base.given,
            base_bytes=self.base.size,
            frontier=self.base.frontier,
            base_set=self.base.set_digest,
            num_included=self.base.num_included,
            marks=self._bases.marks(rounds.nothing_new_through, self._heartbeat_at),
            members=b"" if self.membership is None else self.membership.digest,
            watches=self._cfg.watches,
        )
        return sign_heartbeat(body, self._signer)

    def _header(self, peer: PeerId, message: UpdateMessage, now: float) -> list[Action]:
        # First whether it was asked for: a signature takes a while to verify.
        if not self.sync.asks_for_header(peer, id_of(message)):
            return []
        update = admit(message, self._cfg.admission)
        actions, is_void = self.sync.header(peer, update, now)
        return [*self._void(update), *actions] if is_void else actions

    # What others say of themselves.

    def _hear(self, sender: PeerId, message: HeartbeatMessage, now: float) -> list[Action]:
        peer, body = read_heartbeat(message, self.run)
        if peer == self.me:
            return self._hear_own(message, body)
        actions = self._settle(now)
        is_neighbour = peer == sender
        if is_neighbour:
            actions += self._records.tell_all(peer, body, now)
        if not self.roster.takes_part(peer):
            return actions
        if is_neighbour:
            self._neighbourhood.heard(peer, now)
        if not self.roster.is_news(peer, body):
            self._relay.heard_again(peer, message, sender)
            return actions
        if not self.roster.has_room_for(peer, now, is_neighbour=is_neighbour):
            return actions
        verify_heartbeat(message, self._cfg.admission.signature_valid)
        before = self.roster.latest(peer)
        if self.roster.hear(peer, body, message, now):
            if not self._turns.is_sampled:
                actions += self._pass_on(message, peer, {sender})
            elif (turn := self._told_turn(peer, before, body)) is not None:
                # Of a large fleet nobody needs to hear more than who publishes soon, and of whom
                # publishes in a later round only at leisure.
                is_news = before is None or before.turn != body.turn
                is_now = turn <= self.rounds.round
                wait_s = self._relay.wait_s(
                    self.rounds.last_round_s, is_news=is_news, is_now=is_now
                )
                self._relay.add(peer, message, sender, now + wait_s)
        self.rounds.heard(peer, body)
        if is_neighbour:  # it serves the base that it uses
            actions += self.sync.stands_on(peer, body.frontier, now)
            actions += self._compaction.consider(peer, body, now)
        return [*actions, *self._closed.compare(peer, body)]

    def _told_turn(
        self, peer: PeerId, before: HeartbeatBody | None, body: HeartbeatBody
    ) -> int | None:
        """Return of which turn a heartbeat tells all of a large fleet; None if they need not hear.

        They wait for whoever is due, and wait no more for whoever has let its turn pass. Of one
        that has published its update tells.
        """
        if body.is_due and self._turns.has(peer, body.next_round):
            return body.next_round
        if before is None or not before.is_due or body.last_round >= before.next_round:
            return None
        return before.next_round if self._turns.has(peer, before.next_round) else None

    def _pass_on_again(self, peer: PeerId, message: Neighbours, now: float) -> list[Action]:
        """Take a neighbour's list; tell it of those it does not hear directly any more."""
        lost = self._neighbourhood.told(peer, message)
        if self.mesh is not None:
            self.mesh.changed()
        alive = self.roster.alive_messages(now)
        return [Send((peer,), alive[other]) for other in lost if other in alive]

    def _told_hints(self, peer: PeerId, message: Hints, now: float) -> list[Action]:
        if self.mesh is not None:
            around = self._neighbourhood
            known = tuple(h for h in message.known if around.is_worth_a_dial(peer, h.address))
            self.mesh.told(peer, Hints(known), now)
        return []

    def _dial_learned(self, now: float) -> list[Action]:
        """Connect to live peers that neighbours of ours hear, and we do not."""
        if not self._cfg.dials_learned or self.mesh is not None:
            return []
        alive = self.roster.alive(now)
        actions: list[Action] = []
        for peer, address in self._neighbourhood.addresses():
            again_at = self._dialled.get(address, -math.inf) + DIAL_AGAIN_S
            if peer in alive and now >= again_at:
                self._dialled.pop(address, None)
                self._dialled[address] = now
                if len(self._dialled) > MAX_DIALLED:
                    del self._dialled[next(iter(self._dialled))]
                actions.append(Dial(address))
        return actions

    def _mend_mesh(self, now: float) -> list[Action]:
        """Dial where links are missing, and let go of what is too much."""
        if self.mesh is None or self._leaving:
            return []
        around = self._neighbourhood
        near = (address for peer, address in around.addresses() if peer != self.me)
        return self.mesh.step(now, lambda peer: around.num_others(peer, self.me), near)

    def _hear_own(self, message: HeartbeatMessage, body: HeartbeatBody) -> list[Action]:
        """What an earlier process of this peer said: it may know more than our journal."""
        if body.incarnation != self._cfg.incarnation:
            verify_heartbeat(message, self._cfg.admission.signature_valid)
            self.rounds.own_round_known(body.last_round)
        return []

    # For people who watch.

    def tell_vitals(self, vitals: Vitals, now: float) -> list[Action]:
        """Tell how our last round was, if anybody who is alive wants to hear it."""
        neighbours = self.sync.neighbours()
        if not neighbours or not any(body.watches for body in self.roster.alive(now).values()):
            return []
        return [Send(neighbours, self.vitals.sign(vitals, self._signer))]

    def _hear_vitals(self, sender: PeerId, message: VitalsMessage) -> list[Action]:
        """Keep what is news of somebody we know, and pass it on to who hears it by us alone."""
        peer = peer_id_of(message.public_key)
        if peer not in self.roster.known or not self.vitals.hear(message):
            return []
        if len(self.vitals.peers) > MAX_SIGHTINGS:
            for gone in self.vitals.peers - self.roster.known:
                self.vitals.forget(gone)
        return self._pass_on(message, peer, {sender})

    def _pass_on(
        self, message: HeartbeatMessage | VitalsMessage, origin: PeerId, senders: set[PeerId]
    ) -> list[Action]:
        """Pass on what a peer says of itself, to those that hear it by us alone."""
        others = tuple(
            n
            for n in self.sync.neighbours()
            if n != origin and n not in senders and self._neighbourhood.needs(n, origin)
        )
        return [Send(others, message)] if others else []

    def _pass_on_waiting(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for origin, waiting in self._relay.take(now):
            actions += self._pass_on(waiting.message, origin, waiting.heard_from)
        return actions

    def agrees(self, body: HeartbeatBody) -> bool | None:
        """Tell whether a peer's last round led to our model of that round, if that can be said."""
        return self._closed.agrees(body)

    # The own set.

    def _add(self, update: Update, now: float) -> list[Action]:
        actions, is_void = self.sync.add(update, now)
        if is_void:
            return [*self._void(update), *actions]
        actions += self._crowded_out()
        self.rounds.changed(update.round, by_arrival=True)
        return [*actions, *self.passed.settle()] if self.passed.is_taken_back(update) else actions

    def _void(self, update: Update) -> list[Action]:
        self.rounds.changed(update.round, by_arrival=False)
        is_own = update.author == self.me
        whose = "this peer's own key" if is_own else short_id(update.author)
        text = f"two updates of {whose} for round {update.round}: neither counts"
        room = self._crowded_out()
        if is_own:
            return [Tell(Level.WARNING, text), *room, *self.passed.settle()]
        return [*self._complaints.tell(text), *room]

    def _no_place(self, own: Update) -> list[Action]:
        """Take back what an own update carried that the set does not hold."""
        actions: list[Action] = self.passed.never_held(own)
        if self.updates.is_crowded_out(own.round, self.me):
            text = f"the own update of round {own.round} has no place: too many others came first"
            actions.insert(0, Tell(Level.WARNING, text))
        return actions

    def _crowded_out(self) -> list[Action]:
        """Let go of what others have taken the place of; of our own, take back what it carried."""
        actions: list[Action] = []
        for update in self.sync.take_crowded_out():
            if update.author == self.me:
                actions += self._no_place(update)
            else:
                actions.append(Remove(update))
            # A stranger may turn out to be of the run: then we want it again.
            if self.membership is not None and (neighbours := self.sync.neighbours()):
                actions.append(Send(neighbours, Absent(update.id)))
        return actions


def _neighbourhood(cfg: MachineConfig) -> Neighbourhood:
    if cfg.mesh is None:
        return Neighbourhood(cfg.liveness_s, cfg.heartbeat_s)
    return Neighbourhood(
        cfg.liveness_s,
        cfg.heartbeat_s,
        pace_s=cfg.heartbeat_s / LISTS_PER_BEAT,
        max_listed=min(LISTED_PER_LINK * cfg.mesh.links, MAX_NEIGHBOURS),
    )
