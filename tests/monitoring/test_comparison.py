"""The closing table compares with the best local-only model, whichever way the metric points."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from semantic_net.monitoring.comparison import Comparison, comparison_lines, comparison_table

SEGMENTATION = Comparison(
    metric="miou",
    higher_is_better=True,
    federated={"miou": 0.412},
    local=({"miou": 0.351}, {"miou": 0.362}, {"miou": 0.298}),
    num_examples=72,
    local_steps=400,
    bytes_sent=600_000,
    dense_bytes=12_000_000,
    federated_s=63.0,
    local_s=41.0,
)
FORECAST = dataclasses.replace(
    SEGMENTATION,
    metric="rmse",
    higher_is_better=False,
    federated={"rmse": 21.0},
    local=({"rmse": 20.0}, {"rmse": 24.0}),
)


def text_of(found: Comparison) -> str:
    output = io.StringIO()
    console = Console(file=output, width=80, color_system=None)
    console.print(comparison_table(found))
    for line in comparison_lines(found):
        console.print(line, soft_wrap=True)
    return output.getvalue()


def test_the_gain_is_over_the_best_local_model() -> None:
    assert SEGMENTATION.best_local == 1
    assert SEGMENTATION.gain == pytest.approx(0.05)
    assert FORECAST.best_local == 0
    assert FORECAST.gain == pytest.approx(-1.0)


def test_what_a_person_reads() -> None:
    text = text_of(SEGMENTATION)
    rows = [line.split() for line in text.splitlines()]
    assert ["federated", "41.2"] in rows
    assert ["peer", "1", "alone", "35.1", "-6.1"] in rows
    assert ["peer", "2", "alone", "(best)", "36.2", "-5.0"] in rows
    assert "The federated model beats the best local-only one: +5.0 points of mIoU." in text
    assert "Sent: 600 kB by all peers together; dense float32 would take 12.0 MB, 20 times" in text
    assert "72 examples; every peer took 400 local steps in either case." in text


def test_a_loss_is_said_plainly() -> None:
    text = text_of(FORECAST)
    assert "The federated model does NOT beat the best local-only one: -1 of RMSE." in text
    assert "against federated (RMSE)" in text


def test_nothing_sent_is_no_division() -> None:
    assert "0 times" in text_of(dataclasses.replace(SEGMENTATION, bytes_sent=0))
