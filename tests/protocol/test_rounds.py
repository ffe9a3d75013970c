"""The round machine: who is expected, when a round closes, and under which round to publish."""

from __future__ import annotations

from typing import Any

import pytest
from protocol_support import (
    BASE,
    BASES,
    ORIGIN,
    RUN,
    heartbeat,
    heartbeat_body,
    only,
    origin,
    payload,
    signer,
    update,
)

from semantic_net.protocol import update_set
from semantic_net.protocol.actions import Action, Author, Close, Finish, Level, Tell, Train
from semantic_net.protocol.bases import Bases
from semantic_net.protocol.expected import MAX_IN_VAIN
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.messages import Chunk, Have, HaveEntry
from semantic_net.protocol.roster import Roster
from semantic_net.protocol.rounds import (
    NEVER,
    START_PATIENCE,
    TRAININGS_WATCHED,
    WATCH_PATIENCE,
    Past,
    Phase,
    Rounds,
    RoundsConfig,
)
from semantic_net.protocol.sync import Sync
from semantic_net.protocol.turns import Turns
from semantic_net.protocol.update import Update
from semantic_net.protocol.update_set import UpdateSet

LISTEN_S, START_S, LIVENESS_S, SETTLE_S = 60.0, 120.0, 10.0, 8.0
ME = signer("me")


class Scene:
    """A round machine, and what it sees of others, by name."""

    def __init__(
        self,
        rounds: int = 5,
        *,
        past: Past | None = None,
        quorum: float = 1.0,
        num_peers: int = 0,
        observes: bool = False,
        overlaps: bool = False,
        settle_s: float = 0.0,
        turn_period: int = 1,
    ):
        self.now = 0.0
        self.updates = UpdateSet(ORIGIN)
        self.roster = Roster(LIVENESS_S)
        self.sync = Sync(self.updates, LIVENESS_S)
        cfg = RoundsConfig(
            rounds=rounds,
            listen_timeout_s=LISTEN_S,
            start_timeout_s=START_S,
            quorum=quorum,
            num_peers=num_peers,
            observes=observes,
            overlaps=overlaps,
            settle_s=settle_s,
        )
        self.bases = Bases(BASES, ME.peer_id, origin(BASE), self.updates, self.roster)
        self.rounds = Rounds(
            cfg,
            ME.peer_id,
            self.roster,
            self.updates,
            self.sync,
            self.bases,
            past or Past(),
            Turns(RUN, turn_period),
        )
        self.said: list[Action] = []
        self._sequence = 0

    # What happens.

    def wait(self, seconds: float) -> list[Action]:
        """Let time pass; everyone who is alive stays alive."""
        alive = dict(self.roster.alive(self.now))
        self.now += seconds
        for peer, body in alive.items():
            self.roster.hear(peer, body, heartbeat(ME, body), self.now)
        return self.step()

    def silence(self) -> list[Action]:
        """Let so much time pass that nobody counts as alive."""
        self.now += LIVENESS_S
        return self.step()

    def step(self) -> list[Action]:
        if self.rounds.phase is Phase.STARTING and self.rounds.deadline is None:
            return []  # not begun
        return self.do(self.rounds.step(self.now))

    def do(self, actions: list[Action]) -> list[Action]:
        self.said += actions
        return actions

    def hear(self, *names: str, **says: Any) -> list[Action]:
        """Hear the heartbeats of peers."""
        self._sequence += 1
        for name in names:
            body = heartbeat_body(sequence=self._sequence, **says)
            who = signer(name)
            self.roster.hear(who.peer_id, body, heartbeat(who, body), self.now)
            self.rounds.heard(who.peer_id, body)
        return self.step()

    def meet(self, *names: str, **says: Any) -> list[Action]:
        """Connect to neighbours that hold nothing, and hear them."""
        for name in names:
            self.sync.connected(peer(name), self.now)
            self.sync.have(peer(name), Have((), True), self.now)
        return self.hear(*names, **says)

    def hold(self, *updates: Update) -> list[Action]:
        """Get updates, payloads and all."""
        for one in updates:
            self.updates.add(one)
            self.rounds.changed(one.round, by_arrival=True)
        return self.step()

    def announce(self, name: str, *updates: Update) -> list[Action]:
        """Let a neighbour say that it holds updates; nothing comes of it yet."""
        entries = tuple(HaveEntry(u.round, u.author, u.id) for u in updates)
        self.sync.have(peer(name), Have(entries, False), self.now)
        return self.step()

    # What the machine does.

    def begin(self) -> list[Action]:
        self.do(self.rounds.begin(self.now))
        return self.step()

    def train(self) -> Author:
        [author] = only(self.do(self.rounds.trained(self.now)), Author)
        return author

    def publish(self) -> list[Action]:
        """End training and publish; return what follows."""
        own = update(ME, self.train().round)
        self.updates.add(own)
        return self.do(self.rounds.authored(own, self.now))

    def fold(self) -> list[Action]:
        return self.do(self.rounds.folded(self.now))

    def texts(self) -> list[str]:
        return [tell.text for tell in only(self.said, Tell)]


def peer(name: str) -> PeerId:
    return signer(name).peer_id


def peers(*names: str) -> frozenset[PeerId]:
    return frozenset(map(peer, names))


def closed(actions: list[Action]) -> tuple[int, str] | None:
    found = only(actions, Close)
    return (found[0].round, found[0].reason) if found else None


def opened(actions: list[Action]) -> tuple[int, frozenset[PeerId]]:
    [train] = only(actions, Train)
    return train.round, train.expected


