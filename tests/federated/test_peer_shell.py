"""The shell of a peer: what the machine decides happens, on every path, in virtual time."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import pytest
from federated_support import Device
from semantic_support import schema_of

from semantic_net.config import SemanticConfig
from semantic_net.errors import CheckpointError, TrainingError
from semantic_net.federated import peer as module
from semantic_net.federated.outbound import PayloadSource
from semantic_net.federated.parts import ClosedRound, Encoded, Trained
from semantic_net.federated.peer import INTERRUPTED
from semantic_net.protocol import update_set
from semantic_net.protocol.actions import (
    Action,
    Check,
    CheckBase,
    Discard,
    FoldPlan,
    Level,
    Remove,
    Send,
    Serve,
    Tell,
    Write,
)
from semantic_net.protocol.bases import Base
from semantic_net.protocol.frames import FrameDecoder
from semantic_net.protocol.handshake import Hello
from semantic_net.protocol.history import encode_history, history_of_origin
from semantic_net.protocol.identity import PeerId, Signer, short_id
from semantic_net.protocol.item import Item
from semantic_net.protocol.messages import Absent, PackedChunk, encode_message
from semantic_net.protocol.rounds import Ahead, Phase
from semantic_net.protocol.update import Update, UpdateBody, UpdateId, hash_payload, sign_update
from semantic_net.protocol.update_set import UpdateSet
from semantic_net.protocol.vitals import Vitals, VitalSigns
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.rate import BudgetController, Choice
from semantic_net.simulation.virtual_time import run_virtual
from semantic_net.status import LastRound
from semantic_net.transport.base import (
    BulkSource,
    Connected,
    Duplicate,
    Found,
    Received,
    Refused,
    Unreachable,
)
from semantic_net.transport.link import LinkQuality
from semantic_net.transport.memory import MemoryNetwork

NAMES = ("a", "b", "c")


NOISE = memoryview(b"no zstd frame")


def devices(network: MemoryNetwork, **settings: object) -> list[Device]:
    return [
        Device(network, name, tuple(p for p in NAMES if p != name), **settings)  # type: ignore[arg-type]  # passed through
        for name in NAMES
    ]


def network(seed: int = 0) -> MemoryNetwork:
    return MemoryNetwork(seed=seed)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  # virtual time costs nothing
        await asyncio.sleep(0.01)


def test_three_peers_arrive_at_one_state_in_every_round() -> None:
    async def scenario() -> list[Device]:
        all_three = devices(network())
        await asyncio.gather(*(d.run() for d in all_three))
        return all_three

    a, b, c = run_virtual(scenario())
    assert len(a.digests) == 3
    assert a.digests == b.digests == c.digests
    everyone = {d.signer.peer_id for d in (a, b, c)}
    for device in (a, b, c):
        for closed in device.rounds:
            assert closed.close.reason == "all in"
            assert set(closed.authors) == everyone
            assert closed.facts.payload_bytes == 5000
            assert closed.facts.num_examples == 10
            assert closed.sent > 2 * 5000
        assert device.rounds[0].metrics == {"score": 2.0}
        assert device.learner.stopped


def test_bytes_sent_are_bytes_received() -> None:
    async def scenario() -> list[Device]:
        all_three = devices(network(), payload_bytes=500_000)
        await asyncio.gather(*(d.run() for d in all_three))
        return all_three

    all_three = run_virtual(scenario())
    traffic = [d.transport.traffic() for d in all_three]
    assert sum(t.bytes_sent for t in traffic) == sum(t.bytes_received for t in traffic)
    for t in traffic:  # two peers, three rounds; heartbeats and the rest are small
        assert 2 * 3 * 500_000 < t.bytes_sent < 1.02 * 2 * 3 * 500_000


def test_nothing_keeps_a_payload_that_has_been_served() -> None:
    async def scenario() -> list[Device]:
        all_three = devices(network(), rounds=6)
        await asyncio.gather(*(d.run() for d in all_three))
        return all_three

    all_three = run_virtual(scenario())
    gc.collect()
    assert not [o for o in gc.get_objects() if type(o) is PayloadSource]
    assert len(all_three) == 3, "they are all still there"


def test_a_held_payload_outlives_whatever_is_said_of_its_id() -> None:
    async def scenario() -> None:
        a = Device(network(), "a", (), rounds=1)
        await a.run()
        [own] = a.machine.updates
        item = Item(own.id)
        a.peer.carry_out([Write(item, 4, 0, memoryview(b"junk")), Discard(item)])
        assert bytes(a.store.payload(own.id)) != b"junk"

    run_virtual(scenario())


def test_who_wants_too_much_at_a_time_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SERVING", 2)

    async def scenario() -> None:
        a = Device(network(), "a", (), rounds=4)
        disconnects: list[tuple[str, str, str]] = []
        await a.run()
        a.transport.disconnect = lambda *told: disconnects.append(told)  # type: ignore[method-assign]
        a.transport.stream = lambda peer, source: None  # type: ignore[method-assign]
        own = [update.id for update in a.machine.updates]
        greedy = PeerId("greedy")
        a.peer.carry_out([Serve(greedy, own[0], 0)] * 50)
        a.peer.carry_out([Serve(greedy, own[1], 0)])
        assert not disconnects, "to ask again is no crime"
        a.peer.carry_out([Serve(greedy, own[2], 0)])
        assert disconnects == [(greedy, "protocol", "wants more than 2 payloads at a time")]

    run_virtual(scenario())


def test_a_packed_part_that_nobody_asked_for_is_not_opened() -> None:
    """26 bytes open to 256 kB: enough of them would keep the loop busy."""

    async def scenario() -> None:
        a, stranger = Device(network(), "a", (), rounds=1), PeerId("stranger")
        await a.run()
        [own] = a.machine.updates
        a.machine.connected(stranger, 0.0)
        for number in (own.id, b"u" * 32):  # held; unknown
            [frame] = FrameDecoder().feed(encode_message(PackedChunk(number, 0, NOISE)))
            a.peer._transport_event(Received(stranger, frame))  # no error: it is not even read

    run_virtual(scenario())


def test_what_is_gone_when_its_turn_comes_is_said_to_be_absent() -> None:
    async def scenario() -> None:
        a = Device(network(), "a", (), rounds=2)
        await a.run()
        sent: list[bytes] = []
        queued: list[BulkSource] = []
        a.transport.send = lambda peer, frame, replaces=None: sent.append(frame)  # type: ignore[method-assign]
        a.transport.stream = lambda peer, source: queued.append(source)  # type: ignore[method-assign]
        gone, damaged = (update.id for update in a.machine.updates)
        a.peer.carry_out([Serve(PeerId("b"), gone, 0), Serve(PeerId("b"), damaged, 0)])
        a.store.discard(gone)

        def unreadable(item: UpdateId) -> NoReturn:
            raise CheckpointError("damaged")

        a.store.payload = unreadable  # type: ignore[assignment, method-assign]  # the fault
        assert [source.next_frame(1000) for source in queued] == [None, None]
        assert sent == [encode_message(Absent(gone)), encode_message(Absent(damaged))]

    run_virtual(scenario())


def test_of_what_is_passed_on_only_the_latest_waits() -> None:
    """Its author decides how much of it comes: it must not fill the lane of a slow neighbour."""

    async def scenario() -> None:
        a, author = Device(network(), "a", (), rounds=1), Signer(b"s" * 32)
        sent: list[bytes | None] = []
        a.transport.send = lambda peer, frame, replaces=None: sent.append(replaces)  # type: ignore[method-assign]
        signs = VitalSigns(a.machine.run, 1, lambda *signed: True)
        for signer in (author, a.signer):
            a.peer.carry_out(
                [Send((PeerId("b"),), signs.sign(Vitals(last=LastRound(round=1)), signer))]
            )
        passed_on, own = sent
        assert own is None
        assert passed_on is not None
        assert passed_on != author.public_key, "beside its heartbeat"

    run_virtual(scenario())


def test_a_round_that_cannot_train_is_skipped_with_its_reason() -> None:
    async def scenario() -> list[Device]:
        all_three = devices(network())
        all_three[0].learner.failing_rounds = {2}
        await asyncio.gather(*(d.run() for d in all_three))
        return all_three

    a, b, c = run_virtual(scenario())
    assert a.digests == b.digests == c.digests
    assert a.signer.peer_id not in b.rounds[1].authors
    assert a.rounds[1].facts.payload_bytes == 0
    assert any("the loss is not finite" in note for note in a.rounds[1].facts.notes)
    assert b.rounds[1].close.missing == (a.signer.peer_id,)
    assert b.rounds[1].close.reason == "1 gone or moved on", "nobody waits for what is skipped"


def test_an_update_that_does_not_decode_is_refused_by_all_and_counted() -> None:
    async def scenario() -> list[Device]:
        all_three = devices(network())
        all_three[0].learner.poisoned_rounds = {2}
        results = await asyncio.gather(*(d.run() for d in all_three), return_exceptions=True)
        assert isinstance(results[0], Exception), "its own parser refuses it, too: a bug of ours"
        return all_three

    _, b, c = run_virtual(scenario())
    assert b.digests == c.digests


def test_whoever_has_no_place_in_a_full_round_takes_its_update_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(update_set, "MAX_HELD_AUTHORS", 2)

    async def scenario() -> list[Device]:
        all_three = devices(network(), rounds=6)
        await asyncio.gather(*(d.run() for d in all_three))
        await asyncio.sleep(1)
        return all_three

    all_three = run_virtual(scenario())
    first, second, last = sorted(all_three, key=lambda d: d.signer.peer_id)
    assert first.digests == second.digests == last.digests
    for device in all_three:
        for closed in device.rounds:
            assert set(closed.authors) == {d.signer.peer_id for d in (first, second)}
    others = [u for u in first.store._held.values() if u.update.author == last.signer.peer_id]
    assert others == []
    assert len(last.learner.carried_back) == 6


def test_a_payload_is_forgotten_behind_the_folds_that_were_planned_with_it() -> None:
    async def scenario() -> None:
        a = Device(network(), "a", (), rounds=1)
        await a.run()
        [own] = a.machine.updates
        body = UpdateBody(a.machine.run, 1, 1, "stub", 1, hash_payload(b"x"))
        gone = sign_update(body, Signer(b"s" * 32))
        a.store.put(gone, b"x", 1)
        learn = a.peer._parts.runner.learn
        fold = asyncio.ensure_future(learn(lambda: gone.id in a.store))
        await asyncio.sleep(0)
        a.peer.carry_out([Remove(gone), Remove(own)])
        assert await fold
        await asyncio.sleep(1)
        assert gone.id not in a.store
        assert own.id in a.store, "it is held"

    run_virtual(scenario())


def test_a_journal_that_cannot_be_written_keeps_the_update_back() -> None:
    def full(round_index: int, update_id: bytes) -> None:
        raise OSError(28, "No space left on device")

    async def scenario() -> list[Device]:
        net = network()
        a = Device(net, "a", ("b",), journal=full)
        b = Device(net, "b", ("a",))
        await asyncio.gather(a.run(), b.run())
        return [a, b]

    a, b = run_virtual(scenario())
    assert a.digests == b.digests
    assert all(a.signer.peer_id not in closed.authors for closed in b.rounds)
    assert a.learner.carried_back == [5000] * 3, "what it carried goes into the next update"
    assert any("No space left" in note for note in a.rounds[0].facts.notes)


def test_stopping_says_goodbye_and_the_others_go_on_at_once() -> None:
    async def scenario() -> tuple[list[Device], str, float]:
        all_three = devices(network(), rounds=6)
        loop = asyncio.get_running_loop()
        loop.call_later(4.0, all_three[0].stop.set)
        reason, *_ = await asyncio.gather(*(d.run() for d in all_three))
        return all_three, reason, loop.time()

    (a, b, c), reason, ended_at = run_virtual(scenario())
    assert reason == INTERRUPTED
    assert len(a.rounds) < 6
    assert b.digests == c.digests
    assert len(b.rounds) == 6
    assert ended_at < 20.0, "a goodbye costs no deadline"


def test_a_crash_costs_one_liveness_and_nothing_else() -> None:
    async def scenario() -> tuple[list[Device], float]:
        all_three = devices(network(), rounds=6)
        loop = asyncio.get_running_loop()
        crashed = asyncio.ensure_future(all_three[0].run())

        def crash() -> None:
            all_three[0].transport.crash()
            crashed.cancel()

        loop.call_later(4.0, crash)
        await asyncio.gather(*(d.run() for d in all_three[1:]))
        await asyncio.gather(crashed, return_exceptions=True)
        return all_three, loop.time()

    (_, b, c), ended_at = run_virtual(scenario())
    assert b.digests == c.digests
    assert len(b.rounds) == 6
    assert ended_at < 20.0 + 5.0


def test_another_runs_peer_is_refused_and_counted_by_both() -> None:
    async def scenario() -> list[Device]:
        net = network()
        a = Device(net, "a", ("b",), rounds=1)
        b = Device(net, "b", ("a",), rounds=1, facts={"run": "another"})
        await asyncio.gather(a.run(), b.run())
        return [a, b]

    for device in run_virtual(scenario()):
        assert device.rounds[0].authors == (device.signer.peer_id,)
        assert device.rounds[0].facts.rejected["facts"] >= 1
        assert device.rounds[0].exchange_s < 1.0, "waited for whom nothing brings back"


def test_a_refusal_is_told_once_however_often_the_other_tries(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_REFUSALS_TOLD", 2)
    a = Device(network(), "a", ())
    same = Refused("10.0.0.2:5000", "facts", "momentum: ours 0, theirs 0.5", PeerId("b" * 32))
    for event in (same, same, replace(same, address="10.0.0.2:41000")):
        a.peer._refused(event)
    for port in range(3):
        a.peer._refused(Refused(f"10.0.0.9:{port}", "protocol", "nonsense"))
    a.peer._refused(Refused("10.0.0.9:1", "protocol", "other nonsense"))
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warned == [
        "bbbb-bbbb at 10.0.0.2:5000 is refused: momentum: ours 0, theirs 0.5; "
        "set it the same on both",
        "further refusals are told in the log file only",
        "a stranger at 10.0.0.9:0 is refused: nonsense",
    ]
    assert a.peer._facts.rejected == {"facts": 3, "protocol": 4}


def test_a_refusal_says_who_refuses_whom(caplog: pytest.LogCaptureFixture) -> None:
    a = Device(network(), "a", ())
    for by_us in (True, False):
        a.peer._refused(Refused("10.0.0.2:5000", "revoked", "the device is revoked", None, by_us))
    a.peer._refused(Refused("10.0.0.3:5000", "busy", "too many", None, by_us=False))
    assert [record.getMessage() for record in caplog.records][:2] == [
        "a stranger at 10.0.0.2:5000 is refused: the device is revoked",
        "a stranger at 10.0.0.2:5000 refuses us: the device is revoked",
    ]
    assert a.peer.refused_by == [], "anybody may answer at an address"
    b = PeerId("b" * 32)
    for code, by_us in (("revoked", True), ("busy", False), ("revoked", False)):
        a.peer._refused(Refused("10.0.0.2:5000", code, f"why: {code}", b, by_us))
    assert a.peer.refused_by == ["bbbb-bbbb: why: revoked"]


def test_a_peer_that_stops_looks_at_nothing_any_more() -> None:
    """Its neighbour dies meanwhile: it would hang up on it at each tick, in no time at all."""

    async def scenario() -> tuple[list[float], float]:
        net = network()
        a, b, _ = devices(net, learn_s=20.0)
        loop = asyncio.get_running_loop()
        running, other = asyncio.ensure_future(a.run()), asyncio.ensure_future(b.run())
        await until(lambda: a.machine.rounds.phase is Phase.TRAINING)
        await asyncio.sleep(3.0)
        net.isolate("a")
        await asyncio.sleep(3.0)
        ticks: list[float] = []

        def tick(now: float) -> NoReturn:
            ticks.append(now)
            raise AssertionError  # ends what would never end

        a.machine.tick = tick  # type: ignore[method-assign]  # to see that it is not called
        stopped_at = loop.time()
        due_at = a.machine.next_wakeup(stopped_at)
        assert stopped_at < due_at < stopped_at + module.STOP_S, "while it waits for its training"
        a.stop.set()
        assert await running == INTERRUPTED
        other.cancel()
        return ticks, loop.time() - stopped_at

    ticks, took_s = run_virtual(scenario())
    assert ticks == []
    assert took_s < 2 * module.STOP_S


def test_who_has_left_is_not_lost_and_is_missed_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        all_three = devices(network(), rounds=8)
        asyncio.get_running_loop().call_later(4.0, all_three[0].stop.set)
        await asyncio.gather(*(d.run() for d in all_three))

    run_virtual(scenario())
    said = " ".join(r.getMessage() for r in caplog.records)
    assert f"{short_id(Device(network(), 'a', ()).signer.peer_id)} has left" in said
    assert "lost" not in said
    assert "does not answer" not in said


def test_the_notes_of_a_round_are_bounded() -> None:
    a = Device(network(), "a", ())
    for number in range(1000):
        a.peer._tell(Tell(Level.INFO, str(number)))
    assert len(a.peer._facts.notes) == module.MAX_NOTES + 1
    assert a.peer._facts.notes[-1] == "and more, see the log"


def test_two_updates_of_one_key_void_both_and_are_taken_back() -> None:
    async def scenario() -> list[Device]:
        all_three = devices(network(), rounds=4)
        a, b, _ = all_three
        loop = asyncio.get_running_loop()

        def equivocate() -> None:
            last = a.machine.rounds.last_own
            assert last is not None
            body = UpdateBody(a.machine.run, last.round, 1, "stub", 0, b"0" * 32)
            forged = sign_update(body, a.signer)
            actions, is_void = b.machine.sync.add(forged, loop.time())
            assert is_void
            b.machine.rounds.changed(last.round, by_arrival=False)
            b.peer.carry_out(actions)

        loop.call_later(4.0, equivocate)
        await asyncio.gather(*(d.run() for d in all_three))
        return all_three

    a, b, c = run_virtual(scenario())
    assert a.digests[-1] == b.digests[-1] == c.digests[-1]
    assert a.learner.carried_back == [5000]


def test_a_base_whose_bytes_are_not_what_its_digest_says_is_fetched_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        a = Device(network(), "a", ())
        told: list[tuple[Item, str]] = []
        monkeypatch.setattr(a.peer, "_corrupt", lambda *fault: told.append(fault))
        digest = hash_payload(b"sound" * 8)
        base = Base.of(digest, 40, history_of_origin(digest), given=False)
        item = Item(digest, base)
        a.peer.carry_out([Write(item, 40, 0, memoryview(b"wrong" * 8))])
        await a.peer._check_base(CheckBase(base))
        assert told == [(item, "a base that does not match its hash")]

    run_virtual(scenario())


def test_what_cannot_be_encoded_or_evaluated_costs_a_note_and_no_round() -> None:
    def unsound(codec: Codec | None = None, max_bytes: int | None = None) -> NoReturn:
        raise TrainingError("not a finite number")

    async def scenario() -> list[Device]:
        all_three = devices(network())
        all_three[0].learner.encode = unsound  # type: ignore[method-assign]  # the fault
        all_three[0].learner.evaluate = unsound  # type: ignore[method-assign]  # the fault
        await asyncio.gather(*(d.run() for d in all_three))
        return all_three

    a, b, c = run_virtual(scenario())
    assert a.digests == b.digests == c.digests
    assert len(a.digests) == 3
    assert a.rounds[0].metrics == {}
    assert any("nothing published: not a finite number" in n for n in a.rounds[0].facts.notes)
    assert any("not evaluated: not a finite number" in n for n in a.rounds[0].facts.notes)


def test_a_bug_in_the_learner_ends_the_run_instead_of_hanging_it() -> None:
    async def scenario() -> None:
        device = Device(network(), "a", ())

        def broken(round_index: int, *, is_ahead: bool = False) -> None:
            raise ZeroDivisionError("a user's task has a bug")

        device.learner.train = broken  # type: ignore[assignment, method-assign]  # that is the bug
        await device.run()

    with pytest.raises(ZeroDivisionError, match="a user's task"):
        run_virtual(scenario())


@pytest.mark.parametrize("what", ["look", "tick"])
def test_a_bug_in_what_the_loop_calls_ends_the_run_as_well(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def broken(now: float) -> list[Action]:
        raise ZeroDivisionError("a bug of ours")

    async def main() -> None:
        all_of_them = devices(network())
        running = asyncio.gather(*(device.run() for device in all_of_them))
        a = all_of_them[0]
        await until(lambda: len(a.rounds) == 1)
        monkeypatch.setattr(a.machine, what, broken)
        await running

    with pytest.raises(ZeroDivisionError, match="a bug of ours"):
        run_virtual(main())


def test_a_real_divergence_is_reported_by_both_with_all_that_is_held() -> None:
    async def scenario() -> list[Device]:
        net = network()
        a, b = Device(net, "a", ("b",)), Device(net, "b", ("a",))
        fold = a.learner.fold

        def broken(plan: FoldPlan, parsed: Callable[[Update], int]) -> bytes:
            digest = fold(plan, parsed)
            return digest if plan.through != 2 else bytes(32)  # a bit has flipped

        a.learner.fold = broken  # type: ignore[method-assign]  # the fault
        await asyncio.gather(a.run(), b.run())
        return [a, b]

    for device in run_virtual(scenario()):
        [(report, held)] = device.diverged
        assert (report.round, len(held)) == (2, 4)
        assert report.ours != report.theirs
        assert any(closed.facts.rejected.get("diverged") for closed in device.rounds)


def test_peers_that_know_one_other_come_to_know_all() -> None:
    async def scenario() -> tuple[list[Device], list[int]]:
        net = network()
        chain = [Device(net, "a", ("b",), rounds=4)]
        chain += [Device(net, n, (before,), rounds=4) for before, n in itertools.pairwise("abcde")]
        neighbours: list[int] = []
        asyncio.get_running_loop().call_later(
            6.0, lambda: neighbours.extend(len(d.machine.sync.neighbours()) for d in chain)
        )
        await asyncio.gather(*(d.run() for d in chain))
        return chain, neighbours

    chain, neighbours = run_virtual(scenario())
    assert neighbours == [4] * 5
    assert len({device.digests[-1] for device in chain}) == 1


def test_with_overlap_each_round_is_recorded_with_what_was_done_for_it() -> None:
    """Slow links: what is trained ahead is counted for its own round, and hides the exchange."""

    async def scenario(overlaps: bool) -> tuple[float, list[Device]]:
        slow = network()
        slow.set_link("a", "b", LinkQuality(bandwidth_bytes_s=1000.0))
        both = [
            Device(slow, name, (other,), rounds=6, payload_bytes=3000, overlaps=overlaps, learn_s=1)
            for name, other in (("a", "b"), ("b", "a"))
        ]
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(d.run() for d in both))
        return asyncio.get_running_loop().time() - began, both

    plain_s, _ = run_virtual(scenario(False))
    took_s, both = run_virtual(scenario(True))
    assert took_s < plain_s - 5, "each round but the first hides a second of training"
    for device in both:
        assert [closed.close.round for closed in device.rounds] == [1, 2, 3, 4, 5, 6]
        assert device.learner.trained_ahead == 5
        for closed in device.rounds:
            assert closed.close.reason == "all in"
            assert closed.facts.loss == 1.0 / closed.close.round
            assert closed.facts.payload_bytes == 3000
            assert closed.time_s > 0
    assert both[0].digests == both[1].digests


def test_a_round_that_a_base_includes_leaves_the_next_ones_facts_alone() -> None:
    """What was trained ahead of it was published with its weight."""
    weights: dict[int, int] = {}

    async def scenario() -> Device:
        net = network()
        a = Device(net, "a", ("b",), rounds=8, learn_s=1.0, overlaps=True, base_every=100)
        b = Device(net, "b", ("a",), rounds=8, learn_s=2.0, base_every=100)

        def train(round_index: int, *, is_ahead: bool = False) -> Trained:
            return Trained(float(round_index), round_index)

        make_update = a.peer._make_update

        def note_weight(round_index: int, choice: Choice) -> tuple[Update, Encoded] | str:
            made = make_update(round_index, choice)
            if not isinstance(made, str):
                weights[round_index] = made[0].weight
            return made

        a.learner.train = train  # type: ignore[method-assign]
        a.peer._make_update = note_weight  # type: ignore[method-assign]
        runs = [asyncio.ensure_future(device.run()) for device in (a, b)]
        rounds, machine = a.machine.rounds, a.machine
        await until(lambda: rounds.round == 4 and rounds.phase is Phase.COLLECTING)
        await until(lambda: rounds._ahead is Ahead.TRAINED)
        assert rounds.phase is Phase.COLLECTING
        history = machine.updates.history_through(4, 4)
        digest, size = a.learner.bases.put([b"s" * 32, encode_history(history)])
        base = Base.of(digest, size, history, given=False)
        now = asyncio.get_running_loop().time()
        a.peer.carry_out(machine._compaction._stand_on(base, history, now))
        rounds.base_taken_over()
        await until(lambda: len(a.rounds) == 5)
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
        return a

    a = run_virtual(scenario())
    assert [closed.close.round for closed in a.rounds[:5]] == [1, 2, 3, 5, 6]
    assert all(weight == number for number, weight in weights.items())
    fifth = a.rounds[3].facts
    assert fifth.loss == 5.0
    assert fifth.payload_bytes == 2 * 5000, "that of the round without a record is counted"


def test_a_payload_that_is_kept_in_case_its_base_yields_outlives_a_late_arrival_of_it() -> None:
    """It was dropped with the arrival, and what it carried could not be subtracted any more."""

    async def scenario() -> bool:
        a = Device(network(), "a", ())
        content = b"payload"
        body = UpdateBody(a.machine.run, 3, 1, "stub", len(content), hash_payload(content))
        own = sign_update(body, a.signer)
        with_it = UpdateSet(a.machine.updates.history, [own]).history_through(4, 4)
        a.machine.updates.add(own)
        a.machine.passed.dropped(a.machine.updates.rebase(with_it))
        a.machine.passed.settle()
        a.peer.carry_out([Write(Item(own.id), len(content), 0, memoryview(content))])
        await a.peer._check(Check(own))
        return own.id in a.store

    assert run_virtual(scenario())


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_within_a_budget_updates_follow_the_bandwidth_within_two_rounds(factor: float) -> None:
    """Two peers on one link that changes tenfold after their fourth round."""
    schema = schema_of(10_000_000)
    budget_s, bytes_s = 2.0, 200_000.0

    def size_of(codec: Codec) -> int:
        bits = {"none": 32, "weights_quantize": codec.bit_width}.get(codec.mode, 10 * codec.topk)
        return int(schema.size * bits / 8)

    async def scenario() -> list[ClosedRound]:
        lan = network()
        lan.set_link("a", "b", LinkQuality(bandwidth_bytes_s=bytes_s, delay_s=0.05))
        pair = []
        for name, other in (("a", "b"), ("b", "a")):
            rate = BudgetController(SemanticConfig(budget_s=budget_s), schema)
            device = Device(lan, name, (other,), rounds=10, listen_timeout_s=600, rate=rate)
            device.learner.size_of = size_of
            pair.append(device)
        runs = [asyncio.ensure_future(device.run()) for device in pair]
        await until(lambda: len(pair[0].rounds) == 4)
        changed = LinkQuality(bandwidth_bytes_s=factor * bytes_s, delay_s=0.05)
        lan.set_link("a", "b", changed)
        await asyncio.gather(*runs)
        return pair[0].rounds

    rounds = run_virtual(scenario())
    sizes = [closed.facts.payload_bytes for closed in rounds]
    before, after = budget_s * bytes_s, budget_s * bytes_s * factor
    assert all(0.4 * before < size < 1.1 * before for size in sizes[1:4]), sizes
    # Of the round under way the link has seen both; the one after knows.
    assert all(0.4 * after < size < 1.1 * after for size in sizes[6:]), sizes
    assert "on the slowest link" in rounds[-1].facts.codec_reason
    assert re.search(r"\); [0-9.]+% kept$", rounds[-1].facts.codec_reason)


def test_peers_of_a_mesh_find_each_other_from_one_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of 14 that call one peer, which takes 6 at a time: all get links, and none hears of it."""
    caplog.set_level(logging.INFO)

    async def scenario() -> list[Device]:
        net = network()
        names = [f"d{n:02}" for n in range(15)]
        fleet = [
            Device(net, name, told, mesh_links=2, max_sessions=6)
            for name, told in zip(names, [(), *[(names[0],)] * 14], strict=True)
        ]
        await asyncio.gather(*(device.run() for device in fleet))
        return fleet

    fleet = run_virtual(scenario())
    assert len({tuple(device.digests) for device in fleet}) == 1
    everyone = {device.signer.peer_id for device in fleet}
    for device in fleet:
        assert set(device.rounds[-1].authors) == everyone
        assert not any(closed.facts.rejected for closed in device.rounds)
        assert device.peer.refused_by == []
        assert device.transport.refused_addresses() == frozenset()
        assert device.transport.unmet_addresses() == ()
    assert not [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_seed_that_does_not_answer_is_told_of_once_and_a_hint_never(
    caplog: pytest.LogCaptureFixture,
) -> None:
    a = Device(network(), "a", ("b",), mesh_links=2)

    async def scenario() -> None:
        a.machine.start(0.0)
        for address in ("b:5000", "b:5000", "hearsay:5000"):
            a.peer._transport_event(Unreachable(address, "Connection reset by peer"))
            a.peer._transport_event(Unreachable(address, "Connection refused"))

    run_virtual(scenario())
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warned == ["b:5000 does not answer: Connection refused; trying again"]


def test_only_a_dial_of_our_own_tells_who_is_at_an_address() -> None:
    a = Device(network(), "a", ("b", "c"), mesh_links=2)
    stranger = PeerId("s" * 32)
    hello = Hello(b"k" * 32, b"n" * 32, 1, ["b:5000"], {}, "test")

    async def scenario() -> None:
        a.machine.start(0.0)
        mesh = a.machine.mesh
        assert mesh is not None
        mesh.found("d:5000", 0.0)
        a.peer._transport_event(Refused("b:5000", "facts", "another model", stranger))
        a.peer._transport_event(Connected(stranger, hello, "9.9.9.9:4000"))
        assert set(mesh.dialled) == {"b:5000", "c:5000"}
        a.peer._transport_event(Duplicate("b:5000", stranger))
        assert set(mesh.dialled) == {"c:5000"}
        a.peer._transport_event(Refused("c:5000", "facts", "another model", dialled=True))
        assert set(mesh.dialled) == {"d:5000"}

    run_virtual(scenario())


def test_what_the_network_finds_is_dialled_or_kept_in_view() -> None:
    async def scenario() -> None:
        plain, meshed = (
            Device(network(), "a", (), mesh_links=links, rounds=1) for links in (None, 2)
        )
        for device in (plain, meshed):
            running = asyncio.ensure_future(device.run())
            await asyncio.sleep(0.1)
            device.peer._transport_event(Found("b:5000"))
            device.peer.found("c:5000")
            await running
        assert meshed.machine.mesh is not None
        meshed.peer.found("d:5000")
        assert "d:5000" not in meshed.machine.mesh.view, "it is over"
        with pytest.raises(ValueError, match="is not an address"):
            plain.peer.found("nowhere")

    run_virtual(scenario())
