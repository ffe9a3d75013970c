"""The layout of each codec's payload, written and read side by side.

All numbers are little-endian. P parameters and B float buffers come from the agreed schema, T is
the number of parameter tensors; planes and unary parts are as in `semantic_net.semantic.bits`.

    none              float32 x (P + B)
    gradients_topk    uint32 count, uint32 rice, float32 x count, float32 x B,
                      ``rice`` planes of ``count`` gaps, unary part (all that is left)
    weights_quantize  uint32 bit_width, float32 x B, T x (uint32 half_step, uint16 zero),
                      ``bit_width`` planes of P codes

A payload is refused unless every declared size fits the schema and its own length (checked before
anything is allocated), every float is finite, and each set of entries is written in canonical
form. What is read are views: a payload must not change while its delta is in use.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from semantic_net.errors import RemoteProtocolError
from semantic_net.fixed_point import BLOCK, MAX_DELTA, Float32Array, Int64Array
from semantic_net.semantic.bits import (
    UInt8Array,
    check_planes,
    max_position_bytes,
    pack_planes,
    pack_positions,
    plane_bytes,
    unpack_positions,
)
from semantic_net.semantic.deltas import DenseFloats, ParsedDelta, QuantizedCodes, SparseFloats
from semantic_net.semantic.schema import ModelSchema

Buffer = bytes | bytearray | memoryview | mmap.mmap

_TOPK = struct.Struct("<II")
_QUANTIZE = struct.Struct("<I")
_STEP = np.dtype([("half_step", "<u4"), ("zero", "<u2")])


def largest_magnitude(values: Float32Array) -> float:
    """Return the largest magnitude among values; inf or nan if any of them is."""
    largest = 0.0
    with np.errstate(invalid="ignore"):
        # In blocks, so that the second of the two passes finds its entries in the cache.
        for start in range(0, values.size, BLOCK):
            block = values[start : start + BLOCK]
            both = max(-float(block.min()), float(block.max()))
            if not both < np.inf:
                return both
            largest = max(largest, both)
    return largest


def write_none(flat: Float32Array) -> bytes:
    """Return the payload of a whole flat vector."""
    return _float_bytes(flat)


def write_topk(
    positions: Int64Array, values: Float32Array, buffers: Float32Array, num_parameters: int
) -> bytes:
    """Return the payload of some parameters, at strictly increasing positions."""
    packed = pack_positions(positions, num_parameters)
    head = _TOPK.pack(len(positions), packed.rice)
    return b"".join(
        (head, _float_bytes(values), _float_bytes(buffers), packed.planes, packed.unary)
    )


def write_quantized(
    codes: UInt8Array,
    bit_width: int,
    half_steps: list[int],
    zeros: list[int],
    buffers: Float32Array,
) -> bytes:
    """Return the payload of all parameters' codes, with a step and a zero per tensor."""
    steps = np.empty(len(half_steps), _STEP)
    steps["half_step"] = half_steps
    steps["zero"] = zeros
    head = _QUANTIZE.pack(bit_width)
    return b"".join((head, _float_bytes(buffers), steps.tobytes(), pack_planes(codes, bit_width)))


def _float_bytes(values: Float32Array) -> bytes:
    return values.astype("<f4", copy=False).tobytes()


class _Reader:
    """Takes a payload apart, never beyond its end."""

    def __init__(self, codec: str, payload: Buffer) -> None:
        self._codec = codec
        self._left = np.frombuffer(payload, np.uint8) if len(payload) else np.empty(0, np.uint8)

    def error(self, problem: str) -> RemoteProtocolError:
        return RemoteProtocolError(f"payload {self._codec}: {problem}")

    @property
    def left(self) -> int:
        return self._left.size

    def take(self, num_bytes: int) -> UInt8Array:
        if num_bytes > self._left.size:
            raise self.error(f"ends {num_bytes - self._left.size} bytes early")
        taken, self._left = self._left[:num_bytes], self._left[num_bytes:]
        return taken

    def floats(self, count: int) -> tuple[Float32Array, float]:
        """Take finite float32 values, as they lie, with their largest magnitude."""
        values: Float32Array = self.take(4 * count).view("<f4")
        largest = largest_magnitude(values)
        if not largest < np.inf:
            raise self.error("a value is not finite")
        return values, largest

    def end(self) -> None:
        if self._left.size:
            raise self.error(f"{self._left.size} bytes too long")


