"""The sections of a network file that say what befalls it, each key with its unit and its range."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from semantic_net.config.checks import require_one_of
from semantic_net.errors import ConfigError
from semantic_net.simulation.network_sections import Peers, check_two, check_within


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageSection:
    """One of ``outages``: what is cut, from when on and for how long."""

    from_s: float
    """When it begins, in seconds since the start."""
    for_s: float | None = None
    """How long it lasts; for ever unless given."""
    peers: Peers | None = None
    """Each of these is cut off from all others."""
    between: tuple[Peers, ...] = ()
    """Two lists of peers: the links between them are cut."""
    groups: tuple[Peers, ...] = ()
    """A partition: nothing passes between groups. Peers in none of them form one more."""

    def check(self, key: str) -> None:
        """Raise a `ConfigError` unless the values are in range."""
        check_within(self, key, "from_s", 0, 1e9, "s")
        check_within(self, key, "for_s", 0.001, 1e9, "s")
        given = [name for name in ("peers", "between", "groups") if getattr(self, name)]
        if len(given) != 1:
            raise ConfigError(
                f"{key}: expected one of peers, between and groups, "
                f"got {' and '.join(given) or 'none of them'}"
            )
        if self.between:
            check_two(f"{key}.between", self.between)
        for first, second in combinations(self.groups, 2):
            if common := first & second:
                raise ConfigError(f"{key}.groups: peer {min(common)} is in two groups")


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomOutagesSection:
    """``random_outages``: peers that are cut off now and then."""

    mean_between_s: float
    """From the end of one to the beginning of the next, on average (exponential)."""
    mean_for_s: float
    """How long one lasts, on average (exponential)."""
    share: float = 1.0
    """Of the peers that have any, in [0, 1]: each is drawn by itself."""

    def check(self, key: str) -> None:
        """Raise a `ConfigError` unless the values are in range."""
        check_within(self, key, "mean_between_s", 0.1, 1e9, "s")
        check_within(self, key, "mean_for_s", 0.1, 1e9, "s")
        check_within(self, key, "share", 0, 1)


Going = Literal["crash", "leave"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsenceSection:
    """One of ``absences``: peers that are not there for a while."""

    from_s: float
    """When they go, in seconds since the start; 0: they come only later."""
    for_s: float | None = None
    """How long they are away; for ever unless given."""
    peers: Peers
    """Who."""
    how: Going = "crash"
    """``crash`` (no goodbye; what is on disk stays) or ``leave`` (with a goodbye)."""

    def check(self, key: str) -> None:
        """Raise a `ConfigError` unless the values are in range."""
        check_within(self, key, "from_s", 0, 1e9, "s")
        check_within(self, key, "for_s", 0.001, 1e9, "s")
        require_one_of(f"{key}.how", self.how, ("crash", "leave"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChurnSection:
    """``churn``: peers that go and come back."""

    mean_up_s: float
    """How long one is there, on average (exponential)."""
    mean_down_s: float
    """How long one is away, on average (exponential)."""
    share: float = 1.0
    """Of the peers that ever go, in [0, 1]: each is drawn by itself."""
    crash_share: float = 1.0
    """How many of those goings are crashes, in [0, 1]; the rest say goodbye."""

    def check(self, key: str) -> None:
        """Raise a `ConfigError` unless the values are in range."""
        check_within(self, key, "mean_up_s", 0.1, 1e9, "s")
        check_within(self, key, "mean_down_s", 0.1, 1e9, "s")
        check_within(self, key, "share", 0, 1)
        check_within(self, key, "crash_share", 0, 1)
