"""Linear probe: logistic regression on frozen features."""

import warnings
from collections.abc import Iterable

import numpy as np

from nepa_keras.evaluation.knn import check_features
from nepa_keras.packages import required_for

INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


def linear_probe_accuracy(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    validation_fraction: float = 0.1,
    seed: int = 0,
    inverse_penalties: Iterable[float] = INVERSE_PENALTIES,
) -> float:
    """Test accuracy of a logistic regression on standardised features.

    The L2 penalty is the one of best accuracy on a stratified validation part of the training images; the
    regression is then fitted again on all of them. The test images influence nothing.

    Args:
        train_x, train_y: features (B, D) and class numbers (B,) of the training images.
        test_x, test_y: features (B, D) and class numbers (B,) of the test images.
        validation_fraction: fraction of the training images that serves to choose the penalty.
        seed: seed of that split.
        inverse_penalties: candidates for C of scikit-learn, the strongest penalty first. An iterable that
            reports its progress shows the progress of the fits.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: shapes do not fit, features are not finite, or a class has too few images.
    """
    with required_for("The linear probe", "scikit-learn"):
        from sklearn.model_selection import train_test_split
        from sklearn.preprocessing import StandardScaler

    check_features("train", train_x, train_y)
    check_features("test", test_x, test_y)
    held_out = check_probe_rows(train_y, validation_fraction)
    fit_x, validation_x, fit_y, validation_y = train_test_split(
        train_x, train_y, test_size=held_out, stratify=train_y, random_state=seed
    )
    scaler = StandardScaler().fit(fit_x)
    fit_x, validation_x = scaler.transform(fit_x), scaler.transform(validation_x)
    # From the strongest penalty to the weakest; each fit starts from the last solution.
    sweep = _regression(warm_start=True)
    scores = {}
    for inverse_penalty in inverse_penalties:
        _fit(sweep.set_params(C=inverse_penalty), fit_x, fit_y)
        scores[inverse_penalty] = sweep.score(validation_x, validation_y)
    best = max(scores, key=scores.__getitem__)  # of equal scores the strongest penalty

    scaler = StandardScaler().fit(train_x)
    probe = _fit(_regression(C=best), scaler.transform(train_x), train_y)
    return float(probe.score(scaler.transform(test_x), test_y))


def check_probe_rows(train_y: np.ndarray, validation_fraction: float = 0.1) -> int:
    """Number of training images that serve to choose the penalty.

    Raises:
        ValueError: a class has too few images for the split.
    """
    present, counts = np.unique(train_y, return_counts=True)
    held_out = round(validation_fraction * len(train_y))
    if len(present) < 2 or counts.min() < 2 or not len(present) <= held_out < len(train_y):
        raise ValueError(
            f"{len(train_y)} training rows of {len(present)} classes (the rarest with "
            f"{counts.min()}) cannot be split at validation_fraction={validation_fraction}; give "
            "at least 2 classes, 2 rows of each, and a validation row for each."
        )
    return held_out


def _regression(**options):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=300, tol=1e-3, **options)


def _fit(regression, x, y):
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Fits with a weak penalty stop at max_iter, which acts as early stopping: the accuracy no longer
        # changes there.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return regression.fit(x, y)
