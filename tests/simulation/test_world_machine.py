"""A state machine over a whole world: hypothesis picks what happens, and shrinks what fails.

`test_world_disasters` draws from seeds, which is faster; here a failure comes as the shortest list
of mishaps that shows it.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from semantic_net.simulation.disasters import TOPOLOGIES, check_settled, settle
from semantic_net.simulation.node import Node, NodeConfig
from semantic_net.simulation.world import LinkConfig, World

NAMES = "abcd"
SECONDS = st.floats(0.1, 10.0)
name = st.sampled_from(NAMES)


class WorldMachine(RuleBasedStateMachine):
    """Four peers on any graph; whatever happens, all agree once it is over."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World("", NodeConfig())

    @initialize(
        seed=st.integers(0, 1000),
        topology=st.sampled_from(sorted(set(TOPOLOGIES), key=lambda t: t.__name__)),
        base_every=st.sampled_from([1, 2, 4]),
        budget_bytes=st.sampled_from([None, 200]),
        overlaps=st.booleans(),
        repeat_share=st.sampled_from([0.0, 0.1]),
    )
    def make_world(
        self,
        seed: int,
        topology: object,
        base_every: int,
        budget_bytes: int | None,
        overlaps: bool,
        repeat_share: float,
    ) -> None:
        assert callable(topology)
        cfg = NodeConfig(
            rounds=10_000,
            listen_timeout_s=8.0,
            base_every=base_every,
            budget_bytes=budget_bytes,
            overlaps=overlaps,
        )
        link = LinkConfig(repeat_share=repeat_share)
        self.world = World(NAMES, cfg, seed, link=link, links=topology(NAMES))

    def node(self, name: str) -> Node:
        return self.world.nodes[name]

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.world.run(until=self.world.now + seconds)

    @rule(name=name)
    def join_or_come_back(self, name: str) -> None:
        self.node(name).start()

    @rule(name=name, keep_disk=st.booleans())
    def crash(self, name: str, keep_disk: bool) -> None:
        self.crash_if_up(name, keep_disk=keep_disk)

    def crash_if_up(self, name: str, *, keep_disk: bool = True) -> None:
        if self.node(name).machine is not None:
            self.node(name).crash(keep_disk=keep_disk)

    @rule(name=name)
    def die_between_journal_and_network(self, name: str) -> None:
        self.node(name).dies_authoring = True

    @rule(name=name, seconds=SECONDS)
    def freeze(self, name: str, seconds: float) -> None:
        self.node(name).freeze(seconds)

    @rule(half=st.sets(name, min_size=1, max_size=3))
    def partition(self, half: set[str]) -> None:
        self.world.partition(half, set(NAMES) - half)

    @rule(index=st.integers(0, 5), is_up=st.booleans())
    def cut_or_heal_a_link(self, index: int, is_up: bool) -> None:
        a, b = sorted(self.world.links[index % len(self.world.links)])
        (self.world.heal if is_up else self.world.cut)(a, b)

    @precondition(lambda self: self.world.now > 0)
    @rule(name=name, round_index=st.integers(1, 9))
    def crash_in_a_round(self, name: str, round_index: int) -> None:
        self.world.at_round(name, round_index, lambda: self.crash_if_up(name))

    def teardown(self) -> None:
        if self.world.nodes:
            assert check_settled(settle(self.world)) == []


WorldMachine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestWorldMachine = pytest.mark.unmeasured(WorldMachine.TestCase)
