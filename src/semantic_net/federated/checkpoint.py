"""What a peer keeps of itself between two processes, beside its updates and its journal.

The model is not in it: it is a function of the base and the update set. One safetensors file with
the base, the residual and the optimiser's tensors, everything else as JSON in its metadata;
written to a temporary name, fsynced and renamed, so that the file that is there is whole.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from semantic_net.errors import CheckpointError
from semantic_net.training.state import State, join_state, split_state

FORMAT = 1
_KEY = "semantic-net"
_TRAINER = "trainer/"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON half of a checkpoint."""

    format: int = FORMAT
    facts: dict[str, str]
    """What must be equal for the checkpoint to fit the run."""
    closed_round: int
    base_given: bool
    residual_of: str
    """Id of the own update that the residual stands beside; empty for none."""
    best_round: int | None
    best_metrics: dict[str, float]
    totals: dict[str, float]
    """Sums over the rounds so far, for the summary."""
    trainer: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A peer's own state after a closed round."""

    progress: Progress
    base: Tensor
    """(N,) float32: the state that the rounds are folded on."""
    residual: Tensor
    """(P,) float32."""
    trainer: State


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint at ``path`` by this one, or leave it as it is.

    Raises:
        OSError: The disk is full, or not ours to write.
    """
    tensors, rest = split_state(checkpoint.trainer)
    progress = msgspec.structs.replace(checkpoint.progress, trainer=rest)
    named = {
        "base": checkpoint.base,
        "residual": checkpoint.residual.cpu().contiguous(),
        **{_TRAINER + name: tensor for name, tensor in tensors.items()},
    }
    metadata = {_KEY: msgspec.json.encode(progress).decode()}
    write_atomically(path, lambda part: safetensors.torch.save_file(named, part, metadata))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: It is damaged, or of another version.
    """
    tensors: dict[str, Tensor] = {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118  no mapping: it has no __iter__
                tensors[name] = file.get_tensor(name)
        progress = msgspec.json.decode(metadata.get(_KEY, ""), type=Progress)
        base, residual = tensors.pop("base"), tensors.pop("residual")
    except (OSError, safetensors.SafetensorError, msgspec.DecodeError, KeyError) as exc:
        raise CheckpointError(
            f"checkpoint {path}: damaged ({exc}); start afresh with --resume never"
        ) from exc
    if progress.format != FORMAT:
        raise CheckpointError(
            f"checkpoint {path}: format {progress.format}, this version reads {FORMAT}; "
            "start afresh with --resume never"
        )
    trainer = join_state(
        {name.removeprefix(_TRAINER): tensor for name, tensor in tensors.items()},
        progress.trainer,
    )
    return Checkpoint(progress, base, residual, trainer)


def save_state_dict(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a model's state by name, whole or not at all.

    Raises:
        OSError: The disk is full, or not ours to write.
    """
    named: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in state.items():
        whole = tensor.detach().cpu().contiguous()
        address = whole.untyped_storage().data_ptr()
        # safetensors refuses tensors that share memory; tied weights are written once each.
        named[name] = whole.clone() if address in memory else whole
        memory.add(address)
    write_atomically(path, lambda part: safetensors.torch.save_file(named, part, metadata))


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Raises:
        CheckpointError: It cannot be read, or is no safetensors file.
    """
    try:
        with path.open("rb"):
            pass  # safetensors does not say in a few words why it cannot
        return safetensors.torch.load_file(path)
    except OSError as exc:
        reason = exc.strerror or exc
        raise CheckpointError(f"weights {path}: cannot be read: {reason}") from exc
    except safetensors.SafetensorError as exc:
        raise CheckpointError(f"weights {path}: no safetensors file: {exc}") from exc


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file, fsync it, and give it its name.

    Raises:
        OSError: The disk is full, or not ours to write; what was at ``path`` is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        try:
            write(part)
        except safetensors.SafetensorError as exc:
            raise OSError(None, str(exc)) from exc
        part.chmod(0o644)  # safetensors makes files that only their owner may read
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):  # half a file would take the last of the disk
            part.unlink(missing_ok=True)
        raise


def load_into(model: torch.nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state by name; every tensor must fit.

    Raises:
        CheckpointError: A tensor is missing, superfluous or of another shape; it is named.
    """
    own = model.state_dict()
    for name in own.keys() | state.keys():
        if name not in state or name not in own:
            fault = "is missing" if name not in state else "is not in this model"
            raise CheckpointError(f"weights {where}: tensor {name} {fault}")
        if own[name].shape != state[name].shape:
            raise CheckpointError(
                f"weights {where}: tensor {name} has the shape {tuple(state[name].shape)}, the "
                f"model wants {tuple(own[name].shape)}"
            )
        if state[name].is_floating_point() and not bool(torch.isfinite(state[name]).all()):
            raise CheckpointError(f"weights {where}: tensor {name} has entries that are not finite")
    model.load_state_dict(dict(state))
