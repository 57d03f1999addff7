"""Metrics of a classification as pure functions: top-k, confusion, accuracy by class, and a confidence interval.

Shapes: N images, K classes.
"""

import math

import numpy as np


def top_k_correct(scores_NK: np.ndarray, labels_N: np.ndarray, k: int) -> np.ndarray:
    """Whether each label is among the k highest scores; with fewer than k classes always true. N booleans.

    Of equal scores the lower class comes first.
    """
    order_NK = np.argsort(-scores_NK, axis=1, kind="stable")[:, :k]
    return (order_NK == labels_N[:, None]).any(axis=1)


def confusion(predicted_N: np.ndarray, labels_N: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts, K x K: row = true class, column = predicted class."""
    matrix_KK = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(matrix_KK, (labels_N, predicted_N), 1)
    return matrix_KK


def accuracy_by_class(confusion_KK: np.ndarray) -> list[float | None]:
    """The share of each true class that is predicted rightly; None for a class without images."""
    totals = confusion_KK.sum(axis=1)
    return [float(confusion_KK[i, i] / total) if total else None for i, total in enumerate(totals)]


def mean_per_class(confusion_KK: np.ndarray) -> float:
    """The mean of the accuracies of the classes that have images."""
    return float(np.mean([value for value in accuracy_by_class(confusion_KK) if value is not None]))


def wilson_interval(num_correct: int, num_images: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927): it stays within 0..1, also for shares near 1.

    With p = correct / n, the centre is (p + z^2 / 2n) / (1 + z^2 / n), the half width is
    z sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n).
    """
    share, scale = num_correct / num_images, 1 + z**2 / num_images
    centre = (share + z**2 / (2 * num_images)) / scale
    half = z * math.sqrt(share * (1 - share) / num_images + z**2 / (4 * num_images**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)
