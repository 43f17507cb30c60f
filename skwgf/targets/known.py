r"""Densities of hard shapes with known answers: banana, funnel and monomial gamma.

All are normalised. Exact draws and moments need no fit.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skwgf._tensor import draw_seed
from skwgf.targets.base import (
    Device,
    Precision,
    Seed,
    Target,
    check_positive,
    settle_bare,
    standard_normal,
)

__all__ = ["Banana", "Funnel", "MonomialGamma"]

Moments = tuple[NDArray[np.float64], NDArray[np.float64]]


class Banana(Target):
    r"""A bent Gaussian in the plane [1]_.

    .. math:: x_1 \sim N(0, s^2), \qquad x_2 \mid x_1 \sim N(c (x_1^2 - s^2), 1)

    Parameters
    ----------
    scale : float, default=2.0
        Standard deviation s of the first coordinate, positive.

    curvature : float, default=0.25
        How strongly the second coordinate bends, c.

    References
    ----------
    .. [1] H. Haario, E. Saksman, J. Tamminen. *Adaptive proposal distribution for random walk
       Metropolis algorithm*. Computational Statistics 14, 1999.

    Examples
    --------
    >>> from skwgf.targets import Banana
    >>> Banana().moments()[1]
    array([[4., 0.],
           [0., 3.]])
    """

    learns_from_data: ClassVar[bool] = False

    def __init__(self, scale: float = 2.0, *, curvature: float = 0.25) -> None:
        self.scale = scale
        self.curvature = curvature

    def fit(
        self, X: Any = None, y: Any = None, *, device: Device = None, dtype: Precision = None
    ) -> Self:
        """Take device and precision; X, if given, must have two columns."""
        check_positive(scale=self.scale)
        settle_bare(self, X, 2, device=device, dtype=dtype)
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, 2) points of N(0, I)."""
        return standard_normal(self, n, 2, generator)

    def sample(self, n_samples: int = 1, *, random_state: Seed = None) -> NDArray[np.float64]:
        """Return exact draws, of shape (n_samples, 2); no fit is needed."""
        check_positive(scale=self.scale)
        draws = np.random.default_rng(draw_seed(random_state)).standard_normal((n_samples, 2))
        draws[:, 0] *= self.scale
        draws[:, 1] += self.curvature * (draws[:, 0] ** 2 - self.scale**2)
        return draws

    def moments(self) -> Moments:
        """Return the mean and the covariance matrix; no fit is needed."""
        spread = 1 + 2 * self.curvature**2 * self.scale**4
        return np.zeros(2), np.diag([float(self.scale) ** 2, spread])

    def _bend(self, z: Tensor) -> Tensor:
        """Return the second coordinate with the bend taken out."""
        return z[:, 1] - self.curvature * (z[:, 0].square() - self.scale**2)

    def _log_prob(self, z: Tensor, rows: Tensor | None) -> Tensor:
        squares = (z[:, 0] / self.scale).square() + self._bend(z).square()
        return -0.5 * squares - math.log(2 * math.pi * self.scale)

    def _gradient(self, z: Tensor, rows: Tensor | None) -> Tensor:
        straight = self._bend(z)
        first = z[:, 0] * (2 * self.curvature * straight - 1 / self.scale**2)
        return torch.stack([first, -straight], dim=1)


