"""The maximum mean discrepancy to data rows."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from sklearn.base import clone
from torch import Tensor

from skwgf.functionals._discrepancy import Discrepancy, parted_rows
from skwgf.functionals._radial import pair_function
from skwgf.functionals.base import Device, Expansion, Functional, Precision, check_rows, spread
from skwgf.kernels import InverseMultiquadric, Kernel
from skwgf.kernels._parameters import squared_bandwidth

__all__ = ["MMD"]

# Bandwidths of the default kernel over the median distance, and weights that go as their roots.
_SCALES = ((0.125, 1 / 7), (0.5, 2 / 7), (2.0, 4 / 7))


class MMD(Functional):
    r"""Half the squared maximum mean discrepancy between the particles and the rows of X [1]_.

    .. math:: F(\mu) = \tfrac12 E \, k(x, x') - E \, k(x, y) + \tfrac12 E \, k(y, y')

    with x, x' drawn from :math:`\mu` and y, y' from the rows: half the squared distance of the
    mean embeddings, which is not negative, and for the kernels named below zero only for the law
    of the rows.

    Parameters
    ----------
    kernel : Kernel, default=None
        `Gaussian`, `InverseMultiquadric` or `Matern` of :mod:`skwgf.kernels`, or sums and
        multiples of them. A bandwidth given as a rule is taken from X. None is the
        mean of three `InverseMultiquadric` with bandwidths of 1/8, 1/2 and 2 median distances
        between rows, weighted by 1/7, 2/7 and 4/7. A narrow kernel alone cannot move particles
        from a cluster that has too many to one that has too few, and a wide one alone is blind to
        structure finer than itself; the three behave like the distance of
        :class:`EnergyDistance` over the range of their bandwidths.

    Attributes
    ----------
    kernel_ : Kernel
        The kernel with a number for its bandwidth.

    length_scale_ : float
        The spread of X.

    Raises
    ------
    TypeError
        At `fit`, if the kernel is not a function of the distance.

    ValueError
        At `fit`, if the kernel is not twice differentiable, as `Laplace`.

    Notes
    -----
    Minimised over few particles it is a quantiser: they stand for all the rows, each with the same
    weight. For n particles and m rows an expansion costs :math:`O(n (n + m) d^2)`, a Hessian
    product :math:`O(n^2 d)`, and `fit` :math:`O(m^2 d)` for what the rows alone contribute, half
    a minute for 100,000 rows. Memory is linear in n and m but for the derivatives of
    the :math:`n^2` pairs, which are kept while they are below 64 MiB; an autograd graph of the
    value holds all pairs.

    References
    ----------
    .. [1] A. Gretton, K. Borgwardt, M. Rasch, B. Schölkopf, A. Smola. *A kernel two-sample test*.
       JMLR 13, 2012.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.functionals import MMD
    >>> from skwgf.kernels import Gaussian
    >>> energy = MMD(Gaussian(bandwidth=1.0)).fit(np.array([[-1.0], [1.0]]))
    >>> energy.value(torch.tensor([[1.0], [-1.0]], dtype=torch.float64))
    tensor(0., dtype=torch.float64)
    >>> _, gradient, hessian = energy.expand(torch.tensor([[0.0]], dtype=torch.float64))
    >>> gradient, hessian(torch.ones(1, 1, 1, dtype=torch.float64))  # 1 - u is 0 at bandwidth 1
    (tensor([[0.]], dtype=torch.float64), tensor([[[0.]]], dtype=torch.float64))
    """

    kernel_: Kernel

    def __init__(self, kernel: Kernel | None = None) -> None:
        self.kernel = kernel

    @property
    def learns_from_data(self) -> bool:
        """True: the particles stand for the rows of X."""
        return True

    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Take the rows of X to represent; y is ignored."""
        array = check_rows(X, self)
        if self.kernel is not None and not isinstance(self.kernel, Kernel):
            raise TypeError(f"kernel must be one of skwgf.kernels, or None, got {self.kernel!r}.")
        self._settle(
            array.shape[1],
            length_scale=spread(array),
            follow=array.dtype,
            device=device,
            dtype=dtype,
        )
        self._rows = self._tensor(array)
        if self.kernel is None:
            self.kernel_ = _default_kernel(self._rows)
        else:
            self.kernel_ = clone(self.kernel).resolve(self._rows)
        self._energy = Discrepancy.to_rows(pair_function(self.kernel_), self._rows)
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw rows of X, each before any is repeated, with a little noise."""
        return parted_rows(self._rows, n, generator)

    def _value(self, z: Tensor) -> Tensor:
        return self._energy.value(z)

    def _expand(self, z: Tensor) -> Expansion:
        return self._energy.expand(z)


def _default_kernel(rows: Tensor) -> Kernel:
    """Return the kernel of several reaches for given rows."""
    median = math.sqrt(squared_bandwidth(rows, "scale"))
    fine, middle, coarse = (
        InverseMultiquadric(bandwidth=share * median) * weight for share, weight in _SCALES
    )
    return fine + middle + coarse
