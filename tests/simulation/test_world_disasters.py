"""Seeded disasters: whatever happens on the way, once the network is sound all peers agree.

A slice; `python -m semantic_net.simulation.soak` plays as many seeds as one likes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from semantic_net.protocol import update_set
from semantic_net.protocol.update import UpdateBody, hash_payload, sign_update
from semantic_net.simulation.disasters import (
    _misses_only_laggards,
    check_settled,
    disturbed,
    full,
    line,
    play_disturbed,
    revoked,
    undisturbed,
)
from semantic_net.simulation.node import CODEC, RUN, Closed, Node, NodeConfig
from semantic_net.simulation.soak import main
from semantic_net.simulation.world import World


@pytest.mark.parametrize("seed", range(9))
def test_after_any_disaster_all_peers_hold_and_fold_the_same(seed: int) -> None:
    assert disturbed(seed) == []


@pytest.mark.parametrize("seed", range(12))
def test_where_not_all_authors_have_a_place_peers_agree_all_the_same(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update_set, "MAX_HELD_AUTHORS", 2)
    settled = play_disturbed(seed)
    assert check_settled(settled) == []
    for node in settled.world.nodes.values():
        slots = {(update.round, update.author) for update in node.running.updates}
        assert max(Counter(number for number, _ in slots).values(), default=0) <= 2


@pytest.mark.parametrize("seed", [3, 37])  # in 37 a device is a stranger until it is vouched for
def test_strangers_that_turn_out_to_be_of_the_run_are_told_of_again(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update_set, "MAX_HELD_AUTHORS", 1)
    assert revoked(seed) == []


@pytest.mark.parametrize("seed", [2, 11])  # in which neither hears of the other's in time
def test_what_was_signed_twice_for_a_round_counts_nowhere(seed: int) -> None:
    """One key runs twice, out of each other's sight."""
    links = [pair for pair in full("abcd") if pair != ("a", "b")]
    cfg = NodeConfig(rounds=10_000, listen_timeout_s=8.0, base_every=1000)
    world = World("abcd", cfg, seed, links=links, keys={"b": "a"})
    world.cut("a", "d")
    world.cut("b", "c")
    for node in world.nodes.values():
        node.start()
    world.run(until=30)
    world.retire("b")
    world.nodes["a"].crash()
    world.nodes["a"].start()
    world.heal("a", "d")
    world.run(until=90)
    sets = [node.running.updates for node in world.nodes.values()]
    void = {(u.round, u.author) for held in sets for u in held if held.is_void(u.round, u.author)}
    assert void
    assert all(held.is_void(*slot) for slot in void for held in sets)


@pytest.mark.parametrize("seed", range(24))
def test_an_undisturbed_run_ends_with_one_state_and_no_deadline(seed: int) -> None:
    assert undisturbed(seed) == []


@pytest.mark.parametrize("seed", range(4))
def test_peers_that_find_each_other_begin_together_and_the_late_join(seed: int) -> None:
    cfg = NodeConfig(rounds=6, start_timeout_s=60.0, settle_s=3.0, train_s=(1.0, 1.5))
    world = World("abcde", cfg, seed)
    world.unannounced.update(world.nodes)  # nobody was told of anybody
    for delay_s, name in enumerate("abcd"):
        world.after(2.0 * delay_s, world.nodes[name].start)
    world.at_round("a", 3, world.nodes["e"].start)
    world.run(until=60)
    first = [node.closed[0] for node in map(world.nodes.__getitem__, "abcd")]
    assert [(closed.round, closed.reason) for closed in first] == [(1, "all in")] * 4
    assert world.nodes["e"].closed[0].round > 1
    assert len({node.closed[-1].state_digest for node in world.nodes.values()}) == 1
    assert not any(closed.is_cut_off for node in world.nodes.values() for closed in node.closed)


def test_a_seed_replays_to_the_last_byte() -> None:
    def play() -> list[tuple[object, ...]]:
        world = play_disturbed(7).world
        return [(n.name, *n.closed, *n.told) for n in world.nodes.values()]

    assert play() == play()


def test_what_is_broken_is_noticed() -> None:
    settled = play_disturbed(3)
    assert check_settled(settled) == []
    [author, *_] = settled.world.nodes.values()
    body = UpdateBody(RUN, 1000, 1, CODEC, 1, hash_payload(b"x"))
    never_seen = sign_update(body, author.signer)
    more = replace(settled, held=(*settled.held, never_seen))
    assert "lost 1 updates" in " ".join(check_settled(more))
    [own, *_] = [u for u in author.authored if u.author == author.id]
    author.residual[own.id] += 1
    assert any("2 times" in text for text in check_settled(settled))
    author.cfg = NodeConfig(listen_timeout_s=-1.0)
    assert any("waited" in text for text in check_settled(settled))


