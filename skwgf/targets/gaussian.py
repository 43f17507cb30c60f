r"""Gaussian laws and their mixtures, with exact draws and moments."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from skwgf._tensor import draw_seed
from skwgf.targets.base import (
    Device,
    Precision,
    Seed,
    Target,
    settle_bare,
    standard_normal,
)

__all__ = ["Gaussian", "GaussianMixture"]


class Gaussian(Target):
    r"""The Gaussian law :math:`N(m, S)`.

    .. math:: \log p(x) = -\tfrac12 (x - m)^T S^{-1} (x - m) - \tfrac12 \log |2\pi S|

    Parameters
    ----------
    mean : array of shape (n_features,), default=(0.0, 0.0)
        The mean m.

    covariance : None, float or array, default=None
        The covariance S: a matrix, a vector (the diagonal), a number (times the identity), or None
        for the identity.

    Raises
    ------
    ValueError
        At `fit`, if the covariance is not symmetric positive definite of the size of the mean.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.targets import Gaussian
    >>> target = Gaussian((1.0, 0.0), covariance=4.0).fit(np.zeros((1, 2)))
    >>> target.log_prob(torch.tensor([[1.0, 0.0]], dtype=torch.float64)).item()  # -log(8 pi)
    -3.224...
    >>> target.sample(2, random_state=0).shape
    (2, 2)
    """

    learns_from_data: ClassVar[bool] = False

    def __init__(self, mean: ArrayLike = (0.0, 0.0), *, covariance: Any = None) -> None:
        self.mean = mean
        self.covariance = covariance

    def fit(
        self, X: Any = None, y: Any = None, *, device: Device = None, dtype: Precision = None
    ) -> Self:
        """Take device and precision; X, if given, must have as many columns as the mean."""
        mean, root = self._mean_and_root()
        settle_bare(self, X, len(mean), device=device, dtype=dtype)
        self._mean, self._whitening = self._tensor(mean), self._tensor(np.linalg.inv(root))
        self._log_norm = float(np.log(np.diag(root)).sum()) + 0.5 * len(mean) * math.log(2 * np.pi)
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, k) points of N(0, I)."""
        return standard_normal(self, n, self.n_dim_, generator)

    def sample(self, n_samples: int = 1, *, random_state: Seed = None) -> NDArray[np.float64]:
        """Return exact draws, of shape (n_samples, n_features); no fit is needed."""
        mean, root = self._mean_and_root()
        rng = np.random.default_rng(draw_seed(random_state))
        return mean + rng.standard_normal((n_samples, len(mean))) @ root.T

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean and the covariance matrix; no fit is needed."""
        mean, root = self._mean_and_root()
        return mean, root @ root.T

    def _mean_and_root(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean and the lower Cholesky factor of the covariance."""
        mean = _vector(self.mean, "mean")
        return mean, _covariance_root(self.covariance, len(mean))

    def _log_prob(self, z: Tensor, rows: Tensor | None) -> Tensor:
        white = (z - self._mean) @ self._whitening.T
        return -0.5 * white.square().sum(1) - self._log_norm

    def _gradient(self, z: Tensor, rows: Tensor | None) -> Tensor:
        return (self._mean - z) @ self._whitening.T @ self._whitening


