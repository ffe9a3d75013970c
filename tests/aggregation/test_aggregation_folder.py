"""Folding a growing set of updates: caches, disks and late arrivals never show in the result."""

from __future__ import annotations

import copy
import logging
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from fold_support import Given, contributions_of, exact_fold, numbers_of, state_of
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.aggregation.fold import FoldConfig, fold_round
from semantic_net.aggregation.folder import CACHE_EVERY, Folder, KeepPolicy, keep_sparser
from semantic_net.aggregation.ratio import ONE
from semantic_net.aggregation.rules import Contribution
from semantic_net.aggregation.state import FoldState
from semantic_net.errors import CheckpointError

CFG = FoldConfig(2, 1, ONE // 2, ONE)
START = (5, -7, 9)
STATE_BYTES = 5 * 4
ALL_IN_MEMORY = 1 << 20


class Updates:
    """A growing set of updates, which remembers what the folder has not yet been told."""

    def __init__(self) -> None:
        self.rounds: dict[int, list[Given]] = {}
        self.asked: list[int] = []
        self._changed: int | None = None

    def add(self, round_index: int, given: Given) -> None:
        self.rounds.setdefault(round_index, []).append(given)
        self._changed = min(round_index, self._changed or round_index)

    def fold(self, folder: Folder, through: int) -> str:
        changed, self._changed = self._changed, None
        self.asked.clear()
        return folder.fold(through, self.contributions, changed_from=changed).digest

    def contributions(self, round_index: int) -> Sequence[Contribution]:
        self.asked.append(round_index)
        return contributions_of(self.rounds.get(round_index, []))

    def from_scratch(self, through: int) -> str:
        state = state_of(START, CFG)
        for round_index in range(1, through + 1):
            given = self.rounds.get(round_index, [])
            state = fold_round(state, contributions_of(given), CFG)
        return state.digest


def update_of(round_index: int, author: int = 0) -> Given:
    rng = random.Random(f"{round_index} {author}")
    return Given(tuple(rng.randrange(-1000, 1000) for _ in START), rng.randrange(1, 500))


def folder_of(
    cache_dir: Path | None = None,
    *,
    budget: int = ALL_IN_MEMORY,
    keep: KeepPolicy = keep_sparser,
    start_round: int = 0,
    in_place: bool = False,
) -> Folder:
    return Folder(
        CFG,
        state_of(START, CFG),
        start_round=start_round,
        cache_dir=cache_dir,
        memory_budget_bytes=budget,
        keep=keep,
        in_place=in_place,
    )


def run_to(through: int, folder: Folder, updates: Updates) -> None:
    for round_index in range(1, through + 1):
        updates.add(round_index, update_of(round_index))
        updates.fold(folder, round_index)


def never(round_index: int, through: int) -> bool:
    return False


def always(round_index: int, through: int) -> bool:
    return True


arrivals = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 24), st.integers(0, 5)),
        st.tuples(st.just("close"), st.integers(0, 24), st.just(0)),
    ),
    max_size=30,
)


@given(
    arrivals,
    st.sampled_from((keep_sparser, never, always)),
    st.sampled_from((0, STATE_BYTES, 3 * STATE_BYTES, ALL_IN_MEMORY)),
    st.booleans(),
    st.booleans(),
)
def test_no_arrival_and_no_cache_shows_in_the_fold(
    tmp_path_factory: pytest.TempPathFactory,
    arrivals: list[tuple[str, int, int]],
    keep: KeepPolicy,
    budget: int,
    with_disk: bool,
    in_place: bool,
) -> None:
    cache_dir = tmp_path_factory.getbasetemp() / "any_arrival" if with_disk else None
    folder = folder_of(cache_dir, budget=budget, keep=keep, in_place=in_place)
    updates = Updates()
    for event, round_index, author in arrivals:
        if event == "arrive":
            updates.add(round_index, update_of(round_index, author))
        else:
            assert updates.fold(folder, round_index) == updates.from_scratch(round_index)
    assert updates.fold(folder, 24) == updates.from_scratch(24)


