from __future__ import annotations

from collections import Counter
from itertools import chain

from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_net.training.sampler import PassSampler, batch_sizes, derive_seed


def drawn(pieces: list[tuple[int, list[int]]]) -> list[int]:
    return list(chain.from_iterable(indices for _, indices in pieces))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.lists(st.integers(1, 30), max_size=8), st.integers())
def test_however_it_is_drawn_no_example_is_ahead_by_more_than_one(
    length: int, draws: list[int], seed: int
) -> None:
    sampler = PassSampler(length, seed)
    seen: Counter[int] = Counter(dict.fromkeys(range(length), 0))
    for count in draws:
        indices = drawn(sampler.take(count))
        assert len(indices) == count
        seen.update(indices)
    assert set(seen) == set(range(length))
    assert max(seen.values()) - min(seen.values()) <= 1


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers())
def test_the_order_does_not_depend_on_how_it_is_cut_or_resumed(
    length: int, draws: list[int], seed: int
) -> None:
    whole = drawn(PassSampler(length, seed).take(sum(draws)))
    pieces: list[int] = []
    sampler = PassSampler(length, seed)
    for count in draws:
        resumed = PassSampler(length, seed)
        resumed.load_state(sampler.state())
        pieces += drawn(resumed.take(count))
        sampler = resumed
    assert pieces == whole


def test_each_pass_has_its_own_order_and_says_its_number() -> None:
    pieces = PassSampler(50, seed=3).take(100)
    assert [epoch for epoch, _ in pieces] == [0, 1]
    assert pieces[0][1] != pieces[1][1]
    assert sorted(pieces[0][1]) == sorted(pieces[1][1]) == list(range(50))


def test_data_of_another_length_begins_a_fresh_pass() -> None:
    old = PassSampler(10, seed=1)
    old.take(7)
    new = PassSampler(4, seed=1)
    new.load_state(old.state())
    [(epoch, indices)] = new.take(4)
    assert (epoch, sorted(indices)) == (1, [0, 1, 2, 3])


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 3))
def test_epochs_are_cut_into_the_fewest_even_batches(
    length: int, batch_size: int, epochs: int
) -> None:
    sizes = batch_sizes(length, batch_size, steps=None, epochs=epochs)
    assert sum(sizes) == length * epochs
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-length * epochs // min(batch_size, length))


def test_steps_give_full_batches_but_none_larger_than_the_data() -> None:
    assert batch_sizes(100, 8, steps=3, epochs=1) == [8, 8, 8]
    assert batch_sizes(5, 8, steps=2, epochs=1) == [5, 5]


def test_a_derived_seed_depends_on_every_part_and_on_their_order() -> None:
    parts = [(0,), (1,), (0, 1), (1, 0), (-1, 0), (1 << 63, 0)]
    seeds = {derive_seed(*each) for each in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 1 << 63 for seed in seeds)