def scene_in_round(number: int, *names: str, quorum: float = 1.0) -> Scene:
    """Return a scene that trains in a round, of five, in which these peers are expected."""
    made = Scene(past=Past(closed_round=number - 1), quorum=quorum)
    made.hear(*names, round_index=number, next_round=number)
    assert opened(made.begin()) == (number, peers(*names))
    return made


@pytest.fixture
def scene() -> Scene:
    """Three peers, in round 2, training."""
    return scene_in_round(2, "a", "b")


# Starting.


def test_the_first_round_opens_when_all_addresses_said_hello_and_are_heard() -> None:
    scene = Scene()
    scene.rounds.waiting_for = ("10.0.0.2:5000",)
    assert only(scene.begin(), Tell) == []
    assert scene.texts() == ["waiting for 10.0.0.2:5000, at most 120 s"]
    assert scene.meet("a", ready=False) == []
    scene.rounds.waiting_for = ()
    assert opened(scene.step()) == (1, peers("a")), "expected though it is not ready yet"


def test_a_neighbour_must_be_heard_and_have_listed() -> None:
    scene = Scene()
    scene.sync.connected(peer("a"), 0.0)
    assert scene.begin() == []
    assert scene.hear("a") == []
    scene.sync.have(peer("a"), Have((), True), 0.0)
    assert opened(scene.step()) == (1, peers("a"))


@pytest.mark.parametrize(
    ("obstacle", "says"),
    [
        ("address", "not connected to 10.0.0.2:5000 in 120 s; going on"),
        ("heartbeat", "still without some of the others' heartbeats after 120 s; going on"),
        ("updates", "still without some of the others' updates after 120 s; going on"),
    ],
)
def test_at_the_start_timeout_a_peer_goes_on_and_says_what_was_missing(
    obstacle: str, says: str
) -> None:
    scene = Scene()
    if obstacle == "address":
        scene.rounds.waiting_for = ("10.0.0.2:5000",)
    else:
        scene.sync.connected(peer("a"), 0.0)
        scene.sync.have(peer("a"), Have((), True), 0.0)
    scene.begin()
    if obstacle == "updates":
        scene.announce("a", update(signer("b"), 1))
        scene.hear("a", round_index=2, next_round=2)
    assert scene.wait(START_S - 1) == []
    assert opened(scene.wait(1))[0] == (2 if obstacle == "updates" else 1)
    assert says in scene.texts()


def test_without_peers_nobody_is_waited_for() -> None:
    scene = Scene(rounds=1)
    assert opened(scene.begin()) == (1, frozenset())
    assert closed(scene.publish()) == (1, "nobody expected")
    [finish] = scene.fold()
    assert finish == Finish("done, after round 1")


def test_who_looks_for_peers_starts_when_nobody_new_has_turned_up_for_a_while() -> None:
    scene = Scene(settle_s=SETTLE_S)
    assert only(scene.begin(), Train) == []
    assert scene.texts() == ["looking for peers, at most 120 s"]
    assert scene.wait(60) == []
    assert scene.meet("a", ready=False) == []
    assert scene.wait(SETTLE_S - 1) == []
    assert scene.meet("b", ready=False) == [], "which makes others likely"
    assert scene.wait(SETTLE_S - 1) == []
    assert scene.hear("a", "b", ready=False) == [], "they are no news"
    assert opened(scene.wait(1)) == (1, peers("a", "b"))


def test_who_looks_for_peers_waits_for_those_it_was_told_of_as_well() -> None:
    scene = Scene(settle_s=SETTLE_S)
    scene.rounds.waiting_for = ("10.0.0.2:5000",)
    scene.begin()
    assert scene.texts() == ["waiting for 10.0.0.2:5000 and looking for peers, at most 120 s"]
    scene.meet("a")
    assert scene.wait(SETTLE_S) == []
    scene.rounds.waiting_for = ()
    assert opened(scene.step()) == (1, peers("a"))


@pytest.mark.parametrize(("found", "number"), [((), "no"), (("a",), "1")])
def test_at_the_start_timeout_nobody_is_looked_for_any_more(
    found: tuple[str, ...], number: str
) -> None:
    scene = Scene(settle_s=SETTLE_S)
    scene.begin()
    assert scene.wait(START_S - 1) == []
    assert scene.meet(*found, ready=False) == []
    assert opened(scene.wait(1)) == (1, peers(*found))
    assert f"found {number} peers in 120 s; going on" in scene.texts()


def test_who_finds_a_run_under_way_does_not_wait_for_more() -> None:
    scene = Scene(settle_s=SETTLE_S)
    scene.begin()
    assert opened(scene.meet("a", "b", round_index=3, next_round=3))[0] == 3


def test_who_looks_for_peers_and_has_found_none_is_cut_off() -> None:
    scene = Scene(settle_s=SETTLE_S)
    scene.begin()
    assert opened(scene.wait(START_S)) == (1, peers())
    assert closed(scene.publish()) is None
    assert scene.texts()[-1].startswith("no peer is heard: training goes on alone")
    assert closed(scene.wait(LISTEN_S)) == (1, "deadline, cut off")


