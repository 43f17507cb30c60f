"""What the displays share: axes, colours, legends, columns and their projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier, is_regressor
from sklearn.decomposition import PCA
from sklearn.utils import check_array, get_tags
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from skwgf._tensor import tensor_to_array

# Colours of Okabe and Ito, which people with any kind of colour vision tell apart, from the ones
# that contrast most with white paper. Yellow is left out.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SOURCE = "#E69F00"
QUIET = "#B3B3B3"


def new_axes(ax: Any, caller: str) -> Any:
    """Return the axes to draw on: those given, as they are, or new ones without a frame."""
    check_matplotlib_support(caller)
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    _, ax = plt.subplots(layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def add_legend(ax: Any, handles: Sequence[Any] = (), **options: Any) -> None:
    """Draw a legend of the labelled artists and `handles`, where these are several."""
    from matplotlib.collections import PathCollection

    handles = [*handles, *ax.get_legend_handles_labels()[0]]
    if len(handles) < 2:
        return
    style = {"fontsize": "small", "framealpha": 0.75, "handlelength": 1.3, "handletextpad": 0.5}
    style |= {"borderpad": 0.3, "labelspacing": 0.3}
    legend = ax.legend(handles=handles, **(style | options))
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):  # dots that show their colour, however small
            handle.set_sizes([22.0])


def class_colors(n: int) -> list[Any]:
    """Return n colours that differ."""
    if n <= len(COLORS):
        return list(COLORS[:n])
    from matplotlib import colormaps

    return list(colormaps["viridis"](np.linspace(0, 0.95, n)))


def marker_size(n: int) -> float:
    """Return an area of the markers, in square points, at which n of them leave each other room."""
    return float(np.clip(3500 / max(n, 1), 5, 22))


def flow_of(estimator: Any, caller: str) -> Any:
    """Return the fitted estimator that draws samples: the given one, or what it wraps."""
    check_is_fitted(estimator)
    flow = estimator if hasattr(estimator, "sample") else getattr(estimator, "flow_", estimator)
    if flow is None:
        raise ValueError(
            f"{caller} has nothing to draw: {type(estimator).__name__} was fitted to one domain "
            "and moves no row."
        )
    if not hasattr(flow, "sample"):
        raise TypeError(
            f"{caller} takes a fitted estimator of skwgf, got {type(estimator).__name__}, which "
            "has no sample(). Of a pipeline pass the last step, pipeline[-1], with the rows that "
            "pipeline[:-1] makes of yours."
        )
    return flow


def is_model(estimator: Any) -> bool:
    """Tell whether the particles are parameters of a model, not rows like those of X."""
    return bool(is_classifier(estimator) or is_regressor(estimator))


def learns_from_data(estimator: Any) -> bool:
    """Tell whether an estimator goes towards the law of X, which else is where it starts."""
    return hasattr(estimator, "network_") or get_tags(estimator).estimator_type == (
        "density_estimator"
    )


def column_names(estimator: Any, d: int) -> list[str]:
    """Return the names of the d columns of samples."""
    if is_model(estimator):
        target = getattr(estimator, "target_", None)
        parameters = getattr(target, "parameter_names_", None)
        return [f"parameter {i}" for i in range(d)] if parameters is None else list(parameters)
    names: Any = getattr(estimator, "feature_names_in_", ())
    return list(names) if len(names) == d else [f"x{i}" for i in range(d)]


def check_rows(X: Any, d: int, name: str) -> NDArray[np.float64]:
    """Return X as a finite array with d columns."""
    rows: NDArray[np.float64] = check_array(tensor_to_array(X), dtype=np.float64, input_name=name)
    if rows.shape[1] != d:
        raise ValueError(f"{name} has {rows.shape[1]} columns, but the samples have {d}.")
    return rows


@dataclass(frozen=True)
class Projection:
    """A linear map onto one or two axes, and what these are called."""

    center: NDArray[np.float64]
    axes: NDArray[np.float64]
    labels: tuple[str, ...]

    def __call__(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return the coordinates of rows, whose last axis is that of the columns."""
        shown: NDArray[np.float64] = (rows - self.center) @ self.axes.T
        return shown


def fit_projection(
    reference: NDArray[Any], names: Sequence[str], columns: Sequence[Any] | None
) -> Projection:
    """Return the chosen columns, all of them up to two, or the principal axes of `reference`."""
    d = len(names)
    if columns is None and d > 2:
        return _principal_axes(reference)
    chosen = list(range(d)) if columns is None else _positions(columns, names)
    return Projection(np.zeros(d), np.eye(d)[chosen], tuple(names[k] for k in chosen))


def _principal_axes(reference: NDArray[Any]) -> Projection:
    """Return the projection on the first two principal components."""
    if len(reference) < 2:
        raise ValueError(
            "The principal components of a single row do not exist. Choose one or two columns."
        )
    centered = reference - reference.mean(axis=0)
    total = np.square(centered).sum()
    # The seed counts for large tables only, whose components are found by random projections.
    pca = PCA(2, random_state=0).fit(centered) if total > 0 else None
    axes = np.eye(2, reference.shape[1]) if pca is None else pca.components_
    shares = np.square(centered @ axes.T).sum(axis=0) / (total if total > 0 else 1.0)
    labels = tuple(f"PC {k + 1} ({share:.0%} of variance)" for k, share in enumerate(shares))
    return Projection(reference.mean(axis=0), axes, labels)


def _positions(columns: Sequence[Any], names: Sequence[str]) -> list[int]:
    """Return the positions of one or two columns given by position or name."""
    columns = [columns] if isinstance(columns, str | int | np.integer) else list(columns)
    if len(columns) not in (1, 2):
        raise ValueError(f"columns takes one or two columns, got {len(columns)}.")
    positions = []
    for column in columns:
        known = column in names if isinstance(column, str) else -len(names) <= column < len(names)
        if not known:
            raise ValueError(f"There is no column {column!r}; there are {list(names)}.")
        positions.append(list(names).index(column) if isinstance(column, str) else int(column))
    return positions
