"""The rows and targets that the risk of a network is taken over."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_X_y
from sklearn.utils.multiclass import check_classification_targets

from skwgf._tensor import tensor_to_array
from skwgf.functionals._losses import BINARY, SOFTMAX, SQUARED, Loss


class Problem(NamedTuple):
    """Rows and targets of a loss; outputs are centre + unit * (offset + what the neurons add)."""

    rows: NDArray[Any]
    targets: NDArray[np.float64]
    loss: Loss
    centre: NDArray[np.float64]
    unit: NDArray[np.float64]
    offset: NDArray[np.float64]


def read_numbers(X: Any, y: Any, estimator: BaseEstimator, *, normalize: bool) -> Problem:
    """Return the problem of a regression; `normalize` measures y from its mean in its sd."""
    X, y = _check_rows(X, y, estimator, numeric=True)
    if y.dtype.kind not in "fiub":
        raise ValueError(
            f"loss='squared' needs numbers as y, got {y.ravel().tolist()[0]!r} among them. "
            "For labels use loss='logistic'."
        )
    targets = y.reshape(len(y), -1).astype(np.float64)
    centre, unit = np.zeros(targets.shape[1]), np.ones(targets.shape[1])
    if normalize:
        constant = np.ptp(targets, axis=0) <= 1e-14 * np.abs(targets).max(0)
        centre, unit = targets.mean(0), np.where(constant, 1.0, targets.std(0))
    return Problem(X, (targets - centre) / unit, SQUARED, centre, unit, np.zeros_like(centre))


def read_labels(
    X: Any, y: Any, estimator: BaseEstimator, *, offset: bool
) -> tuple[Problem, NDArray[Any]]:
    """Return the problem of a classification, and the classes; `offset` starts from their shares.

    Two classes have one output, the log-odds of the second one.
    """
    X, y = _check_rows(X, y, estimator, numeric=False)
    check_classification_targets(y)
    classes, codes = np.unique(y, return_inverse=True)
    if y.ndim != 1 or len(classes) < 2:
        raise ValueError(
            "loss='logistic' needs one label per row and at least 2 classes, got y of shape "
            f"{y.shape} with {len(classes)} class(es)."
        )
    targets = np.eye(len(classes))[codes]
    log_odds, loss = np.log(targets.mean(0)), SOFTMAX
    if len(classes) == 2:
        targets, log_odds, loss = targets[:, 1:], np.diff(log_odds), BINARY
    unit = np.ones_like(log_odds)
    return Problem(X, targets, loss, 0 * unit, unit, offset * log_odds), classes


def _check_rows(
    X: Any, y: Any, estimator: BaseEstimator, *, numeric: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return X as a finite float array and y as an array of as many rows."""
    X, y = check_X_y(
        tensor_to_array(X),
        tensor_to_array(y),
        dtype=[np.float64, np.float32],
        multi_output=True,
        y_numeric=numeric,
        estimator=estimator,
    )
    return X, np.asarray(y)
