"""Large buffers that go back to the system with their last view.

A peer takes and drops a few buffers of a model's size each round. On the heap, where glibc puts
everything below 32 MB once such a block has been freed, they leave holes that the next ones do not
fit: a peer with a 26 MB model grew by a model a round. Mapped on their own they leave nothing, and
in huge pages, where the kernel has them, a fresh one costs no more than a used one.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

LARGE_BYTES = 1 << 20


def new_buffer(num_bytes: int) -> memoryview:
    """Return a buffer to write to; what it holds until then is unspecified."""
    if num_bytes < LARGE_BYTES:
        return memoryview(bytearray(num_bytes))
    buffer = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):  # no huge pages in this system or kernel
        buffer.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(buffer)


def new_array(size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return a 1-D array to write to, as `numpy.empty` does."""
    if size * np.dtype(dtype).itemsize < LARGE_BYTES:
        return np.empty(size, dtype)
    return np.frombuffer(new_buffer(size * np.dtype(dtype).itemsize), dtype)


def forget_pages(view: memoryview) -> None:
    """Let go of what was read of a mapped file: the system reads it again where it is asked for.

    Nothing is done where the view is of anything else; what is in the memory of this process alone
    would be lost.
    """
    if isinstance(view.obj, mmap.mmap) and memoryview(view.obj).readonly:
        view.obj.madvise(mmap.MADV_DONTNEED)


def trim_heap() -> None:
    """Give the system back what the heap holds free, holes included; with glibc only."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
