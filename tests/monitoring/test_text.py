"""Figures as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.monitoring.text import (
    format_bytes,
    format_duration,
    format_loss,
    format_metric,
    in_percent,
    main_metric,
    metric_label,
)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (12_345, "12.3 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (25_650_000, "25.6 MB"),
        (3_100_000_000_000, "3100 GB"),
    ],
)
def test_bytes(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text


@given(st.integers(0, 10**15))
def test_bytes_are_at_most_four_characters_and_close(num_bytes: int) -> None:
    number, unit = format_bytes(num_bytes).split(" ")
    size = float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
    assert size == pytest.approx(num_bytes, rel=0.051, abs=0.5)
    assert len(number) <= 4 or unit == "GB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125.4, "2 min 05 s"),
        (3_720, "1 h 02 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_metrics_in_per_cent_are_shown_so() -> None:
    assert format_metric("miou", 0.412) == "41.2"
    assert format_metric("pixel_accuracy", 1.0) == "100.0"
    assert format_metric("accuracy", 93.0) == "93"  # in per cent already
    assert format_metric("rmse", 20.61234) == "20.61"
    assert in_percent("iou_water")
    assert not in_percent("previous")


def test_losses_keep_four_digits() -> None:
    assert [format_loss(loss) for loss in (1.23456, 0.5, 0.000123456)] == [
        "1.235",
        "0.5000",
        "0.0001235",
    ]


def test_the_main_metric_is_the_preferred_or_the_first() -> None:
    assert main_metric({"rmse": 1.0, "r2": 0.5}, "r2") == "r2"
    assert main_metric({"rmse": 1.0, "r2": 0.5}, "miou") == "rmse"
    assert main_metric({}, "miou") is None
    assert (metric_label("rmse"), metric_label("own")) == ("RMSE", "own")
