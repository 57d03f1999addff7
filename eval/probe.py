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
    tuning = []
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
    max_iterations: int = 1000,
) -> Probe:
    """Fit on the training features, with C chosen on a split of them, and predict the test features.

    Raises:
        ValueError: fewer than two classes, or a class with a single image.
    """
    if len(np.unique(labels_N)) < 2:
        raise ValueError("the probe's images are all of one class; give at least two classes")
    fitting, tuning = split_by_class(labels_N, 0.2, np.random.default_rng(seed))
    accuracies = [
        fit_predict(train_NF[fitting], labels_N[fitting], train_NF[tuning], value, max_iterations) == labels_N[tuning]
        for value in inverse_penalties
    ]
    best = inverse_penalties[int(np.argmax([a.mean() for a in accuracies]))]  # of equals the strongest penalty
    return Probe(predicted_N=fit_predict(train_NF, labels_N, test_NF, best, max_iterations), inverse_penalty=best)


def fit_predict(
    train_NF: np.ndarray, labels_N: np.ndarray, test_NF: np.ndarray, inverse_penalty: float, max_iterations: int
) -> np.ndarray:
    """Fit one logistic regression and predict."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # weak penalties need more iterations than they are worth; the tuning split judges them as they are
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=inverse_penalty, max_iter=max_iterations).fit(train_NF, labels_N)
        return np.asarray(model.predict(test_NF))
