"""The ``semantic`` section: a trade of bytes against accuracy, by name or key by key."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

from semantic_net.config.checks import require, require_one_of

Mode = Literal[
    "none", "gradients_topk", "weights_quantize", "topk_quantize", "entropy_quantize", "auto"
]
MODES: tuple[str, ...] = get_args(Mode)
Preset = Literal["lossless", "balanced", "extreme"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticConfig:
    """The ``semantic`` section: how an update becomes bytes.

    ``preset`` names the trade; every other key that is set goes above it. A mode, or a budget,
    leaves nothing of it: so the config.yaml of a run, which names all, has its preset for a
    reader only. Mode auto chooses the share of entries itself, and heeds none of ``topk``,
    ``min_entries`` and ``warmup_rounds``.
    """

    preset: Preset = "balanced"
    """lossless, balanced or extreme: see `PRESETS`."""
    mode: Mode | None = None
    """none (dense float32), gradients_topk (largest entries, float values), weights_quantize
    (every entry, ``bit_width`` bits), topk_quantize (largest entries, 2 bits each),
    entropy_quantize (largest entries, entropy-coded), auto (within a budget). None: the preset's.
    """
    topk: float | None = None
    """Share of entries that the sparse modes keep, in (0, 1]. None: the preset's, else 0.03."""
    min_entries: int | None = None
    """Fewest entries that the sparse modes keep, whatever the share. None: the preset's, else 1."""
    bit_width: int = 4
    """Bits an entry of weights_quantize, 1 to 8."""
    warmup_rounds: int | None = None
    """First rounds in which the sparse modes keep more. None: the preset's, else as many as each
    peer has one turn in (`p2p.participants`), where that is not every round, else 0."""
    budget_bytes: int | None = None
    """Most bytes that a round's own update may cost, to all neighbours together. A budget asks
    for mode auto; beside another it is an error. At least the sparsest update always goes."""
    budget_s: float | None = None
    """Most seconds that it may take to the slowest neighbour. Mode auto without a budget: 10."""

    def __post_init__(self) -> None:
        require_one_of("semantic.preset", self.preset, PRESETS)
        if self.mode is not None:
            require_one_of("semantic.mode", self.mode, MODES)
        require(self.topk is None or 0 < self.topk <= 1, "semantic.topk", "in (0, 1]", self.topk)
        require(1 <= self.bit_width <= 8, "semantic.bit_width", "in [1, 8]", self.bit_width)
        require(
            self.min_entries is None or self.min_entries >= 1,
            "semantic.min_entries",
            ">= 1",
            self.min_entries,
        )
        require(
            self.warmup_rounds is None or self.warmup_rounds >= 0,
            "semantic.warmup_rounds",
            ">= 0",
            self.warmup_rounds,
        )
        require(
            self.budget_bytes is None or self.budget_bytes >= 1,
            "semantic.budget_bytes",
            ">= 1",
            self.budget_bytes,
        )
        require(
            self.budget_s is None or self.budget_s > 0, "semantic.budget_s", "> 0", self.budget_s
        )
        for key in ("budget_bytes", "budget_s"):
            require(
                getattr(self, key) is None or self.mode in (None, "auto"),
                f"semantic.{key}",
                f"null where semantic.mode is {self.mode} (only mode auto keeps within a budget)",
                getattr(self, key),
            )

    def resolved(self, turn_period: int = 1) -> SemanticConfig:
        """Return the same with every key set that a preset says something of.

        Args:
            turn_period: Rounds in which each peer has one turn. What a peer leaves out waits as
                long for its next update: so the first, which counts most, keeps more.
        """
        made = replace(self, **asdict(self.trade))
        if self.warmup_rounds is None and made.warmup_rounds == 0 and turn_period > 1:
            made = replace(made, warmup_rounds=turn_period)
        return made

    @property
    def trade(self) -> Trade:
        """What holds: of each key what is set, else what the preset says."""
        if self.mode is not None:
            preset = Trade(self.mode)
        elif self.budget_bytes is not None or self.budget_s is not None:
            preset = Trade("auto")
        else:
            preset = PRESETS[self.preset]
        return Trade(
            mode=preset.mode,
            topk=preset.topk if self.topk is None else self.topk,
            min_entries=preset.min_entries if self.min_entries is None else self.min_entries,
            warmup_rounds=(
                preset.warmup_rounds if self.warmup_rounds is None else self.warmup_rounds
            ),
        )


@dataclass(frozen=True, slots=True)
class Trade:
    """Bytes against accuracy."""

    mode: Mode
    topk: float = 0.03
    min_entries: int = 1
    warmup_rounds: int = 0


PRESETS = {
    "lossless": Trade("none"),
    "balanced": Trade("topk_quantize", topk=0.03, min_entries=256),
    "extreme": Trade("entropy_quantize", topk=0.01, min_entries=256),
}
"""By the name in ``semantic.preset``; docs/results.md has what each costs and saves."""
