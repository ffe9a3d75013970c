"""The arithmetic of segmentation scores."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from semantic_net.task.disaster.classes import FLOODNET, IGNORE, PALETTE, RESCUENET
from semantic_net.task.disaster.confusion import class_iou, confusion_matrix, pixel_accuracy

labels = hnp.arrays(np.uint8, hnp.array_shapes(max_dims=3, max_side=6), elements=st.integers(0, 3))


def test_rows_are_the_truth_and_ignored_pixels_are_nowhere() -> None:
    truth = np.array([[0, 0, 1], [1, IGNORE, 2]], dtype=np.uint8)
    predicted = np.array([[0, 1, 1], [1, 0, 0]])
    matrix = confusion_matrix(truth, predicted, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_scores_that_a_reader_can_check() -> None:
    matrix = np.array([[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    iou = class_iou(matrix)
    assert iou[:3].tolist() == [1 / 3, 2 / 3, 0.0]
    assert np.isnan(iou[3]), "a class in neither truth nor prediction has no score"
    assert pixel_accuracy(matrix) == 3 / 5
    assert pixel_accuracy(np.zeros((2, 2), dtype=np.int64)) == 0.0


@given(st.lists(labels, min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_the_matrix_of_a_whole_is_the_sum_over_its_parts(
    truths: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    predictions = [rng.integers(0, 4, truth.shape) for truth in truths]
    parts = sum(confusion_matrix(t, p, 4) for t, p in zip(truths, predictions, strict=True))
    whole = confusion_matrix(
        np.concatenate([t.ravel() for t in truths]),
        np.concatenate([p.ravel() for p in predictions]),
        4,
    )
    assert np.array_equal(parts, whole)
    assert whole.sum() == sum(t.size for t in truths)


@given(labels)
def test_a_perfect_prediction_scores_one(
    truth: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
) -> None:
    matrix = confusion_matrix(truth, truth, 4)
    iou = class_iou(matrix)
    assert set(iou[~np.isnan(iou)].tolist()) == {1.0}
    assert np.flatnonzero(~np.isnan(iou)).tolist() == np.unique(truth).tolist()
    assert pixel_accuracy(matrix) == 1.0


def test_the_classes_are_those_of_the_data_sets_in_their_order() -> None:
    assert len(RESCUENET) == 11
    assert RESCUENET[:2] == ("Background", "Water")
    assert RESCUENET[6:9] == ("Vehicle", "Road-Clear", "Road-Blocked")
    assert len(FLOODNET) == 10
    assert FLOODNET[9] == "Grass"
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == 256
