"""The facts of a run: written as a person has configured them, and exact all the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.federated.facts import _as_configured

ONE = 1 << 16


@pytest.mark.parametrize(("configured", "shown"), [(0.5, "0.5"), (0.9, "0.9"), (0, "0"), (1, "1")])
def test_a_fraction_is_shown_as_it_was_written(configured: float, shown: str) -> None:
    assert _as_configured(round(configured * ONE)) == shown


@given(st.integers(0, 16 * ONE))
def test_two_fractions_that_differ_are_shown_differently(fraction: int) -> None:
    assert round(float(_as_configured(fraction)) * ONE) == fraction
