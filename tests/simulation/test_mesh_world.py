"""Meshes that organise themselves: connected from one seed, sparse, and whole again after harm."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.messages import Message, encode_message
from semantic_net.simulation.disasters import in_mesh
from semantic_net.simulation.node import Node, NodeConfig
from semantic_net.simulation.scenario import scenario
from semantic_net.simulation.world import World

K = 4
Graph = Mapping[str, set[str]]


def mesh(num_peers: int, seed: int, *, links: int = K, beat_s: float = 2.0) -> World:
    """Return a mesh in which all know one peer, and start within a second."""
    names = [f"peer{n:03}" for n in range(num_peers)]
    cfg = NodeConfig(
        rounds=10_000,
        mesh_links=links,
        turn_period=2 * num_peers,
        settle_s=1e6,  # a round would only cost time here
        start_timeout_s=1e6,
        heartbeat_s=beat_s,
        liveness_s=5 * beat_s,
    )
    world = World(names, cfg, seed)
    for name, node in world.nodes.items():
        node.seeds = () if name == names[0] else (names[0],)
        world.after(world.random.uniform(0, 1), node.start)
    return world


def steps_from(graph: Graph, start: str) -> dict[str, int]:
    """Return how many steps away each peer is that can be reached."""
    steps = {start: 0}
    queue = [start]
    for name in queue:
        for other in graph[name]:
            if other not in steps:
                steps[other] = steps[name] + 1
                queue.append(other)
    return steps


def is_whole(graph: Graph) -> bool:
    return len(steps_from(graph, next(iter(graph)))) == len(graph)


def diameter(graph: Graph) -> int:
    return max(max(steps_from(graph, name).values()) for name in graph)


def share_within_bounds(graph: Graph, links: int = K) -> float:
    return sum(links <= len(others) <= 2 * links for others in graph.values()) / len(graph)


@pytest.mark.parametrize(
    ("num_peers", "links", "most_steps"),
    [(50, 4, 5), (50, 2, 9), pytest.param(150, 4, 6, marks=pytest.mark.unmeasured)],
)
def test_from_one_seed_all_are_connected_soon_and_none_has_many_links(
    num_peers: int, links: int, most_steps: int
) -> None:
    world = mesh(num_peers, seed=num_peers, links=links)
    world.run(until=12)
    graph = world.neighbours()
    assert is_whole(graph)
    assert share_within_bounds(graph, links) >= 0.97
    assert max(map(len, graph.values())) <= 2 * links + 2
    world.run(until=50)  # who came together knows each other first, and the others later
    graph = world.neighbours()
    assert is_whole(graph)
    assert share_within_bounds(graph, links) == 1
    assert diameter(graph) <= most_steps


@pytest.mark.unmeasured
def test_what_a_peer_keeps_and_sends_does_not_grow_with_the_fleet() -> None:
    def costs(num_peers: int) -> tuple[float, float]:
        world, sent = mesh(num_peers, seed=1), 0
        world.run(until=30)
        send = world.send

        def count(sender: Node, to: PeerId, message: Message) -> None:
            nonlocal sent
            sent += len(encode_message(message))
            send(sender, to, message)

        world.send = count  # type: ignore[method-assign]  # to count
        world.run(until=60)
        known = [node.running.roster.num_known for node in world.nodes.values()]
        return sent / num_peers, sum(known) / num_peers

    (few_sent, few_known), (many_sent, many_known) = costs(24), costs(96)
    assert many_sent < 1.2 * few_sent
    assert many_known < 1.2 * few_known


def test_simulated_peers_of_a_mesh_are_told_of_two_others_at_most() -> None:
    told = scenario(None, ["p2p.topology=mesh-4"], num_peers=12, network="lan", seed=0)
    peers = [told.config_of(index).p2p.peers for index in (0, 1, 2, 11)]
    first = "peer00:5000"
    assert peers == [(), (first,), (first, "peer01:5000"), (first, "peer10:5000")]
    assert len(scenario(None, [], num_peers=12, network="lan", seed=0).config_of(3).p2p.peers) == 12


@pytest.mark.unmeasured
def test_links_that_are_enough_stay() -> None:
    world = mesh(40, seed=2)
    world.run(until=300)
    before = world.neighbours()
    world.run(until=330)
    after = world.neighbours()
    kept = [len(before[name] & after[name]) / len(before[name]) for name in before]
    assert sum(kept) / len(kept) > 0.9


@pytest.mark.unmeasured
@pytest.mark.parametrize("seed", range(3))
def test_after_a_third_has_crashed_the_rest_is_whole_and_within_bounds(seed: int) -> None:
    world = mesh(60, seed)
    world.run(until=25)
    for name in world.random.sample(sorted(world.nodes), 20):  # the seed may be one of them
        world.retire(name)
    world.run(until=60)
    graph = world.neighbours()
    assert len(graph) == 40
    assert is_whole(graph)
    assert share_within_bounds(graph) >= 0.95
    assert diameter(graph) <= 6


@pytest.mark.unmeasured
@pytest.mark.parametrize("seed", range(2))
def test_two_halves_find_each_other_again(seed: int) -> None:
    world = mesh(40, seed)
    world.run(until=25)
    names = sorted(world.nodes)
    world.random.shuffle(names)
    world.partition(names[:20], names[20:])
    world.run(until=150)
    graph = world.neighbours()
    assert not is_whole(graph)
    assert share_within_bounds(graph) >= 0.95, "each half is a mesh of its own"
    world.partition(names)
    world.run(until=200)
    graph = world.neighbours()
    assert is_whole(graph)
    between = sum(other in names[20:] for name in names[:20] for other in graph[name])
    assert between > 20, "not by a thread"


@pytest.mark.unmeasured
def test_churn_leaves_it_whole() -> None:
    world = mesh(50, seed=4)
    script = random.Random(4)
    names = sorted(world.nodes)[1:]
    for second in range(20, 140, 2):  # half of them, on average, within a minute
        victim = world.nodes[script.choice(names)]
        world.after(second, victim.crash if second % 4 else victim.start)
        world.after(second + 15, victim.start)
    world.run(until=170)
    graph = world.neighbours()
    assert len(graph) == 50
    assert is_whole(graph)
    assert share_within_bounds(graph) >= 0.9


@pytest.mark.unmeasured
def test_a_fleet_with_turns_trains_in_a_mesh_and_ends_with_one_digest() -> None:
    names = [f"peer{n:02}" for n in range(40)]
    cfg = NodeConfig(rounds=12, mesh_links=3, turn_period=4, settle_s=5.0)
    world = World(names, cfg, seed=5)
    for before, (name, node) in zip([names[0], *names], world.nodes.items(), strict=False):
        node.seeds = tuple({names[0], before} - {name})
        node.start()
    world.run(until=1000)
    assert world.all_finished()
    nodes = list(world.nodes.values())
    assert {closed.round for node in nodes for closed in node.closed} == set(range(1, 13))
    assert len({node.closed[-1].state_digest for node in nodes}) == 1
    learned = {update.author for node in nodes for update in node.authored}
    assert learned == {node.id for node in nodes}, "each in its turns"
    reasons = [c.reason for node in nodes for c in node.closed if c.reason.startswith("deadline")]
    assert not reasons


@pytest.mark.parametrize("seed", range(6))
def test_after_any_disaster_all_peers_of_a_mesh_hold_and_fold_the_same(seed: int) -> None:
    assert in_mesh(seed) == []