class Funnel(Target):
    r"""Neal's funnel [1]_: one coordinate is the log variance of all others.

    .. math:: x_1 \sim N(0, s^2), \qquad x_i \mid x_1 \sim N(0, e^{x_1}), \quad i = 2, \dots, d

    Parameters
    ----------
    n_features : int, default=2
        Dimension d, at least 2.

    scale : float, default=3.0
        Standard deviation s of the log variance, positive.

    References
    ----------
    .. [1] R. M. Neal. *Slice sampling*. Annals of Statistics 31, 2003.

    Examples
    --------
    >>> from skwgf.targets import Funnel
    >>> Funnel(3, scale=1.0).moments()[1].round(4)  # the variance of the others is exp(1/2)
    array([[1.    , 0.    , 0.    ],
           [0.    , 1.6487, 0.    ],
           [0.    , 0.    , 1.6487]])
    """

    learns_from_data: ClassVar[bool] = False

    def __init__(self, n_features: int = 2, *, scale: float = 3.0) -> None:
        self.n_features = n_features
        self.scale = scale

    def fit(
        self, X: Any = None, y: Any = None, *, device: Device = None, dtype: Precision = None
    ) -> Self:
        """Take device and precision; X, if given, must have `n_features` columns."""
        self._check_parameters()
        settle_bare(self, X, self.n_features, device=device, dtype=dtype)
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, k) points of N(0, I)."""
        return standard_normal(self, n, self.n_dim_, generator)

    def sample(self, n_samples: int = 1, *, random_state: Seed = None) -> NDArray[np.float64]:
        """Return exact draws, of shape (n_samples, n_features); no fit is needed."""
        self._check_parameters()
        rng = np.random.default_rng(draw_seed(random_state))
        draws = rng.standard_normal((n_samples, self.n_features))
        draws[:, 0] *= self.scale
        draws[:, 1:] *= np.exp(draws[:, :1] / 2)
        return draws

    def moments(self) -> Moments:
        """Return the mean and the covariance matrix; no fit is needed."""
        variances = np.full(self.n_features, math.exp(self.scale**2 / 2))
        variances[0] = self.scale**2
        return np.zeros(self.n_features), np.diag(variances)

    def _check_parameters(self) -> None:
        """Refuse a funnel without a mouth."""
        check_positive(scale=self.scale)
        if self.n_features < 2:
            raise ValueError(f"n_features must be at least 2, got {self.n_features!r}.")

    def _log_prob(self, z: Tensor, rows: Tensor | None) -> Tensor:
        d, log_variance = self.n_features, z[:, 0]
        squares = (log_variance / self.scale).square()
        squares = squares + (-log_variance).exp() * z[:, 1:].square().sum(1)
        log_norm = math.log(self.scale) + 0.5 * d * math.log(2 * math.pi)
        return -0.5 * (squares + (d - 1) * log_variance) - log_norm

    def _gradient(self, z: Tensor, rows: Tensor | None) -> Tensor:
        log_variance = z[:, :1]
        others = -z[:, 1:] * (-log_variance).exp()
        first = -log_variance / self.scale**2 - 0.5 * (
            (z[:, 1:] * others).sum(1, keepdim=True) + (self.n_features - 1)
        )
        return torch.cat([first, others], dim=1)


class MonomialGamma(Target):
    r"""Independent coordinates with a cusp and stretched tails [1]_.

    .. math:: p(x) \propto \exp\Big(-c \sum_i |x_i|^a\Big)

    Parameters
    ----------
    n_features : int, default=2
        Dimension.

    exponent : float, default=0.905
        Exponent a, positive. Below one the gradient is infinite at zero, where it is set to zero.

    rate : float, default=0.3
        Rate c, positive.

    References
    ----------
    .. [1] Y. Zhang, X. Wang, C. Chen, R. Henao, K. Fan, L. Carin. *Towards unifying Hamiltonian
       Monte Carlo and slice sampling*. NeurIPS 2016, arXiv:1602.07800.

    Examples
    --------
    >>> from skwgf.targets import MonomialGamma
    >>> MonomialGamma(1, exponent=2.0, rate=0.5).moments()[1].round(12)  # N(0, 1)
    array([[1.]])
    """

    learns_from_data: ClassVar[bool] = False

    def __init__(self, n_features: int = 2, *, exponent: float = 0.905, rate: float = 0.3) -> None:
        self.n_features = n_features
        self.exponent = exponent
        self.rate = rate

    def fit(
        self, X: Any = None, y: Any = None, *, device: Device = None, dtype: Precision = None
    ) -> Self:
        """Take device and precision; X, if given, must have `n_features` columns."""
        check_positive(n_features=self.n_features, exponent=self.exponent, rate=self.rate)
        settle_bare(self, X, self.n_features, device=device, dtype=dtype)
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, k) points of N(0, I)."""
        return standard_normal(self, n, self.n_dim_, generator)

    def sample(self, n_samples: int = 1, *, random_state: Seed = None) -> NDArray[np.float64]:
        """Return exact draws, of shape (n_samples, n_features); no fit is needed."""
        check_positive(n_features=self.n_features, exponent=self.exponent, rate=self.rate)
        rng = np.random.default_rng(draw_seed(random_state))
        shape = (n_samples, self.n_features)
        # c |x|^a is a Gamma variable of shape 1/a.
        size = (rng.gamma(1 / self.exponent, size=shape) / self.rate) ** (1 / self.exponent)
        draws: NDArray[np.float64] = size * rng.choice([-1.0, 1.0], shape)
        return draws

    def moments(self) -> Moments:
        """Return the mean and the covariance matrix; no fit is needed."""
        a = self.exponent
        ratio = math.exp(math.lgamma(3 / a) - math.lgamma(1 / a))
        return np.zeros(self.n_features), np.eye(self.n_features) * ratio * self.rate ** (-2 / a)

    def _log_prob(self, z: Tensor, rows: Tensor | None) -> Tensor:
        a, c = self.exponent, self.rate
        log_norm = math.log(2 / a) + math.lgamma(1 / a) - math.log(c) / a
        return -c * z.abs().pow(a).sum(1) - self.n_features * log_norm

    def _gradient(self, z: Tensor, rows: Tensor | None) -> Tensor:
        size = z.abs()
        slope = self.rate * self.exponent * size.pow(self.exponent - 1)
        return torch.where(size > 0, -slope * z.sign(), 0)
