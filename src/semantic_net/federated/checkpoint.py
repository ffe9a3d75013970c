"""What a peer keeps of itself between two processes, beside its updates and its journal.

The model is not in it: it is a function of the base and the update set. Files in one folder, each
written to a temporary name, fsynced and renamed:

    base-<digest>.snapshot        what the rounds are folded on (see `base_store`)
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
import torch
from torch import Tensor

from semantic_net.errors import CheckpointError
from semantic_net.federated.base_store import BaseStore
from semantic_net.federated.weights import write_atomically, write_tensors
from semantic_net.protocol.update import UpdateId
from semantic_net.training.state import State, join_state, split_state

log = logging.getLogger(__name__)

FORMAT = 3
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
    """The digest of the base that the last fold stood on, in hexadecimal digits."""
    frontier: int
    """The last round that the base includes."""
    base_given: bool
    residual_of: str
    """Id of the own update that the residual stands beside; empty for none."""
    changed_norm: float = 0.0
    """Of the learner: how far training may begin from the shared model follows from it."""
    taken_back: dict[str, int] = {}
    """The rounds of the own updates that are taken back, by id."""
    best_round: int | None
    best_metrics: dict[str, float]
    totals: dict[str, float]
    """Sums over the rounds so far, for the summary."""
    trainer: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A peer's own state after a closed round."""

    progress: Progress
    residual: Tensor
    """(P,) float32."""
    trainer: State


class CheckpointFolder:
    """The newest checkpoint of a run, and the one before."""

    def __init__(self, folder: Path, bases: BaseStore) -> None:
        """Take a folder, which need not exist yet, and where the bases lie."""
        self._bases = bases
        self._newest = folder / "progress.safetensors"
        self._previous = folder / "progress.previous.safetensors"
        self._kept: tuple[Progress, ...] = ()  # of the newest two
        self._is_newest_sound = True

    def __bool__(self) -> bool:
        """Tell whether there is a checkpoint, sound or not."""
        return self._newest.exists() or self._previous.exists()

    def save(self, checkpoint: Checkpoint) -> None:
        """Make this the newest checkpoint, and the newest so far the previous one.

        Raises:
            OSError: The disk is full, or not ours to write; what was there is still there.
        """
        self._bases.persist(bytes.fromhex(checkpoint.progress.base))
        tensors, rest = split_state(checkpoint.trainer)
        progress = msgspec.structs.replace(checkpoint.progress, trainer=rest)
        named = {"residual": checkpoint.residual.cpu().contiguous()}
        named |= {_TRAINER + name: tensor for name, tensor in tensors.items()}
        text = msgspec.json.encode(progress).decode()
        metadata = {_KEY: text, _CHECKSUM: _checksum(text, named)}

        def write(part: Path) -> None:
            write_tensors(part, named, metadata)
            self._keep_previous()

        write_atomically(self._newest, write)
        self._is_newest_sound = True
        self._kept = (progress, *self._kept[:1])

    @property
    def bases(self) -> set[UpdateId]:
        """The bases that the newest checkpoint and the one before stand on."""
        return {bytes.fromhex(progress.base) for progress in self._kept}

    @property
    def frontier(self) -> int | None:
        """The last round that neither of them needs an update of; None if there are none."""
        return min((progress.frontier for progress in self._kept), default=None)

    def load(self) -> Checkpoint | None:
        """Read the newest checkpoint that is sound; None where there is none at all.

        Raises:
            CheckpointError: There are checkpoints, and every one is damaged or of another version.
        """
        faults: list[CheckpointError] = []
        sound: list[Checkpoint] = []
        for path in (self._newest, self._previous):
            if not path.exists():
                continue
            try:
                sound.append(self._read(path))
            except CheckpointError as exc:
                faults.append(exc)
                self._is_newest_sound &= path != self._newest
        self._kept = tuple(checkpoint.progress for checkpoint in sound)
        if sound:
            if not self._is_newest_sound:
                log.warning("%s; going on from the one before", faults[0])
            return sound[0]
        if faults:
            raise CheckpointError(f"{faults[0]}; start afresh with --resume never")
        return None

    # The inside.

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
        self._bases.read_checked(bytes.fromhex(progress.base))
        return Checkpoint(progress, residual, join_state(trainer, progress.trainer))

    def _keep_previous(self) -> None:
        """Let the newest checkpoint so far be found under the previous one's name as well."""
        if not (self._is_newest_sound and self._newest.exists()):
            return  # the one before is the better one
        part = self._previous.with_name(self._previous.name + ".part")
        part.unlink(missing_ok=True)
        try:
            os.link(self._newest, part)
        except OSError:  # a file system without hard links
            shutil.copyfile(self._newest, part)
        os.replace(part, self._previous)


class _Version(msgspec.Struct, frozen=True):
    format: int


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