def test_an_observer_is_the_way_between_those_who_train() -> None:
    world = World("abo", NodeConfig(rounds=4), links=[("a", "o"), ("b", "o")])
    observer = world.nodes["o"]
    observer.cfg = replace(observer.cfg, observes=True)
    for node in world.nodes.values():
        node.start()
    world.run(until=200)
    assert world.all_finished()
    assert observer.authored == []
    ends = {node.closed[-1].state_digest for node in world.nodes.values()}
    assert len(ends) == 1
    for node in (world.nodes["a"], world.nodes["b"]):
        # They may have closed the first before they had heard of each other.
        assert [(c.round, c.reason) for c in node.closed[1:]] == [(n, "all in") for n in (2, 3, 4)]


def test_updates_spread_over_several_hops_within_their_round() -> None:
    names = "abcdefgh"
    world = World(names, NodeConfig(rounds=3, train_s=(1.0, 1.0)), links=line(names))
    for node in world.nodes.values():
        node.start()
    world.run(until=100)
    assert world.all_finished()
    for node in world.nodes.values():
        second = node.closed[1]
        assert (second.round, second.reason, second.missing) == (2, "all in", ())
    ends = [world.nodes[name].closed[-1].state_digest for name in "ah"]
    assert ends[0] == ends[1]


def test_a_script_by_peer_and_round_plays_as_it_says() -> None:
    world = World("abc", NodeConfig(rounds=6, listen_timeout_s=8.0), seed=2)
    a, b, c = world.nodes.values()
    world.at_round("a", 3, lambda: world.partition("ab", "c"))
    world.at_round("b", 5, lambda: world.partition("abc"))
    for node in (a, b, c):
        node.start()
    world.run(until=300)
    assert world.all_finished()
    missed = {closed.round for closed in a.closed if c.id in closed.missing}
    assert missed == {3}, "expected once more, and then known to be gone"
    assert len({node.closed[-1].state_digest for node in (a, b, c)}) == 1


def test_a_shorter_run_ends_with_its_last_round_whatever_base_it_takes_over() -> None:
    cfg = NodeConfig(rounds=60, base_every=2, budget_bytes=100, listen_timeout_s=3.0)
    beyond = 0
    for seed in range(8):
        world = World("abcd", cfg, seed)
        a = world.nodes["a"]
        a.cfg = replace(cfg, rounds=8, listen_timeout_s=30.0)
        a.train_s = 8.0
        for node in world.nodes.values():
            node.start()
        world.at_round("a", 3, lambda world=world: world.partition("a", "bcd"))  # type: ignore[misc]
        world.at_round("b", 20, lambda world=world: world.partition("abcd"))  # type: ignore[misc]
        world.run(until=600)
        assert world.all_finished()
        assert a.closed[-1].round == 8
        beyond += a.disk.base is not None and a.disk.base.base.frontier > 8
    assert beyond > 0


def test_a_run_of_one_needs_nobody() -> None:
    world = World("a", NodeConfig(rounds=3))
    world.nodes["a"].start(has_peers=False)
    world.run(until=100)
    assert [c.reason for c in world.nodes["a"].closed] == ["nobody expected"] * 3


def test_a_peer_that_dies_in_the_last_round_comes_back_for_its_last_record() -> None:
    world = World("abc", NodeConfig(rounds=2), seed=1)
    for node in world.nodes.values():
        node.start()
    a = world.nodes["a"]
    while a.disk.authored_round < 2:
        world.run(until=world.now + 0.05)
    a.crash()
    a.start()
    world.run(until=100)
    assert world.all_finished()
    assert [closed.round for closed in a.closed] == [1, 2]
    assert len({node.closed[-1].state_digest for node in world.nodes.values()}) == 1


def test_the_soak_names_the_seeds_that_break_something(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--seeds", "0:2", "--script", "undisturbed", "--jobs", "1"]) == 0
    assert capsys.readouterr().out.startswith("2 disasters in")

    def breaks(seed: int) -> list[str]:
        if seed == 2:
            raise ValueError("a bug")
        return ["one", "two"] if seed == 1 else []

    monkeypatch.setattr("semantic_net.simulation.soak.SCRIPTS", {"undisturbed": breaks})
    assert main(["--seeds", "0:3", "--jobs", "1"]) == 1
    out = capsys.readouterr().out
    assert "undisturbed 1: one; two" in out
    assert "--script undisturbed --seeds 1:2 --jobs 1" in out
    assert "ValueError: a bug" in out
    assert "2 broke a promise" in out


def test_only_those_two_rounds_behind_may_be_missed_at_a_deadline() -> None:
    def closed(number: int, at: float, *missing: Node) -> Closed:
        who = tuple(node.id for node in missing)
        return Closed(number, "", who, b"", b"", b"", at, 8.0, is_watched=False, is_cut_off=False)

    nodes = a, b, c = list(World("abc", NodeConfig()).nodes.values())
    b.closed = [closed(9, 40.0), closed(6, 66.0), closed(8, 72.0)]  # once ahead, and begun anew
    c.closed = [closed(7, 66.0)]
    assert _misses_only_laggards(closed(8, 73.0, b), nodes)
    assert not _misses_only_laggards(closed(8, 73.0, b, c), nodes), "one behind is ordinary"
    assert not _misses_only_laggards(closed(8, 73.0), nodes), "nobody missing: cut off"
    assert not _misses_only_laggards(closed(8, 73.0, a), nodes), "nothing is known of it"
