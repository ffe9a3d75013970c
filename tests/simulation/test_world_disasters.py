"""Seeded disasters: whatever happens on the way, once the network is quiet all peers agree.

Each seed is a world of real machines under crashes, restarts, partitions, slow trainers and
skipped rounds. `SEEDS` is a slice; a failing seed replays exactly.
"""

from __future__ import annotations

import random

import pytest

from semantic_net.protocol.update import MAX_ROUND, UpdateId
from semantic_net.simulation.world import Node, World, WorldConfig, fold_digest

SEEDS = range(40)
NAMES = "abcde"
TROUBLE_S = 60.0
FOREVER = 1e9


def trouble(world: World, seed: int) -> set[UpdateId]:
    """Let a random script play, mend everything, and return what live peers held by then."""
    script = random.Random(seed)
    nodes = list(world.nodes.values())
    for node in nodes:
        world.after(script.uniform(0, 20), lambda node=node: start(node))  # type: ignore[misc]
    for _ in range(script.randrange(3, 12)):
        at = script.uniform(1, TROUBLE_S)
        a, b = script.sample(nodes, 2)
        kind = script.choice(["cut", "heal", "partition", "crash", "crash", "restart", "skip"])
        keep = script.random() < 0.7
        half = set(script.sample(NAMES, 2))

        def happen(
            kind: str = kind, a: Node = a, b: Node = b, keep: bool = keep, half: set[str] = half
        ) -> None:
            if kind == "cut":
                world.cut(a.name, b.name)
            elif kind == "heal":
                world.heal(a.name, b.name)
            elif kind == "partition":
                world.partition(half, set(NAMES) - half)
            elif kind == "crash" and a.machine is not None:
                a.crash(keep_disk=keep)
            elif kind == "restart":
                start(a)
            elif kind == "skip":
                a.skip_rounds.update({1, 2, 5, 8})
                a.train_s = 7.0

        world.after(at, happen)
    world.run(until=TROUBLE_S)
    world.partition(NAMES)
    for node in nodes:
        start(node)
        node.skip_rounds.clear()
    return {u.id for n in nodes for u in n.running.updates}


def start(node: Node) -> None:
    if node.machine is None:
        node.start()


def quiet(world: World) -> None:
    """Let everyone go on together for a while, then publish nothing more."""
    world.run(until=TROUBLE_S + 40)
    for node in world.nodes.values():
        node.train_s = FOREVER
    world.run(until=TROUBLE_S + 90)


@pytest.mark.parametrize("seed", SEEDS)
def test_after_any_disaster_all_peers_hold_the_same(seed: int) -> None:
    cfg = WorldConfig(rounds=10_000, listen_timeout_s=8.0)
    world = World(NAMES, cfg, seed)
    held = trouble(world, seed)
    quiet(world)
    machines = [n.running for n in world.nodes.values()]
    assert len({m.updates.set_digest(MAX_ROUND) for m in machines}) == 1
    assert len({m.base.digest for m in machines}) == 1
    for machine in machines:
        assert held <= {u.id for u in machine.updates}, "something learned was lost"
    for node in world.nodes.values():
        rounds = [(u.author, u.round) for u in node.authored]
        assert len(set(rounds)) == len(rounds), "an author published twice in a round"
        for closed in node.closed:
            assert closed.waited_s <= cfg.listen_timeout_s + 0.01, "waited beyond the deadline"
    assert not world.diverged


@pytest.mark.parametrize("seed", SEEDS)
def test_equal_sets_on_an_equal_base_fold_to_equal_states(seed: int) -> None:
    world = World(NAMES, WorldConfig(rounds=10_000, listen_timeout_s=8.0), seed)
    trouble(world, seed)
    quiet(world)
    plans = [n.running.rounds.plan(through=MAX_ROUND) for n in world.nodes.values()]
    assert len({fold_digest(plan) for plan in plans}) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_an_undisturbed_run_ends_with_one_digest_in_every_round(seed: int) -> None:
    cfg = WorldConfig(rounds=4)
    world = World(NAMES, cfg, seed)
    for node in world.nodes.values():
        world.after(world.random.uniform(0, 5), lambda node=node: start(node))  # type: ignore[misc]
    world.run(until=500)
    assert world.all_finished()
    for node in world.nodes.values():
        assert [c.round for c in node.closed][-1] == cfg.rounds
    assert len({n.closed[-1].state_digest for n in world.nodes.values()}) == 1
    assert not world.diverged


def test_a_seed_replays_to_the_last_byte() -> None:
    def play() -> list[tuple[object, ...]]:
        world = World(NAMES, WorldConfig(rounds=10_000, listen_timeout_s=8.0), 7)
        trouble(world, 7)
        return [(n.name, *n.closed, *n.told) for n in world.nodes.values()]

    assert play() == play()
