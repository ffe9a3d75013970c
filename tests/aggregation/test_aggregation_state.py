"""A folded state: its digest, its float32 view and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fold_support import numbers_of, state_of
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.aggregation.fold import FoldConfig
from semantic_net.aggregation.ratio import ONE
from semantic_net.aggregation.state import FoldState, start_state, state_digest
from semantic_net.aggregation.state_file import read_state, write_state
from semantic_net.errors import CheckpointError
from semantic_net.fixed_point import BLOCK, MAX_STATE, NARROW_LIMIT, SCALE

CFG = FoldConfig(2, 1, ONE // 2, ONE)
entries = st.integers(-MAX_STATE, MAX_STATE) | st.integers(-9, 9)


def read(path: Path, *, num_parameters: int = 2, num_buffers: int = 1) -> FoldState:
    return read_state(path, num_parameters=num_parameters, num_buffers=num_buffers, momentum=True)


def test_a_start_is_rounded_and_at_rest() -> None:
    state = start_state(np.array([1.0, -0.5, 7.0], np.float32), 2, momentum=True)
    assert numbers_of(state) == ([SCALE, -SCALE // 2, 7 * SCALE], [0, 0])
    assert (state.parameters_bound, state.momentum_bound, state.buffers_bound) == (
        SCALE,
        0,
        7 * SCALE,
    )
    assert state.nbytes == 5 * 4


def test_a_fold_without_momentum_keeps_none() -> None:
    assert start_state(np.zeros(3, np.float32), 2, momentum=False).momentum.size == 0


def test_a_large_buffer_does_not_widen_the_parameters() -> None:
    state = start_state(np.array([1.0, 1.0, 1e30], np.float32), 2, momentum=True)
    assert (state.parameters.itemsize, state.buffers.itemsize) == (4, 8)
    assert state.buffers.tolist() == [MAX_STATE]


def test_a_start_longer_than_a_block_is_converted_whole() -> None:
    values = np.arange(BLOCK + 5, dtype=np.float32) / np.float32(1024)
    state = start_state(values, BLOCK + 2, momentum=True)
    assert state.to_float32().tolist() == values.tolist()


def test_the_float32_view_can_be_written_into_an_array() -> None:
    state = start_state(np.array([1.0, -0.5, 7.0], np.float32), 2, momentum=True)
    out = np.empty(3, np.float32)
    assert state.to_float32(out=out) is out
    assert out.tolist() == [1.0, -0.5, 7.0]


def test_the_digest_never_changes() -> None:
    """Peers of different versions compare it; a change needs another ``FOLD_VERSION``."""
    state = state_of([1, -2, 3], CFG)
    assert state.digest == "cf61f76739a156c803cbcb480a8b4aab91f51a4015124b71a87eb632c3f48958"
    wide = state_of([NARROW_LIMIT + 1, 0, -MAX_STATE], CFG)
    assert wide.digest == "87adb0bf14e945815df1d13a7832a09d6549bb24784b168f0fc1d381b4c1e655"


@given(st.tuples(entries, entries, entries), st.tuples(entries, entries, entries))
def test_digests_are_equal_where_entries_are(
    ours: tuple[int, ...], theirs: tuple[int, ...]
) -> None:
    assert (state_of(ours, CFG).digest == state_of(theirs, CFG).digest) == (ours == theirs)


def test_the_digest_tells_parameters_momentum_and_buffers_apart() -> None:
    splits = [(2, 1), (1, 2), (3, 0)]
    states = [
        state_of([1, 2, 3], FoldConfig(p, b, beta, ONE)) for p, b in splits for beta in (0, 1)
    ]
    assert len({state_digest(state) for state in states}) == len(states)


@given(st.tuples(entries, entries, entries))
def test_a_file_gives_the_state_back(
    tmp_path_factory: pytest.TempPathFactory, numbers: tuple[int, ...]
) -> None:
    path = tmp_path_factory.getbasetemp() / "there_and_back.state"
    state = state_of(numbers, CFG)
    write_state(path, state)
    back = read(path)
    assert (back.digest, numbers_of(back)) == (state.digest, numbers_of(state))
    assert (back.parameters.dtype, back.buffers.dtype) == (
        state.parameters.dtype,
        state.buffers.dtype,
    )
    assert back.parameters_bound == state.parameters_bound


def test_any_damage_to_a_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    write_state(path, state_of([1, 2, 3], CFG))
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        with pytest.raises(CheckpointError, match=r"a\.state: "):
            read(path)
        path.write_bytes(whole[:i])
        with pytest.raises(CheckpointError, match="ends"):
            read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        read(path)


def test_sizes_are_checked_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    write_state(path, state_of([1, 2, 3], CFG))
    huge = bytearray(path.read_bytes())
    huge[8:16] = (1 << 60).to_bytes(8, "little")
    path.write_bytes(huge)
    with pytest.raises(CheckpointError, match="another model"):
        read(path)
    with pytest.raises(CheckpointError, match="expected 9, 9, 1"):
        read(path, num_parameters=9)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no\.state: cannot be read: No such file"):
        read(tmp_path / "no.state")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    write_state(path, state_of([1, 2, 3], CFG))
    (tmp_path / "a.state.partial").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_state(path, state_of([4, 5, 6], CFG))
    assert numbers_of(read(path))[0] == [1, 2, 3]
