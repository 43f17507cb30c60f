"""Checks of what a generator's fit is given beside X."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, column_or_1d
from sklearn.utils._missing import is_pandas_na
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from skwgf._tensor import tensor_to_array
from skwgf._warnings import caller_level


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


def check_labels(y: Any, n: int, *, name: str, rows: str) -> NDArray[Any]:
    """Return the labels `name` of the `n` rows called `rows` as a vector."""
    labels: NDArray[Any] = np.asarray(tensor_to_array(y))
    if labels.ndim not in (1, 2) or labels.size != len(labels):
        raise ValueError(f"{name} must be a vector of {n} labels, got the shape {labels.shape}.")
    labels = column_or_1d(labels, warn=True)
    if len(labels) != n:
        raise ValueError(
            f"{name} has {len(labels)} labels but {rows} has {n} rows. Pass one label a row."
        )
    check_present(labels, name=name, rows=rows)
    check_classification_targets(labels)
    return labels


def check_present(labels: NDArray[Any], *, name: str, rows: str) -> None:
    """Raise where labels of the rows called `rows` are missing, infinite or of mixed kinds."""
    entries = labels.tolist()
    # NaN alone differs from itself.
    if any(
        label is None or is_pandas_na(label) or label != label or label in (math.inf, -math.inf)
        for label in entries
    ):
        raise ValueError(
            f"{name} contains missing or infinite labels. Leave these rows of {rows} out."
        )
    if len({isinstance(label, str) for label in entries}) > 1:
        raise TypeError(f"{name} mixes strings with other labels. Use one kind for all rows.")


def encode_labels(labels: NDArray[Any], classes: NDArray[Any], *, name: str) -> NDArray[np.int64]:
    """Return the position of each label in the sorted `classes`."""
    known = np.isin(labels, classes)
    if not known.all():
        unseen = np.unique(labels[~known])[:5].tolist()
        raise ValueError(
            f"{name} holds labels that the fit did not see: {unseen}. Known are "
            f"{classes[:20].tolist()}{' ...' if len(classes) > 20 else ''}."
        )
    return np.searchsorted(classes, labels)


@dataclass(frozen=True)
class Labels:
    """The labels of a fit: those learnt with the rows, and those of the source.

    `codes` and `source_codes` are positions in the sorted `classes` and `source_classes`, which are
    None where there are no such labels.
    """

    classes: NDArray[Any] | None = None
    codes: NDArray[np.int64] | None = None
    source_classes: NDArray[Any] | None = None
    source_codes: NDArray[np.int64] | None = None

    def shares(self) -> NDArray[np.float64] | None:
        """Return the share of the rows in each class."""
        if self.classes is None or self.codes is None:
            return None
        return np.bincount(self.codes, minlength=len(self.classes)) / len(self.codes)


def unconditional_labels(y_source: NDArray[Any] | None) -> Labels:
    """Return the labels of a fit that learns no classes."""
    if y_source is None:
        return Labels()
    classes, codes = np.unique(y_source, return_inverse=True)
    return Labels(source_classes=classes, source_codes=codes)


def conditional_labels(y: NDArray[Any], y_source: NDArray[Any] | None) -> Labels:
    """Return the labels of a fit that learns classes; those of the source must be the same."""
    classes, codes = np.unique(y, return_inverse=True)
    lonely = classes[np.bincount(codes) == 1]
    if len(lonely):
        warnings.warn(
            f"Classes with a single row in X: {lonely[:10].tolist()}. Their draws repeat that row.",
            UserWarning,
            stacklevel=caller_level(),
        )
    if y_source is None:
        return Labels(classes, codes)
    source_codes = encode_labels(y_source, classes, name="y_source")
    missing = np.setdiff1d(classes, y_source)
    if len(missing):
        raise ValueError(
            f"Classes of y without a row in the source: {missing[:10].tolist()}. Leave their rows "
            "out of X, or add rows of these classes to X_source."
        )
    return Labels(classes, codes, classes, source_codes)


def check_layers(hidden_layer_sizes: Sequence[Any]) -> tuple[int, ...]:
    """Return the widths of the hidden layers."""
    sizes = tuple(hidden_layer_sizes)
    if not all(isinstance(size, Integral) and int(size) >= 1 for size in sizes):
        raise ValueError(
            f"hidden_layer_sizes={hidden_layer_sizes!r} must hold the width of each hidden layer, "
            "an integer of at least one."
        )
    return tuple(int(size) for size in sizes)