def test_the_fold_is_that_of_the_design() -> None:
    updates = Updates()
    for round_index in (1, 2, 4, 4):
        updates.add(round_index, update_of(round_index))
    state = folder_of().fold(5, updates.contributions)
    assert numbers_of(state) == exact_fold(CFG, START, updates.rounds, 5)


def test_a_new_round_is_folded_onto_the_last_one() -> None:
    folder, updates = folder_of(), Updates()
    run_to(3, folder, updates)
    updates.add(4, update_of(4))
    updates.fold(folder, 4)
    assert updates.asked == [4]


def test_a_late_update_refolds_from_its_round_on() -> None:
    folder, updates = folder_of(), Updates()
    run_to(5, folder, updates)
    updates.add(4, update_of(4, author=1))
    assert updates.fold(folder, 5) == updates.from_scratch(5)
    assert updates.asked == [4, 5]


def test_an_update_of_long_ago_refolds_from_the_sparse_cache_below() -> None:
    folder, updates = folder_of(), Updates()
    run_to(40, folder, updates)
    updates.add(20, update_of(20, author=1))
    assert updates.fold(folder, 40) == updates.from_scratch(40)
    assert updates.asked[0] == 17  # the state through round 16 is among those kept


def test_few_states_are_kept_in_a_long_run() -> None:
    kept = [r for r in range(1, 1001) if keep_sparser(r, 1000)]
    assert kept[-8:] == list(range(993, 1001))
    assert len(kept) <= 24


@given(st.integers(1, 2000), st.integers(0, 2000))
def test_what_is_let_go_is_not_wanted_back(round_index: int, age: int) -> None:
    if keep_sparser(round_index, round_index + age + 1):
        assert keep_sparser(round_index, round_index + age)


def test_a_state_is_valid_until_the_next_call_and_then_overwritten() -> None:
    folder, updates = folder_of(budget=0), Updates()
    run_to(3, folder, updates)
    before = folder.fold(3, updates.contributions)
    arrays = {id(before.parameters)}
    for round_index in (4, 5, 6):
        updates.add(round_index, update_of(round_index))
        arrays.add(id(folder.fold(round_index, updates.contributions).parameters))
    assert len(arrays) <= 2  # the memory of two states serves any number of rounds


def test_one_state_is_held_where_the_fold_is_in_place(tmp_path: Path) -> None:
    folder, updates = folder_of(tmp_path, in_place=True), Updates()
    arrays = set()
    for round_index in range(1, 2 * CACHE_EVERY + 2):
        updates.add(round_index, update_of(round_index))
        updates.fold(folder, round_index)
        arrays.add(id(folder.fold(round_index, updates.contributions).parameters))
    assert len(arrays) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("fold-0.state", "fold-16.state", "fold-8.state"),
    ]
    updates.add(CACHE_EVERY + 3, update_of(CACHE_EVERY + 3, author=1))
    assert updates.fold(folder, 17) == updates.from_scratch(17)
    assert updates.asked[0] == CACHE_EVERY + 1


def test_states_beyond_the_budget_go_to_disk(tmp_path: Path) -> None:
    folder, updates = folder_of(tmp_path, budget=0), Updates()
    run_to(CACHE_EVERY + 3, folder, updates)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fold-0.state", "fold-8.state"]
    updates.add(CACHE_EVERY + 1, update_of(CACHE_EVERY + 1, author=1))
    assert updates.fold(folder, CACHE_EVERY + 3) == updates.from_scratch(CACHE_EVERY + 3)
    assert updates.asked[0] == CACHE_EVERY + 1


def test_files_of_changed_rounds_are_removed(tmp_path: Path) -> None:
    folder, updates = folder_of(tmp_path, budget=0), Updates()
    run_to(CACHE_EVERY + 2, folder, updates)
    updates.add(2, update_of(2, author=1))
    assert updates.fold(folder, 5) == updates.from_scratch(5)
    assert [path.name for path in tmp_path.iterdir()] == ["fold-0.state"]


