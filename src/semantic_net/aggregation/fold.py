"""The fold: one round of updates onto a state, in whole numbers, in cache-sized blocks.

    g     = rule(deltas of the round, m)                the weighted mean by default
    m     = beta * m + g                                outer Nesterov momentum
    state = state + outer_lr * (g + beta * m)           buffers: state + g

beta and outer_lr are whole numbers of 2^-16 (`semantic_net.aggregation.ratio`). The same
updates give the same bits in any order, on any machine.

Bounds. |g| <= 2^30 (`MAX_DELTA`). With beta <= 0.99, |m| <= (2^30 + 1) / (1 - beta) < 2^37; a step
is at most 2 * (2^30 + 2^37) < 2^39, and the state saturates at 2^52 (`MAX_STATE`), so that sums
stay below 2^53 and products n * x below 2^17 * 2^38 = 2^55. Nothing can overflow int64.
Where the round's own bounds, which each delta knows, stay below 2^31, the same is done in int32:
twice the speed, half the memory, and never another value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from semantic_net.aggregation.ratio import ONE, Ratio
from semantic_net.aggregation.robust import PastMean
from semantic_net.aggregation.rule_config import RuleConfig
from semantic_net.aggregation.rules import Contribution, Rule
from semantic_net.aggregation.state import FoldState
from semantic_net.buffers import new_array
from semantic_net.errors import ConfigError
from semantic_net.fixed_point import (
    BLOCK,
    MAX_STATE,
    NARROW_LIMIT,
    FixedArray,
    Width,
    magnitude,
    width_for,
)

FOLD_VERSION = 2
"""Raised when the same updates would give other bits; peers of another version are refused."""

MAX_BETA = round(0.99 * ONE)
MAX_OUTER_LR = 2 * ONE


@dataclass(frozen=True, slots=True)
class FoldConfig:
    """What must be equal on all peers for their folds to be equal.

    Raises:
        ConfigError: A value is out of range; the message names the key.
    """

    num_parameters: int
    num_buffers: int
    beta: int
    """In units of 2^-16."""
    outer_lr: int
    """In units of 2^-16."""
    rule: RuleConfig = field(default_factory=RuleConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= MAX_BETA:
            raise ConfigError(
                f"aggregation.outer_momentum must be in [0, 0.99], got {self.beta / ONE}"
            )
        if not 1 <= self.outer_lr <= MAX_OUTER_LR:
            raise ConfigError(
                f"aggregation.outer_lr must be in [2^-16, 2], got {self.outer_lr / ONE}"
            )

    @classmethod
    def of(
        cls,
        *,
        num_parameters: int,
        num_buffers: int,
        outer_momentum: float,
        outer_lr: float,
        rule: str = "mean",
        byzantine_ratio: float = 0.2,
        nearest_neighbour_mixing: bool = False,
    ) -> FoldConfig:
        """Return the configuration nearest to these settings.

        Raises:
            ConfigError: A value is out of range; the message names the key.
        """
        beta, lr = round(outer_momentum * ONE), round(outer_lr * ONE)
        chosen = RuleConfig.of(rule, byzantine_ratio, mixes_nearest=nearest_neighbour_mixing)
        return cls(num_parameters, num_buffers, beta, lr, chosen)


def fold_round(
    state: FoldState,
    contributions: Sequence[Contribution],
    cfg: FoldConfig,
    out: FoldState | None = None,
) -> FoldState:
    """Return the state after a round.

    Args:
        state: The state before it. Not modified, unless it is ``out``.
        contributions: At most one an author, in any order. None at all: nothing changes, not
            even the momentum; a round without updates is no round.
        cfg: Equal on all peers.
        out: A state whose arrays may be overwritten, to save allocating; it must not be used
            afterwards. May be ``state`` itself.
    """
    if not contributions:
        return state
    parameters, momentum, bounds = _fold_parameters(state, contributions, cfg, out)
    buffers, buffers_bound = _fold_buffers(state, contributions, cfg, out)
    return FoldState(
        parameters=parameters,
        momentum=momentum,
        buffers=buffers,
        parameters_bound=bounds.parameters,
        momentum_bound=bounds.momentum,
        buffers_bound=buffers_bound,
    )


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Of the magnitudes after a step; ``largest`` includes all that is met on the way."""

    parameters: int
    momentum: int
    largest: int


