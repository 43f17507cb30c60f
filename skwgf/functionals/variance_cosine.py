"""A small variance around an odd integer: an energy whose saddles are known."""

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

__all__ = ["VarianceCosine"]


class VarianceCosine(Functional):
    r"""Variance plus the cosine of the mean, summed over the coordinates.

    .. math:: F(\mu) = \tfrac a2 \mathrm{Var}(\mu) + b \cos(\pi m), \qquad m = \int x \, d\mu

    Its Wasserstein gradient and Hessian in each coordinate are

    .. math:: g(x) = a (x - m) - b \pi \sin(\pi m), \qquad
        H v = a (v - \bar v) - b \pi^2 \cos(\pi m) \, \bar v, \quad \bar v = \int v \, d\mu ,

    so that the spectrum of H is a, on fields of mean zero, and :math:`-b \pi^2 \cos(\pi m)`, on
    translations. The minimisers are the points of mass one at odd integers, of value -b, and those
    at even integers are strict saddles, as flat as b is small: a problem whose rates of
    convergence and times of escape are known [1]_.

    Parameters
    ----------
    a : float, default=1.0
        Weight of the variance, positive.

    b : float, default=0.02
        Weight of the cosine, positive.

    Attributes
    ----------
    length_scale_ : float
        1, the distance of a saddle from the next minimiser.

    Raises
    ------
    ValueError
        At `fit`, if `a` or `b` is not positive and finite.

    Notes
    -----
    Without data: X is the cloud to start from. `draw_start` draws its rows with replacement and
    moves them by a tenth of their spread; for one row it draws from N(0, I).

    References
    ----------
    .. [1] R. Lascu, T. Suzuki. *From saddle points toward global minima: a Newton-type method on
       Wasserstein space*. arXiv:2605.17963.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.functionals import VarianceCosine
    >>> energy = VarianceCosine().fit(np.zeros((2, 1)))
    >>> minimiser = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    >>> energy.value(minimiser)
    tensor(-0.0200, dtype=torch.float64)
    """

    def __init__(self, a: float = 1.0, b: float = 0.02) -> None:
        self.a = a
        self.b = b

    @property
    def learns_from_data(self) -> bool:
        """False: X is the cloud to start from."""
        return False

    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Take the shape of a starting cloud; y is ignored."""
        check_positive(a=self.a, b=self.b)
        rows = check_rows(X, self)
        self._settle(rows.shape[1], length_scale=1.0, follow=rows.dtype, device=device, dtype=dtype)
        self._rows, self._spread = self._tensor(rows), spread(rows) or 1.0
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw rows of the starting cloud, with jitter."""
        return jitter_rows(self._rows, n, self._spread, generator)

    def _value(self, z: Tensor) -> Tensor:
        mean = z.mean(0)
        variance = (z - mean).square().mean(0)
        return (0.5 * self.a * variance + self.b * (math.pi * mean).cos()).sum()

    def _expand(self, z: Tensor) -> Expansion:
        mean = z.mean(0)
        pull = self.b * math.pi * (math.pi * mean).sin()
        curvature = -self.b * math.pi**2 * (math.pi * mean).cos()

        def hessian(fields: Tensor) -> Tensor:
            shift = fields.mean(1, keepdim=True)
            return self.a * (fields - shift) + curvature * shift

        return Expansion(self._value(z), self.a * (z - mean) - pull, hessian)
