"""Parts that the Bayesian models share: labels, minibatches, tiles of rows and priors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_X_y
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor

from skwgf._tensor import tensor_to_array, to_tensor
from skwgf.targets._tiles import tile_rows
from skwgf.targets.base import Target, is_number

_LARGEST_LOG = 10.0  # of a draw of a precision
LOG_2PI = math.log(2 * math.pi)


class Scaling(NamedTuple):
    """Centre and unit of the targets of a regression: the model sees (y - mean) / scale."""

    mean: float = 0.0
    scale: float = 1.0


def check_regression(
    X: Any, y: Any, model: Target, *, normalize: bool
) -> tuple[NDArray[Any], NDArray[Any], Scaling]:
    """Return finite X, numeric y, and their scaling; a constant y keeps its unit."""
    X, y = check_X_y(
        tensor_to_array(X),
        tensor_to_array(y),
        dtype=[np.float64, np.float32],
        y_numeric=True,
        estimator=model,
    )
    if y.dtype.kind not in "fiub":
        raise ValueError(
            f"{type(model).__name__} as a regression needs numbers as y, got {y.tolist()[0]!r} "
            "among them. For labels use a classification model."
        )
    if not normalize:
        return X, y, Scaling()
    values = np.asarray(y, dtype=np.float64)
    constant = np.ptp(values) <= 1e-14 * np.abs(values).max()
    return X, y, Scaling(float(values.mean()), 1.0 if constant else float(values.std()))


def check_classification(
    X: Any, y: Any, model: Target
) -> tuple[NDArray[Any], NDArray[np.intp], NDArray[Any]]:
    """Return finite X, the index of each label, and the classes in the order of np.unique."""
    X, y = check_X_y(
        tensor_to_array(X), tensor_to_array(y), dtype=[np.float64, np.float32], estimator=model
    )
    check_classification_targets(y)
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"{type(model).__name__} needs at least 2 classes in y, got one class: "
            f"{classes.tolist()[0]!r}."
        )
    return X, codes, classes


def encode_labels(y: ArrayLike, classes: NDArray[Any], device: torch.device) -> Tensor:
    """Return the index of each label among the sorted classes."""
    labels = np.asarray(tensor_to_array(y))
    codes = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    unknown = classes[codes] != labels
    if unknown.any():
        raise ValueError(
            f"The label {labels[unknown].tolist()[0]!r} is not among the classes of the fit, "
            f"{classes.tolist()}."
        )
    return to_tensor(codes, device=device, dtype=torch.int64)


class Batch(NamedTuple):
    """Data rows, and what their log likelihood is multiplied by to stand for all."""

    X: Tensor
    y: Tensor
    factor: float


def take_batch(X: Tensor, y: Tensor, rows: Tensor | None) -> Batch:
    """Return the rows of a minibatch with the factor N / n_batch, or all rows."""
    if rows is None:
        return Batch(X, y, 1.0)
    return Batch(X[rows], y[rows], len(X) / len(rows))


def sum_tiles(term: Callable[[Tensor, Tensor], Tensor], batch: Batch, width: int) -> Tensor:
    """Return the sum over tiles of rows of `term(X, y)`, times the factor of the batch.

    `width` is how many numbers a row takes in `term`.
    """
    size = tile_rows(width, batch.X.device)
    tiles = zip(torch.split(batch.X, size), torch.split(batch.y, size), strict=True)
    total = term(*next(tiles))
    for X, y in tiles:
        total = total + term(X, y)
    return batch.factor * total


def with_ones(X: Tensor) -> Tensor:
    """Return X with a column of ones, for the intercept."""
    return torch.cat([X, X.new_ones(len(X), 1)], dim=1)


def normal_log_density(x: Tensor, scale: Tensor) -> Tensor:
    """Return the log density of N(0, scale^2) summed over the columns; flat at infinite scale."""
    proper = scale.isfinite()
    log_norms = torch.where(proper, scale.log() + 0.5 * LOG_2PI, 0)
    return -0.5 * (x / scale).square().sum(1) - log_norms.sum()


def gamma_log_density(log_x: Tensor, shape: float, rate: float) -> Tensor:
    """Return the log density of log x, for x of the law Gamma(shape, rate)."""
    constant = shape * math.log(rate) - math.lgamma(shape)
    return shape * log_x - rate * log_x.exp() + constant


def draw_log_gamma(
    n: int, shape: float, rate: float, generator: torch.Generator, like: Target
) -> Tensor:
    """Draw (n, 1) logarithms of Gamma(shape, rate) variables, held within e^(+-10).

    As a start these serve as well: the draws of vague priors are beyond all floats.
    """
    # torch draws Gamma variables from its global generator only.
    seed = torch.randint(2**31 - 1, (1,), generator=generator, device=generator.device)
    rng = np.random.default_rng(int(seed))
    # A Gamma(a) variable is one of Gamma(a + 1) times U^(1/a), which does not underflow in logs.
    logs = np.log(rng.gamma(shape + 1, size=(n, 1))) + np.log1p(-rng.random((n, 1))) / shape
    held = (logs - math.log(rate)).clip(-_LARGEST_LOG, _LARGEST_LOG)
    return to_tensor(held, device=like.device_, dtype=like.dtype_)


def check_scale(**scales: Any) -> None:
    """Refuse scales that are not positive; None and infinity pass."""
    for name, scale in scales.items():
        if scale is not None and not (is_number(scale) and scale > 0):
            raise ValueError(f"{name} must be positive, got {scale!r}.")


def check_gamma(name: str, prior: Any) -> tuple[float, float]:
    """Return the shape and the rate of a Gamma prior given as a pair."""
    pair = isinstance(prior, tuple | list) and len(prior) == 2
    numbers = pair and all(isinstance(value, int | float) for value in prior)
    if not (numbers and min(prior) > 0):
        raise ValueError(
            f"{name} must be the positive shape and rate of a Gamma law, got {prior!r}."
        )
    return float(prior[0]), float(prior[1])
