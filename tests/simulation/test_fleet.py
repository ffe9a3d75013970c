"""Fleets in which only some train in a round: turns are kept, and what is learned reaches all."""

from __future__ import annotations

import pytest

from semantic_net.aggregation.topology import links
from semantic_net.protocol.turns import Turns
from semantic_net.simulation.disasters import LONGEST_WAIT_S, in_turns
from semantic_net.simulation.node import RUN, Node, NodeConfig
from semantic_net.simulation.world import World

PERIOD, ROUNDS = 4, 12


@pytest.mark.parametrize("seed", range(12))
def test_after_any_disaster_all_peers_of_a_fleet_hold_and_fold_the_same(seed: int) -> None:
    assert in_turns(seed) == []


def fleet(seed: int, size: int = 24, *, period: int = PERIOD, base_every: int = 4) -> World:
    """Return a fleet in a sparse mesh, all of it started."""
    names = [f"peer{n}" for n in range(size)]
    pairs = [(names[a], names[b]) for a, b in links("random-3", size, str(seed))]
    cfg = NodeConfig(rounds=ROUNDS, turn_period=period, base_every=base_every)
    world = World(names, cfg, seed, links=pairs)
    for node in world.nodes.values():
        node.start()
    return world


def turns_of(node: Node) -> list[int]:
    turns = Turns(RUN, PERIOD)
    return [number for number in range(1, ROUNDS + 1) if turns.has(node.id, number)]


@pytest.mark.parametrize("seed", range(3))
def test_everybody_trains_in_its_turns_and_folds_every_round(seed: int) -> None:
    world = fleet(seed)
    world.run(until=1000)
    nodes = list(world.nodes.values())
    assert world.all_finished()
    for node in nodes:
        assert [update.round for update in node.authored] == turns_of(node)
        assert [closed.round for closed in node.closed] == list(range(1, ROUNDS + 1))
        assert not [c.reason for c in node.closed if c.reason.startswith("deadline")]
    last = {node.closed[-1].state_digest for node in nodes}
    assert len(last) == 1


@pytest.mark.unmeasured
def test_a_peer_knows_no_more_of_a_large_fleet_than_of_a_small_one() -> None:
    def most_known(size: int) -> int:
        world, known = fleet(0, size, period=size // 6), 0
        world.run(until=8)  # at the start each tells new neighbours of all that it hears
        while world.now < 30:
            world.run(until=world.now + 1)
            up = [n.machine for n in world.nodes.values() if n.machine is not None]
            known = max([known, *(machine.roster.num_known for machine in up)])
        return known

    assert most_known(96) < 1.5 * most_known(24) < 36


def test_a_participant_that_dies_in_its_turn_holds_nobody_up_for_long() -> None:
    world = fleet(1)
    victim = next(node for node in world.nodes.values() if 2 in turns_of(node))
    world.at_round(victim.name, 2, lambda: world.retire(victim.name))
    world.run(until=1000)
    assert world.all_finished()
    for node in world.nodes.values():
        ends = {closed.round: closed.at for closed in node.closed}
        assert ends[2] - ends[1] < node.cfg.liveness_s + LONGEST_WAIT_S


def islanders(size: int, cut_off: int, *, for_s: float, rounds: int) -> World:
    """Return a fleet of which some were cut off for long, and have been back since."""
    names = [f"peer{n}" for n in range(size)]
    pairs = [(names[a], names[b]) for a, b in links("random-3", size, "0")]
    world = World(names, NodeConfig(rounds=rounds, turn_period=PERIOD), 0, links=pairs)
    for node in world.nodes.values():
        node.start()
    world.after(15.0, lambda: world.partition(names[:cut_off], names[cut_off:]))
    world.after(15.0 + for_s, lambda: world.partition())
    world.run(until=5000)
    assert world.all_finished()
    return world


@pytest.mark.unmeasured
def test_one_that_is_cut_off_does_not_run_away() -> None:
    """It knew nobody any more, and closed the rounds that were not its turn in a heartbeat."""
    alone = islanders(16, 1, for_s=100.0, rounds=60).nodes["peer0"]
    meanwhile = [closed for closed in alone.closed if 25.0 < closed.at < 115.0]
    assert len(meanwhile) <= 90.0 / alone.cfg.listen_timeout_s + 1
    assert any("cut off" in closed.reason for closed in meanwhile)


@pytest.mark.unmeasured
def test_a_few_that_are_cut_off_make_nobody_skip_rounds() -> None:
    """Rounds without anybody's turn took them no time, and two ahead made all others jump."""
    world = islanders(16, 3, for_s=120.0, rounds=80)
    rest = list(world.nodes.values())[3:]
    assert all([c.round for c in node.closed] == list(range(1, 81)) for node in rest)
    assert len({node.closed[-1].state_digest for node in world.nodes.values()}) == 1


@pytest.mark.unmeasured
def test_bases_are_made_though_nobody_hears_of_everybody() -> None:
    world = fleet(2, base_every=2)
    world.run(until=1000)
    assert world.all_finished()
    assert all(node.num_cuts > 0 for node in world.nodes.values())
    assert len({node.closed[-1].state_digest for node in world.nodes.values()}) == 1