def test_a_late_joiner_starts_in_the_open_round_with_what_came_before_and_delays_nobody() -> None:
    made = Scene()
    made.sync.connected(peer("a"), 0.0)
    made.begin()
    assert made.hear("a", round_index=4, next_round=4) == []
    assert not made.rounds.is_ready, "so nobody expects it"
    made.announce("a", update(signer("a"), 3))
    made.sync.have(peer("a"), Have((), True), 0.0)
    assert made.step() == [], "the state to train on is not here"
    made.announce("a", update(signer("a"), 4))
    made.sync.add(update(signer("a"), 3), 0.0)
    [train] = only(made.step(), Train)
    assert train.round == 4, "round 4 itself may arrive later"
    assert train.plan is not None
    assert (train.plan.through, list(train.plan.rounds)) == (3, [3])


def fetching(scene: Scene, number: int) -> Update:
    """Let one more update arrive; return it."""
    one = update(signer("a"), number)
    scene.announce("a", one)
    scene.sync.header(peer("a"), one, scene.now)
    scene.sync.chunk(peer("a"), Chunk(one.id, 0, memoryview(payload("x"))), scene.now)
    scene.sync.add(one, scene.now)
    return one


def late_joiner() -> Scene:
    """Return a scene past its start timeout, with updates of rounds 1 and 2 on their way."""
    scene = Scene(rounds=100)
    scene.meet("a", round_index=3, next_round=3)
    scene.announce("a", update(signer("a"), 1), update(signer("a"), 2))
    scene.begin()
    scene.wait(START_S - 1)
    fetching(scene, 1)
    scene.wait(1)
    assert scene.rounds.phase is Phase.STARTING
    assert "still fetching" in scene.texts()[-1]
    return scene


def test_past_the_timeout_a_joiner_still_waits_for_what_keeps_arriving() -> None:
    scene = late_joiner()
    scene.hold(update(signer("a"), 1))
    scene.sync.add(update(signer("a"), 1), scene.now)
    scene.sync.add(update(signer("a"), 2), scene.now)
    assert opened(scene.step())[0] == 3


def test_but_not_for_what_is_published_meanwhile() -> None:
    scene = late_joiner()
    scene.hear("a", round_index=7, next_round=7)
    scene.announce("a", update(signer("a"), 5))
    scene.sync.add(update(signer("a"), 1), scene.now)
    scene.sync.add(update(signer("a"), 2), scene.now)
    assert opened(scene.step())[0] == 7


def test_nor_when_nothing_arrives_any_more() -> None:
    scene = late_joiner()
    assert scene.rounds.deadline == scene.now + LIVENESS_S - 1
    assert scene.wait(LIVENESS_S - 2) == []
    assert opened(scene.wait(1))[0] == 3


def test_nor_for_ever() -> None:
    scene = late_joiner()
    number = 10
    while scene.rounds.phase is Phase.STARTING:
        scene.hear("a", round_index=3, next_round=3)
        fetching(scene, number)
        scene.wait(5)
        number += 1
    assert scene.now == START_PATIENCE * START_S


def test_a_restarted_peer_goes_on_after_its_last_round() -> None:
    own = update(ME, 6)
    for past in (Past(closed_round=6), Past(authored_round=6), Past(last_own=own)):
        scene = Scene(rounds=9, past=past)
        assert opened(scene.begin())[0] == 7
        assert scene.rounds.next_round == 7


def test_a_late_peer_does_not_wait_for_those_who_may_be_anywhere() -> None:
    scene = Scene(rounds=9)
    scene.rounds.waiting_for = ("10.0.0.9:5000",)
    assert only(scene.begin(), Train) == []
    scene.meet("a", round_index=1, next_round=1)
    assert only(scene.step(), Train) == [], "in the first round all are expected"
    scene.hear("a", round_index=4, next_round=4)
    assert only(scene.said, Train) == [], "it may lie, and those named may know better"
    scene.meet("b", round_index=4, next_round=4)
    scene.step()
    assert [train.round for train in only(scene.said, Train)] == [4]
    assert not any("no answer" in text for text in scene.texts())


def test_where_all_peers_are_counted_the_start_waits_to_hear_of_them() -> None:
    scene = Scene(num_peers=2)
    scene.meet("a")
    assert only(scene.begin(), Train) == []
    scene.hear("b", ready=False)  # no neighbour, by way of one
    assert [train.expected for train in only(scene.said, Train)] == [peers("a", "b")]
    late = Scene(num_peers=2)
    late.meet("a")
    late.begin()
    late.wait(START_S)
    assert "heard of 1 of 2 peers in 120 s; going on" in late.texts()


def test_where_a_peer_comes_in_is_said() -> None:
    scene = Scene(rounds=9, past=Past(closed_round=5, authored_round=6))
    scene.meet("a", round_index=8, next_round=8)
    scene.begin()
    assert scene.texts() == ["resumed at round 8; the others are in round 8"]
    scene = Scene(rounds=9)
    scene.meet("a", round_index=8, next_round=8)
    scene.begin()
    assert scene.texts() == ["joining at round 8; the others are in round 8"]
    scene = Scene(rounds=9)
    scene.begin()
    assert scene.texts() == []


def test_a_peer_without_a_journal_learns_its_last_round_from_others() -> None:
    scene = Scene(rounds=9)
    scene.meet("a", round_index=3, next_round=3)
    scene.announce("a", update(ME, 5))
    assert scene.begin() == [], "an own update is waited for, whatever its round"
    scene.sync.add(update(ME, 5), 0.0)
    assert opened(scene.step())[0] == 6
    other = Scene(rounds=9)
    other.rounds.own_round_known(7)
    assert opened(other.begin())[0] == 8


def test_an_own_update_found_late_is_not_published_over() -> None:
    scene = scene_in_round(2, "a")
    scene.hold(update(ME, 2))
    author = scene.train()
    assert (author.round, author.skipped) == (3, (2,))
    assert scene.texts()[-1] == "skipped round 2: over, or signed already"


