"""The shell of one peer: it carries out what the machine decides, and feeds back what happened.

It joins the machine (protocol), the transport, the learner (training, codecs, fold), the store
and the recorder, and decides nothing itself. The event loop never waits for training, folding or
hashing: those run in the runner's threads, so heartbeats go out whatever the model costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Generic

from semantic_net.buffers import new_buffer
from semantic_net.errors import (
    CheckpointError,
    RemoteProtocolError,
    TrainingError,
    TransportError,
)
from semantic_net.federated.link_watch import LinkWatch
from semantic_net.federated.outbound import PayloadSource
from semantic_net.federated.packed_chunks import unpack_part
from semantic_net.federated.parts import (
    ClosedRound,
    Encoded,
    LearningStoppedError,
    Parsed,
    PeerParts,
    RoundFacts,
)
from semantic_net.protocol.actions import (
    Action,
    Author,
    Check,
    CheckBase,
    Close,
    CountAgain,
    Cut,
    Dial,
    Discard,
    Diverged,
    Finish,
    FoldPlan,
    Forget,
    HangUp,
    Keep,
    Level,
    Open,
    Remove,
    Send,
    Serve,
    TakeBack,
    Tell,
    Train,
    Write,
)
from semantic_net.protocol.address import parse_address
from semantic_net.protocol.bases import Base
from semantic_net.protocol.handshake import BUSY, CROWDED, FACTS, REFUSAL_CODES, TIMEOUT
from semantic_net.protocol.history import History
from semantic_net.protocol.identity import PeerId, short_id
from semantic_net.protocol.item import Item
from semantic_net.protocol.membership import Record
from semantic_net.protocol.mesh import Parting
from semantic_net.protocol.messages import (
    Absent,
    Chunk,
    HeartbeatMessage,
    decode_message,
    encode_message,
)
from semantic_net.protocol.update import Update, UpdateBody, UpdateId, hash_payload, sign_update
from semantic_net.protocol.vitals import VitalsMessage
from semantic_net.semantic.rate import Choice
from semantic_net.transport.address import dialable_addresses
from semantic_net.transport.base import (
    Connected,
    Disconnected,
    Duplicate,
    Found,
    Received,
    Refused,
    Traffic,
    TransportEvent,
    TrustChanged,
    Unreachable,
)
from semantic_net.transport.dialer import PASSING

log = logging.getLogger(__name__)

INTERRUPTED = "interrupted"
"""How `Peer.run` ends when it was told to stop."""

MAX_SERVING = 256
"""Most payloads that wait for one neighbour: an honest one asks for far fewer at a time."""

MAX_REFUSALS_TOLD = 100
"""Refusals that differ, after which further ones are counted only."""

MAX_NOTES = 50
"""Most notes of a round: the others are in the log."""

TOO_MANY_CALL = os.strerror(errno.ECONNRESET)

STOP_S = 3.0
"""Seconds that work under way has to end by itself when the peer stops."""

_VITALS_OF = b"vitals "

LEVELS = {Level.INFO: logging.INFO, Level.WARNING: logging.WARNING, Level.ERROR: logging.ERROR}


class Peer(Generic[Parsed]):
    """One peer, from its start to its goodbye."""

    def __init__(self, parts: PeerParts[Parsed]) -> None:
        self._parts = parts
        self._machine = parts.machine
        self._own_key = parts.signer.public_key
        self._incoming: dict[Item, memoryview] = {}
        self._serving: dict[PeerId, dict[UpdateId, PayloadSource]] = {}
        self._unpacking: set[PeerId] = set()
        self._frontier = parts.machine.base.frontier  # that the store has retired to
        self._facts = RoundFacts(opened_at=0.0)
        self._facts_ahead: RoundFacts | None = None
        """Of the next round, where it is trained while this one is open."""
        self._traffic = Traffic(0, 0)
        self._links = LinkWatch()
        self._refusals: set[tuple[str, str, str, bool]] = set()
        self._silent: set[str] = set()  # of the addresses that a mesh begins with
        self._refusers: dict[PeerId, str] = {}  # by device, where one is known, or peer
        self._skip_reason: str | None = None
        self._to_keep: tuple[Record, ...] | None = None
        self._to_remove: list[Update] = []
        self._removes = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._turn_ends = False
        self._is_over = False
        self._handlers: Mapping[type[Action], Callable[[Any], None]] = {
            Send: self._send,
            Keep: self._keep,
            Serve: self._serve,
            Write: self._write,
            Open: self._open,
            Check: lambda action: self._spawn(self._check(action)),
            CheckBase: lambda action: self._spawn(self._check_base(action)),
            Cut: lambda action: self._spawn(self._cut(action)),
            TakeBack: lambda action: self._spawn(
                self._account(action.updates, parts.learner.take_back)
            ),
            CountAgain: lambda action: self._spawn(
                self._account(action.updates, parts.learner.count_again)
            ),
            Discard: self._discard,
            Remove: self._remove,
            Dial: self._dial,
            Forget: self._forget,
            HangUp: self._hang_up,
            Train: lambda action: self._spawn(self._train(action)),
            Author: lambda action: self._spawn(self._author(action)),
            Close: lambda action: self._spawn(self._close(action)),
            Tell: self._tell,
            Diverged: lambda action: self._spawn(self._diverged(action)),
            Finish: self._finish,
        }
        self._over: asyncio.Future[str] | None = None

    async def run(self, stop: asyncio.Event) -> str:
        """Run until the last round, or until ``stop`` is set; return why it ended.

        Raises:
            StartError: The transport cannot listen.
        """
        loop = asyncio.get_running_loop()
        over = self._over = loop.create_future()
        self._facts = RoundFacts(opened_at=loop.time())
        await self._parts.transport.start(self._transport_event)
        self._parts.on_listening(self._parts.transport.address)
        self._look_for_peers()
        self.carry_out(self._machine.start(self._now()))
        stopped = asyncio.ensure_future(stop.wait())
        failed = self._parts.transport.failed
        try:
            await asyncio.wait((over, stopped, failed), return_when=asyncio.FIRST_COMPLETED)
            if failed.done():
                failed.result()
            return over.result() if over.done() else INTERRUPTED
        finally:
            stopped.cancel()
            await self._shut_down()

    @property
    def refused_by(self) -> list[str]:
        """Who has turned this peer away, and has not let it in since."""
        return sorted(self._refusers.values())

    async def _shut_down(self) -> None:
        self._parts.learner.stop()
        self.carry_out(self._machine.leave(self._now()))
        # What is under way may still be recorded, but nobody looks any more: the machine would go
        # on hanging up on a dead neighbour, as no event tells it any more that this was done.
        self._is_over = True
        self._set_alarm()
        await self._parts.transport.close()
        if self._tasks:
            # What a thread is at cannot be cancelled; training stops at its next step.
            await asyncio.wait(self._tasks, timeout=STOP_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # From the world to the machine.

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _transport_event(self, event: TransportEvent) -> None:
        now = self._now()
        if isinstance(event, Received):
            message = decode_message(event.frame)
            self.carry_out(self._machine.received(event.peer, message, now))
            return
        self._parts.on_event(event)
        if isinstance(event, Connected):
            who = self.name(event.peer, event.device)
            log.info("connected to %s at %s", who, event.address)
            if event.hello.unpacks:
                self._unpacking.add(event.peer)
            self._look_for_peers()
            for known in (event.device or event.peer, event.peer):
                self._refusers.pop(known, None)
            self.carry_out(
                self._machine.connected(
                    event.peer,
                    now,
                    tuple(dialable_addresses(event.hello, event.address)),
                    event.address if event.dialled else "",
                    sums_up=event.hello.sums_up,
                    same_machine=parse_address(event.address).is_loopback,
                )
            )
        elif isinstance(event, Disconnected):
            if self._machine.has_left(event.peer):
                log.info("%s has left", self.name(event.peer))
            elif event.code == CROWDED:
                log.debug("%s and we part: there are enough others", self.name(event.peer))
            else:
                log.info("lost %s: %s", self.name(event.peer), event.reason)
            if event.code in REFUSAL_CODES and event.code != TIMEOUT:
                if event.by_us:
                    self._count(event.code)
                elif event.code not in PASSING:
                    self._is_refused(event.peer, None, event.reason)
            self._serving.pop(event.peer, None)
            self._unpacking.discard(event.peer)
            self.carry_out(self._machine.disconnected(event.peer, now, _parting(event.code)))
        elif isinstance(event, Refused):
            self._refused(event)
            self._look_for_peers()
            self.carry_out([])  # it may be the last one that was waited for
            if event.dialled:
                self._not_reached(event.address)
        elif isinstance(event, Duplicate):
            self._look_for_peers()
            self.carry_out(self._machine.led_to(event.peer, event.address, now))
        elif isinstance(event, Found):
            self.found(event.address)
        elif isinstance(event, TrustChanged):
            self.carry_out(self._machine.trust_changed(event.standing, now))
        else:
            assert isinstance(event, Unreachable), event
            # Whoever has said goodbye may come back, and is dialled in silence.
            has_left = event.peer is not None and self._machine.has_left(event.peer)
            level = logging.DEBUG if has_left or self._is_hint(event) else logging.WARNING
            log.log(level, "%s does not answer: %s; trying again", event.address, event.reason)
            self._not_reached(event.address)

    def _is_hint(self, event: Unreachable) -> bool:
        """Tell whether an address was only heard of, or was said to be silent already.

        A peer that a thousand others call at the same time resets the connections of most.
        """
        mesh = self._machine.mesh
        if mesh is None:
            return False
        if event.reason == TOO_MANY_CALL:
            return True
        known = event.address in self._silent or event.address not in mesh.cfg.seeds
        self._silent.update({event.address} & {*mesh.cfg.seeds})
        return known

    def _not_reached(self, address: str) -> None:
        self.carry_out(self._machine.not_reached(address, self._now()))

    def found(self, address: str) -> None:
        """Dial an address that somebody of the run has on this network, or keep it in view.

        Raises:
            ValueError: It is no address that can be dialled.
        """
        if self._machine.mesh is None:
            self._parts.transport.add_address(address)
        elif not self._is_over:
            self.carry_out(self._machine.found(address, self._now()))

    def _refused(self, event: Refused) -> None:
        """Count every refusal, and tell of each kind once: whoever is refused tries again."""
        if event.code == BUSY and self._machine.mesh is not None:
            log.debug("%s has or gets no session: %s", event.address, event.reason)
            return  # there are others
        self._count(event.code if event.code in REFUSAL_CODES else "other")
        who = event.peer or parse_address(event.address).host
        seen = (who, event.code, event.reason, event.by_us)
        is_news = seen not in self._refusals and len(self._refusals) < MAX_REFUSALS_TOLD
        if is_news:
            self._refusals.add(seen)
            if len(self._refusals) == MAX_REFUSALS_TOLD:
                log.warning("further refusals are told in the log file only")
        who = self.name(event.peer, event.device)
        if not event.by_us and event.code not in PASSING:
            self._is_refused(event.peer, event.device, event.reason)
        verb = "is refused" if event.by_us else "refuses us"
        hint = "; set it the same on both" if event.code == FACTS else ""
        level = logging.WARNING if is_news else logging.DEBUG
        log.log(level, "%s at %s %s: %s%s", who, event.address, verb, event.reason, hint)

    def _is_refused(self, peer: PeerId | None, device: PeerId | None, reason: str) -> None:
        membership = self._machine.membership
        if membership is not None and device is None and peer is not None:
            device = membership.device_of(peer)
        known = device or peer
        if known is not None and len(self._refusers) < MAX_REFUSALS_TOLD:
            self._refusers[known] = f"{self.name(peer, device)}: {reason}"

    def name(self, peer: PeerId | None, device: PeerId | None = None) -> str:
        """Return what people call a peer: by its device, where that has a name."""
        membership = self._machine.membership
        if membership is not None:
            device = device or (None if peer is None else membership.device_of(peer))
            if device is not None:
                name = membership.name_of(device)
                return name if peer is None else f"{name} ({short_id(peer)})"
        return "a stranger" if peer is None else short_id(peer)

    def _tick(self) -> None:
        try:
            if self._machine.rounds.waiting_for:
                self._look_for_peers()
            self.carry_out(self._machine.tick(self._now()))
        except Exception as exc:  # of ours; what the loop calls, nobody else looks at
            self._failed(exc)

    def _look_for_peers(self) -> None:
        rounds, transport = self._machine.rounds, self._parts.transport
        rounds.waiting_for = transport.unmet_addresses()
        rounds.refused = transport.refused_addresses()

    def carry_out(self, actions: list[Action]) -> None:
        """Carry out actions in order, and look at what they lead to when the turn ends."""
        self._do(actions)
        if not self._turn_ends:  # once for all that happens in one turn of the loop
            self._turn_ends = True
            loop, turn_s = asyncio.get_running_loop(), self._parts.turn_s
            if turn_s:
                loop.call_later(turn_s, self._end_turn)
            else:
                loop.call_soon(self._end_turn)

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            self._handlers[type(action)](action)

    def _end_turn(self) -> None:
        self._turn_ends = False
        try:
            if not self._is_over:
                self._do(self._machine.look(self._now()))
            self._set_alarm()
        except Exception as exc:  # as above
            self._failed(exc)

    def _set_alarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._is_over:
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(self._machine.next_wakeup(loop.time()), self._tick)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):  # the loop itself ends with whatever else there is
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if self._is_over:  # nobody waits for it
            log.debug("work that was under way has ended in an error", exc_info=error)
        elif self._over is not None and not self._over.done():
            self._over.set_exception(error)  # of ours, or of a user's task: end, do not hang

    # Small actions.

    def _open(self, action: Open) -> None:
        part = action.part
        chunk = Chunk(part.id, part.offset, unpack_part(part.packed))
        self._do(self._machine.received(action.peer, chunk, self._now()))

    def _send(self, action: Send) -> None:
        message = action.message
        frame = encode_message(message)
        replaces = None
        if isinstance(message, HeartbeatMessage) and message.public_key != self._own_key:
            replaces = message.public_key  # of what is passed on only the latest is of use
        if isinstance(message, VitalsMessage) and message.public_key != self._own_key:
            replaces = _VITALS_OF + message.public_key  # beside, and not instead of, its heartbeat
        for peer in action.to:
            try:  # noqa: SIM105  # there are too many for a context each
                self._parts.transport.send(peer, frame, replaces)
            except TransportError:
                pass  # its Disconnected is on the way

    def _serve(self, action: Serve) -> None:
        peer, item = action.to, action.id
        serving = self._serving.setdefault(peer, {})
        if (source := serving.get(item)) is not None:
            source.seek(action.offset)
            if source.has_begun:
                return
        elif len(serving) < MAX_SERVING:
            source = PayloadSource(
                item,
                lambda: self._to_serve(peer, item),
                action.offset,
                lambda: serving.pop(item),
                packs=peer in self._unpacking and item in self._machine.bases_needed,
            )
        else:
            text = f"wants more than {MAX_SERVING} payloads at a time"
            self._parts.transport.disconnect(peer, "protocol", text)
            return
        # Behind those asked for before: who asks takes what is passed over for lost.
        with contextlib.suppress(TransportError):  # its Disconnected is on the way
            self._parts.transport.stream(peer, source)
            serving[item] = source

    def _to_serve(self, peer: PeerId, item: UpdateId) -> memoryview:
        """Return the bytes of an item whose turn has come; none if they are gone meanwhile."""
        try:
            if item in self._machine.bases_needed:
                return self._parts.bases.read(item)
            return self._parts.store.payload(item)
        except KeyError:
            pass  # void since it was asked for, or part of a base
        except CheckpointError as exc:
            log.warning("not served: %s", exc)
        self._send(Send((peer,), Absent(item)))
        return memoryview(b"")

    def _write(self, action: Write) -> None:
        buffer = self._incoming.get(action.item)
        if buffer is None:
            buffer = self._incoming[action.item] = new_buffer(action.size)
        buffer[action.offset : action.offset + len(action.data)] = action.data

    def _discard(self, action: Discard) -> None:
        self._incoming.pop(action.item, None)

    def _remove(self, action: Remove) -> None:
        self._to_remove.append(action.update)
        if not self._removes:
            self._removes = True
            self._spawn(self._remove_crowded_out())

    async def _remove_crowded_out(self) -> None:
        """Forget payloads that are not held any more, once what was planned with them is folded.

        So what is added while one batch waits has to wait for the next. One that has come back
        meanwhile is stored by the same thread: before we look, and then it is wanted, or after.
        """
        machine, parts = self._machine, self._parts
        while batch := self._to_remove:
            self._to_remove = []
            await parts.runner.learn(lambda: None)
            gone = [
                update
                for update in batch
                if update.id not in machine.updates and not machine.sync.wanted(Item(update.id))
            ]
            await parts.runner.check(partial(parts.store.remove, gone))
        self._removes = False

    def _dial(self, action: Dial) -> None:
        with contextlib.suppress(ValueError):  # a neighbour may tell of what is no address
            self._parts.transport.add_address(action.address)

    def _forget(self, action: Forget) -> None:
        with contextlib.suppress(ValueError):  # as above
            self._parts.transport.forget(action.address)

    def _hang_up(self, action: HangUp) -> None:
        if action.is_surplus:
            text = "more peers are connected than are needed; dial others"
            self._parts.transport.disconnect(action.peer, CROWDED, text)
            return
        self._parts.transport.disconnect(action.peer, TIMEOUT, "nothing heard for too long")

    def _keep(self, action: Keep) -> None:
        is_writing = self._to_keep is not None
        self._to_keep = action.records
        if not is_writing:
            self._spawn(self._keep_latest())

    async def _keep_latest(self) -> None:
        """Write the records, and once more if there are others by then."""
        written: tuple[Record, ...] | None = None
        while (records := self._to_keep) is not None and records is not written:
            try:
                # Not among the checks: a slow disk shall keep no payload waiting.
                await asyncio.to_thread(self._parts.keep_records, records)
            except OSError as exc:
                log.warning("what devices say of each other cannot be written: %s", exc.strerror)
            written = records
        self._to_keep = None

    def _tell(self, action: Tell) -> None:
        log.log(LEVELS[action.level], "%s", action.text)
        if not action.noted:
            return
        if len(self._facts.notes) < MAX_NOTES:
            self._facts.notes.append(action.text)
        elif len(self._facts.notes) == MAX_NOTES:
            self._facts.notes.append("and more, see the log")

    def _finish(self, action: Finish) -> None:
        assert self._over is not None
        if not self._over.done():
            self._over.set_result(action.reason)

    def _count(self, code: str) -> None:
        self._facts.rejected[code] = self._facts.rejected.get(code, 0) + 1

    # What takes time.

    async def _check(self, action: Check) -> None:
        update = action.update
        item = Item(update.id)
        payload = self._incoming.pop(item, memoryview(b""))
        fault = None
        try:
            is_intact = await self._parts.runner.check(lambda: self._take_in(update, payload))
        except RemoteProtocolError as exc:
            is_intact, fault = True, str(exc)
            self._count("payload")
        if not is_intact:
            self._corrupt(item)
            return
        self.carry_out(self._machine.payload_checked(update, fault, self._now()))
        updates = self._machine.updates
        is_held = update.id in updates and not updates.is_void(update.round, update.author)
        if not is_held and update.id not in self._machine.passed.needed.ids:
            # Void by now, or of a round that a base has passed: of no use. The disk may be slow.
            await self._parts.runner.check(lambda: self._parts.store.discard(update.id))

    def _take_in(self, update: Update, payload: memoryview) -> bool:
        """Parse and store a payload, if it matches its hash; tell whether it does."""
        if hash_payload(payload) != update.payload_hash:
            return False
        parsed = self._parts.learner.parse(update.codec, payload)
        self._parts.store.put(update, payload, parsed)
        return True

    async def _check_base(self, action: CheckBase) -> None:
        parts, base = self._parts, action.base
        item = Item(base.digest, base)
        data = self._incoming.pop(item, memoryview(b""))

        def check_and_keep() -> History:
            if hash_payload(data) != base.digest:
                raise RemoteProtocolError("a base that does not match its hash")
            history = parts.learner.history_of(data, base)
            parts.bases.put([data])
            return history

        try:
            history = await parts.runner.check(check_and_keep)
        except RemoteProtocolError as exc:
            self._corrupt(item, str(exc))
            return
        self.carry_out(self._machine.base_checked(base, history, self._now()))
        parts.bases.settle(base.digest)

    async def _cut(self, action: Cut) -> None:
        parts, machine = self._parts, self._machine
        digest, size = await parts.runner.learn(
            lambda: parts.learner.make_base(action.plan, action.history, parts.store.parsed)
        )
        base = Base.of(digest, size, action.history, given=machine.base.given)
        text = "made snapshot %s through round %d, of %d updates"
        log.debug(text, digest.hex()[:12], base.frontier, base.num_included)
        self.carry_out(machine.base_made(action, base, self._now()))
        parts.bases.settle(digest)

    async def _fold(self, plan: FoldPlan) -> bytes:
        """Fold a plan, and let go of the payloads that its base includes."""
        parts, machine = self._parts, self._machine

        def fold() -> bytes:
            digest = parts.learner.fold(plan, parts.store.parsed)
            # No plan on an earlier base comes after this one, unless the base has changed again.
            if plan.frontier != self._frontier and parts.store.retire(
                plan.frontier, lambda: machine.passed.needed
            ):
                self._frontier = plan.frontier
                first = machine.passed.first_own(plan.frontier)
                rounds = parts.learner.taken_back
                for own in [own for own, number in rounds.items() if number < first]:
                    del rounds[own]
            return digest

        return await parts.runner.learn(fold)

    def _corrupt(self, item: Item, text: str = "a payload that does not match its hash") -> None:
        self._count("corrupt")
        actions, culprit = self._machine.payload_corrupt(item, self._now())
        if culprit is not None:
            self._parts.transport.disconnect(culprit, "protocol", text)
        self.carry_out(actions)

    async def _train(self, action: Train) -> None:
        parts, facts = self._parts, self._facts
        if action.is_ahead:
            facts = self._facts_ahead = RoundFacts(opened_at=self._now())
        facts.opened_at = facts.collecting_since = self._now()
        if action.plan is not None:
            await self._fold(action.plan)
        began = self._now()
        self._skip_reason = None
        try:
            trained = await parts.runner.learn(
                lambda: parts.learner.train(action.round, is_ahead=action.is_ahead)
            )
            facts.loss = trained.loss
            facts.num_examples = trained.num_examples
            facts.epsilon = trained.epsilon
            for note in trained.notes:
                self._tell(Tell(Level.WARNING, note))
        except LearningStoppedError:
            return
        except TrainingError as exc:
            self._skip_reason = str(exc)
        facts.train_s = self._now() - began
        self.carry_out(self._machine.trained(self._now()))

    async def _author(self, action: Author) -> None:
        if self._facts_ahead is not None:  # a base was taken over, and the round before not closed
            self._facts = self._facts_ahead.after(self._facts)
            self._facts_ahead = None
        parts, facts = self._parts, self._facts
        began = facts.collecting_since = self._now()
        if self._skip_reason is not None:
            self.carry_out(self._machine.skipped(self._skip_reason, began))
            return
        choice = parts.rate.choose(action.round, self._links.since_last(parts.transport.links()))
        made = await parts.runner.learn(lambda: self._make_update(action.round, choice))
        if isinstance(made, str):
            self.carry_out(self._machine.skipped(made, self._now()))
            return
        update, encoded = made
        facts.collecting_since = self._now()
        facts.encode_s = facts.collecting_since - began
        parts.rate.encoded(len(encoded.payload), encoded.kept_ratio)
        facts.codec, facts.codec_reason = str(choice.codec), choice.reason
        if choice.max_bytes is not None and encoded.kept_ratio is not None:
            facts.codec_reason += f"; {100 * encoded.kept_ratio:.3g}% kept"
        facts.payload_bytes += len(encoded.payload)  # beside those of rounds that were not closed
        facts.dense_bytes += encoded.dense_bytes
        self.carry_out(self._machine.authored(update, self._now()))

    async def _diverged(self, action: Diverged) -> None:
        self._count("diverged")
        held = tuple(u for u in self._machine.updates if u.round <= action.round)
        await self._parts.runner.learn(lambda: self._parts.on_diverged(action, held))

    async def _account(
        self, updates: tuple[Update, ...], change: Callable[[Update, Parsed], None]
    ) -> None:
        """Add what own updates carried to the residual, or subtract it."""
        store = self._parts.store

        def account() -> None:
            for own in updates:
                # Of a twin's the payload is elsewhere, and so is what it has learned.
                if own.id in store:
                    change(own, store.parsed(own))

        await self._parts.runner.learn(account)

    def _make_update(self, round_index: int, choice: Choice) -> tuple[Update, Encoded] | str:
        """Encode, sign, journal and keep the own update; or say why it must not be published."""
        parts = self._parts
        try:
            encoded = parts.learner.encode(choice.codec, choice.max_bytes)
        except TrainingError as exc:
            return str(exc)
        body = UpdateBody(
            run=self._machine.run,
            round=round_index,
            weight=self._facts.num_examples,
            codec=encoded.codec,
            payload_bytes=len(encoded.payload),
            payload_hash=hash_payload(encoded.payload),
        )
        update = sign_update(body, parts.signer)
        parsed = parts.learner.parse(encoded.codec, memoryview(encoded.payload))
        # What the journal says was published outlives this process, whoever else has it.
        parts.store.put(update, encoded.payload, parsed)
        parts.store.keep(update.id)
        try:
            parts.journal(round_index, update.id)
        except OSError as exc:
            parts.learner.take_back(update, parsed)
            parts.store.discard(update.id)
            return f"the journal cannot be written: {exc.strerror}"
        return update, encoded

    async def _close(self, action: Close) -> None:
        parts, facts = self._parts, self._facts
        began = self._now()
        state_digest = await self._fold(action.plan)
        folded_at = self._now()
        try:
            metrics = await parts.runner.learn(parts.learner.evaluate)
        except TrainingError as exc:  # the round counts all the same
            metrics = {}
            self._tell(Tell(Level.WARNING, f"round {action.round}: not evaluated: {exc}"))
        traffic, before = parts.transport.traffic(), self._traffic
        self._traffic = traffic
        closed = ClosedRound(
            close=action,
            facts=facts,
            metrics=metrics,
            state_digest=state_digest,
            exchange_s=began - facts.collecting_since,
            fold_s=folded_at - began,
            time_s=self._now() - facts.opened_at,
            sent=traffic.bytes_sent - before.bytes_sent,
            received=traffic.bytes_received - before.bytes_received,
            authors=tuple(u.author for u in action.plan.rounds.get(action.round, ())),
        )
        self._facts = self._facts_ahead or RoundFacts(opened_at=0.0)
        self._facts.opened_at = self._facts.collecting_since = self._now()
        self._facts_ahead = None
        vitals = await parts.runner.learn(lambda: parts.on_round(closed))
        if vitals is not None:
            self._do(self._machine.tell_vitals(vitals, self._now()))
        self.carry_out(self._machine.folded(action.plan, state_digest, self._now()))


def _parting(code: str) -> Parting:
    if code == CROWDED:
        return Parting.CROWDED
    return Parting.OVER if code in REFUSAL_CODES and code != TIMEOUT else Parting.LOST
