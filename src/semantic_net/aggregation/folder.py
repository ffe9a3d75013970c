"""Folds a growing set of updates, and re-folds where late ones change the past.

The fold of all rounds is what a peer's model is. It is computed from the newest cached state that
no change has touched, usually that of the round before. Cached are the last eight rounds, as many
as the memory budget allows but at least two, and every eighth, thinning out with age: on disk once
memory is short. Caches never change a result, only the time it takes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from semantic_net.aggregation.fold import FoldConfig, fold_round
from semantic_net.aggregation.rules import Contribution
from semantic_net.aggregation.state import FoldState
from semantic_net.aggregation.state_file import read_state, write_state
from semantic_net.errors import CheckpointError

log = logging.getLogger(__name__)

CACHE_EVERY = 8
DEFAULT_BUDGET_BYTES = 64 << 20

Start = FoldState | Callable[[], FoldState]
"""Where folding begins; a function reads it anew, whenever that is needed."""

KeepPolicy = Callable[[int, int], bool]
"""``keep(round_index, through)``: whether to keep that round's state once the fold has reached
``through``. What it has let go it may not want back later."""


def keep_sparser(round_index: int, through: int) -> bool:
    """Keep the last eight rounds and every eighth; of older ones every 16th, 32nd, ..."""
    age = through - round_index
    return age < CACHE_EVERY or round_index % (1 << (age.bit_length() - 1)) == 0


class Folder:
    """The fold of a run, round after round. Calls must not overlap."""

    def __init__(
        self,
        cfg: FoldConfig,
        start: Start,
        *,
        start_round: int = 0,
        cache_dir: Path | None = None,
        memory_budget_bytes: int = DEFAULT_BUDGET_BYTES,
        keep: KeepPolicy = keep_sparser,
        in_place: bool = False,
    ) -> None:
        """Start from a state.

        Args:
            cfg: Equal on all peers.
            start: The state through ``start_round``; belongs to the folder from now on. What a
                function returns does, too.
            start_round: Rounds up to this one are never asked for.
            cache_dir: Where states beyond the memory budget go; old ones in it are removed.
            memory_budget_bytes: What cached states may take in memory beside the last two.
            keep: Which states to cache.
            in_place: Hold one state in memory, and fold onto it: the start and every eighth round
                go to disk before, the others are lost. For models too large to hold several; a
                late update then costs a fold of up to eight rounds.

        Raises:
            OSError: ``cache_dir`` cannot be made or emptied.
        """
        self._cfg = cfg
        self._start_round = start_round
        self._cache_dir = cache_dir
        self._budget_bytes = memory_budget_bytes
        self._keep = keep
        self._in_place = in_place
        self._cached: dict[int, Start | Path] = {start_round: start}
        if cache_dir is not None:
            cache_dir.mkdir(parents=True, exist_ok=True)
            for path in cache_dir.glob("fold-*.state*"):
                path.unlink()

    def fold(
        self,
        through: int,
        contributions: Callable[[int], Sequence[Contribution]],
        *,
        changed_from: int | None = None,
    ) -> FoldState:
        """Return the state through a round.

        It is valid until the next call, which may overwrite it: load models from
        `FoldState.to_float32`.

        Args:
            through: At least the round that the folder starts from.
            contributions: Returns a round's updates, in any order; empty where there are none.
                Only called for rounds that are folded now, so payloads may stay on disk.
            changed_from: First round whose updates differ from those of the calls before; None
                where there is no such round.

        Raises:
            CheckpointError: The start itself can no longer be read.
            ValueError: A round lies before the start.
        """
        if through < self._start_round:
            raise ValueError(f"round {through} is before the start, round {self._start_round}")
        if changed_from is not None:
            self._forget(changed_from)
        spare = self._make_room(through, num_exempt=1)
        reached, state, is_ours = self._nearest(through)
        for round_index in range(reached + 1, through + 1):
            round_contributions = contributions(round_index)
            if not round_contributions:
                continue
            if self._in_place and not is_ours:
                is_ours = self._spill(reached, state) is not None
            out = state if is_ours else spare  # a state that nobody keeps is overwritten in place
            spare = spare if is_ours else None
            state = fold_round(state, round_contributions, self._cfg, out=out)
            reached = round_index
            is_ours = not self._keep(round_index, through)
            if not is_ours:
                self._cached[round_index] = state
                spare = self._make_room(through, num_exempt=2) or spare
        self._cached.setdefault(reached, state)
        self._make_room(through, num_exempt=2)
        return state

    def let_go(self, through: int) -> None:
        """Say that a state is not looked at any more: it goes where only one is held, and not it.

        Args:
            through: What it was folded through; the last of these rounds may have been empty.
        """
        reached = max(r for r in self._cached if r <= through)
        state = self._cached[reached]
        if self._in_place and isinstance(state, FoldState) and reached != max(self._cached):
            self._spill(reached, state)

    def rebase(self, start_round: int, start: Start) -> None:
        """Fold from another start on: states of rounds before it are of no use any more.

        Those of later rounds stay, unless the next `fold` says that they have changed.

        Args:
            start_round: The round that the start goes through.
            start: Belongs to the folder from now on.
        """
        self._start_round = -1  # so that the old one may go
        for round_index in [r for r in self._cached if r <= start_round]:
            self._drop(round_index)
        self._start_round = start_round
        self._cached = {start_round: start, **self._cached}

    def close(self) -> None:
        """Remove the files in the cache folder; the folder is of no use afterwards."""
        for cached in self._cached.values():
            if isinstance(cached, Path):
                _unlink(cached)
        self._cached.clear()

    def _forget(self, changed_from: int) -> None:
        if changed_from <= self._start_round:
            raise ValueError(f"round {changed_from} is part of the start, {self._start_round}")
        for round_index in [r for r in self._cached if r >= changed_from]:
            self._drop(round_index)

    def _nearest(self, through: int) -> tuple[int, FoldState, bool]:
        """Return the newest usable state up to a round, and whether it may be overwritten."""
        for round_index in sorted((r for r in self._cached if r <= through), reverse=True):
            cached = self._cached[round_index]
            if isinstance(cached, FoldState):
                return round_index, cached, False
            try:
                return round_index, self._read(cached), True
            except CheckpointError as exc:
                if round_index == self._start_round:
                    raise
                log.warning("fold cache: %s; folding from an earlier round", exc)
                self._drop(round_index)
        raise AssertionError("the start is always cached")

    def _make_room(self, through: int, num_exempt: int) -> FoldState | None:
        """Let go of what the policy or the budget does not keep, the oldest first.

        Args:
            through: The round that the fold stands at, or goes to.
            num_exempt: Newest states that do not count against the budget.

        Returns:
            One of those that left memory: its arrays may be written to.
        """
        spare = None
        newest = max(r for r in self._cached if r <= through)
        for round_index in list(self._cached):
            if round_index < newest and not self._keep(round_index, through):
                spare = self._drop(round_index) or spare
        used = 0
        for round_index in sorted(self._cached, reverse=True):
            cached = self._cached[round_index]
            if not isinstance(cached, FoldState):
                continue
            num_exempt -= 1
            if num_exempt < 0:
                used += cached.nbytes
                if used > self._budget_bytes and round_index != newest:
                    spare = self._spill(round_index, cached) or spare
        return spare

    def _spill(self, round_index: int, state: FoldState) -> FoldState | None:
        """Move a state out of memory, to disk where it will be of use for long; return it.

        The start stays in memory, and None is returned, where there is no disk.
        """
        is_start = round_index == self._start_round
        if self._cache_dir is not None and (is_start or round_index % CACHE_EVERY == 0):
            path = self._cache_dir / f"fold-{round_index}.state"
            try:
                write_state(path, state)
            except OSError as exc:
                log.warning("fold cache %s: %s; going on without one", path, exc.strerror or exc)
                self._cache_dir = None
            else:
                self._cached[round_index] = path
                return state
        return self._drop(round_index)

    def _drop(self, round_index: int) -> FoldState | None:
        """Remove a state from the cache; return it if it was in memory."""
        if round_index == self._start_round:
            return None
        cached = self._cached.pop(round_index)
        if isinstance(cached, FoldState):
            return cached
        if isinstance(cached, Path):
            _unlink(cached)
        return None

    def _read(self, cached: Path | Callable[[], FoldState]) -> FoldState:
        if not isinstance(cached, Path):
            return cached()
        return read_state(
            cached,
            num_parameters=self._cfg.num_parameters,
            num_buffers=self._cfg.num_buffers,
            momentum=self._cfg.beta > 0,
        )


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):  # a stray file; the next run removes it
        path.unlink()
