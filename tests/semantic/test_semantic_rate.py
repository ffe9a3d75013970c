"""The choice of a round's codec: what was configured, or the densest that a budget has room for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from semantic_support import payload_of, schema_of

from semantic_net.config import SemanticConfig
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.encoder import encode
from semantic_net.semantic.rate import (
    UPDATE_OVERHEAD,
    BudgetController,
    Choice,
    FixedRate,
    LinkUse,
    rate_controller,
)

SCHEMA = schema_of(100_000)
DENSE_BYTES = 400_000


def link(bytes_s: float, *, loss: float = 0.0) -> LinkUse:
    """A link that was busy for twenty seconds."""
    sent = round(20 * bytes_s)
    return LinkUse(sent, 20.0, round(sent * loss / (1 - loss)))


def chosen(links: list[LinkUse], **budget: float) -> Choice:
    return BudgetController(SemanticConfig(**budget), SCHEMA).choose(1, links)  # type: ignore[arg-type]


def density(codec: Codec) -> float:
    """Bytes an entry, roughly: whatever sends more is denser."""
    return {"none": 4.0, "weights_quantize": codec.bit_width / 8}.get(codec.mode, codec.topk / 10)


# Configured


@pytest.mark.parametrize(
    ("cfg", "codec", "reason"),
    [
        (SemanticConfig(), Codec("topk_quantize", topk=0.03), "preset balanced"),
        (SemanticConfig(preset="extreme"), Codec("entropy_quantize", topk=0.01), "preset extreme"),
        (SemanticConfig(preset="lossless"), Codec("none"), "preset lossless"),
        (SemanticConfig(topk=0.1), Codec("topk_quantize", topk=0.1), "preset balanced"),
        (
            SemanticConfig(preset="extreme", mode="weights_quantize", bit_width=2),
            Codec("weights_quantize", bit_width=2),
            "as configured",
        ),
    ],
)
def test_without_a_budget_it_is_what_was_configured(
    cfg: SemanticConfig, codec: Codec, reason: str
) -> None:
    for number in (1, 2, 100):
        assert rate_controller(cfg, SCHEMA).choose(number, []) == Choice(codec, reason)


@pytest.mark.parametrize(
    ("cfg", "share"),
    [
        (SemanticConfig(), 0.256),
        (SemanticConfig(preset="extreme"), 0.256),
        (SemanticConfig(topk=0.4), 0.4),
        (SemanticConfig(min_entries=500), 0.5),
        (SemanticConfig(min_entries=5000), 1.0),
        (SemanticConfig(min_entries=1), 0.03),
        (SemanticConfig(mode="entropy_quantize", topk=0.01), 0.01),
    ],
)
def test_a_preset_keeps_some_hundred_entries_of_a_small_model(
    cfg: SemanticConfig, share: float
) -> None:
    for same in (cfg, cfg.resolved()):
        assert FixedRate(same, schema_of(1000)).choose(1, []).codec.topk == share


def test_a_model_without_parameters_has_a_share_too() -> None:
    assert FixedRate(SemanticConfig(), schema_of(buffers=3)).choose(1, []).codec.topk == 1.0


def test_warm_up_sends_more_in_the_first_rounds() -> None:
    rate = FixedRate(SemanticConfig(topk=0.3, warmup_rounds=3), SCHEMA)
    found = [rate.choose(number, []) for number in range(1, 6)]
    assert [choice.codec.topk for choice in found] == [1.0, 0.3 * 3, 0.3 * 2, 0.3, 0.3]
    assert [choice.reason for choice in found] == ["preset balanced, warm-up"] * 3 + [
        "preset balanced"
    ] * 2


def test_a_long_warm_up_begins_no_higher_and_falls_evenly() -> None:
    rate = FixedRate(SemanticConfig(topk=0.01, warmup_rounds=30), SCHEMA)
    found = [rate.choose(number, []).codec.topk for number in range(1, 32)]
    assert found[0] == pytest.approx(0.06)
    assert found[15] == pytest.approx(0.01 * (1 + 5 * 15 / 30))
    assert found[30] == 0.01
    assert found == sorted(found, reverse=True)


def test_who_trains_in_every_fifth_round_warms_up_for_five_unless_told_otherwise() -> None:
    assert SemanticConfig().resolved().warmup_rounds == 0
    assert SemanticConfig().resolved(5).warmup_rounds == 5
    assert SemanticConfig().resolved(5).resolved(7).warmup_rounds == 5
    assert SemanticConfig(warmup_rounds=0).resolved(5).warmup_rounds == 0


def test_warm_up_leaves_dense_codecs_alone() -> None:
    rate = FixedRate(SemanticConfig(mode="none", warmup_rounds=3), SCHEMA)
    assert rate.choose(1, []) == Choice(Codec("none"), "as configured")


# Budgets


def test_a_budget_asks_for_mode_auto() -> None:
    budgets = (SemanticConfig(budget_s=1), SemanticConfig(budget_bytes=1))
    for cfg in (*budgets, SemanticConfig(mode="auto", budget_s=1), SemanticConfig(mode="auto")):
        assert isinstance(rate_controller(cfg, SCHEMA), BudgetController)


def test_where_everything_has_room_nothing_is_lost() -> None:
    choice = chosen([link(6e5)], budget_s=1)
    assert choice.codec == Codec("none")
    reason = "auto: room for 600 kB (1 s at 600 kB/s, 0% lost, on the slowest link)"
    assert choice.reason == reason


def test_the_slowest_link_decides_and_what_it_loses_is_not_counted_on() -> None:
    slow = chosen([link(1e6), link(4e3)], budget_s=1)
    assert slow == chosen([link(4e3)], budget_s=1)
    assert "4 kB/s, 0% lost" in slow.reason
    lossy = chosen([link(8e3, loss=0.5)], budget_s=1)
    assert lossy.codec == slow.codec
    assert "8 kB/s, 50% lost" in lossy.reason


def test_bytes_are_shared_by_all_neighbours() -> None:
    two = chosen([link(1e9)] * 2, budget_bytes=20_000)
    four = chosen([link(1e9)] * 4, budget_bytes=40_000)
    assert two.codec == four.codec
    assert "budget_bytes over 4 neighbours" in four.reason


def test_the_tighter_of_two_budgets_holds() -> None:
    both = chosen([link(1e4)], budget_s=10, budget_bytes=5_000)
    assert both.codec == chosen([link(1e4)], budget_bytes=5_000).codec
    assert chosen([link(1e4)], budget_s=0.5, budget_bytes=10**9).codec == both.codec


def test_a_rate_limit_of_our_own_is_a_limit_of_the_link() -> None:
    cfg = SemanticConfig(budget_s=1)
    limited = BudgetController(cfg, SCHEMA, max_rate_bytes_s=8_000).choose(1, [link(1e9)] * 2)
    assert limited.codec == chosen([link(4_000)], budget_s=1).codec
    assert "p2p.max_rate over 2 neighbours" in limited.reason


def test_a_rate_limit_of_our_own_is_known_before_anything_is_measured() -> None:
    cfg = SemanticConfig(budget_s=10)
    first = BudgetController(cfg, SCHEMA, max_rate_bytes_s=100).choose(1, [LinkUse(0, 0.0, 0)])
    assert first.max_bytes == 700
    assert first.reason.startswith("auto: room for 0.7 kB (10 s at 0.1 kB/s, p2p.max_rate over")


@pytest.mark.parametrize("links", [[], [LinkUse(0, 0.0, 0)], [LinkUse(100, 0.5, 0)]])
def test_before_anything_is_measured_it_starts_in_the_middle(links: list[LinkUse]) -> None:
    choice = chosen(links, budget_s=1)
    assert choice.codec == Codec("entropy_quantize", topk=0.03)
    assert choice.reason == "auto: no link is measured yet, so it starts with the largest 3%"


def test_a_budget_that_nothing_fits_takes_the_least_and_says_so() -> None:
    choice = chosen([link(1e9)], budget_bytes=10)
    assert choice.codec == Codec("entropy_quantize", topk=0.0005)
    assert choice.reason.startswith("auto: room for 0 kB (budget_bytes")
    assert choice.reason.endswith("less than the sparsest update takes)")
    assert choice.max_bytes == 0


@given(st.floats(100, 1e6), st.floats(1, 100))
def test_more_room_is_never_used_for_less(bytes_s: float, factor: float) -> None:
    less, more = (chosen([link(b)], budget_s=1).codec for b in (bytes_s, factor * bytes_s))
    assert density(less) <= density(more)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_tenfold_change_of_the_link_shows_in_the_next_round(factor: float) -> None:
    rate = BudgetController(SemanticConfig(budget_s=1), SCHEMA)
    total = np.random.default_rng(0).standard_normal(100_000).astype(np.float32) * 1e-3
    sizes = []
    for bytes_s in (5_000.0, 5_000.0, 5_000 * factor):
        codec = rate.choose(1, [link(bytes_s)]).codec
        sizes.append(len(payload_of(total, SCHEMA, codec)))
        rate.encoded(sizes[-1], codec.topk)
    room = 5_000 * factor - UPDATE_OVERHEAD
    assert 0.5 * room < sizes[-1] < 1.3 * room, "near what there is room for"


def test_what_the_last_payload_took_corrects_the_estimate() -> None:
    """A model whose changes are cheaper or dearer than estimated."""
    rate = BudgetController(SemanticConfig(budget_bytes=5_000), SCHEMA)
    first = rate.choose(1, []).codec
    for _ in range(3):
        rate.encoded(10_000, first.topk)
    second = rate.choose(2, []).codec
    assert second.topk < 0.7 * first.topk


@pytest.mark.parametrize("changed", [1.0, 0.02], ids=["everything", "one layer of many"])
@pytest.mark.parametrize("tail", [1, 3])
def test_a_budget_of_bytes_is_never_exceeded_and_mostly_used(changed: float, tail: int) -> None:
    """Whatever updates are like: half of what changes is far smaller, or nearly all is frozen."""
    rng = np.random.default_rng(0)
    budget = 5_000
    rate = BudgetController(SemanticConfig(budget_bytes=budget), SCHEMA)
    used = []
    for number in range(1, 9):
        total = (rng.standard_normal(100_000) ** tail * 1e-3).astype(np.float32)
        total[int(changed * total.size) :] = 0
        choice = rate.choose(number, [LinkUse(0, 0.0, 0)])
        found = encode(torch.from_numpy(total), SCHEMA, choice.codec, max_bytes=choice.max_bytes)
        rate.encoded(len(found.payload), found.kept_ratio)
        used.append((len(found.payload) + UPDATE_OVERHEAD) / budget)
    assert max(used) <= 1
    assert min(used) > 0.5


@pytest.mark.parametrize("share", [0.3, 0.1, 0.03, 0.01, 0.001])
def test_estimates_are_near_what_payloads_take(share: float) -> None:
    rng = np.random.default_rng(0)
    total = rng.standard_normal(100_000).astype(np.float32) * 1e-3
    codec = Codec("entropy_quantize", topk=share)
    estimate = BudgetController(SemanticConfig(budget_s=1), SCHEMA)._estimate(codec)
    assert 0.7 < len(payload_of(total, SCHEMA, codec)) / estimate < 1.4
