"""Weights on disk: a model's state as a safetensors file, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from semantic_net.disk import sync_folder
from semantic_net.errors import CheckpointError


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
    write_atomically(path, lambda part: write_tensors(part, named, metadata))


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file: the same bytes of the same contents.

    The library writes the metadata in an order that differs from call to call.

    Raises:
        OSError: The disk is full, or not ours to write.
        SafetensorError: As the library says the same.
    """
    safetensors.torch.save_file(tensors, path, metadata)
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(metadata.items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= size:  # what the library pads with are spaces, too
            file.seek(8)
            file.write(text.ljust(size))


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
            raise _os_error(exc) from exc
        part.chmod(0o644)  # safetensors makes files that only their owner may read
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError:
        with contextlib.suppress(OSError):  # half a file would take the last of the disk
            part.unlink(missing_ok=True)
        raise


def _os_error(exc: safetensors.SafetensorError) -> OSError:
    """Return what the disk said: the library's text names a temporary file of its own."""
    number = re.search(r"os error (\d+)", str(exc))
    if number is None:
        return OSError(None, str(exc))
    return OSError(int(number[1]), os.strerror(int(number[1])))


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
