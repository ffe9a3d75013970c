"""The layout of each codec's payload, written and read side by side.

All numbers are little-endian. P parameters and B float buffers come from the agreed schema, T is
the number of parameter tensors; planes and unary parts are as in `semantic_net.semantic.bits`.

    none              float32 x (P + B)
    gradients_topk    uint32 count, uint32 rice, float32 x count, float32 x B,
                      ``rice`` planes of ``count`` gaps, unary part (all that is left)
    topk_quantize     uint32 count, uint8 coding, uint8 rice, 2 x uint32 level, float32 x B,
                      plane of signs, plane of levels, positions (all that is left) as their
                      coding says: 0 as above, 1 a bitmap in one zstd frame
    weights_quantize  uint32 bit_width, float32 x B, T x (uint32 half_step, uint16 zero),
                      ``bit_width`` planes of P codes

`entropy_quantize` has a module of its own (`semantic_net.semantic.entropy`).

A payload is refused unless every declared size fits the schema and its own length (checked before
anything is allocated), every float is finite, and each set of entries is written in canonical
form (of an empty one, the fields that say how to read it are free). What is read are views: a
payload must not change while its delta is in use.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from semantic_net.errors import RemoteProtocolError
from semantic_net.fixed_point import MAX_DELTA, Float32Array, Int64Array
from semantic_net.semantic.bitmaps import pack_bitmap, unpack_bitmap
from semantic_net.semantic.bits import (
    UInt8Array,
    check_planes,
    max_position_bytes,
    pack_planes,
    pack_positions,
    plane_bytes,
    unpack_codes,
    unpack_positions,
)
from semantic_net.semantic.deltas import (
    DenseFloats,
    ParsedDelta,
    QuantizedCodes,
    SparseFloats,
    SparseUnits,
)
from semantic_net.semantic.entropy import max_entropy_bytes, parse_entropy_quantized
from semantic_net.semantic.levels import level_units
from semantic_net.semantic.reader import Buffer, PayloadReader
from semantic_net.semantic.schema import ModelSchema

_TOPK = struct.Struct("<II")
_TOPK_QUANTIZE = struct.Struct("<IBBII")
_RICE, _BITMAP = range(2)
_QUANTIZE = struct.Struct("<I")
_STEP = np.dtype([("half_step", "<u4"), ("zero", "<u2")])


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


def write_topk_quantized(
    positions: Int64Array,
    codes: UInt8Array,
    levels: tuple[int, int],
    buffers: Float32Array,
    num_parameters: int,
) -> bytes:
    """Return the payload of some parameters, at strictly increasing positions.

    Args:
        positions: Of those that are kept.
        codes: As many: bit 0 is set where the value is negative, bit 1 where its magnitude is the
            second level.
        levels: The two magnitudes in units of 2^-24, at least 1.
        buffers: The float buffers.
        num_parameters: Of the model.
    """
    packed = pack_positions(positions, num_parameters)
    bitmap = pack_bitmap(positions, num_parameters, packed.size_bytes)
    coding, rice = (_RICE, packed.rice) if bitmap is None else (_BITMAP, 0)
    head = _TOPK_QUANTIZE.pack(len(positions), coding, rice, *levels)
    where = (packed.planes, packed.unary) if bitmap is None else (bitmap,)
    return b"".join((head, _float_bytes(buffers), pack_planes(codes, 2), *where))


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


def _parse_none(reader: PayloadReader, schema: ModelSchema) -> ParsedDelta:
    if reader.left != schema.dense_bytes:
        raise reader.error(f"expected {schema.dense_bytes} bytes, got {reader.left}")
    parameters = DenseFloats(*reader.floats(schema.num_parameters))
    return ParsedDelta(parameters, DenseFloats(*reader.floats(schema.num_buffers)))


def _parse_topk(reader: PayloadReader, schema: ModelSchema) -> ParsedDelta:
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


def _parse_topk_quantized(reader: PayloadReader, schema: ModelSchema) -> ParsedDelta:
    count, coding, rice, *levels = _TOPK_QUANTIZE.unpack(reader.take(_TOPK_QUANTIZE.size).data)
    size = schema.num_parameters
    if count > size:
        raise reader.error(f"{count} entries of {size}")
    if not 0 < min(levels) <= max(levels) <= MAX_DELTA:
        raise reader.error("a level is out of range")
    buffers = DenseFloats(*reader.floats(schema.num_buffers))
    codes = reader.take(2 * plane_bytes(count))
    check_planes(codes, 2, count)
    if coding == _RICE:
        planes = reader.take(min(rice, 32) * plane_bytes(count))
        positions = unpack_positions(rice, planes, reader.take(reader.left), count, size)
    elif coding == _BITMAP and not rice:
        positions = unpack_bitmap(reader.take(reader.left), count, size)
    else:
        raise reader.error(f"positions in coding {coding}, {rice}")
    units = level_units(unpack_codes(codes, 2, count, 0, count), (levels[0], levels[1]))
    return ParsedDelta(SparseUnits(positions, units, size), buffers)


def _parse_quantized(reader: PayloadReader, schema: ModelSchema) -> ParsedDelta:
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


def _max_topk_quantized(schema: ModelSchema) -> int:
    return (
        _TOPK_QUANTIZE.size
        + 4 * schema.num_buffers
        + 2 * plane_bytes(schema.num_parameters)
        + max_position_bytes(schema.num_parameters)
    )


def _max_quantized(schema: ModelSchema) -> int:
    return (
        _QUANTIZE.size
        + 4 * schema.num_buffers
        + _STEP.itemsize * len(schema.parameters)
        + 8 * plane_bytes(schema.num_parameters)
    )


@dataclass(frozen=True, slots=True)
class _Codec:
    parse: Callable[[PayloadReader, ModelSchema], ParsedDelta]
    max_bytes: Callable[[ModelSchema], int]


CODECS: dict[str, _Codec] = {
    "none": _Codec(_parse_none, _max_none),
    "gradients_topk": _Codec(_parse_topk, _max_topk),
    "topk_quantize": _Codec(_parse_topk_quantized, _max_topk_quantized),
    "entropy_quantize": _Codec(parse_entropy_quantized, max_entropy_bytes),
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
    reader = PayloadReader(codec, payload)
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
