"""What a peer keeps of itself between two processes, beside its updates and its journal.

The model is not in it: it is a function of the base and the update set. Two kinds of safetensors
files in one folder, each written to a temporary name, fsynced and renamed:

    base-<digest>.safetensors     the base, once
    progress.safetensors          residual and optimiser, everything else as JSON in its metadata
    progress.previous.safetensors the one before, in case a disk breaks the promise of the rename

What is read is checked: progress by a checksum in its metadata, a base by its name.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from semantic_net.errors import CheckpointError
from semantic_net.federated.weights import write_atomically
from semantic_net.fixed_point import Float32Array
from semantic_net.protocol.update import UpdateId, hash_payload
from semantic_net.training.state import State, join_state, split_state

log = logging.getLogger(__name__)

FORMAT = 2
_KEY = "semantic-net"
_CHECKSUM = "sha256"
_TRAINER = "trainer/"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON half of a checkpoint."""

    format: int = FORMAT
    facts: dict[str, str]
    """What must be equal for the checkpoint to fit the run."""
    closed_round: int
    base: str
    """The digest of the base, in hexadecimal digits."""
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


class CheckpointFolder:
    """The newest checkpoint of a run, the one before, and the bases that they stand on."""

    def __init__(self, folder: Path) -> None:
        """Take a folder, which need not exist yet."""
        self._folder = folder
        self._newest = folder / "progress.safetensors"
        self._previous = folder / "progress.previous.safetensors"
        self._bases: tuple[str, ...] = ()  # of the newest two

    def __bool__(self) -> bool:
        """Tell whether there is a checkpoint, sound or not."""
        return self._newest.exists() or self._previous.exists()

    def save(self, checkpoint: Checkpoint) -> None:
        """Make this the newest checkpoint, and the newest so far the previous one.

        Raises:
            OSError: The disk is full, or not ours to write; what was there is still there.
        """
        digest = checkpoint.progress.base
        base = self._base(digest)
        if not base.exists():
            write_atomically(
                base, lambda part: safetensors.torch.save_file({"base": checkpoint.base}, part)
            )
        tensors, rest = split_state(checkpoint.trainer)
        progress = msgspec.structs.replace(checkpoint.progress, trainer=rest)
        named = {"residual": checkpoint.residual.cpu().contiguous()}
        named |= {_TRAINER + name: tensor for name, tensor in tensors.items()}
        text = msgspec.json.encode(progress).decode()
        metadata = {_KEY: text, _CHECKSUM: _checksum(text, named)}

        def write(part: Path) -> None:
            safetensors.torch.save_file(named, part, metadata)
            self._keep_previous()

        write_atomically(self._newest, write)
        self._bases = (digest, *self._bases[:1])
        self._remove_bases()

    def load(self) -> Checkpoint | None:
        """Read the newest checkpoint that is sound; None where there is none at all.

        Raises:
            CheckpointError: There are checkpoints, and every one is damaged or of another version.
        """
        faults: list[CheckpointError] = []
        for path in (self._newest, self._previous):
            if not path.exists():
                continue
            try:
                checkpoint = self._read(path)
            except CheckpointError as exc:
                faults.append(exc)
                continue
            if faults:
                log.warning("%s; going on from the one before", faults[0])
            self._bases = (checkpoint.progress.base,)
            return checkpoint
        if faults:
            raise CheckpointError(f"{faults[0]}; start afresh with --resume never")
        return None

    # The inside.

    def _base(self, digest: str) -> Path:
        return self._folder / f"base-{digest[:16]}.safetensors"

    def _read(self, path: Path) -> Checkpoint:
        where = f"checkpoint {path}"
        metadata, tensors = _read_file(path, where)
        text = metadata.get(_KEY, "")
        try:
            version = msgspec.json.decode(text, type=_Version).format
            if version != FORMAT:
                raise CheckpointError(f"{where}: format {version}, this version reads {FORMAT}")
            progress = msgspec.json.decode(text, type=Progress)
            residual = tensors["residual"]
        except (msgspec.DecodeError, KeyError) as exc:
            raise CheckpointError(f"{where}: damaged ({exc})") from exc
        if metadata.get(_CHECKSUM) != _checksum(text, tensors):
            raise CheckpointError(f"{where}: damaged (its checksum differs)")
        trainer = {
            name.removeprefix(_TRAINER): tensor
            for name, tensor in tensors.items()
            if name.startswith(_TRAINER)
        }
        base = self._read_base(progress.base)
        return Checkpoint(progress, base, residual, join_state(trainer, progress.trainer))

    def _read_base(self, digest: str) -> Tensor:
        path = self._base(digest)
        where = f"checkpoint {path}"
        _, tensors = _read_file(path, where)
        base = tensors.get("base")
        if base is None or base_digest(base.numpy()).hex() != digest:
            raise CheckpointError(f"{where}: damaged (its content does not match its name)")
        return base

    def _keep_previous(self) -> None:
        """Let the newest checkpoint so far be found under the previous one's name as well."""
        if not self._newest.exists():
            return
        part = self._previous.with_name(self._previous.name + ".part")
        part.unlink(missing_ok=True)
        try:
            os.link(self._newest, part)
        except OSError:  # a file system without hard links
            shutil.copyfile(self._newest, part)
        os.replace(part, self._previous)

    def _remove_bases(self) -> None:
        """Remove the bases that neither checkpoint stands on."""
        needed = {self._base(digest) for digest in self._bases}
        for path in self._folder.glob("base-*.safetensors"):
            if path not in needed:
                path.unlink(missing_ok=True)


class _Version(msgspec.Struct, frozen=True):
    format: int


def base_digest(base: Float32Array) -> UpdateId:
    """Return the hash of a base's transfer form."""
    return hash_payload(base.astype("<f4", copy=False).data.cast("B"))


def _read_file(path: Path, where: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            return metadata, {name: file.get_tensor(name) for name in names}
    except (OSError, safetensors.SafetensorError) as exc:
        raise CheckpointError(f"{where}: damaged ({exc})") from exc


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    hasher = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
