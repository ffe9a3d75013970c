"""The fold in Python's own whole numbers and deltas made of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import floor
from typing import NamedTuple

import numpy as np

from semantic_net.aggregation.fold import FoldConfig
from semantic_net.aggregation.rules import Contribution
from semantic_net.aggregation.state import FoldState
from semantic_net.fixed_point import MAX_STATE, Accumulator, magnitude, width_for


class NumberDelta:
    """A delta of given whole numbers; ``slack`` makes its bound larger than it has to be."""

    def __init__(self, numbers: Sequence[int], slack: int = 0) -> None:
        self.numbers = np.array(numbers, np.int64)
        self.slack = slack

    def bound(self, start: int, stop: int) -> int:
        return max((abs(int(n)) for n in self.numbers[start:stop]), default=0) + self.slack

    def accumulate(self, out: Accumulator, start: int, factor: int) -> None:
        out += (self.numbers[start : start + out.size] * factor).astype(out.dtype)


class Given(NamedTuple):
    """One author's numbers and weight."""

    numbers: tuple[int, ...]
    weight: int


Rounds = Mapping[int, Sequence[Given]]


def contributions_of(given: Sequence[Given]) -> list[Contribution]:
    return [Contribution(NumberDelta(numbers), weight) for numbers, weight in given]


def exact_mean(given: Sequence[Given]) -> list[int]:
    """The weighted means, rounded to the nearest whole number, halves up."""
    total = sum(weight for _, weight in given)
    columns = zip(*(numbers for numbers, _ in given), strict=True)
    return [
        floor(
            Fraction(sum(d * w for d, (_, w) in zip(column, given, strict=True)), total)
            + Fraction(1, 2)
        )
        for column in columns
    ]


def exact_fold(
    cfg: FoldConfig, start: Sequence[int], rounds: Rounds, through: int
) -> tuple[list[int], list[int]]:
    """Return the state and the momentum of the parameters, from scratch, entry by entry."""

    def times(ratio: int, x: int) -> int:
        return floor(Fraction(ratio * x, 1 << 16) + Fraction(1, 2))

    state, momentum = list(start), [0] * cfg.num_parameters
    for round_index in sorted(rounds):
        if round_index > through or not rounds[round_index]:
            continue
        for i, g in enumerate(exact_mean(rounds[round_index])):
            step = g
            if i < cfg.num_parameters:
                momentum[i] = times(cfg.beta, momentum[i]) + g
                step = times(cfg.outer_lr, g + times(cfg.beta, momentum[i]))
            state[i] = min(max(state[i] + step, -MAX_STATE), MAX_STATE)
    return state, momentum if cfg.beta else []


def numbers_of(state: FoldState) -> tuple[list[int], list[int]]:
    """Return the state and the momentum that a fold has arrived at."""
    return [*state.parameters.tolist(), *state.buffers.tolist()], state.momentum.tolist()


def state_of(numbers: Sequence[int], cfg: FoldConfig) -> FoldState:
    """Return a start of whole numbers, at rest, in the width that they need."""
    split = cfg.num_parameters
    parameters, buffers = np.array(numbers[:split], np.int64), np.array(numbers[split:], np.int64)
    width = width_for(magnitude(parameters))
    return FoldState(
        parameters=parameters.astype(width),
        momentum=np.zeros(split if cfg.beta else 0, width),
        buffers=buffers.astype(width_for(magnitude(buffers))),
        parameters_bound=magnitude(parameters),
        momentum_bound=0,
        buffers_bound=magnitude(buffers),
    )
