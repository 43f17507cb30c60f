"""The energy distance to data rows, smoothed to second order."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from skwgf.functionals._discrepancy import Discrepancy, parted_rows
from skwgf.functionals._radial import negative_distance
from skwgf.functionals.base import Device, Expansion, Functional, Precision, check_rows, spread
from skwgf.kernels._parameters import check_number

__all__ = ["EnergyDistance"]


class EnergyDistance(Functional):
    r"""Half the energy distance between the particles and the rows of X [1]_.

    .. math:: F(\mu) = E |x - y|_\epsilon - \tfrac12 E |x - x'|_\epsilon
        - \tfrac12 E |y - y'|_\epsilon, \qquad |r|_\epsilon = \sqrt{|r|^2 + \epsilon^2} ,

    with x, x' drawn from :math:`\mu` and y, y' from the rows. It is not negative, and zero only
    for the law of the rows. It has no scale to choose: a good first functional to represent many
    rows by few points.

    Parameters
    ----------
    smoothing : float, default=0.05
        The length :math:`\epsilon` over the spread of X (the root mean square distance of the rows
        from their mean, over :math:`\sqrt d`). Positive: the distance itself has a kink wherever
        a particle meets a row or another particle, where it has no second derivative. The
        smoothed one is infinitely smooth, with curvatures up to :math:`1 / \epsilon`, and makes a
        discrepancy of the same kind, which is zero for the law of the rows, too.

    Attributes
    ----------
    smoothing_ : float
        The length :math:`\epsilon`.

    length_scale_ : float
        The spread of X.

    Raises
    ------
    ValueError
        At `fit`, if `smoothing` is not positive.

    Notes
    -----
    For n particles and m rows an expansion costs :math:`O(n (n + m) d^2)`, a Hessian product
    :math:`O(n^2 d)`, and `fit` :math:`O(m^2 d)` for what the rows alone contribute, ten seconds for
    100,000 rows. Memory is linear in n and m but for the derivatives of the :math:`n^2` pairs,
    which are kept while they are below 64 MiB; an autograd graph of the value holds all pairs.

    References
    ----------
    .. [1] G. Székely, M. Rizzo. *Energy statistics: a class of statistics based on distances*.
       Journal of Statistical Planning and Inference 143(8), 2013.

    Examples
    --------
    One point that stands for two is best in the middle:

    >>> import numpy as np, torch
    >>> from skwgf.functionals import EnergyDistance
    >>> energy = EnergyDistance().fit(np.array([[-1.0], [1.0]]))
    >>> _, gradient, hessian = energy.expand(torch.zeros(1, 1, dtype=torch.float64))
    >>> float(gradient.abs()), bool(hessian(torch.ones(1, 1, 1, dtype=torch.float64)) > 0)
    (0.0, True)
    """

    def __init__(self, smoothing: float = 0.05) -> None:
        self.smoothing = smoothing

    @property
    def learns_from_data(self) -> bool:
        """True: the particles stand for the rows of X."""
        return True

    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Take the rows of X to represent; y is ignored."""
        smoothing = check_number(
            self.smoothing,
            "smoothing",
            "a positive number (the distance itself has no second derivative where points meet)",
            lambda smoothing: smoothing > 0,
        )
        array = check_rows(X, self)
        self._settle(
            array.shape[1],
            length_scale=spread(array),
            follow=array.dtype,
            device=device,
            dtype=dtype,
        )
        self.smoothing_ = smoothing * self.length_scale_
        self._rows = self._tensor(array)
        self._energy = Discrepancy.to_rows(negative_distance(self.smoothing_), self._rows)
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw rows of X, each before any is repeated, with a little noise."""
        return parted_rows(self._rows, n, generator)

    def _value(self, z: Tensor) -> Tensor:
        return self._energy.value(z)

    def _expand(self, z: Tensor) -> Expansion:
        return self._energy.expand(z)
