r"""Half the squared discrepancy of particles and data rows that a function of the distance makes.

.. math:: F(\mu_n) = \frac{1}{2 n^2} \sum_{ij} w(|x_i - x_j|^2)
    - \frac{1}{n m} \sum_{ij} w(|x_i - y_j|^2) + \frac{1}{2 m^2} \sum_{ij} w(|y_i - y_j|^2)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from skwgf.functionals._pair_sums import PairFunction
from skwgf.functionals._pairs import (
    cross_value,
    expand_cross,
    expand_self,
    graph_mean,
    self_value,
)
from skwgf.functionals.base import Expansion

_SHARE = 0.1  # of the distance between neighbouring particles, that they are moved at the start


@dataclass(frozen=True)
class Discrepancy:
    """A function of the distance and data rows; the functionals of pairs are thin around it.

    Attributes
    ----------
    function : PairFunction
        The kernel.

    centre : Tensor of shape (d,)
        The mean of the rows.

    rows : Tensor of shape (m, d)
        The rows around it.

    constant : Tensor of shape ()
        What the rows alone contribute.
    """

    function: PairFunction
    centre: Tensor
    rows: Tensor
    constant: Tensor

    @classmethod
    def to_rows(cls, function: PairFunction, rows: Tensor) -> Self:
        """Return the discrepancy to given rows."""
        centre = rows.mean(0)
        return cls(function, centre, rows - centre, self_value(function, rows))

    def value(self, z: Tensor) -> Tensor:
        """Return the value, twice differentiable in the particles."""
        x = z - self.centre
        if x.requires_grad:
            cross = graph_mean(self.function, x, self.rows)
            return graph_mean(self.function, x, x) / 2 - cross + self.constant
        cross = cross_value(self.function, x, self.rows)
        return self_value(self.function, x) - cross + self.constant

    def expand(self, z: Tensor) -> Expansion:
        """Return value, gradient and Hessian products in closed form."""
        own = expand_self(self.function, z)
        cross = expand_cross(self.function, z - self.centre, self.rows)
        return Expansion(
            own.value - cross.value + self.constant,
            own.gradient - cross.gradient,
            lambda fields: own.hessian(fields) - cross.hessian(fields),
        )


def parted_rows(rows: Tensor, n: int, generator: torch.Generator) -> Tensor:
    r"""Draw n rows, each before any is repeated, and part them by a little noise.

    In each column its standard deviation is a tenth of :math:`\sigma \, n^{-1/d}`, the distance of
    n points that fill a box of that of the rows; a column that is constant remains so. Where all
    columns are, the noise has a standard deviation of 0.1.
    """
    m, d = rows.shape
    device = generator.device
    rounds = [torch.randperm(m, generator=generator, device=device) for _ in range(-(-n // m))]
    noise = torch.randn(n, d, generator=generator, device=device, dtype=torch.float64).to(rows)
    sigma = rows.std(0, correction=0)
    # Equal numbers differ from their mean by rounding.
    sigma = sigma * (sigma > 100 * torch.finfo(rows.dtype).eps * rows.abs().amax(0))
    if not bool(sigma.any()):
        sigma = torch.ones_like(sigma)
    return (
        rows[torch.cat(rounds)[:n].to(rows.device)] + _SHARE * math.pow(n, -1 / d) * sigma * noise
    )
