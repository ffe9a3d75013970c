"""A trainer's state as plain values, and its two halves for a checkpoint.

A state is a nested dict with text keys; its leaves are tensors and JSON values. `split_state`
turns it into what safetensors holds (tensors by path) and what JSON holds (the rest).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from semantic_net.errors import CheckpointError

State = dict[str, Any]


def split_state(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], State]:
    """Return the tensors by path, on the CPU, and the rest as nested JSON values.

    Tensors that lie on the CPU already are not copied.
    """
    tensors: dict[str, Tensor] = {}

    def strip(node: Mapping[str, Any], prefix: str) -> State:
        rest: State = {}
        for key, value in node.items():
            path = prefix + key.replace("~", "~0").replace("/", "~1")  # as in JSON pointers
            if isinstance(value, Tensor):
                tensors[path] = value.detach().cpu().contiguous()
            elif isinstance(value, Mapping):
                rest[key] = strip(value, path + "/")
            else:
                rest[key] = value
        return rest

    return tensors, strip(state, "")


def join_state(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> State:
    """Return the nested state that `split_state` took apart.

    Raises:
        CheckpointError: The two halves do not belong together.
    """
    state = _copy(rest)
    for path, tensor in tensors.items():
        node: Any = state
        *parents, leaf = (k.replace("~1", "/").replace("~0", "~") for k in path.split("/"))
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise CheckpointError(f"checkpoint: {path} is no tensor's place; start afresh")
        node[leaf] = tensor
    return state


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Return the optimiser's tensors by parameter name. They are not copied."""
    state: State = {}
    for name, parameter in trained_parameters(model):
        held = optimizer.state.get(parameter, {})
        entries = {key: value for key, value in held.items() if isinstance(value, Tensor)}
        if entries:
            state[name] = entries
    return state


def load_optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Give the optimiser copies of the tensors of an `optimizer_state`.

    Raises:
        CheckpointError: The state is another model's, or another optimiser's.
    """
    by_index: dict[int, State] = {}
    parameters = trained_parameters(model)
    names = {name for name, _ in parameters}
    if unknown := [name for name in state if name not in names]:
        raise CheckpointError(f"optimiser state: the model has no parameter {unknown[0]!r}")
    kind = type(optimizer).__name__
    required = {"Adam": {"step", "exp_avg", "exp_avg_sq"}, "SGD": {"momentum_buffer"}}[kind]
    for index, (name, parameter) in enumerate(parameters):
        if name not in state:
            continue
        entries: State = dict(state[name])
        if set(entries) != required:
            raise CheckpointError(
                f"optimiser state: {name} holds {sorted(entries)}, {kind} needs {sorted(required)}"
            )
        for key, tensor in entries.items():
            expected = torch.Size([]) if key == "step" else parameter.shape
            if not isinstance(tensor, Tensor) or tensor.shape != expected:
                shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else tensor
                raise CheckpointError(
                    f"optimiser state: {name}/{key} must have the shape {tuple(expected)}, "
                    f"got {shape}"
                )
        by_index[index] = {key: tensor.clone() for key, tensor in entries.items()}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": by_index, "param_groups": groups})


def copy_state(state: Mapping[str, Any]) -> State:
    """Return a deep copy whose tensors share no memory with ``state``."""
    return _copy(state, copy_tensors=True)


def trained_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that training moves, by name; frozen ones are left out."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _copy(node: Mapping[str, Any], *, copy_tensors: bool = False) -> State:
    result: State = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            result[key] = _copy(value, copy_tensors=copy_tensors)
        elif copy_tensors and isinstance(value, Tensor):
            result[key] = value.detach().clone()
        else:
            result[key] = value
    return result