class GaussianMixture(Target):
    r"""A mixture of Gaussian laws, :math:`\sum_k w_k N(m_k, S_k)`.

    Parameters
    ----------
    means : array of shape (n_components, n_features), default=((-2.0, 0.0), (2.0, 0.0))
        The means.

    covariances : None, float or sequence, default=None
        One covariance per component, each as in :class:`Gaussian`; None or one number holds for
        all components.

    weights : array of shape (n_components,), default=None
        Positive weights, divided by their sum; None makes them equal.

    Raises
    ------
    ValueError
        At `fit`, if the shapes do not agree, a covariance is not positive definite or a weight not
        positive.

    Examples
    --------
    >>> from skwgf.targets import GaussianMixture
    >>> mean, covariance = GaussianMixture(((-2.0,), (2.0,)), covariances=0.25).moments()
    >>> mean.item(), covariance.item()
    (0.0, 4.25)
    """

    learns_from_data: ClassVar[bool] = False

    def __init__(
        self,
        means: ArrayLike = ((-2.0, 0.0), (2.0, 0.0)),
        *,
        covariances: Any = None,
        weights: ArrayLike | None = None,
    ) -> None:
        self.means = means
        self.covariances = covariances
        self.weights = weights

    def fit(
        self, X: Any = None, y: Any = None, *, device: Device = None, dtype: Precision = None
    ) -> Self:
        """Take device and precision; X, if given, must have as many columns as the means."""
        means, roots, weights = self._components()
        d = means.shape[1]
        settle_bare(self, X, d, device=device, dtype=dtype)
        self._means, self._whitenings = self._tensor(means), self._tensor(np.linalg.inv(roots))
        volumes = np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(1)
        self._log_factors = self._tensor(np.log(weights) - volumes - 0.5 * d * np.log(2 * np.pi))
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, k) points of N(0, I)."""
        return standard_normal(self, n, self.n_dim_, generator)

    def sample(self, n_samples: int = 1, *, random_state: Seed = None) -> NDArray[np.float64]:
        """Return exact draws, of shape (n_samples, n_features); no fit is needed."""
        means, roots, weights = self._components()
        rng = np.random.default_rng(draw_seed(random_state))
        component = rng.choice(len(means), n_samples, p=weights)
        noise = rng.standard_normal((n_samples, means.shape[1]))
        draws: NDArray[np.float64] = means[component]
        for k, root in enumerate(roots):
            draws[component == k] += noise[component == k] @ root.T
        return draws

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean and the covariance matrix; no fit is needed."""
        means, roots, weights = self._components()
        mean = weights @ means
        within = np.einsum("k,kij,klj->il", weights, roots, roots)
        return mean, within + (weights[:, None] * (means - mean)).T @ (means - mean)

    def _components(
        self,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return means (K, d), lower roots of the covariances (K, d, d) and weights (K,)."""
        means = np.asarray(self.means, dtype=np.float64)
        if means.ndim != 2 or 0 in means.shape or not np.isfinite(means).all():
            raise ValueError(
                "means must be a finite array of shape (n_components, n_features), got shape "
                f"{means.shape}."
            )
        n_components, d = means.shape
        shared = self.covariances is None or isinstance(self.covariances, Real)
        covariances = [self.covariances] * n_components if shared else list(self.covariances)
        weights = np.ones(n_components) if self.weights is None else np.asarray(self.weights)
        if len(covariances) != n_components or weights.shape != (n_components,):
            raise ValueError(
                f"There are {n_components} means, but {len(covariances)} covariances and weights "
                f"of shape {weights.shape}: pass one of each per component."
            )
        if not (np.isfinite(weights).all() and (weights > 0).all()):
            raise ValueError(f"weights must be positive and finite, got {weights.tolist()}.")
        roots = np.stack([_covariance_root(covariance, d) for covariance in covariances])
        return means, roots, weights / weights.sum()

    def _white(self, z: Tensor) -> list[Tensor]:
        """Return the whitened offsets from each mean: one (n, d) at a time, never (n, K, d)."""
        return [
            (z - mean) @ whitening.T
            for mean, whitening in zip(self._means, self._whitenings, strict=True)
        ]

    def _log_joint(self, white: list[Tensor]) -> Tensor:
        """Return the (n, K) log densities times weights of the components."""
        squares = torch.stack([offsets.square().sum(1) for offsets in white], dim=1)
        return self._log_factors - 0.5 * squares

    def _log_prob(self, z: Tensor, rows: Tensor | None) -> Tensor:
        return self._log_joint(self._white(z)).logsumexp(1)

    def _gradient(self, z: Tensor, rows: Tensor | None) -> Tensor:
        white = self._white(z)
        shares = self._log_joint(white).softmax(1)
        gradient = torch.zeros_like(z)
        for share, offsets, whitening in zip(shares.T, white, self._whitenings, strict=True):
            gradient -= share[:, None] * (offsets @ whitening)
        return gradient


def _vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return a finite, non-empty vector."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
        raise ValueError(f"{name} must be a finite vector, got {values!r}.")
    return vector


def _covariance_root(covariance: Any, d: int) -> NDArray[np.float64]:
    """Return the lower Cholesky factor of a covariance given in any of the short forms."""
    values = np.asarray(1.0 if covariance is None else covariance, dtype=np.float64)
    matrix = values * np.eye(d) if values.shape in ((), (d,)) else values
    if matrix.shape != (d, d) or not np.allclose(matrix, matrix.T, rtol=1e-8):
        raise ValueError(
            f"The covariance must be None, a number, {d} numbers or a symmetric matrix of shape "
            f"({d}, {d}), got shape {values.shape}."
        )
    try:
        root = np.asarray(np.linalg.cholesky(matrix), dtype=np.float64)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            "The covariance must be positive definite, got eigenvalues "
            f"{np.linalg.eigvalsh(matrix).tolist()}."
        ) from error
    return root
