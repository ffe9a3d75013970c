"""Small schemas, vectors and payloads for tests of the codecs."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import torch
from hypothesis import strategies as st

from semantic_net.fixed_point import Float32Array
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.encoder import encode
from semantic_net.semantic.schema import Kind, ModelSchema, TensorSpec

MODES = (
    Codec(mode="none"),
    *(Codec(mode="gradients_topk", topk=share) for share in (0.001, 0.03, 0.4, 1.0)),
    *(Codec(mode="topk_quantize", topk=share) for share in (0.001, 0.03, 0.4, 1.0)),
    *(Codec(mode="entropy_quantize", topk=share) for share in (0.001, 0.03, 0.4, 1.0)),
    *(Codec(mode="weights_quantize", bit_width=bits) for bits in range(1, 9)),
)

configs = st.sampled_from(MODES)

ordinary = st.floats(-2, 2, width=32)
extreme = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from((0.0, -0.0, 2.0**-149, -(2.0**-149), 64.0, -64.0, 2.0**28, 3e38, 2.0**-25)),
)
zeros = st.just(0.0)
values = st.one_of(ordinary, ordinary, extreme, zeros)

shapes = st.lists(
    st.lists(st.integers(0, 5), max_size=3).map(tuple), max_size=4
)  # () is a scalar, (0,) and the like are empty


def schema_of(*sizes: int, buffers: int = 0) -> ModelSchema:
    """Return a schema of 1-D parameters, with one float buffer if ``buffers`` says so."""
    tensors = [TensorSpec(f"p{i}", (size,), "parameter") for i, size in enumerate(sizes)]
    if buffers:
        tensors.append(TensorSpec("running_mean", (buffers,), "buffer"))
    return ModelSchema(tuple(tensors))


@st.composite
def schemas(draw: st.DrawFn) -> ModelSchema:
    kinds: tuple[Kind, ...] = ("parameter", "buffer")
    return ModelSchema(
        tuple(
            TensorSpec(f"{kind}{i}", shape, kind)
            for kind in kinds
            for i, shape in enumerate(draw(shapes))
        )
    )


@st.composite
def totals(draw: st.DrawFn, schema: ModelSchema) -> Float32Array:
    """A flat vector: drawn numbers, repeated over the length, so that large ones cost little."""
    if not schema.size:
        return np.zeros(0, np.float32)
    drawn = draw(st.lists(values, min_size=1, max_size=min(schema.size, 40)))
    return np.resize(np.array(drawn, np.float32), schema.size)


def payload_of(total: Float32Array, schema: ModelSchema, cfg: Codec) -> bytes:
    return bytes(encode(torch.from_numpy(total.copy()), schema, cfg).payload)


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most that Python and numpy held at a time while something was done."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
