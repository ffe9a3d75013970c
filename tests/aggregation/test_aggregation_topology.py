"""Topologies: every peer works out the same connected graph."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.aggregation.topology import links, needs_own_place, neighbours

names = st.sampled_from(["full", "ring", "line", "random-1", "random-2", "random-3", "random-9"])


@given(names, st.integers(1, 12), st.text(max_size=3))
def test_every_graph_is_connected_and_the_same_seen_from_each_peer(
    name: str, num_peers: int, seed: str
) -> None:
    found = links(name, num_peers, seed)
    assert found == sorted(set(found))
    assert all(0 <= a < b < num_peers for a, b in found)
    near = [neighbours(name, place, num_peers, seed) for place in range(num_peers)]
    reached, reaching = {0}, [0]
    while reaching:
        for other in near[reaching.pop()]:
            if other not in reached:
                reached.add(other)
                reaching.append(other)
    assert reached == set(range(num_peers))
    seen = {
        (min(place, other), max(place, other))
        for place in range(num_peers)
        for other in near[place]
    }
    assert sorted(seen) == found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("full", [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]),
        ("ring", [(0, 1), (0, 3), (1, 2), (2, 3)]),
        ("line", [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_graphs_of_four(name: str, expected: list[tuple[int, int]]) -> None:
    assert links(name, 4) == expected


@given(st.integers(2, 5), st.integers(1, 20), st.text(max_size=3))
def test_a_random_graph_gives_everyone_enough_neighbours(k: int, num_peers: int, seed: str) -> None:
    least = min(k, num_peers - 1)
    for place in range(num_peers):
        assert len(neighbours(f"random-{k}", place, num_peers, seed)) >= least


def test_another_seed_is_another_graph() -> None:
    assert links("random-3", 20, "a") != links("random-3", 20, "b")
    assert links("random-3", 20, "a") == links("random-3", 20, "a")


def test_only_a_graph_over_the_list_needs_ones_own_place() -> None:
    assert not needs_own_place("full")
    assert not needs_own_place("given")
    assert needs_own_place("random-3")