def _fold_parameters(
    state: FoldState, contributions: Sequence[Contribution], cfg: FoldConfig, out: FoldState | None
) -> tuple[FixedArray, FixedArray, _Bounds]:
    centre = PastMean(state.momentum, state.momentum_bound, cfg.beta)
    rule = cfg.rule.reduce(contributions, 0, cfg.num_parameters, centre)
    beta, outer_lr = Ratio(cfg.beta), Ratio(cfg.outer_lr)
    bounds = _bounds_after(state.parameters_bound, state.momentum_bound, rule.bound, cfg)
    if bounds.largest > NARROW_LIMIT:  # perhaps only since bounds add up over the rounds
        bounds = _bounds_after(
            magnitude(state.parameters), magnitude(state.momentum), rule.bound, cfg
        )
    width = width_for(bounds.largest)
    parameters = _room(out.parameters if out else None, state.parameters.size, width)
    momentum = _room(out.momentum if out else None, state.momentum.size, width)
    for here, g in _blocks(rule, 0, cfg.num_parameters, width):
        if cfg.beta:
            m: FixedArray = state.momentum[here].astype(width, copy=False)
            m = np.add(beta.times(m), g, out=momentum[here])
            g += beta.times(m)
        step = outer_lr.times(g)
        np.add(state.parameters[here], step, out=parameters[here], dtype=width)
        if width is np.int64:
            np.clip(parameters[here], -MAX_STATE, MAX_STATE, out=parameters[here])
    if width is np.int32:
        return parameters, momentum, bounds
    bounds = _Bounds(
        magnitude(parameters), magnitude(momentum), max(magnitude(parameters), magnitude(momentum))
    )
    width = width_for(bounds.largest)
    return parameters.astype(width, copy=False), momentum.astype(width, copy=False), bounds


def _fold_buffers(
    state: FoldState, contributions: Sequence[Contribution], cfg: FoldConfig, out: FoldState | None
) -> tuple[FixedArray, int]:
    start, stop = cfg.num_parameters, cfg.num_parameters + cfg.num_buffers
    rule = cfg.rule.reduce(contributions, start, stop, PastMean(state.buffers[:0], 0, 0))
    bound = state.buffers_bound + rule.bound
    if bound > NARROW_LIMIT:
        bound = magnitude(state.buffers) + rule.bound
    width = width_for(bound)
    buffers = _room(out.buffers if out else None, state.buffers.size, width)
    for here, g in _blocks(rule, start, stop, width):
        np.add(state.buffers[here], g, out=buffers[here], dtype=width)
        if width is np.int64:
            np.clip(buffers[here], -MAX_STATE, MAX_STATE, out=buffers[here])
    if width is np.int32:
        return buffers, bound
    bound = magnitude(buffers)
    return buffers.astype(width_for(bound), copy=False), bound


def _bounds_after(parameters: int, momentum: int, g: int, cfg: FoldConfig) -> _Bounds:
    beta, outer_lr = Ratio(cfg.beta), Ratio(cfg.outer_lr)
    if cfg.beta:
        momentum = beta.of(momentum) + g
        g += beta.of(momentum)
    parameters += outer_lr.of(g)
    return _Bounds(parameters, momentum, max(parameters, momentum, g))


def _blocks(rule: Rule, start: int, stop: int, width: Width) -> Iterator[tuple[slice, FixedArray]]:
    """Yield the result of ``rule`` in blocks, and where each is, counted from ``start``."""
    scratch = np.empty(min(BLOCK, stop - start), np.int32)
    for first in range(start, stop, BLOCK):
        block = scratch[: min(BLOCK, stop - first)]
        rule.reduce(first, block)
        here = slice(first - start, first - start + block.size)
        yield here, block.astype(width, copy=False)


def _room(array: FixedArray | None, size: int, width: Width) -> FixedArray:
    if array is not None and array.dtype == width and array.size == size:
        return array
    return new_array(size, width)
