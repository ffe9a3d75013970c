from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from semantic_net.errors import CheckpointError
from semantic_net.training.state import join_state, split_state

keys = st.text(min_size=1, max_size=4)
leaves = (
    st.integers(-5, 5)
    | st.floats(-1, 1)
    | st.lists(st.integers(-5, 5), min_size=1, max_size=3).map(lambda v: torch.tensor(v))
)
trees = st.dictionaries(
    keys, st.recursive(leaves, lambda inner: st.dictionaries(keys, inner, min_size=1, max_size=3))
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return bool(one == other)


@settings(deadline=None, max_examples=50)
@given(trees)
def test_any_tree_survives_being_split(tree: dict[str, Any]) -> None:
    assert same(join_state(*split_state(tree)), tree)


def test_the_halves_are_what_the_files_take() -> None:
    state = {"optimizer": {"a.weight": {"step": torch.tensor(3.0)}}, "sampler": {"pass": 1}}
    tensors, rest = split_state(state)
    assert list(tensors) == ["optimizer/a.weight/step"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        save_file(tensors, path)
        assert same(join_state(load_file(path), json.loads(json.dumps(rest))), state)


def test_halves_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(CheckpointError, match="a/b is no tensor's place"):
        join_state({"a/b": torch.zeros(1)}, {"a": 1})