def test_an_own_update_of_the_last_round_leaves_nothing_to_publish() -> None:
    scene = scene_in_round(5, "a")
    scene.hold(update(ME, 5))
    actions = scene.do(scene.rounds.trained(scene.now))
    assert only(actions, Author) == []
    assert "this key may sign for no later one" in scene.texts()[-1]
    assert scene.rounds.next_round == 6


def test_a_run_that_is_over_is_not_begun_again() -> None:
    [finish] = only(Scene(rounds=5, past=Past(closed_round=5)).begin(), Finish)
    assert finish.reason == (
        "nothing to do: all rounds up to training.rounds = 5 are done; "
        "more of them (--rounds) goes on, --resume never starts afresh"
    )


def test_a_peer_that_died_before_its_last_record_only_collects_and_folds() -> None:
    scene = Scene(rounds=5, past=Past(closed_round=4, authored_round=5))
    scene.meet("a", round_index=5, next_round=5)
    assert only(scene.begin(), Train) == []
    assert scene.rounds.phase is Phase.COLLECTING
    scene.hold(update(signer("a"), 5))
    actions = scene.hear("a", round_index=5, next_round=6, held=scene.updates.digest)
    assert closed(actions) == (5, "all in")


# Who is expected.


@pytest.mark.parametrize(
    ("says", "is_expected"),
    [
        ({"round_index": 2, "next_round": 3}, True),
        ({"round_index": 1, "next_round": 1}, True),
        ({"round_index": 3, "next_round": 4}, False),
        ({"round_index": 3, "next_round": 3, "ready": False}, False),
        ({"round_index": 3, "next_round": 3, "leaving": True}, False),
        ({"round_index": 3, "next_round": 4, "last": update(signer("c"), 3)}, True),
    ],
    ids=["a round behind", "two behind", "past it", "not ready", "leaving", "published in it"],
)
def test_expected_is_who_may_still_publish_in_the_round_or_has(
    scene: Scene, says: dict[str, Any], is_expected: bool
) -> None:
    scene.hold(update(signer("a"), 2), update(signer("b"), 2))
    assert closed(scene.publish()) == (2, "all in")
    scene.hear("c", **says)
    number, expected = opened(scene.fold())
    assert (number, peer("c") in expected) == (3, is_expected)


# When a round closes.


def test_a_round_closes_when_every_expected_update_is_in(scene: Scene) -> None:
    scene.hold(update(signer("a"), 2))
    assert closed(scene.publish()) is None
    actions = scene.hold(update(signer("b"), 2))
    assert closed(actions) == (2, "all in")
    assert only(actions, Close)[0].missing == ()


def test_a_round_closes_at_the_deadline_with_what_is_in(scene: Scene) -> None:
    scene.hold(update(signer("a"), 2))
    scene.publish()
    assert closed(scene.wait(LISTEN_S - 0.1)) is None
    [close] = only(scene.wait(0.1), Close)
    assert (close.reason, close.missing) == ("deadline, 1 missing", (peer("b"),))


@pytest.mark.parametrize(
    ("quorum", "enough"), [(1.0, 3), (0.99, 3), (0.5, 2), (0.34, 2), (0.01, 1)]
)
def test_a_quorum_closes_a_round_and_names_the_others(quorum: float, enough: int) -> None:
    names = ("a", "b", "c")
    scene = scene_in_round(2, *names, quorum=quorum)
    assert closed(scene.publish()) is None
    for name in names[: enough - 1]:
        assert closed(scene.hold(update(signer(name), 2))) is None
    [close] = only(scene.hold(update(signer(names[enough - 1]), 2)), Close)
    missing = len(names) - enough
    assert close.reason == (f"quorum, {missing} missing" if missing else "all in")
    assert close.missing == tuple(sorted(peers(*names[enough:])))


def test_the_deadline_runs_from_a_skip_as_well(scene: Scene) -> None:
    scene.train()
    scene.wait(30)
    scene.do(scene.rounds.skipped("the loss is not finite", scene.now))
    assert scene.texts()[-1] == "round 2: nothing published: the loss is not finite"
    assert closed(scene.wait(LISTEN_S - 1)) is None
    assert closed(scene.wait(1)) == (2, "deadline, 2 missing")


def test_who_is_silent_is_not_waited_for(scene: Scene) -> None:
    scene.publish()
    scene.hold(update(signer("b"), 2))
    scene.now += LIVENESS_S
    actions = scene.hear("b", round_index=2, next_round=3)
    assert closed(actions) == (2, "1 gone or moved on")
    assert only(actions, Close)[0].missing == (peer("a"),)


def test_who_has_moved_past_the_round_is_not_waited_for(scene: Scene) -> None:
    scene.publish()
    scene.hold(update(signer("b"), 2))
    assert closed(scene.hear("a", round_index=2, next_round=3)) == (2, "1 gone or moved on")


def test_a_published_update_is_waited_for_though_its_heartbeat_overtook_it(scene: Scene) -> None:
    scene.hold(update(signer("b"), 2))
    scene.publish()
    mine = update(signer("a"), 2)
    assert closed(scene.hear("a", round_index=2, next_round=3, last=mine)) is None
    later = update(signer("a"), 3)
    assert closed(scene.hear("a", round_index=3, next_round=4, last=later)) is None
    assert closed(scene.hold(mine)) == (2, "all in")


