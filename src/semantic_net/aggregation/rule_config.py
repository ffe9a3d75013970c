"""Which rule of aggregation a run follows, and with what settings: equal on all peers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semantic_net.aggregation.ratio import ONE, Ratio
from semantic_net.aggregation.robust import ROBUST_RULES, Round, mixed_with_nearest
from semantic_net.aggregation.rules import Contribution, Delta, Rule, mean
from semantic_net.errors import ConfigError

RULE_NAMES = ("mean", *ROBUST_RULES)
MAX_BYZANTINE = ONE // 2 - 1


@dataclass(frozen=True, slots=True)
class RuleConfig:
    """A rule by its name.

    Raises:
        ConfigError: A value is out of range; the message names the key.
    """

    name: str = "mean"
    byzantine: int = ONE // 5
    """Share of a round's authors that may lie, in units of 2^-16."""
    mixes_nearest: bool = False
    """Whether each update is first mixed with those nearest to it."""

    def __post_init__(self) -> None:
        if self.name not in RULE_NAMES:
            raise ConfigError(
                f"aggregation.rule must be one of {', '.join(RULE_NAMES)}, got {self.name!r}"
            )
        if not 0 <= self.byzantine <= MAX_BYZANTINE:
            raise ConfigError(
                f"aggregation.byzantine_ratio must be in [0, 0.5), got {self.byzantine / ONE}"
            )
        if self.mixes_nearest and not self.is_robust:
            raise ConfigError(
                "aggregation.nearest_neighbour_mixing goes in front of a robust rule, not of mean: "
                "set aggregation.rule"
            )

    @classmethod
    def of(cls, name: str, byzantine_ratio: float, *, mixes_nearest: bool = False) -> RuleConfig:
        """Return the configuration nearest to these settings.

        Raises:
            ConfigError: A value is out of range; the message names the key.
        """
        byzantine = round(byzantine_ratio * ONE)
        if byzantine_ratio < 0.5:  # down to where 2^-16 can tell it from a half
            byzantine = min(byzantine, MAX_BYZANTINE)
        return cls(name, byzantine, mixes_nearest)

    @property
    def is_robust(self) -> bool:
        """Whether authors that lie are reckoned with."""
        return self.name != "mean"

    def num_byzantine(self, num_authors: int) -> int:
        """Return how many of a round's authors may lie: the share, rounded, below half."""
        return min(Ratio(self.byzantine).of(num_authors), (num_authors - 1) // 2)

    def reduce(
        self, contributions: Sequence[Contribution], start: int, stop: int, centre: Delta
    ) -> Rule:
        """Return the rule for a range of entries of a round.

        Args:
            contributions: At least one, at most one an author, in any order.
            start: Of the range.
            stop: Its end.
            centre: Where the last rounds went, on average.
        """
        if not self.is_robust or start == stop:
            return mean(contributions, start, stop)
        deltas = [c.delta for c in sorted(contributions, key=lambda c: c.key)]
        updates = Round(deltas, start, stop, self.num_byzantine(len(deltas)), centre)
        if self.mixes_nearest:
            updates = mixed_with_nearest(updates)
        return ROBUST_RULES[self.name](updates)
