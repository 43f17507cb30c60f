"""Checks of samples and weights that the metrics share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array

from skwgf._tensor import tensor_to_array


def check_sample(X: Any, name: str) -> NDArray[Any]:
    """Return `X` as a finite float array of shape (n, d), in its own float precision."""
    sample: NDArray[Any] = check_array(
        tensor_to_array(X), dtype=(np.float64, np.float32), input_name=name
    )
    return sample


def check_samples(**samples: Any) -> list[NDArray[Any]]:
    """Return the named samples as arrays that agree in their number of columns."""
    arrays = [check_sample(X, name) for name, X in samples.items()]
    widths = {name: array.shape[1] for name, array in zip(samples, arrays, strict=True)}
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{name} has {width}" for name, width in widths.items())
        raise ValueError(f"All samples must have the same number of columns, but {found}.")
    return arrays


def check_weights(weights: Any, n_rows: int, name: str) -> NDArray[np.float64]:
    """Return non-negative weights of sum one, one for each row; None gives equal weights."""
    if weights is None:
        return np.full(n_rows, 1.0 / n_rows)
    array = np.asarray(tensor_to_array(weights), dtype=np.float64)
    if array.shape != (n_rows,):
        raise ValueError(
            f"{name} must have one weight per row, shape ({n_rows},), got {array.shape}."
        )
    total = array.sum()
    if not np.isfinite(total) or (array < 0).any() or total <= 0:
        raise ValueError(
            f"{name} must be finite and non-negative with a positive sum, got values from "
            f"{array.min():.3g} to {array.max():.3g}."
        )
    normalized: NDArray[np.float64] = array / total
    return normalized


def check_positive(value: float, name: str) -> float:
    """Return `value` as a float, or raise a ValueError unless it is positive and finite."""
    if not 0 < value < np.inf:
        raise ValueError(f"{name} must be a positive, finite number, got {value!r}.")
    return float(value)
