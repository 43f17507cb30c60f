"""Checks of what a generator's fit is given beside X."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from skwgf._tensor import tensor_to_array


def check_source(estimator: BaseEstimator, X: NDArray[Any], X_source: Any) -> NDArray[Any]:
    """Return a copy of the source rows, with the columns of X."""
    X_source = tensor_to_array(X_source)
    rows: NDArray[Any] = check_array(
        X_source,
        dtype=[np.float64, np.float32],
        copy=True,
        ensure_min_samples=0,
        input_name="X_source",
        estimator=estimator,
    )
    if len(rows) < 2:
        raise ValueError(f"X_source has {len(rows)} row(s), while a minimum of 2 is required.")
    if rows.shape[1] != X.shape[1]:
        raise ValueError(
            f"X_source has {rows.shape[1]} columns but X has {X.shape[1]}. Source and target must "
            "have the same features."
        )
    # The names of the columns have to be those of X as well.
    validate_data(estimator, X_source, reset=False, skip_check_array=True)
    return rows


def check_labels(y_source: Any, n_source: int) -> NDArray[Any]:
    """Return the labels of the source rows as a vector."""
    labels: NDArray[Any] = np.asarray(tensor_to_array(y_source))
    if labels.ndim not in (1, 2) or labels.size != len(labels):
        raise ValueError(
            f"y_source must be a vector of {n_source} labels, got the shape {labels.shape}."
        )
    labels = column_or_1d(labels, warn=True)
    if len(labels) != n_source:
        raise ValueError(
            f"y_source has {len(labels)} labels but X_source has {n_source} rows. Pass one label a "
            "row."
        )
    # NaN alone differs from itself.
    if any(
        label is None or label != label or label in (math.inf, -math.inf)
        for label in labels.tolist()
    ):
        raise ValueError(
            "y_source contains missing or infinite labels. Leave these rows out of the source."
        )
    check_classification_targets(labels)
    return labels


def check_layers(hidden_layer_sizes: Sequence[Any]) -> tuple[int, ...]:
    """Return the widths of the hidden layers."""
    sizes = tuple(hidden_layer_sizes)
    if not all(isinstance(size, Integral) and int(size) >= 1 for size in sizes):
        raise ValueError(
            f"hidden_layer_sizes={hidden_layer_sizes!r} must hold the width of each hidden layer, "
            "an integer of at least one."
        )
    return tuple(int(size) for size in sizes)