def test_files_of_an_earlier_run_are_removed_at_the_start_and_own_ones_at_the_end(
    tmp_path: Path,
) -> None:
    for name in ("fold-3.state", "fold-4.state.partial", "else.state"):
        (tmp_path / name).write_bytes(b"")
    folder, updates = folder_of(tmp_path, budget=0), Updates()
    run_to(CACHE_EVERY + 2, folder, updates)
    folder.close()
    assert [path.name for path in tmp_path.iterdir()] == ["else.state"]


def test_a_damaged_cache_costs_time_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, updates = folder_of(tmp_path, budget=0), Updates()
    run_to(CACHE_EVERY + 2, folder, updates)
    (tmp_path / "fold-8.state").write_bytes(b"nonsense")
    updates.add(CACHE_EVERY + 1, update_of(CACHE_EVERY + 1, author=1))
    with caplog.at_level(logging.WARNING):
        assert updates.fold(folder, CACHE_EVERY + 2) == updates.from_scratch(CACHE_EVERY + 2)
    assert "fold-8.state: ends within its header; folding from an earlier round" in caplog.text
    assert updates.asked[0] == 1


def test_a_damaged_start_is_an_error(tmp_path: Path) -> None:
    folder, updates = folder_of(tmp_path, budget=0), Updates()
    run_to(3, folder, updates)
    (tmp_path / "fold-0.state").unlink()
    updates.add(1, update_of(1, author=1))
    with pytest.raises(CheckpointError, match=r"fold-0\.state: cannot be read"):
        updates.fold(folder, 3)


def test_a_full_disk_costs_time_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache_dir = tmp_path / "cache"
    folder, updates = folder_of(cache_dir, budget=0), Updates()
    shutil.rmtree(cache_dir)
    with caplog.at_level(logging.WARNING):
        run_to(CACHE_EVERY + 2, folder, updates)
    assert caplog.text.count("going on without one") == 1
    updates.add(1, update_of(1, author=1))
    assert updates.fold(folder, 10) == updates.from_scratch(10)


def test_a_failure_to_read_a_payload_leaves_the_folder_whole() -> None:
    folder, updates = folder_of(budget=0), Updates()
    run_to(3, folder, updates)
    for round_index in (4, 5, 6):
        updates.add(round_index, update_of(round_index))

    def broken(round_index: int) -> Sequence[Contribution]:
        if round_index == 6:
            raise OSError("no such payload")
        return updates.contributions(round_index)

    with pytest.raises(OSError, match="no such payload"):
        folder.fold(6, broken)
    assert updates.fold(folder, 6) == updates.from_scratch(6)


def test_rounds_of_the_start_can_neither_be_asked_for_nor_change() -> None:
    folder = folder_of(start_round=7)
    with pytest.raises(ValueError, match="round 6 is before the start, round 7"):
        folder.fold(6, Updates().contributions)
    with pytest.raises(ValueError, match="round 7 is part of the start"):
        folder.fold(9, Updates().contributions, changed_from=7)
    updates = Updates()
    folder.fold(9, updates.contributions)
    assert updates.asked == [8, 9]


@given(st.integers(1, 12), st.integers(0, 5), st.booleans(), st.booleans())
def test_a_later_start_never_shows_in_the_result(
    frontier: int, more: int, in_place: bool, is_read: bool
) -> None:
    updates, through = Updates(), frontier + more
    for number in range(1, through + 1):
        updates.add(number, update_of(number))

    def origin() -> FoldState:
        return state_of(START, CFG)

    through_frontier = Folder(CFG, origin()).fold(frontier, updates.contributions)

    def start() -> FoldState:
        return copy.deepcopy(through_frontier)

    folder = Folder(CFG, origin if is_read else origin(), in_place=in_place)
    updates.fold(folder, through)
    updates.fold(folder, frontier)  # as for a snapshot
    folder.let_go(frontier)
    folder.rebase(frontier, start if is_read else start())
    updates.asked.clear()
    assert updates.fold(folder, through) == updates.from_scratch(through)
    updates.add(through + 1, update_of(through + 1))
    assert updates.fold(folder, through + 1) == updates.from_scratch(through + 1)
    assert not [number for number in updates.asked if number <= frontier]
    with pytest.raises(ValueError, match="before the start"):
        folder.fold(frontier - 1, updates.contributions)
