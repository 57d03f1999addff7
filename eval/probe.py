"""A linear probe: logistic regression on frozen features, as the paper's transfer to small sets.

L-BFGS on raw features; the strength of the penalty is chosen on a per-class 20 % split of the training images, then
the probe is fitted again on all of them.

Shapes: N images, F features, K classes.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

INVERSE_PENALTIES = tuple(10.0**exponent for exponent in range(-5, 7))


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The result of a probe: what it predicts for the test images, and the C that was chosen."""

    predicted_N: np.ndarray
    inverse_penalty: float


def split_by_class(labels_N: np.ndarray, share: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a fitting and a tuning part; the tuning part has `share` of each class, at least one image.

    Raises:
        ValueError: a class has a single image.
    """
    tuning: list[int] = []
    for label in np.unique(labels_N):
        members = np.flatnonzero(labels_N == label)
        if len(members) < 2:
            raise ValueError(f"class {label} has {len(members)} image for the probe; give at least 2 of each class")
        tuning.extend(generator.permutation(members)[: max(1, round(share * len(members)))])
    tuning_M = np.sort(np.asarray(tuning))
    return np.setdiff1d(np.arange(len(labels_N)), tuning_M), tuning_M


def probe(
    train_NF: np.ndarray,
    labels_N: np.ndarray,
    test_NF: np.ndarray,
    *,
    seed: int,
    inverse_penalties: Sequence[float] = INVERSE_PENALTIES,
    max_iterations: int = 200,
) -> Probe:
    """Fit on the training features, with C chosen on a split of them, and predict the test features.

    Raises:
        ValueError: fewer than two classes, or a class with a single image.
    """
    if len(np.unique(labels_N)) < 2:
        raise ValueError("the probe's images are all of one class; give at least two classes")
    fitting, tuning = split_by_class(labels_N, 0.2, np.random.default_rng(seed))
    predictions = fit_path(train_NF[fitting], labels_N[fitting], train_NF[tuning], inverse_penalties, max_iterations)
    accuracies = [float((predicted_M == labels_N[tuning]).mean()) for predicted_M in predictions]
    best = int(np.argmax(accuracies))  # of equals the strongest penalty
    refitted = fit_path(train_NF, labels_N, test_NF, inverse_penalties[: best + 1], max_iterations)
    return Probe(predicted_N=refitted[-1], inverse_penalty=inverse_penalties[best])


def fit_path(
    train_NF: np.ndarray,
    labels_N: np.ndarray,
    test_NF: np.ndarray,
    inverse_penalties: Sequence[float],
    max_iterations: int,
) -> list[np.ndarray]:
    """Predictions of one regression for each C; each fit starts from the one before, which has a stronger penalty."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=max_iterations, warm_start=True)
    predictions = []
    with warnings.catch_warnings():
        # weak penalties need more iterations than they are worth; the tuning split judges them as they are
        warnings.simplefilter("ignore", ConvergenceWarning)
        for inverse_penalty in inverse_penalties:
            model.set_params(C=inverse_penalty).fit(train_NF, labels_N)
            predictions.append(np.asarray(model.predict(test_NF)))
    return predictions