def test_what_died_with_an_earlier_process_is_not_waited_for(scene: Scene) -> None:
    scene.hold(update(signer("b"), 2))
    scene.publish()
    scene.hear("a", round_index=2, next_round=3, last=update(signer("a"), 2))
    reborn = scene.hear("a", incarnation=2, round_index=0, next_round=3, ready=False)
    assert closed(reborn) == (2, "1 gone or moved on")


def test_an_update_that_a_live_neighbour_holds_is_waited_for() -> None:
    scene = scene_in_round(2, "a")
    scene.sync.connected(peer("c"), 0.0)
    scene.hear("c", round_index=3, next_round=3)
    scene.announce("c", update(signer("a"), 2))
    scene.publish()
    assert closed(scene.hear("a", round_index=2, next_round=3)) is None, "somebody has it"
    scene.now += LIVENESS_S
    actions = scene.hear("a", round_index=2, next_round=3)
    assert closed(actions) == (2, "1 gone or moved on"), "nobody who is alive has it"


def test_an_update_that_is_refused_is_not_waited_for(scene: Scene) -> None:
    scene.hold(update(signer("b"), 2))
    scene.publish()
    scene.sync.inadmissible(update(signer("a"), 2), scene.now)
    assert closed(scene.step()) == (2, "1 gone or moved on")


def test_an_update_for_which_there_is_no_place_is_not_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update_set, "MAX_HELD_AUTHORS", 1)
    before, after = sorted((signer("a"), signer("b")), key=lambda who: who.peer_id)
    scene.hold(update(before, 2))
    assert scene.updates.is_crowded_out(2, after.peer_id)
    assert closed(scene.publish()) == (2, "1 gone or moved on")


def test_nobody_expected_closes_at_once_unless_cut_off() -> None:
    scene = scene_in_round(2)
    scene.hear("a", round_index=0, next_round=1, ready=False)
    assert closed(scene.publish()) == (2, "nobody expected")


def test_a_peer_that_is_cut_off_keeps_to_the_deadline_and_says_so_once(scene: Scene) -> None:
    scene.publish()
    assert closed(scene.silence()) is None
    assert closed(scene.silence()) is None
    assert len([t for t in scene.texts() if t.startswith("no peer is heard")]) == 1
    scene.now = LISTEN_S
    assert closed(scene.step()) == (2, "deadline, cut off")


def test_who_knows_of_peers_and_has_met_none_is_cut_off() -> None:
    scene = scene_in_round(2)
    scene.rounds.waiting_for = ("10.0.0.3:5000",)
    assert closed(scene.publish()) is None
    assert "each round waits 60 s for one (p2p.listen_timeout_s)" in scene.texts()[-1]
    scene.now = LISTEN_S
    [close] = only(scene.step(), Close)
    assert (close.reason, close.unreachable) == ("deadline, cut off", ("10.0.0.3:5000",))


def test_the_start_waits_for_none_that_turn_us_away() -> None:
    scene = Scene()
    scene.rounds.waiting_for = ("10.0.0.2:5000", "10.0.0.3:5000")
    scene.rounds.refused = frozenset({"10.0.0.2:5000"})
    assert only(scene.begin(), Train) == []
    scene.rounds.refused = frozenset(scene.rounds.waiting_for)
    assert opened(scene.step()) == (1, peers())


def test_nobody_waits_for_those_who_turn_us_away() -> None:
    scene = scene_in_round(2)
    scene.rounds.waiting_for = ("10.0.0.3:5000", "10.0.0.4:5000")
    scene.rounds.refused = frozenset({"10.0.0.3:5000"})
    assert closed(scene.publish()) is None, "the other one may come back"
    scene.rounds.refused = frozenset(scene.rounds.waiting_for)
    [close] = only(scene.step(), Close)
    assert (close.reason, close.unreachable) == ("nobody expected", scene.rounds.waiting_for)


def test_who_lets_deadlines_pass_is_not_waited_for_until_something_of_it_comes() -> None:
    """It was ready in every heartbeat, published nothing, and each round waited for it."""
    scene = scene_in_round(1, "a")
    for number in range(1, MAX_IN_VAIN + 1):
        assert closed(scene.publish()) is None
        assert closed(scene.wait(LISTEN_S)) == (number, "deadline, 1 missing")
        scene.hear("a", round_index=number + 1, next_round=number + 1)
        scene.fold()
    assert closed(scene.publish()) == (MAX_IN_VAIN + 1, "nobody expected")
    scene.hold(update(signer("a"), 1))
    scene.hear("a", round_index=MAX_IN_VAIN + 2, next_round=MAX_IN_VAIN + 2)
    scene.fold()
    assert scene.rounds.expected == peers("a")


def test_who_only_says_that_it_has_published_is_not_waited_for_for_ever() -> None:
    """Its heartbeat named an update that nobody could have, in each round anew."""
    scene = Scene()
    waited = []
    for number in range(1, MAX_IN_VAIN + 2):
        scene.hear("a", next_round=NEVER, last=update(signer("a"), number), ready=False)
        if number == 1:
            scene.begin()
        else:
            scene.fold()
        waited.append(peer("a") in scene.rounds.expected)
        scene.publish()
        scene.wait(LISTEN_S)
    assert waited == [True] * MAX_IN_VAIN + [False]


def test_a_peer_that_hears_others_again_says_so(scene: Scene) -> None:
    scene.publish()
    scene.silence()
    scene.hear("a", round_index=2, next_round=2)
    assert scene.texts()[-1] == "peers are heard again"


