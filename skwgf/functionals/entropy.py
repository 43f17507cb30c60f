"""The negative entropy of a cloud, smoothed."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from skwgf.functionals._start import jitter_rows
from skwgf.functionals.base import (
    Device,
    Expansion,
    Functional,
    Precision,
    check_rows,
    spread,
)
from skwgf.targets.base import check_positive

__all__ = ["SmoothedEntropy"]


class SmoothedEntropy(Functional):
    r"""The negative entropy of a cloud as seen through a Gaussian kernel, which is biased.

    .. math:: F(\mu) = \int \log (k_h * \mu) \, d\mu
        \approx \int \log \mu \, d\mu, \qquad
        k_h(x) = (2 \pi h^2)^{-d/2} e^{-|x|^2 / 2 h^2}

    Parameters
    ----------
    bandwidth : float, default=None
        The bandwidth h, in the units of the particles. None is :math:`s N^{-1/(d+4)}` with s the
        spread of the N particles of the starting cloud (Scott's rule); it is found at `fit` and
        does not change with the cloud. Where all rows are equal it is 1.

    Attributes
    ----------
    bandwidth_ : float
        The bandwidth used.

    length_scale_ : float
        The bandwidth.

    Raises
    ------
    ValueError
        At `fit`, if `bandwidth` is not positive and finite.

    Notes
    -----
    Two biases, both of which vanish only as h goes to 0 after n to infinity:

    * For a density, smoothing lowers the value by the Kullback-Leibler divergence of the density
      from its smoothed self: the cloud seems more spread than it is. The value is at most
      :math:`-\tfrac d2 \log(2 \pi h^2)`, which a point of mass one takes, where the negative
      entropy is infinite. Concentration is penalised only down to the scale of h.
    * For n particles, the pair of a particle with itself raises the value. It is at least
      :math:`-\tfrac d2 \log(2 \pi h^2) - \log n`, the limit of a cloud that flies apart: without
      a term that holds the cloud there is no minimiser. Add a potential, say.

    Gradient and Hessian products come from (n, n) matrices. Without data: X is the cloud to start
    from. `draw_start` draws its rows with replacement and moves them by a tenth of their spread;
    for one row it draws from N(0, I).

    References
    ----------
    .. [1] J. A. Carrillo, K. Craig, F. S. Patacchini. *A blob method for diffusion*. Calculus of
       Variations 58, 2019, arXiv:1709.09195.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.functionals import SmoothedEntropy
    >>> entropy = SmoothedEntropy(bandwidth=1.0).fit(np.zeros((1, 1)))
    >>> round(float(entropy.value(torch.zeros(5, 1, dtype=torch.float64))), 4)  # -log(2 pi) / 2
    -0.9189
    """

    bandwidth_: float

    def __init__(self, bandwidth: float | None = None) -> None:
        self.bandwidth = bandwidth

    @property
    def learns_from_data(self) -> bool:
        """False: X is the cloud to start from."""
        return False

    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Take the shape of a starting cloud, and the bandwidth from it; y is ignored."""
        rows = check_rows(X, self)
        width = spread(rows)
        self._spread = width or 1.0
        if self.bandwidth is None:
            self.bandwidth_ = width * len(rows) ** (-1 / (rows.shape[1] + 4)) or 1.0
        else:
            check_positive(bandwidth=self.bandwidth)
            self.bandwidth_ = float(self.bandwidth)
        self._settle(
            rows.shape[1],
            length_scale=self.bandwidth_,
            follow=rows.dtype,
            device=device,
            dtype=dtype,
        )
        self._rows = self._tensor(rows)
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw rows of the starting cloud, with jitter."""
        return jitter_rows(self._rows, n, self._spread, generator)

    def _gram(self, x: Tensor) -> Tensor:
        """Return the kernel of unit height between points in units of the bandwidth."""
        squares = x.square().sum(1)
        # Not clamped at zero: rounding does no harm here, and the clamp would cut the curvature
        # of particles that coincide.
        return torch.exp(x @ x.T - 0.5 * (squares[:, None] + squares))

    def _height(self) -> float:
        """Return the logarithm of the kernel's density at zero."""
        return -0.5 * self.n_dim_ * math.log(2 * math.pi * self.bandwidth_**2)

    def _scale(self, z: Tensor) -> Tensor:
        """Return particles in units of the bandwidth about the mean, which cancels."""
        return (z - z.detach().mean(0)) / self.bandwidth_

    def _value(self, z: Tensor) -> Tensor:
        return self._gram(self._scale(z)).mean(1).log().mean() + self._height()

    def _expand(self, z: Tensor) -> Expansion:
        n, x = len(z), self._scale(z)
        gram = self._gram(x)
        density = gram.mean(1)
        inverse = 1 / density
        weights = gram * (inverse[:, None] + inverse)
        degree = weights.sum(1, keepdim=True)
        gradient = (weights @ x - degree * x) / (n * self.bandwidth_)

        def product(v: Tensor) -> Tensor:
            # The change of g along v: of the kernel, of the densities, and of the differences.
            cross, own = x @ v.T, (x * v).sum(1)
            turned = gram * (cross + cross.T - own[:, None] - own)
            bent = -inverse.square() * turned.mean(1)
            change = turned * (inverse[:, None] + inverse) + gram * (bent[:, None] + bent)
            moved = change @ x - change.sum(1, keepdim=True) * x
            return (moved + weights @ v - degree * v) / (n * self.bandwidth_**2)

        return Expansion(
            density.log().mean() + self._height(),
            gradient,
            lambda fields: torch.stack([product(v) for v in fields]),
        )
