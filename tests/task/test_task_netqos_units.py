from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_net.task.netqos.units import UNITS, Inputs, unit_of


@pytest.mark.parametrize(
    ("column", "unit"),
    [("rtt_ms", "ms"), ("RSRP_dBm", "dbm"), ("n", ""), ("cell_id", ""), ("db", "db")],
)
def test_the_unit_is_the_end_of_the_name(column: str, unit: str) -> None:
    assert unit_of(column) == unit


def test_channels_on_numbers_that_a_reader_can_check() -> None:
    inputs = Inputs(("rtt_ms", "rsrp_dbm", "n", "rtt_max_ms"), "rtt_ms", target_max=500)
    rows, target = inputs.encode(
        np.array([[0.0, -85, 1, 50], [900, -100, 0, 900]]), np.array([0.0, 900])
    )
    log3 = np.log1p(500) - 3
    expected = [
        [0, -3, 0, np.log(2), 0.5, np.log1p(50) - 3],
        [5, log3, -1, 0, 5, log3],  # clipped, and so is the feature in the same unit
    ]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
    np.testing.assert_allclose(target, [0, 5])
    assert inputs.channels() == (
        "(rtt_ms-0)/100",
        "slog(rtt_ms/100)",
        "(rsrp_dbm--85)/15",
        "slog(n/1)",
        "(rtt_max_ms-0)/100",
        "slog(rtt_max_ms/100)",
    )


def test_the_targets_past_is_seen_even_where_it_is_no_feature() -> None:
    rows, target = Inputs(("sinr_db",), "rtt_ms").encode(np.array([[20.0]]), np.array([200.0]))
    assert rows.tolist() == [[2.0, 1.0]]
    assert target.tolist() == [2.0]


def test_a_target_of_unknown_unit_is_scaled_by_its_clip() -> None:
    assert Inputs(("load",), "load", 50.0).target_scale.scale == 10
    assert Inputs(("load",), "load").target_scale.scale == 1
    rows, _ = Inputs(("other",), "load", 50.0).encode(np.array([[99.0]]), np.array([99.0]))
    np.testing.assert_allclose(rows, [[5.0, np.log1p(99)]], rtol=1e-6)  # only the target is clipped


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([*UNITS, "n"]), st.floats(-1e6, 1e6))
def test_normalisation_is_undone_exactly_enough_and_is_finite(unit: str, value: float) -> None:
    inputs = Inputs((f"x_{unit}", "other"), f"x_{unit}")
    rows, target = inputs.encode(np.array([[value, value]]), np.array([value]))
    assert np.isfinite(rows).all()
    assert len(inputs.channels()) == rows.shape[1]
    restored = inputs.target_scale.restore(target.astype(np.float64))
    np.testing.assert_allclose(restored, [value], rtol=1e-5, atol=1e-5 * inputs.target_scale.scale)