def test_after_everyones_goodbye_rounds_do_not_wait() -> None:
    scene = scene_in_round(2, "a")
    scene.hear("a", round_index=2, next_round=2, leaving=True)
    assert closed(scene.publish()) == (2, "1 gone or moved on")
    scene.fold()
    assert closed(scene.publish()) == (3, "nobody expected")


# Those behind.


@pytest.mark.parametrize(
    ("open_elsewhere", "number", "skipped"),
    [(2, 2, ()), (3, 2, ()), (4, 4, (2, 3)), (99, 5, (2, 3, 4))],
)
def test_two_rounds_behind_or_more_publishes_under_the_open_round(
    scene: Scene, open_elsewhere: int, number: int, skipped: tuple[int, ...]
) -> None:
    scene.hear("a", "b", round_index=open_elsewhere, next_round=open_elsewhere)
    author = scene.train()
    assert (author.round, author.skipped) == (number, skipped)
    tells = [t for t in scene.texts() if "skipped" in t]
    assert bool(tells) == bool(skipped)


def test_who_jumps_expects_those_who_are_in_that_round(scene: Scene) -> None:
    scene.hear("c", round_index=4, next_round=5, last=update(signer("c"), 4))
    scene.hear("a", round_index=4, next_round=4)
    scene.train()
    assert scene.rounds.expected == peers("a", "b", "c")


def test_a_peer_behind_opens_the_others_round_on_what_they_have_folded(scene: Scene) -> None:
    scene.publish()
    ahead = [update(signer(name), n) for name in "ab" for n in (2, 3)]
    scene.hold(*ahead)
    scene.hear("a", "b", round_index=4, next_round=4)
    [train] = only(scene.fold(), Train)
    assert (train.round, train.expected) == (4, peers("a", "b"))
    assert train.plan is not None
    assert (train.plan.through, train.plan.changed_from, list(train.plan.rounds)) == (3, 3, [2, 3])
    assert scene.texts()[-1] == "skipped round 3: the others are in round 4"


# The last round.


@pytest.fixture
def last() -> Scene:
    """The last round is published, a's update is in, and a neighbour."""
    scene = Scene(rounds=5, past=Past(closed_round=4))
    scene.meet("a", round_index=5, next_round=5)
    scene.begin()
    scene.publish()
    scene.hold(update(signer("a"), 5))
    assert scene.rounds.phase is Phase.SERVING
    assert not scene.rounds.is_ready
    return scene


def equal(scene: Scene, **says: Any) -> dict[str, Any]:
    return {"round_index": 5, "next_round": 6, "held": scene.updates.digest, **says}


def test_before_its_last_record_a_peer_serves_until_all_hold_the_same(last: Scene) -> None:
    assert closed(last.hear("a", **equal(last, held=b"o" * 32))) is None
    assert closed(last.hear("a", **equal(last))) == (5, "all in")
    assert last.fold() == [Finish("done, after round 5")]
    assert last.rounds.phase is Phase.FINISHED


def test_what_comes_while_a_peer_serves_is_not_missing() -> None:
    scene = Scene(rounds=5, past=Past(closed_round=4), quorum=0.5)
    scene.meet("a", "b", round_index=5, next_round=5)
    scene.begin()
    scene.publish()
    scene.hold(update(signer("a"), 5))
    assert scene.rounds.phase is Phase.SERVING
    scene.hold(update(signer("b"), 5))
    scene.hear("a", **equal(scene))
    [close] = only(scene.hear("b", **equal(scene)), Close)
    assert (close.reason, close.missing) == ("all in", ())


def test_who_may_yet_publish_is_served(last: Scene) -> None:
    assert closed(last.hear("a", **equal(last, next_round=5))) is None


def test_peers_that_no_neighbour_of_ours_are_waited_for_too(last: Scene) -> None:
    last.hear("far", **equal(last, held=b"o" * 32))
    assert closed(last.hear("a", **equal(last))) is None
    assert closed(last.hear("far", **equal(last))) == (5, "all in")


def test_serving_ends_with_the_deadline_of_the_round(last: Scene) -> None:
    last.hear("a", **equal(last, held=b"o" * 32))
    assert closed(last.wait(LISTEN_S - 0.1)) is None
    assert closed(last.wait(0.1)) == (5, "all in")


def test_serving_ends_when_the_others_are_gone(last: Scene) -> None:
    last.hear("a", **equal(last, held=b"o" * 32))
    assert closed(last.hear("a", leaving=True, **equal(last, held=b"o" * 32))) == (5, "all in")


def test_who_falls_silent_while_it_is_served_may_be_back_before_the_deadline(last: Scene) -> None:
    last.hear("a", **equal(last, held=b"o" * 32))
    assert closed(last.silence()) is None
    assert closed(last.hear("a", **equal(last))) == (5, "all in")


def test_who_falls_silent_with_everything_is_not_waited_for(last: Scene) -> None:
    last.hear("b", **equal(last, held=b"o" * 32))
    last.hear("a", **equal(last))
    last.hear("b", leaving=True, **equal(last, held=b"o" * 32))
    assert closed(last.said) == (5, "all in")


def test_what_is_still_to_come_is_waited_for(last: Scene) -> None:
    last.announce("a", update(signer("c"), 5))
    assert closed(last.hear("a", **equal(last))) is None


def test_a_neighbour_with_a_longer_run_must_only_have_acknowledged(last: Scene) -> None:
    own = last.rounds.last_own
    assert own is not None
    last.sync._announcements._listeners[peer("a")].lacks[own.id] = 0.0
    goes_on = {"round_index": 6, "next_round": 6, "held": b"o" * 32}
    assert closed(last.hear("a", **goes_on)) is None
    assert closed(last.announce("a", own)) == (5, "all in")


