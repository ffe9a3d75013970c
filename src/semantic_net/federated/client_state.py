"""What a client of the classic mode has to remember where it is made anew for every message.

One value of bytes: a safetensors file, whose tensors are the client's and whose metadata is the
rest as JSON. It stays on the device: a SuperNode keeps it for its client between two messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import safetensors
import safetensors.torch
from torch import Tensor

from semantic_net.errors import CheckpointError
from semantic_net.training.state import State, join_state, split_state

_KEY = "semantic-net"
_TRAINER = "trainer/"


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """The half of a client's state that is JSON."""

    id: str
    round: int
    version: int | None
    changed_norm: float
    sent: tuple[int, str] | None
    """Round and codec of the update of which it is not known whether it counts."""
    trainer: dict[str, Any]


def pack(kept: Remembered, tensors: Mapping[str, Tensor], trainer: State) -> bytes:
    """Return a client's state.

    Args:
        kept: Without the trainer's half.
        tensors: Others than the trainer's.
        trainer: `Trainer.state`.
    """
    of_trainer, rest = split_state(trainer)
    named = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    named |= {_TRAINER + name: tensor for name, tensor in of_trainer.items()}
    text = msgspec.json.encode(msgspec.structs.replace(kept, trainer=rest)).decode()
    return safetensors.torch.save(named, {_KEY: text})


def unpack(data: bytes) -> tuple[Remembered, dict[str, Tensor], State]:
    """Return what `pack` was given.

    Raises:
        CheckpointError: It is no client's state.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        header = msgspec.json.decode(data[8 : 8 + length], type=dict[str, Any])
        kept = msgspec.json.decode(header["__metadata__"][_KEY], type=Remembered)
        named = safetensors.torch.load(data)
    except (safetensors.SafetensorError, msgspec.MsgspecError, KeyError, TypeError) as exc:
        raise CheckpointError(f"the client's state makes no sense: {exc}") from exc
    of_trainer = {
        name[len(_TRAINER) :]: named.pop(name) for name in list(named) if name.startswith(_TRAINER)
    }
    return kept, named, join_state(of_trainer, kept.trainer)
