"""Which codec a round takes: the configured one, warmed up, or what the links have room for.

Pure decisions: what was measured comes in, a choice with its reason comes out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from semantic_net.config import SemanticConfig
from semantic_net.semantic.codec import LEAST_RATIO, Codec
from semantic_net.semantic.schema import ModelSchema

MIN_BYTES = 1024
"""Bytes that a link must have carried for its throughput to be known: less is over in one burst."""

DEFAULT_BUDGET_S = 10.0
"""Where mode auto is given no budget."""

UPDATE_OVERHEAD = 300
"""Bytes of an update beside its payload: its header, and what is said of it."""

SHARES = tuple(float(f"{share:.2g}") for share in np.geomspace(0.3, LEAST_RATIO, 20))
"""What mode auto may keep, from most to least."""


@dataclass(frozen=True, slots=True)
class LinkUse:
    """What a link to a neighbour did since the last choice."""

    sent_bytes: int
    """That have arrived there."""
    busy_s: float
    """How long something was under way."""
    lost_bytes: int
    """That had to be sent again."""

    @property
    def throughput(self) -> float:
        """Bytes a second."""
        return self.sent_bytes / self.busy_s

    @property
    def loss(self) -> float:
        """Share of the bytes that were lost."""
        return self.lost_bytes / (self.sent_bytes + self.lost_bytes)


@dataclass(frozen=True, slots=True)
class Choice:
    """A round's codec, and why."""

    codec: Codec
    reason: str
    max_bytes: int | None = None
    """Most that the payload should take; a sparse mode then keeps fewer entries."""


class RateController(Protocol):
    """Chooses a codec for each round."""

    def choose(self, round_index: int, links: Iterable[LinkUse]) -> Choice:
        """Return the codec of a round.

        Args:
            round_index: From 1.
            links: To all neighbours that the own update has to reach.
        """
        ...

    def encoded(self, payload_bytes: int, kept_ratio: float | None) -> None:
        """Note how large the payload was, and which share of the entries it keeps, if known."""
        ...


def rate_controller(
    cfg: SemanticConfig, schema: ModelSchema, max_rate_bytes_s: float | None = None
) -> RateController:
    """Return what the configuration asks for.

    Args:
        cfg: The ``semantic`` section.
        schema: The model.
        max_rate_bytes_s: Most bytes a second that this device sends, to all neighbours together.
    """
    if cfg.trade.mode == "auto":
        return BudgetController(cfg, schema, max_rate_bytes_s)
    return FixedRate(cfg, schema)


MAX_WARMUP = 6
"""Times as much as later that is kept in the very first round, at most."""


class FixedRate:
    """The configured codec; sparse ones keep more in the first rounds.

    Early rounds move a model the furthest, and what is left out of them is learned late (Lin et
    al., "Deep Gradient Compression", 2018, section 3.3).
    """

    def __init__(self, cfg: SemanticConfig, schema: ModelSchema) -> None:
        trade = cfg.trade
        # Of a small model, a small share saves nothing beside headers, and costs accuracy.
        floor = trade.min_entries / max(schema.num_parameters, 1)
        self._codec = Codec(trade.mode, max(trade.topk, min(floor, 1.0)), cfg.bit_width)
        self._warmup_rounds = trade.warmup_rounds
        self._name = f"preset {cfg.preset}" if cfg.mode is None else "as configured"

    def choose(self, round_index: int, links: Iterable[LinkUse]) -> Choice:
        """See `RateController.choose`."""
        factor = self._factor(round_index)
        if factor == 1 or self._codec.is_dense:
            return Choice(self._codec, self._name)
        codec = replace(self._codec, topk=min(factor * self._codec.topk, 1.0))
        return Choice(codec, f"{self._name}, warm-up")

    def _factor(self, round_index: int) -> float:
        """Return how many times as much is kept: it falls evenly, to once behind the warm-up."""
        left = self._warmup_rounds + 1 - round_index
        if left <= 0:
            return 1
        most = min(self._warmup_rounds + 1, MAX_WARMUP)
        return 1 + (most - 1) * left / self._warmup_rounds

    def encoded(self, payload_bytes: int, kept_ratio: float | None) -> None:
        """See `RateController.encoded`."""


