"""How large this device's update is, and how long it takes to all peers that it goes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from semantic_net.config import Config
from semantic_net.federated.doctor.finding import OK, WARN, Finding, duration
from semantic_net.monitoring.text import format_bytes
from semantic_net.semantic.encoder import encode
from semantic_net.semantic.rate import UPDATE_OVERHEAD, LinkUse, rate_controller
from semantic_net.semantic.schema import ModelSchema

EXAMPLE_RATE = 125_000.0
"""Bytes a second, 1 Mbit/s: for where nothing is known of the links."""

TYPICAL_CHANGE = 1e-3
"""Standard deviation of what a round changes. That it is spread evenly makes it a little larger
than a real update, whose largest entries lie close together."""


@dataclass(frozen=True, slots=True)
class UpdateSize:
    """What one update takes."""

    num_bytes: int
    """With its header."""
    codec: str


def update_size(config: Config, schema: ModelSchema, rates: Sequence[float]) -> UpdateSize:
    """Encode a change that was made up, as a round after the first ones would.

    Args:
        config: Its ``semantic`` section, and ``p2p.max_rate``.
        schema: The model.
        rates: Bytes a second of the links that were measured.
    """
    controller = rate_controller(config.semantic, schema, _max_rate(config))
    links = [LinkUse(round(rate), 1.0, 0) for rate in rates]
    choice = controller.choose(config.semantic.trade.warmup_rounds + 2, links)
    chance = torch.Generator().manual_seed(0)
    change = TYPICAL_CHANGE * torch.randn(schema.size, generator=chance)
    encoded = encode(change, schema, choice.codec, max_bytes=choice.max_bytes, overwrite=True)
    return UpdateSize(len(encoded.payload) + UPDATE_OVERHEAD, str(choice.codec))


def check_update(
    size: UpdateSize, config: Config, num_peers: int, slowest: float | None
) -> Finding:
    """Tell how long an update is on its way, against how long a round waits for it.

    Args:
        size: Of the update.
        config: Its ``p2p`` section.
        num_peers: That it goes to.
        slowest: Bytes a second of the slowest link that was measured; None where none was.
    """
    text = f"an update takes about {format_bytes(size.num_bytes)} ({size.codec})"
    if not num_peers:
        return Finding("update", OK, text)
    rates = [
        (rate, why)
        for rate, why in (
            (_max_rate(config), "p2p.max_rate"),
            (slowest, "the slowest link measured"),
        )
        if rate
    ]
    rate, why = min(rates, default=(EXAMPLE_RATE, "1 Mbit/s, nothing being known of the links"))
    took_s = num_peers * size.num_bytes / rate
    peers = f"{num_peers} peer{'s' * (num_peers != 1)}"
    text += f"; to {peers} over {format_bytes(rate)}/s ({why}): {duration(took_s)}"
    timeout_s = config.p2p.listen_timeout_s
    if took_s > timeout_s:
        text += f", and a round waits {timeout_s:g} s"
        hint = (
            "raise p2p.listen_timeout_s, or send less: semantic.preset=extreme, semantic.budget_s"
        )
        return Finding("update", WARN, text, hint)
    return Finding("update", OK, text)


def _max_rate(config: Config) -> float | None:
    return None if config.p2p.max_rate is None else 1000 * config.p2p.max_rate