# Folding.


def test_a_late_update_refolds_from_its_round_on_at_the_next_close(scene: Scene) -> None:
    late = update(signer("c"), 1)
    scene.hold(update(signer("a"), 2), update(signer("b"), 2))
    [close] = only(scene.publish(), Close)
    assert (close.plan.changed_from, close.plan.through) == (2, 2)
    scene.hold(late)
    [train] = only(scene.fold(), Train)
    assert train.plan is None, "at most once a round"
    scene.hear("a", "b", round_index=3, next_round=4)
    [close] = only(scene.publish(), Close)
    assert close.plan.changed_from == 1
    assert close.plan.rounds[1] == (late,)
    assert scene.texts()[-1] == "updates of round 1 came late, and are folded in now"
    scene.fold()
    scene.hear("a", "b", round_index=4, next_round=5)
    [close] = only(scene.publish(), Close)
    assert (close.plan.changed_from, close.plan.through) == (4, 4)
    assert len([t for t in scene.texts() if "came late" in t]) == 1


def test_what_arrives_ahead_of_its_round_is_kept_for_it(scene: Scene) -> None:
    ahead = update(signer("a"), 3)
    scene.hold(update(signer("a"), 2), update(signer("b"), 2), ahead)
    [close] = only(scene.publish(), Close)
    assert 3 not in close.plan.rounds
    scene.hear("a", "b", round_index=3, next_round=4, last=ahead)
    scene.fold()
    [close] = only(scene.publish(), Close) or only(scene.hold(update(signer("b"), 3)), Close)
    assert ahead in close.plan.rounds[3]


def test_a_plan_is_a_snapshot(scene: Scene) -> None:
    scene.hold(update(signer("a"), 2), update(signer("b"), 2))
    [close] = only(scene.publish(), Close)
    before = dict(close.plan.rounds)
    scene.hold(update(signer("c"), 2))
    assert dict(close.plan.rounds) == before


def test_a_base_taken_over_while_folding_is_folded_before_training_on_it(scene: Scene) -> None:
    scene.hold(update(signer("a"), 2), update(signer("b"), 2))
    scene.publish()
    scene.bases.base = origin(b"n" * 32)
    scene.rounds.base_taken_over()
    [train] = only(scene.fold(), Train)
    assert train.plan is not None
    assert (train.plan.base, train.plan.changed_from, train.plan.through) == (b"n" * 32, 1, 2)


def test_warnings_are_warnings(scene: Scene) -> None:
    scene.publish()
    scene.silence()
    assert only(scene.said, Tell)[-1].level is Level.WARNING


# Observing.


def observing(rounds: int = 5) -> Scene:
    """Return an observer of two peers, in the first round."""
    scene = Scene(rounds, observes=True)
    scene.meet("a", "b")
    scene.begin()
    return scene


def test_an_observer_trains_nothing_and_promises_so() -> None:
    scene = observing()
    assert scene.rounds.phase is Phase.COLLECTING
    assert not only(scene.said, Train)
    assert (scene.rounds.next_round, scene.rounds.is_ready) == (NEVER, False)


def test_an_observers_clock_starts_with_the_first_update_of_a_round() -> None:
    scene = observing()
    assert closed(scene.wait(10 * LISTEN_S)) is None, "they may train for as long as they like"
    scene.hold(update(signer("a"), 1))
    assert closed(scene.wait(LISTEN_S - 1)) is None
    assert closed(scene.wait(1)) == (1, "deadline, 1 missing")
    scene.fold()
    assert scene.rounds.round == 2
    scene.hold(update(signer("a"), 2), update(signer("b"), 2))
    assert closed(scene.said) == (1, "deadline, 1 missing")
    assert closed(scene.said[-1:]) == (2, "all in")


def test_an_observer_follows_those_who_have_gone_on() -> None:
    scene = observing()
    scene.hear("a", "b", round_index=4, next_round=4)
    assert closed(scene.said) == (1, "2 gone or moved on")
    scene.fold()
    assert scene.rounds.round == 4


def test_nobody_waits_for_an_observer(scene: Scene) -> None:
    scene.hear("o", round_index=2, next_round=NEVER, ready=False)
    scene.hold(update(signer("a"), 2), update(signer("b"), 2))
    assert closed(scene.publish()) == (2, "all in")


# Turns.

PERIOD = 2
TURNS = Turns(RUN, PERIOD)
OWN = next(n for n in range(1, 50) if TURNS.has(ME.peer_id, n) and not TURNS.has(ME.peer_id, n + 1))
WATCHED = OWN + 1
SILENT = next(name for name in map(str, range(20)) if TURNS.has(peer(name), WATCHED))
OTHER = next(name for name in map(str, range(20)) if not TURNS.has(peer(name), WATCHED))


def fleet_scene(number: int, name: str, **says: Any) -> Scene:
    """Return a scene of a fleet that begins in a round, with one other peer."""
    scene = Scene(50, turn_period=PERIOD, past=Past(closed_round=number - 1))
    scene.hear(name, round_index=number, **says)
    scene.begin()
    assert scene.rounds.round == number
    return scene


def pass_round(scene: Scene) -> None:
    """Let the open round pass in which nobody else publishes."""
    if scene.rounds.phase is Phase.TRAINING:
        scene.publish()
    if scene.rounds.phase is Phase.COLLECTING:
        scene.wait(WATCH_PATIENCE * LISTEN_S)
    assert scene.rounds.phase is Phase.FOLDING


