"""In which order a peer sees its own examples.

Pass after pass over the data, each in an order of its own that follows from the seed and the
pass alone: two integers say where a run stands. Refuses nothing but an empty data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def derive_seed(*parts: int) -> int:
    """Mix integers of any sign and size into one 63-bit seed; the order of the parts counts."""
    # Their number comes first, since a SeedSequence does not tell [1] from [1, 0].
    entropy = [len(parts), *(part & 0xFFFF_FFFF_FFFF_FFFF for part in parts)]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1


class PassSampler:
    """Draws indices without end; each pass visits every index once.

    A draw may run over the end of a pass, and goes on where the last one stopped: however few
    examples a round takes, in the long run none is seen more often than another.
    """

    def __init__(self, length: int, seed: int) -> None:
        assert length >= 1
        self._length = length
        self._seed = seed
        self._pass = 0
        self._position = 0
        self._order: list[int] = []

    def take(self, count: int) -> list[tuple[int, list[int]]]:
        """Return the next ``count`` indices as pieces ``(pass, indices)``, one a pass touched."""
        pieces: list[tuple[int, list[int]]] = []
        while count > 0:
            if self._position == self._length:
                self._pass, self._position, self._order = self._pass + 1, 0, []
            if not self._order:
                self._order = self._draw_order()
            piece = self._order[self._position : self._position + count]
            pieces.append((self._pass, piece))
            self._position += len(piece)
            count -= len(piece)
        return pieces

    def state(self) -> dict[str, int]:
        """Return where the sampler stands; `load_state` goes on from there."""
        return {"length": self._length, "pass": self._pass, "position": self._position}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`; data of another length begins a fresh pass."""
        self._pass, self._position, self._order = int(state["pass"]), int(state["position"]), []
        if int(state["length"]) != self._length:
            self._pass, self._position = self._pass + 1, 0

    def _draw_order(self) -> list[int]:
        generator = torch.Generator().manual_seed(derive_seed(self._seed, self._pass))
        return torch.randperm(self._length, generator=generator).tolist()


def batch_sizes(length: int, batch_size: int, *, steps: int | None, epochs: int) -> list[int]:
    """Return the size of each batch of a round, none above ``batch_size``.

    With ``steps``, every batch is full. Otherwise the round is exactly ``epochs`` passes, cut into
    the fewest batches of nearly equal size: a small rest would count more than its examples are
    worth, and a batch of one breaks BatchNorm.
    """
    size = min(batch_size, length)
    if steps is not None:
        return [size] * steps
    total = length * epochs
    num_batches = -(-total // size)
    smaller, num_larger = divmod(total, num_batches)
    return [smaller + 1] * num_larger + [smaller] * (num_batches - num_larger)
