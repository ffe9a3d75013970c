"""The model that a server shares with its clients, version by version, in few bytes.

The server's own state is exact. What clients hold follows it by encoded differences, each of them
from what they lack so far: what one leaves out is in the next. That is error feedback on the way
down (Tang et al., "DoubleSqueeze", 2019, algorithm 1), as residuals are on the way up. Both sides
add the differences up alike, in float32, so that a digest tells whether they hold the same.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from semantic_net.config import Config
from semantic_net.errors import ConfigError, RemoteProtocolError
from semantic_net.fixed_point import Float32Array
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.decoder import max_payload_bytes, parse_payload
from semantic_net.semantic.encoder import encode
from semantic_net.semantic.schema import ModelSchema

Scalar = bool | bytes | float | int | str
"""What Flower carries beside arrays."""

_DIGEST_CHARS = 16


def refuse_auto(config: Config) -> None:
    """Say that a budget cannot be kept here.

    Raises:
        ConfigError: It asks for mode ``auto``.
    """
    if config.semantic.trade.mode == "auto":
        raise ConfigError(
            "semantic.mode: auto measures the links between peers, and Flower tells of none; "
            "choose a preset or another mode"
        )


class SharedModel:
    """What a client holds, or what the server knows that clients hold."""

    def __init__(self, schema: ModelSchema) -> None:
        """Hold nothing yet."""
        self.schema = schema
        self.values: Float32Array = np.zeros(schema.size, np.float32)
        """(schema.size,): parameters, then float buffers."""
        self.version: int | None = None

    @property
    def digest(self) -> str:
        """Equal where the values are."""
        little = self.values.astype("<f4", copy=False)
        return hashlib.sha256(little.data).hexdigest()[:_DIGEST_CHARS]

    def replace(self, values: Float32Array, version: int | None) -> None:
        """Hold other values from now on."""
        self.values[:] = values
        self.version = version

    def add(self, codec: str, payload: memoryview) -> None:
        """Go on to the next version.

        Raises:
            RemoteProtocolError: The payload is none of this model.
        """
        assert self.version is not None, "a difference to nothing"
        if len(payload) > max_payload_bytes(codec, self.schema):
            raise RemoteProtocolError(f"a payload of {len(payload)} bytes is too long for {codec}")
        self.values += parse_payload(codec, payload, self.schema).to_float32()
        self.version += 1


@dataclass(frozen=True, slots=True)
class Step:
    """What leads from one version to the next."""

    codec: str
    payload: bytes | memoryview


class Publisher:
    """The server's side: makes versions, and knows what leads to the latest."""

    def __init__(self, schema: ModelSchema, values: Float32Array) -> None:
        """Publish the first version."""
        self.model = SharedModel(schema)
        self.model.replace(values, 0)
        self._steps: deque[Step] = deque()

    def publish(self, values: Float32Array, codec: Codec) -> None:
        """Make the next version: the values themselves in mode ``none``, else what comes near."""
        model = self.model
        assert model.version is not None
        if codec.mode == "none":
            model.replace(values, model.version + 1)
            self._steps.clear()  # the whole model takes as many bytes
            return
        lacking = torch.from_numpy(values - model.values)
        encoded = encode(lacking, model.schema, codec)
        model.add(encoded.codec, memoryview(encoded.payload))
        self._steps.append(Step(encoded.codec, encoded.payload))
        while sum(len(step.payload) for step in self._steps) > model.schema.dense_bytes:
            self._steps.popleft()

    def since(self, version: int | None) -> Sequence[Step] | None:
        """Return what leads from a version to the latest; None where the whole model has to go."""
        latest = self.model.version
        assert latest is not None
        if version is None or not 0 <= latest - version <= len(self._steps):
            return None
        return list(self._steps)[len(self._steps) - (latest - version) :]


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a server says of the arrays that it sends; other Flower servers say none of it."""

    round: int
    version: int
    """That the client holds once it has taken them."""
    digest: str
    codecs: tuple[str, ...] | None
    """Of the arrays, each a step of one version; None: they are the whole model."""
    counted: int = 0
    """The last round in which an update of the client's counts; 0: none does."""
    facts: str = ""
    """What has to be equal on both sides, as JSON; told once."""
    rounds: int = 0
    """Of the whole run; 0: not told."""

    def to_config(self) -> dict[str, Scalar]:
        """Return it as Flower carries it."""
        config: dict[str, Scalar] = {
            "round": self.round,
            "version": self.version,
            "digest": self.digest,
            "counted": self.counted,
            "rounds": self.rounds,
        }
        if self.codecs is not None:
            config["codecs"] = ",".join(self.codecs)
        if self.facts:
            config["facts"] = self.facts
        return config

    @staticmethod
    def read(config: Mapping[str, object]) -> Announcement | None:
        """Return what a server of ours has said; None of another one.

        Raises:
            RemoteProtocolError: It makes no sense.
        """
        if "version" not in config or "digest" not in config:
            return None
        number, version = config.get("round"), config["version"]
        digest, codecs, facts = config["digest"], config.get("codecs"), config.get("facts", "")
        counted, rounds = config.get("counted", 0), config.get("rounds", 0)
        if (
            not isinstance(number, int)
            or not isinstance(version, int)
            or not isinstance(digest, str)
            or not isinstance(codecs, str | None)
            or not isinstance(facts, str)
            or not isinstance(counted, int)
            or not isinstance(rounds, int)
        ):
            raise RemoteProtocolError("the server's announcement makes no sense")
        names = None if codecs is None else tuple(filter(None, codecs.split(",")))
        return Announcement(number, version, digest, names, counted, facts, rounds)
