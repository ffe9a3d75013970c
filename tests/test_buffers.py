"""Large buffers belong to nobody's heap: they go back to the system with their last view."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from semantic_net.buffers import LARGE_BYTES, forget_pages, new_array, new_buffer, trim_heap


@pytest.mark.parametrize("num_bytes", [0, 5, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 5])
def test_a_buffer_is_writable_and_as_long_as_asked_for(num_bytes: int) -> None:
    buffer = new_buffer(num_bytes)
    assert len(buffer) == num_bytes
    buffer[:] = bytes([7]) * num_bytes
    assert bytes(buffer) == bytes([7]) * num_bytes


@pytest.mark.parametrize("size", [0, 3, LARGE_BYTES // 8 - 1, LARGE_BYTES // 8, LARGE_BYTES])
def test_an_array_is_like_any_other(size: int) -> None:
    array = new_array(size, np.int64)
    array[:] = np.arange(size)
    assert array.shape == (size,)
    assert array.dtype == np.int64
    assert int(array.sum()) == size * (size - 1) // 2


def test_large_ones_are_mapped_and_stay_so_while_a_view_is_left() -> None:
    array = new_array(LARGE_BYTES // 4, np.float32)
    assert isinstance(array.base, memoryview)
    assert isinstance(array.base.obj, mmap.mmap)
    array.fill(1.5)
    tail = array[-3:].view(np.uint32)
    del array
    assert tail.view(np.float32).tolist() == [1.5] * 3


def test_pages_of_a_file_are_let_go_of_and_nothing_else_is(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    path = tmp_path / "file"
    path.write_bytes(content)
    with path.open("rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    for view in (mapped, mapped[5000:], memoryview(content), new_buffer(2 * LARGE_BYTES)):
        before = bytes(view)
        forget_pages(view)
        assert bytes(view) == before
    anonymous = new_buffer(2 * LARGE_BYTES)
    anonymous[:3] = b"own"
    for view in (anonymous, anonymous.toreadonly()):
        forget_pages(view)
        assert bytes(anonymous[:3]) == b"own", "no file to read it again from"


def test_huge_pages_are_no_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert len(new_buffer(LARGE_BYTES)) == LARGE_BYTES


def test_trimming_the_heap_harms_nothing() -> None:
    kept = [bytearray(1000) for _ in range(1000)]
    del kept[::2]
    trim_heap()
    assert all(not any(each) for each in kept)
