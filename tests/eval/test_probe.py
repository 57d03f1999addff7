"""The linear probe: its split, and that it finds what can be separated."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from synthclone.eval.probe import fit_path, probe, split_by_class


def blobs(seed: int, num: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Features of 4 classes around fixed centres."""
    centres_KF = np.random.default_rng(0).normal(size=(4, 16))
    generator = np.random.default_rng(seed)
    labels_N = generator.integers(0, 4, num)
    return centres_KF[labels_N] + spread * generator.normal(size=(num, 16)), labels_N


def test_the_split_takes_a_fifth_of_each_class() -> None:
    labels_N = np.repeat([0, 1, 2], [50, 10, 2])
    fitting, tuning = split_by_class(labels_N, 0.2, np.random.default_rng(0))
    assert sorted([*fitting, *tuning]) == list(range(62))
    assert np.bincount(labels_N[tuning]).tolist() == [10, 2, 1]


def test_separable_classes_are_found_and_the_seed_decides() -> None:
    train_NF, labels_N = blobs(1, 120, 0.3)
    test_NF, truth_N = blobs(2, 80, 0.3)
    fitted = probe(train_NF, labels_N, test_NF, seed=0)
    assert (fitted.predicted_N == truth_N).mean() > 0.97
    again = probe(train_NF, labels_N, test_NF, seed=0)
    assert (again.predicted_N == fitted.predicted_N).all()
    assert again.inverse_penalty == fitted.inverse_penalty


def test_the_path_agrees_with_single_fits() -> None:
    train_NF, labels_N = blobs(1, 120, 1.0)
    test_NF, _ = blobs(2, 200, 1.0)
    strengths = (1e-3, 1e-1, 1e1)
    for predicted_N, strength in zip(fit_path(train_NF, labels_N, test_NF, strengths, 1000), strengths, strict=True):
        single = LogisticRegression(C=strength, max_iter=1000).fit(train_NF, labels_N).predict(test_NF)
        assert (predicted_N == single).mean() > 0.98


def test_noise_asks_for_a_strong_penalty() -> None:
    generator = np.random.default_rng(3)
    train_NF, labels_N = blobs(1, 200, 3.0)
    wide_NF = np.concatenate([train_NF, generator.normal(size=(200, 200)) * 3], axis=1)
    assert probe(wide_NF, labels_N, wide_NF, seed=0).inverse_penalty < 1


def test_too_few_images_are_named() -> None:
    with pytest.raises(ValueError, match="class 2 has 1 image for the probe"):
        probe(np.zeros((5, 2)), np.array([0, 0, 1, 1, 2]), np.zeros((1, 2)), seed=0)
    with pytest.raises(ValueError, match="all of one class"):
        probe(np.zeros((5, 2)), np.zeros(5, dtype=int), np.zeros((1, 2)), seed=0)
