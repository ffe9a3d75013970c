"""What a delta takes away from a vector: its parameters, rounded once where float32 must."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from semantic_support import MODES, configs, payload_of, schema_of, schemas, totals

from semantic_net.fixed_point import BLOCK, MAX_DELTA, SCALE
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.decoder import parse_payload
from semantic_net.semantic.deltas import DenseFloats, ParsedDelta, SparseUnits, subtract
from semantic_net.semantic.schema import ModelSchema


def test_units_lie_where_their_positions_say() -> None:
    part = SparseUnits(np.array([1, 4], np.int32), np.array([-3, MAX_DELTA], np.int32), 6)
    assert (part.size, part.bound) == (6, MAX_DELTA)
    delta = ParsedDelta(part, DenseFloats(np.empty(0, np.float32), 0.0))
    assert delta.to_fixed().tolist() == [0, -3, 0, 0, MAX_DELTA, 0]
    out = np.array([10, 20, 30])
    delta.accumulate(out, 1, 5)
    assert out.tolist() == [10 - 15, 20, 30]


def test_what_a_sender_kept_is_taken_away_and_the_rest_left_alone() -> None:
    part = SparseUnits(np.array([1], np.int32), np.array([SCALE // 2], np.int32), 3)
    values = np.array([2.0**-149, 2, 3e38], np.float32)
    subtract(part, values)
    assert values.tolist() == [np.float32(2.0**-149), 1.5, np.float32(3e38)]


def test_a_difference_is_rounded_once() -> None:
    """2^30 - 1 units have 30 digits: float32 first would give 64."""
    part = SparseUnits(np.array([0], np.int32), np.array([MAX_DELTA - 1], np.int32), 1)
    values = np.array([64], np.float32)
    subtract(part, values)
    assert values.tolist() == [1 / SCALE]


@given(st.data(), schemas(), configs)
def test_subtracting_is_exact_but_for_one_rounding(
    data: st.DataObject, schema: ModelSchema, cfg: Codec
) -> None:
    delta = parse_payload(cfg.mode, payload_of(data.draw(totals(schema)), schema, cfg), schema)
    values = data.draw(totals(schema))[: schema.num_parameters]
    exact = values.astype(np.float64) - delta.to_fixed()[: schema.num_parameters] / SCALE
    subtract(delta.parameters, values)
    assert values.tolist() == exact.astype(np.float32).tolist()


@pytest.mark.parametrize("cfg", MODES, ids=lambda c: f"{c.mode}-{c.topk}-{c.bit_width}")
def test_subtracting_goes_over_many_blocks(cfg: Codec) -> None:
    schema = schema_of(BLOCK + 5, 2 * BLOCK, buffers=3)
    rng = np.random.default_rng(0)
    total, values = rng.standard_normal((2, schema.size)).astype(np.float32)
    values = values[: schema.num_parameters].copy()
    delta = parse_payload(cfg.mode, payload_of(total, schema, cfg), schema)
    exact = values - delta.to_fixed()[: schema.num_parameters] / SCALE
    subtract(delta.parameters, values)
    assert torch.equal(torch.from_numpy(values), torch.from_numpy(exact.astype(np.float32)))
