"""The features that a generator's cost compares, and the limits its draws keep to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skwgf._tensor import to_numpy, to_tensor
from skwgf.estimators._coordinates import Coordinates

# A column is limited on a side where at least this share of the rows, and two of them, take its
# extreme value: pixels that are black, counts that are zero. A continuous column never is.
_ATOM = 0.01
# Columns of one unit have ranges of no more than that many times the usual one.
_WIDER = 10.0

Features = Callable[[Tensor], Tensor]


def fit_feature_map(feature_map: Any, X: NDArray[Any]) -> Any:
    """Return a map that is ready to use: a transformer that was not fitted yet is, on X."""
    if not hasattr(feature_map, "fit"):
        return feature_map
    if isinstance(feature_map, type):
        raise TypeError(
            f"feature_map is the class {feature_map.__name__}: pass an instance of it instead."
        )
    try:
        check_is_fitted(feature_map)
    except NotFittedError:
        return clone(feature_map).fit(X)
    return feature_map


def cost_features(feature_map: Any, coordinates: Coordinates) -> Features:
    """Return the function from rows in scaled coordinates to what the cost compares.

    A transformer or a callable sees rows in the units of the data.
    """
    if feature_map is None:
        return lambda x: x
    return lambda x: features_of(feature_map, coordinates.undo(x), x).to(x)


def features_of(feature_map: Any, rows: Tensor, like: Tensor) -> Tensor:
    """Return the features of rows in the units of the data, in the precision of the map.

    A transformer sees an array in float64, a callable a tensor of the kind of `like`.
    """
    if hasattr(feature_map, "transform"):
        found = feature_map.transform(_named(to_numpy(rows), feature_map))
        if issparse(found):
            raise ValueError(
                "feature_map returns a sparse table, but features must be dense: set its "
                "sparse_output=False."
            )
        found = to_tensor(np.asarray(found))
    else:
        with torch.no_grad():
            found = feature_map(rows.to(like))
    return _check_features(found, len(rows))


def atoms(X: NDArray[Any]) -> tuple[Tensor, Tensor]:
    """Return the limits of each column that its values pile up at, infinite where they do not."""
    rows = to_tensor(X, dtype=torch.float64)
    least = max(2.0, _ATOM * len(rows))
    low, high = rows.amin(0), rows.amax(0)
    piled_low, piled_high = ((rows == limit).sum(0) >= least for limit in (low, high))
    return torch.where(piled_low, low, -torch.inf), torch.where(piled_high, high, torch.inf)


def share_a_unit(X: NDArray[Any]) -> bool:
    """Return whether most columns pile up at one least value, and no column is far wider than they.

    So do pixels and counts, which are all zero in many rows. A column of them that is rarely above
    zero has a small standard deviation, by which it must not be enlarged.
    """
    low, _ = atoms(X)
    rows = to_tensor(X, dtype=torch.float64) / (float(abs(X).max()) or 1.0)
    widths = rows.amax(0) - rows.amin(0)
    varying = widths > 0
    limits = low[varying & low.isfinite()]
    if len(limits) == 0:
        return False
    values, counts = torch.unique(limits, return_counts=True)
    piled = varying & (low == values[counts.argmax()])
    most = 2 * int(piled.sum()) > int(varying.sum())
    return most and float(widths.max()) <= _WIDER * float(widths[piled].median())


def _named(rows: NDArray[Any], feature_map: Any) -> Any:
    """Return the rows with the names of the columns that a transformer was fitted on, if any."""
    names = getattr(feature_map, "feature_names_in_", None)
    if names is None:
        return rows
    from pandas import DataFrame  # type: ignore[import-untyped]  # installed where frames are used

    return DataFrame(rows, columns=names)


def _check_features(found: Any, n: int) -> Tensor:
    """Return the features, or raise when they are no finite table with a row for each of `n`."""
    if not isinstance(found, Tensor) or found.is_complex():
        kind = str(found.dtype) if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(
            f"feature_map must return real numbers, as a tensor if it is a callable, got {kind}."
        )
    if found.ndim != 2 or len(found) != n or found.shape[1] == 0:
        raise ValueError(
            f"feature_map must return a table with one row for each of the {n} it was given and at "
            f"least one column, got shape {tuple(found.shape)}."
        )
    if not bool(torch.isfinite(found).all()):
        raise ValueError(
            "feature_map returned NaN or infinity. It is applied to the rows of X and to generated "
            "rows, which may lie outside their range."
        )
    return found
