"""Predictions of a Bayesian model, averaged over the particles of its posterior."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from skwgf._tensor import tensor_to_array, to_numpy, to_tensor
from skwgf.estimators._sampler import estimator_type
from skwgf.targets import Target

# Numbers that are predicted at a time, for all particles together.
_BLOCK = 2**22
_BISECTIONS = 60


def _is(*kinds: str) -> Callable[[Any], bool]:
    """Return a check for `available_if`."""

    def check(estimator: Any) -> bool:
        if estimator_type(estimator.target) not in kinds:
            raise AttributeError(
                f"This {type(estimator).__name__} has the target {estimator.target!r}: only a "
                f"{' or '.join(kinds)} has this method."
            )
        return True

    return check


class PredictionMixin:
    """predict and its kin, where the target is a model of y given X."""

    target: Target | None
    target_: Any
    particles_: NDArray[Any]
    _cloud: Tensor
    _log_density: Callable[..., NDArray[Any]]
    _validate: Callable[..., NDArray[Any]]

    @property
    def classes_(self) -> NDArray[Any]:
        """The labels of a classifier, sorted."""
        classes: NDArray[Any] = self.target_.classes_
        return classes

    @available_if(_is("regressor", "classifier"))
    def predict(self, X: Any, *, return_std: bool = False, interval: float | None = None) -> Any:
        r"""Return the mean of y given X (regression) or the most probable label.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to predict for.

        return_std : bool, default=False
            Regression: whether to return the standard deviation of y as well, the noise included,
            :math:`\sqrt{E[\sigma^2] + Var[f]}` over the particles.

        interval : float or None, default=None
            Regression: probability of a central interval of y to return as well, in (0, 1).

        Returns
        -------
        y : ndarray of shape (n_samples,)
        std : ndarray of shape (n_samples,)
            With `return_std`.
        limits : ndarray of shape (n_samples, 2)
            With `interval`, the quantiles of the mixture over the particles.
        """
        check_is_fitted(self, "particles_")
        if estimator_type(self.target) == "classifier":
            if return_std or interval is not None:
                raise ValueError("return_std and interval belong to regression.")
            return self.classes_[self.predict_proba(X).argmax(axis=1)]
        if interval is not None and not 0 < interval < 1:
            raise ValueError(f"interval must lie between 0 and 1, got {interval!r}.")
        parts: list[tuple[Tensor, ...]] = []
        for block in self._predicted(X):
            mean, sd = block.mean, block.sd
            found = [mean.mean(0)]
            if return_std:
                found.append((sd.square().mean(0) + mean.var(0, correction=0)).sqrt())
            if interval is not None:
                tails = torch.tensor([(1 - interval) / 2, (1 + interval) / 2]).to(mean)
                found.append(mixture_quantiles(mean, sd, tails))
            parts.append(tuple(found))
        columns = tuple(to_numpy(torch.cat(column)) for column in zip(*parts, strict=True))
        return columns if len(columns) > 1 else columns[0]

    @available_if(_is("classifier"))
    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Return the probability of each class, averaged over the particles.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to predict for.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        check_is_fitted(self, "particles_")
        proba: NDArray[Any] = np.concatenate(
            [to_numpy(block.probability.mean(0)) for block in self._predicted(X)]
        )
        return proba

    @available_if(_is("classifier"))
    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """Return the logarithm of :meth:`predict_proba`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to predict for.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        proba = self.predict_proba(X)
        logs: NDArray[Any] = np.log(proba.clip(np.finfo(proba.dtype).tiny))
        return logs

    @available_if(_is("density"))
    def score_samples(self, X: Any) -> NDArray[Any]:
        """Return the log density of rows under a kernel density of the particles.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        check_is_fitted(self, "particles_")
        return self._log_density(X)

    @available_if(_is("regressor", "classifier"))
    def log_predictive_density(self, X: Any, y: Any) -> float:
        r"""Return the mean log predictive density of y given X.

        .. math:: \frac1m \sum_j \log \frac1n \sum_i p(y_j \,|\, x_j, \theta_i)

        with :math:`\theta_i` the particles: what to compare models by, for it sees the spread that
        they predict as well.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        y : array-like of shape (n_samples,)
            Targets or labels.

        Returns
        -------
        float
            Higher is better; for classifiers minus the log loss.
        """
        check_is_fitted(self, "particles_")
        X, y = validate_data(
            self,
            tensor_to_array(X),
            tensor_to_array(y),
            dtype=[np.float64, np.float32],
            reset=False,
        )
        codes, total = self.target_.encode(y), 0.0
        for rows in self._blocks(len(X)):
            points = to_tensor(X[rows], device=self._cloud.device, dtype=self._cloud.dtype)
            found = self.target_.log_likelihood(self._cloud, points, codes[rows])
            total += float((torch.logsumexp(found, dim=0) - math.log(len(self._cloud))).sum())
        return total / len(X)

    def _predicted(self, X: Any) -> Iterator[Any]:
        """Yield the predictions of all particles for one block of rows after the other."""
        X = self._validate(X, reset=False)
        for rows in self._blocks(len(X)):
            points = to_tensor(X[rows], device=self._cloud.device, dtype=self._cloud.dtype)
            yield self.target_.predictive(self._cloud, points)

    def _blocks(self, n: int) -> list[slice]:
        """Return slices of n rows that bound the memory."""
        width = len(self._cloud) * self.target_.row_width
        size = max(_BLOCK // width, 1)
        return [slice(first, first + size) for first in range(0, n, size)]


def mixture_quantiles(mean: Tensor, sd: Tensor, levels: Tensor) -> Tensor:
    """Return quantiles of equal mixtures of normal laws, by bisection.

    `mean` and `sd` have shape (components, mixtures); the result (mixtures, levels).
    """
    reach = 10 * sd.amax(0)
    low = (mean.amin(0) - reach)[:, None].expand(-1, len(levels)).clone()
    high = (mean.amax(0) + reach)[:, None].expand(-1, len(levels)).clone()
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        mass = torch.special.ndtr((middle - mean[..., None]) / sd[..., None]).mean(0)
        below = mass < levels
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2