def _parse_none(reader: _Reader, schema: ModelSchema) -> ParsedDelta:
    if reader.left != schema.dense_bytes:
        raise reader.error(f"expected {schema.dense_bytes} bytes, got {reader.left}")
    parameters = DenseFloats(*reader.floats(schema.num_parameters))
    return ParsedDelta(parameters, DenseFloats(*reader.floats(schema.num_buffers)))


def _parse_topk(reader: _Reader, schema: ModelSchema) -> ParsedDelta:
    count, rice = _TOPK.unpack(reader.take(_TOPK.size).data)
    if count > schema.num_parameters:
        raise reader.error(f"{count} entries of {schema.num_parameters}")
    values, largest = reader.floats(count)
    buffers = DenseFloats(*reader.floats(schema.num_buffers))
    planes = reader.take(min(rice, 32) * plane_bytes(count))
    positions = unpack_positions(
        rice, planes, reader.take(reader.left), count, schema.num_parameters
    )
    return ParsedDelta(SparseFloats(positions, values, largest, schema.num_parameters), buffers)


def _parse_quantized(reader: _Reader, schema: ModelSchema) -> ParsedDelta:
    (width,) = _QUANTIZE.unpack(reader.take(_QUANTIZE.size).data)
    if not 1 <= width <= 8:
        raise reader.error(f"{width} bits an entry")
    buffers = DenseFloats(*reader.floats(schema.num_buffers))
    num_tensors = len(schema.parameters)
    steps = reader.take(num_tensors * _STEP.itemsize).view(_STEP)
    half_steps: list[int] = steps["half_step"].tolist()
    zeros: list[int] = steps["zero"].tolist()
    if max(zeros, default=0) > 2 * (1 << width) - 2:
        raise reader.error("a tensor's zero is out of range")
    planes = reader.take(width * plane_bytes(schema.num_parameters))
    check_planes(planes, width, schema.num_parameters)
    reader.end()
    offsets = schema.offsets[: num_tensors + 1]
    parameters = QuantizedCodes(planes, width, half_steps, zeros, offsets)
    if parameters.bound > MAX_DELTA:
        raise reader.error("a tensor's step is out of range")
    return ParsedDelta(parameters, buffers)


def _max_none(schema: ModelSchema) -> int:
    return schema.dense_bytes


def _max_topk(schema: ModelSchema) -> int:
    return _TOPK.size + schema.dense_bytes + max_position_bytes(schema.num_parameters)


def _max_quantized(schema: ModelSchema) -> int:
    return (
        _QUANTIZE.size
        + 4 * schema.num_buffers
        + _STEP.itemsize * len(schema.parameters)
        + 8 * plane_bytes(schema.num_parameters)
    )


@dataclass(frozen=True, slots=True)
class _Codec:
    parse: Callable[[_Reader, ModelSchema], ParsedDelta]
    max_bytes: Callable[[ModelSchema], int]


CODECS: dict[str, _Codec] = {
    "none": _Codec(_parse_none, _max_none),
    "gradients_topk": _Codec(_parse_topk, _max_topk),
    "weights_quantize": _Codec(_parse_quantized, _max_quantized),
}
"""By the name that an update carries."""


def parse_payload(codec: str, payload: Buffer, schema: ModelSchema) -> ParsedDelta:
    """Check a payload against the agreed schema and return its delta, yet to be decoded.

    Args:
        codec: A name in `CODECS`.
        payload: Any contiguous bytes, read-only ones too. Not copied: keep them unchanged.
        schema: The model that all peers agreed upon.

    Raises:
        RemoteProtocolError: An unknown codec, or not what an encoder writes for this schema.
    """
    reader = _Reader(codec, payload)
    if codec not in CODECS:
        raise reader.error(f"unknown codec; known: {', '.join(CODECS)}")
    return CODECS[codec].parse(reader, schema)


def max_payload_bytes(codec: str, schema: ModelSchema) -> int:
    """Return the most bytes that a payload of this codec takes; more can be refused unread.

    Raises:
        RemoteProtocolError: An unknown codec.
    """
    if codec not in CODECS:
        raise RemoteProtocolError(f"unknown codec {codec!r}; known: {', '.join(CODECS)}")
    return CODECS[codec].max_bytes(schema)
