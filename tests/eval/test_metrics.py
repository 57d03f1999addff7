"""Metrics against scikit-learn's, and their edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from synthclone.eval import metrics


@given(st.integers(0, 2**31), st.integers(2, 9), st.integers(1, 60))
def test_metrics_are_scikit_learns(seed: int, num_classes: int, num_images: int) -> None:
    generator = np.random.default_rng(seed)
    scores_NK = generator.normal(size=(num_images, num_classes))
    labels_N = generator.integers(0, num_classes, num_images)
    predicted_N, every_class = scores_NK.argmax(1), np.arange(num_classes)
    assert metrics.top_k_correct(scores_NK, labels_N, 1).mean() == pytest.approx(accuracy_score(labels_N, predicted_N))
    if num_classes > 2:
        expected = top_k_accuracy_score(labels_N, scores_NK, k=2, labels=every_class)
        assert metrics.top_k_correct(scores_NK, labels_N, 2).mean() == pytest.approx(expected)
    matrix_KK = metrics.confusion(predicted_N, labels_N, num_classes)
    assert (matrix_KK == confusion_matrix(labels_N, predicted_N, labels=every_class)).all()
    present = np.isin(predicted_N, labels_N)  # scikit-learn warns of predicted classes without images
    if present.all():
        assert metrics.mean_per_class(matrix_KK) == pytest.approx(balanced_accuracy_score(labels_N, predicted_N))


def test_top5_of_three_classes_is_always_right() -> None:
    assert metrics.top_k_correct(np.zeros((4, 3)), np.array([0, 1, 2, 2]), 5).all()


def test_equal_scores_go_to_the_lower_class() -> None:
    assert metrics.top_k_correct(np.zeros((2, 3)), np.array([0, 1]), 1).tolist() == [True, False]


def test_a_class_without_images_has_no_accuracy() -> None:
    matrix_KK = metrics.confusion(np.array([0, 1, 0]), np.array([0, 0, 0]), 2)
    assert metrics.accuracy_by_class(matrix_KK) == [pytest.approx(2 / 3), None]
    assert metrics.mean_per_class(matrix_KK) == pytest.approx(2 / 3)


def test_wilson_interval_has_known_values_and_stays_in_range() -> None:
    assert metrics.wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert metrics.wilson_interval(10, 10)[1] == 1.0
    assert metrics.wilson_interval(0, 10)[0] == 0.0
