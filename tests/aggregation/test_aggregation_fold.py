"""One round onto a state: against whole numbers, in every width, and at every limit."""

from __future__ import annotations

import random

import numpy as np
import pytest
from fold_support import (
    Given,
    NumberDelta,
    contributions_of,
    exact_fold,
    numbers_of,
    state_of,
)
from hypothesis import given
from hypothesis import strategies as st
from semantic_support import configs as codecs
from semantic_support import payload_of, schema_of, totals

from semantic_net.aggregation.fold import MAX_BETA, MAX_OUTER_LR, FoldConfig, fold_round
from semantic_net.aggregation.ratio import ONE
from semantic_net.aggregation.rule_config import RuleConfig
from semantic_net.aggregation.rules import Contribution
from semantic_net.aggregation.state import FoldState, start_state
from semantic_net.errors import ConfigError
from semantic_net.fixed_point import BLOCK, MAX_DELTA, MAX_STATE, NARROW_LIMIT, SCALE
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.decoder import parse_payload

NUM_PARAMETERS, NUM_BUFFERS = 3, 2
ENTRIES = NUM_PARAMETERS + NUM_BUFFERS
AVERAGING = FoldConfig(NUM_PARAMETERS, NUM_BUFFERS, 0, ONE)

configs = st.builds(
    FoldConfig,
    st.just(NUM_PARAMETERS),
    st.just(NUM_BUFFERS),
    st.sampled_from((0, 1, ONE // 2, ONE // 4, MAX_BETA)) | st.integers(0, MAX_BETA),
    st.sampled_from((1, ONE // 2, ONE, MAX_OUTER_LR)) | st.integers(1, MAX_OUTER_LR),
)
deltas = st.one_of(
    st.integers(-9, 9), st.integers(-(1 << 22), 1 << 22), st.integers(-MAX_DELTA, MAX_DELTA)
)
states = st.one_of(
    st.integers(-(1 << 24), 1 << 24),
    st.integers(-MAX_STATE, MAX_STATE),
    st.sampled_from((NARROW_LIMIT, -NARROW_LIMIT, NARROW_LIMIT + 1, MAX_STATE, -MAX_STATE)),
)
a_round = st.lists(
    st.builds(Given, st.tuples(*[deltas] * ENTRIES), st.integers(1, 1 << 20)), max_size=3
)
starts = st.tuples(*[states] * ENTRIES)


def fold_all(
    cfg: FoldConfig, state: FoldState, rounds: list[list[Given]], *, in_place: bool = False
) -> FoldState:
    for given_round in rounds:
        out = state if in_place else None
        state = fold_round(state, contributions_of(given_round), cfg, out=out)
    return state


def test_plain_averaging_adds_the_mean() -> None:
    state = state_of([100, 200, 300, 10, 20], AVERAGING)
    round_given = [Given((2, 4, 6, 1, -1), 1), Given((0, 0, 0, 1, -1), 1)]
    state = fold_round(state, contributions_of(round_given), AVERAGING)
    assert numbers_of(state) == ([101, 202, 303, 11, 19], [])


def test_momentum_looks_one_step_ahead() -> None:
    cfg = FoldConfig(1, 1, ONE // 2, ONE)
    state = fold_round(state_of([0, 0], cfg), contributions_of([Given((8, 8), 5)]), cfg)
    assert numbers_of(state) == ([8 + 4, 8], [8])  # buffers have no momentum
    state = fold_round(state, contributions_of([Given((0, 0), 5)]), cfg)
    assert numbers_of(state) == ([12 + 2, 8], [4])


def test_momentum_that_ends_in_a_half_rounds_up() -> None:
    cfg = FoldConfig(4, 0, 3 * ONE // 4, ONE)  # no power of two, so that no shift will do
    round_given = [Given((2, 6, -2, -6), 1)]
    state = fold_round(state_of([0] * 4, cfg), contributions_of(round_given), cfg)
    assert numbers_of(state) == ([2 + 2, 6 + 5, -2 - 1, -6 - 4], [2, 6, -2, -6])


def test_a_round_without_updates_changes_nothing() -> None:
    cfg = FoldConfig(1, 1, ONE // 2, ONE)
    state = fold_round(state_of([0, 0], cfg), contributions_of([Given((8, 8), 5)]), cfg)
    assert fold_round(state, [], cfg) is state


@given(configs, starts, st.lists(a_round, max_size=4), st.booleans())
def test_the_fold_is_the_exact_one(
    cfg: FoldConfig, start: tuple[int, ...], rounds: list[list[Given]], in_place: bool
) -> None:
    state = fold_all(cfg, state_of(start, cfg), rounds, in_place=in_place)
    expected = exact_fold(cfg, start, dict(enumerate(rounds)), len(rounds))
    assert numbers_of(state) == expected


@given(configs, starts, st.lists(a_round, max_size=4))
def test_widths_and_bounds_follow_from_the_entries(
    cfg: FoldConfig, start: tuple[int, ...], rounds: list[list[Given]]
) -> None:
    state = fold_all(cfg, state_of(start, cfg), rounds)
    numbers, momentum = numbers_of(state)
    parameters, buffers = numbers[:NUM_PARAMETERS], numbers[NUM_PARAMETERS:]
    largest = [max((abs(n) for n in part), default=0) for part in (parameters, momentum, buffers)]
    assert state.parameters.dtype == state.momentum.dtype
    assert (state.parameters.dtype == np.int32) == (max(largest[:2]) <= NARROW_LIMIT)
    assert (state.buffers.dtype == np.int32) == (largest[2] <= NARROW_LIMIT)
    bounds = (state.parameters_bound, state.momentum_bound, state.buffers_bound)
    assert all(most <= bound for most, bound in zip(largest, bounds, strict=True))


@given(configs, st.lists(a_round, min_size=1, max_size=4), st.integers(0, 4))
def test_arrays_to_write_into_may_hold_anything(
    cfg: FoldConfig, rounds: list[list[Given]], junk: int
) -> None:
    start = [1, -2, 3, 4, 5]
    spare = state_of([junk * NARROW_LIMIT] * ENTRIES, cfg)
    before = state_of(start, cfg)
    kept = numbers_of(before)
    after = fold_round(before, contributions_of(rounds[0]), cfg, out=spare)
    assert numbers_of(after) == exact_fold(cfg, start, {0: rounds[0]}, 0)
    assert numbers_of(before) == kept


def test_arrays_of_a_fitting_width_are_written_into() -> None:
    cfg = FoldConfig(2, 1, ONE // 2, ONE)
    state, spare = state_of([1, 2, 3], cfg), state_of([0, 0, 0], cfg)
    after = fold_round(state, contributions_of([Given((4, 5, 6), 1)]), cfg, out=spare)
    assert after.parameters is spare.parameters
    assert after.momentum is spare.momentum
    assert after.buffers is spare.buffers


def test_blocks_leave_no_seam() -> None:
    length = BLOCK + 7
    cfg = FoldConfig(length, BLOCK + 1, 40_000, 50_000)
    rng = np.random.default_rng(0)
    given_round = [
        Given(tuple(rng.integers(-1000, 1000, length + BLOCK + 1).tolist()), w) for w in (3, 5)
    ]
    start = rng.integers(-1000, 1000, length + BLOCK + 1).tolist()
    state = fold_round(state_of(start, cfg), contributions_of(given_round), cfg)
    assert numbers_of(state) == exact_fold(cfg, start, {0: given_round}, 0)


def test_bounds_are_looked_up_again_before_anything_is_widened() -> None:
    """Bounds add up round after round, while the entries stay where they are."""
    cfg = FoldConfig(1, 1, 0, ONE)
    state = state_of([0, 0], cfg)
    for sign in (1, -1) * 100:
        given_round = contributions_of([Given((sign * (1 << 26),) * 2, 1)])
        state = fold_round(state, given_round, cfg, out=state)
        assert state.parameters.dtype == state.buffers.dtype == np.int32
    assert numbers_of(state) == ([0, 0], [])


def test_the_strongest_momentum_and_step_cannot_overflow() -> None:
    cfg = FoldConfig(1, 1, MAX_BETA, MAX_OUTER_LR)
    rounds = [[Given((MAX_DELTA, MAX_DELTA), 1)]] * 1500
    state = fold_all(cfg, state_of([MAX_STATE, MAX_STATE], cfg), rounds, in_place=True)
    (parameter, buffer), (momentum,) = numbers_of(state)
    assert (parameter, buffer) == (MAX_STATE, MAX_STATE)
    assert momentum == exact_fold(cfg, [0, 0], dict(enumerate(rounds)), 1500)[1][0] < 1 << 37


@given(a_round.filter(bool), st.randoms(use_true_random=False))
def test_the_order_of_a_round_does_not_show(
    round_given: list[Given], shuffler: random.Random
) -> None:
    cfg = FoldConfig(NUM_PARAMETERS, NUM_BUFFERS, ONE // 2, ONE)
    state = state_of([0] * ENTRIES, cfg)
    digest = fold_round(state, contributions_of(round_given), cfg).digest
    shuffler.shuffle(round_given)
    assert fold_round(state, contributions_of(round_given), cfg).digest == digest


def test_the_bound_may_be_loose() -> None:
    loose = [Contribution(NumberDelta([1, 2, 3, 4, 5], slack=1 << 40), 7)]
    state = fold_round(state_of([0] * ENTRIES, AVERAGING), loose, AVERAGING)
    assert numbers_of(state) == ([1, 2, 3, 4, 5], [])
    assert state.parameters.dtype == np.int32


def test_settings_are_rounded_to_two_to_the_minus_16() -> None:
    cfg = FoldConfig.of(num_parameters=1, num_buffers=0, outer_momentum=0.5, outer_lr=1.0)
    assert cfg == FoldConfig(1, 0, 1 << 15, 1 << 16, RuleConfig("mean", 13107))
    tenth = FoldConfig.of(num_parameters=1, num_buffers=0, outer_momentum=0.1, outer_lr=2.0)
    assert (tenth.beta, tenth.outer_lr) == (6554, 1 << 17)


@pytest.mark.parametrize(
    ("momentum", "lr", "rule", "key"),
    [
        (1.0, 1.0, "mean", "outer_momentum"),
        (-0.1, 1.0, "mean", "outer_momentum"),
        (0.5, 1e-6, "mean", "outer_lr"),
        (0.5, 2.1, "mean", "outer_lr"),
        (0.5, 1.0, "mode", "rule"),
    ],
)
def test_settings_out_of_range_name_their_key(
    momentum: float, lr: float, rule: str, key: str
) -> None:
    with pytest.raises(ConfigError, match=f"aggregation.{key} must be"):
        FoldConfig.of(
            num_parameters=1, num_buffers=0, outer_momentum=momentum, outer_lr=lr, rule=rule
        )


def test_a_model_without_parameters_or_buffers_folds_too() -> None:
    cfg = FoldConfig(0, 0, ONE // 2, ONE)
    state = start_state(np.empty(0, np.float32), 0, momentum=True)
    assert numbers_of(fold_round(state, contributions_of([Given((), 1)]), cfg)) == ([], [])


@given(st.data(), configs, st.lists(st.tuples(codecs, st.integers(1, 1000)), max_size=4))
def test_decoded_payloads_fold_as_their_numbers_do(
    data: st.DataObject, cfg: FoldConfig, authors: list[tuple[Codec, int]]
) -> None:
    """What `semantic` parses is what the fold takes, whatever codec each author chose."""
    schema = schema_of(2, NUM_PARAMETERS - 2, buffers=NUM_BUFFERS)
    contributions, numbers = [], []
    for codec, weight in authors:
        payload = payload_of(data.draw(totals(schema)), schema, codec)
        delta = parse_payload(codec.mode, payload, schema)
        contributions.append(Contribution(delta, weight))
        numbers.append(Given(tuple(delta.to_fixed().tolist()), weight))
    start = [1, -2, 3, -4, 5]
    state = fold_round(state_of(start, cfg), contributions, cfg)
    assert numbers_of(state) == exact_fold(cfg, start, {0: numbers}, 0)


def test_units_are_those_of_the_model() -> None:
    cfg = FoldConfig(1, 1, 0, ONE)
    state = start_state(np.array([0.5, 200.0], np.float32), 1, momentum=False)
    state = fold_round(state, contributions_of([Given((SCALE, -SCALE), 1)]), cfg)
    assert state.to_float32().tolist() == [1.5, 199.0]