def test_who_watches_does_not_wait_for_ever_for_those_who_say_it_is_their_turn() -> None:
    scene = fleet_scene(WATCHED, SILENT, next_round=WATCHED)
    assert scene.rounds.is_watching
    assert closed(scene.wait(WATCH_PATIENCE * LISTEN_S - 1)) is None, "it may train for long"
    assert closed(scene.wait(1)) == (WATCHED, "deadline, 1 missing")


def test_who_watches_waits_at_least_as_long_for_others_as_it_trains_itself() -> None:
    scene = fleet_scene(OWN, SILENT, next_round=WATCHED)
    scene.now += 1000.0
    scene.hear(SILENT, round_index=OWN, next_round=WATCHED)
    pass_round(scene)
    scene.fold()
    assert scene.rounds.is_watching
    assert scene.rounds.deadline == scene.now + TRAININGS_WATCHED * 1000.0


def test_a_heartbeat_makes_nobody_wait_again_for_who_was_waited_for_in_vain() -> None:
    scene = fleet_scene(WATCHED, SILENT, next_round=WATCHED)
    waited: list[bool] = []
    while len(waited) < MAX_IN_VAIN + 2:
        number = scene.rounds.round
        turn = TURNS.next(peer(SILENT), number)
        scene.hear(SILENT, round_index=number, next_round=turn)
        if turn == number:
            waited.append(peer(SILENT) in scene.rounds.expected)
        pass_round(scene)
        scene.fold()
    assert waited == [True] * MAX_IN_VAIN + [False] * 2


def test_who_says_it_has_published_out_of_turn_is_not_expected() -> None:
    scene = fleet_scene(
        WATCHED, OTHER, next_round=NEVER, last=update(signer(OTHER), WATCHED), ready=False
    )
    assert scene.rounds.expected == frozenset()


# Overlap.


def overlapping(rounds: int = 5) -> Scene:
    """Return a peer that trains ahead, with two others in the first round."""
    scene = Scene(rounds, overlaps=True)
    scene.meet("a", "b")
    scene.begin()
    return scene


def ahead(actions: list[Action]) -> list[int]:
    return [train.round for train in only(actions, Train) if train.is_ahead]


def test_the_next_round_is_trained_while_updates_still_arrive() -> None:
    scene = overlapping()
    assert ahead(scene.publish()) == [2]
    assert scene.rounds.round == 1
    assert not scene.do(scene.rounds.trained(scene.now)), "it waits for the round to close"
    actions = scene.hold(update(signer("a"), 1), update(signer("b"), 1))
    assert closed(actions) == (1, "all in")
    [author] = only(scene.fold(), Author)
    assert (author.round, author.skipped) == (2, ())
    own = update(ME, 2)
    scene.updates.add(own)
    assert ahead(scene.do(scene.rounds.authored(own, scene.now))) == [3]


def test_a_round_that_closes_while_the_next_is_trained_is_folded_then() -> None:
    """The learner does one thing after the other: the fold comes when training has ended."""
    scene = overlapping()
    scene.publish()
    assert closed(scene.hold(update(signer("a"), 1), update(signer("b"), 1))) == (1, "all in")
    scene.do(scene.rounds.trained(scene.now))
    assert [author.round for author in only(scene.fold(), Author)] == [2]


def test_nothing_is_trained_ahead_of_what_is_here_already() -> None:
    scene = overlapping()
    scene.hold(update(signer("a"), 1), update(signer("b"), 1))
    actions = scene.publish()
    assert closed(actions) == (1, "all in")
    assert ahead(actions) == []
    assert [train.is_ahead for train in only(scene.fold(), Train)] == [False]


def test_nothing_is_trained_after_the_last_round() -> None:
    scene = overlapping(rounds=1)
    assert ahead(scene.publish()) == []


def test_what_was_trained_ahead_goes_under_the_round_that_is_open() -> None:
    scene = overlapping()
    scene.publish()
    scene.do(scene.rounds.trained(scene.now))
    scene.hear("a", "b", round_index=4, next_round=4)
    assert closed(scene.said) == (1, "2 gone or moved on")
    [author] = only(scene.fold(), Author)
    assert author.round == 4


def training(*names: str, round_index: int) -> Scene:
    """Return one that trains in the first round of 20, and has heard since where others are."""
    scene = Scene(rounds=20)
    scene.do(scene.rounds.begin(0.0))
    scene.now = START_S
    scene.step()
    assert scene.rounds.phase is Phase.TRAINING
    scene.hear(*names, round_index=round_index, next_round=round_index)
    return scene


@pytest.mark.parametrize(
    ("names", "says", "expected"),
    [
        ("", 0, 2),
        ("a", 1, 2),
        ("a", 2, 3),
        ("a", 15, 3),  # alone it may be the one that lies
        ("a", NEVER, 3),
        ("ab", 15, 16),
        ("ab", NEVER, 21),  # no round that this run could have
    ],
)
def test_the_next_round_for_all_is_one_of_this_run(names: str, says: int, expected: int) -> None:
    """One that was to be put out said that it was in the last round that can be, and stayed in."""
    scene = training(*names, round_index=says)
    assert scene.rounds.next_round_for_all(scene.now) == expected


def test_the_next_round_for_all_is_not_known_before_the_first() -> None:
    scene = Scene()
    scene.do(scene.rounds.begin(0.0))
    assert scene.rounds.next_round_for_all(0.0) is None
