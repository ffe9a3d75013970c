"""How one update is encoded: a mode, and how strongly it compresses."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_RATIO = 0.0005
"""The smallest share of entries that is kept only to save bytes."""


@dataclass(frozen=True, slots=True)
class Codec:
    """A mode and its strength. Peers need not agree on it: each payload says what it is."""

    mode: str
    """A name in `semantic_net.semantic.payloads.CODECS`."""
    topk: float = 0.03
    """Share of entries that a sparse mode keeps, in (0, 1]."""
    bit_width: int = 4
    """Bits an entry of weights_quantize, 1 to 8."""

    @property
    def is_dense(self) -> bool:
        """Whether it sends every entry."""
        return self.mode in ("none", "weights_quantize")

    def __str__(self) -> str:
        """Return the mode and what it depends on."""
        if self.mode == "none":
            return self.mode
        if self.mode == "weights_quantize":
            return f"{self.mode}, {self.bit_width} bits"
        return f"{self.mode}, {100 * self.topk:.3g}%"