class BudgetController:
    """The densest codec that a budget has room for.

    Throughput is the last round's, unsmoothed: a link in the field changes tenfold from one minute
    to the next, and one round's error is made good by the residual. Sizes are estimated, the
    estimate is corrected by how far those before were off, and what is too large all the same is
    encoded once more, with fewer entries.
    """

    def __init__(
        self, cfg: SemanticConfig, schema: ModelSchema, max_rate_bytes_s: float | None = None
    ) -> None:
        self._budget_bytes = cfg.budget_bytes
        self._budget_s = cfg.budget_s
        if cfg.budget_bytes is None and cfg.budget_s is None:
            self._budget_s = DEFAULT_BUDGET_S
        self._max_rate_bytes_s = max_rate_bytes_s
        self._schema = schema
        self._ladder = [
            Codec("none"),
            *(Codec("weights_quantize", bit_width=bits) for bits in (8, 6, 4, 3, 2)),
            *(Codec("entropy_quantize", topk=share) for share in SHARES),
        ]
        self._correction = 1.0
        self._chosen = self._ladder[-1]

    def choose(self, round_index: int, links: Iterable[LinkUse]) -> Choice:
        """See `RateController.choose`."""
        links = list(links)
        room, reason = self._room(links)
        if room is None:
            start = Codec("entropy_quantize", topk=0.03)
            self._chosen = start
            return Choice(start, f"auto: {reason}, so it starts with the largest 3%")
        for codec in self._ladder:
            if self._expected(codec) <= room:
                break
        else:
            reason += ", less than the sparsest update takes"
        self._chosen = codec
        room = max(room, 0.0)
        return Choice(codec, f"auto: room for {_kilo(room)} ({reason})", int(room))

    def encoded(self, payload_bytes: int, kept_ratio: float | None) -> None:
        """See `RateController.encoded`."""
        if kept_ratio and not self._chosen.is_dense:
            # Of what was kept: a frozen layer's entries are never among it, whatever was asked.
            found = payload_bytes / self._estimate(replace(self._chosen, topk=kept_ratio))
            damped = math.sqrt(self._correction * found)
            self._correction = min(max(damped, 0.25), 4.0)

    def _room(self, links: list[LinkUse]) -> tuple[float | None, str]:
        """Return the bytes that the payload may have, and what decides."""
        limits: list[tuple[float, str]] = []
        if self._budget_bytes is not None:
            num = max(len(links), 1)
            share = self._budget_bytes / num - UPDATE_OVERHEAD
            limits.append((share, f"budget_bytes over {num} neighbour{'s' * (num > 1)}"))
        if self._budget_s is not None:
            rates = [*self._own_limit(links), *self._slowest(links)]
            if rates:
                rate, text = min(rates)
                room = self._budget_s * rate - UPDATE_OVERHEAD
                limits.append((room, f"{self._budget_s:g} s at {text}"))
        if not limits:
            return None, "no link is measured yet"
        return min(limits)

    def _own_limit(self, links: list[LinkUse]) -> Iterator[tuple[float, str]]:
        if self._max_rate_bytes_s is not None:
            num = max(len(links), 1)
            rate = self._max_rate_bytes_s / num
            yield rate, f"{_kilo(rate)}/s, p2p.max_rate over {num} neighbour{'s' * (num > 1)}"

    def _slowest(self, links: list[LinkUse]) -> Iterator[tuple[float, str]]:
        measured = [u for u in links if u.sent_bytes >= MIN_BYTES and u.busy_s > 0]
        if measured:
            slowest = min(measured, key=lambda use: use.throughput * (1 - use.loss))
            text = f"{_kilo(slowest.throughput)}/s, {slowest.loss:.0%} lost, on the slowest link"
            yield slowest.throughput * (1 - slowest.loss), text

    def _expected(self, codec: Codec) -> float:
        estimate = self._estimate(codec)
        return estimate if codec.is_dense else estimate * self._correction

    def _estimate(self, codec: Codec) -> float:
        """Return about the bytes of a payload."""
        size, buffers = self._schema.num_parameters, 4 * self._schema.num_buffers
        if codec.mode == "none":
            return self._schema.dense_bytes
        if codec.mode == "weights_quantize":
            return size * codec.bit_width / 8 + buffers
        p = codec.topk
        entropy = -p * np.log2(p) - (1 - p) * np.log2(1 - p) if p < 1 else 0.0
        return float(size * (0.9 * entropy + 1.4 * p) / 8 + buffers + 64)


def _kilo(num_bytes: float) -> str:
    return f"{num_bytes / 1000:.3g} kB"
