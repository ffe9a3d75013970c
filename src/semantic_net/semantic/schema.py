"""What a model looks like to its peers: the float tensors that travel, in a fixed order.

Parameters come first, then float buffers, each in the order in which the module lists them; one
flat float32 vector holds them end to end. Integer buffers (BatchNorm's counters), buffers that are
not part of the ``state_dict`` and what a user keeps local are not in it. Tied tensors are in it
once.

Torch is never imported here: decoders run without it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

import numpy as np

from semantic_net.fixed_point import Float32Array

if TYPE_CHECKING:
    from torch import Tensor, nn

Kind = Literal["parameter", "buffer"]

MAX_SIZE = (1 << 31) - 1
"""Most float entries of a model: positions travel and are kept as 32-bit integers."""

NONNEGATIVE_NAMES = ("running_var",)
"""Last parts of the names of buffers that may not go below zero."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One float tensor of a model."""

    name: str
    shape: tuple[int, ...]
    kind: Kind

    @property
    def size(self) -> int:
        """Entries of the tensor; a scalar has one."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class ModelSchema:
    """The float tensors of a model: all parameters, then all float buffers.

    Raises:
        ValueError: A buffer comes before a parameter, or there are more than `MAX_SIZE` entries.
    """

    tensors: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        kinds = [spec.kind for spec in self.tensors]
        if kinds != sorted(kinds, reverse=True):  # "parameter" sorts after "buffer"
            raise ValueError("a model schema lists parameters first, then buffers")
        if self.size > MAX_SIZE:
            raise ValueError(f"a model has at most {MAX_SIZE} float entries, this one {self.size}")

    @classmethod
    def of(cls, module: nn.Module) -> ModelSchema:
        """Return the schema of a module.

        Raises:
            ValueError: A tensor is complex, or the model is too large.
        """
        return cls(
            tuple(
                TensorSpec(name, tuple(tensor.shape), kind)
                for name, tensor, kind in float_tensors(module)
            )
        )

    @cached_property
    def num_parameters(self) -> int:
        """Entries of all parameters."""
        return sum(spec.size for spec in self.tensors if spec.kind == "parameter")

    @cached_property
    def num_buffers(self) -> int:
        """Entries of all float buffers."""
        return sum(spec.size for spec in self.tensors if spec.kind == "buffer")

    @property
    def size(self) -> int:
        """Entries of the flat vector."""
        return self.num_parameters + self.num_buffers

    @property
    def dense_bytes(self) -> int:
        """Bytes of the flat vector as float32: what an uncompressed update takes."""
        return 4 * self.size

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each tensor starts in the flat vector, and the end of the last one."""
        return tuple(accumulate((spec.size for spec in self.tensors), initial=0))

    @cached_property
    def parameters(self) -> tuple[TensorSpec, ...]:
        """The parameters alone; `offsets` begins with theirs."""
        return tuple(spec for spec in self.tensors if spec.kind == "parameter")

    @cached_property
    def nonnegative(self) -> tuple[slice, ...]:
        """Parts of the flat vector that may not go below zero: variances of BatchNorm."""
        return tuple(
            slice(start, start + spec.size)
            for spec, start in zip(self.tensors, self.offsets, strict=False)
            if spec.kind == "buffer" and spec.name.rpartition(".")[2] in NONNEGATIVE_NAMES
        )

    def keep_bounds(self, flat: Float32Array) -> None:
        """Raise entries of a flat vector to their lower bounds, in place.

        Averages of variances with deltas of many ages can dip below zero. Only what a model is
        loaded with is bounded, never the state that peers share: that one stays a plain sum.
        """
        for part in self.nonnegative:
            np.maximum(flat[part], 0, out=flat[part])

    def digest(self) -> str:
        """Return the hash of all names, shapes and kinds: equal where models can be averaged."""
        rows = [[spec.name, list(spec.shape), spec.kind] for spec in self.tensors]
        text = json.dumps(rows, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(b"semantic-net schema 1\n" + text.encode()).hexdigest()


_LOCAL = "_semantic_net_local"


def keep_local(module: nn.Module, patterns: Sequence[str]) -> None:
    """Mark the tensors of a module that never leave the device: they are in no schema of it.

    Args:
        module: Modified in place; copies of it are marked as well.
        patterns: Of names of parameters and buffers, as in file names: ``head.*``.

    Raises:
        ValueError: A pattern fits none, or together they leave no parameter to share.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    named = parameters | dict(module.named_buffers(remove_duplicate=False))
    chosen: dict[str, Tensor] = {}
    for pattern in patterns:
        found = {name: named[name] for name in named if fnmatchcase(name, pattern)}
        if not found:
            raise ValueError(f"{pattern!r} fits none of {', '.join(named)}")
        chosen |= found
    tied = {id(tensor) for tensor in chosen.values()}  # under each of their names
    names = frozenset(name for name, tensor in named.items() if id(tensor) in tied)
    if patterns and names.issuperset(parameters):
        raise ValueError("they are all that the model has, so that nothing would be shared")
    setattr(module, _LOCAL, names)


def is_kept_local(module: nn.Module, name: str) -> bool:
    """Tell whether `keep_local` has marked a tensor of a module."""
    names: frozenset[str] = getattr(module, _LOCAL, frozenset())
    return name in names


def local_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return what of a module's ``state_dict`` does not travel: what is marked, and integers.

    Tied tensors are in it once, under their first name.
    """
    known = {id(tensor) for _, tensor, _ in float_tensors(module)}
    found = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in known:
            known.add(id(tensor))
            found[name] = tensor.detach()
    return found


def float_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor, Kind]]:
    """Yield the float tensors of a module that travel, in the order of its schema, tied ones once.

    Raises:
        ValueError: A tensor is complex: it can neither travel nor stay behind unnoticed.
    """
    for name, parameter in module.named_parameters():
        if _travels(name, parameter) and not is_kept_local(module, name):
            yield name, parameter, "parameter"
    persistent = module.state_dict(keep_vars=True).keys()
    for name, buffer in module.named_buffers():
        if name in persistent and _travels(name, buffer) and not is_kept_local(module, name):
            yield name, buffer, "buffer"


def _travels(name: str, tensor: Tensor) -> bool:
    if tensor.is_complex():
        raise ValueError(f"{name}: complex tensors cannot be federated; store real and imaginary")
    return tensor.is_floating_point()
