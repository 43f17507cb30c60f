"""A ring in the plane, with exact draws and moments."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
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

__all__ = ["Ring"]


class Ring(Target):
    r"""A ring in the plane, :math:`p(x) \propto \exp(-(|x| - r)^2 / 2 w^2)`.

    Parameters
    ----------
    radius : float, default=2.0
        Radius r, positive.

    width : float, default=0.25
        Width w, positive.

    Notes
    -----
    The gradient at the centre, where the density has a kink, is set to zero.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.targets import Ring
    >>> target = Ring().fit(np.zeros((1, 2)))
    >>> target.grad_log_prob(torch.tensor([[0.0, 1.5]], dtype=torch.float64))  # outwards
    tensor([[0., 8.]], dtype=torch.float64)
    """

    learns_from_data: ClassVar[bool] = False

    def __init__(self, radius: float = 2.0, *, width: float = 0.25) -> None:
        self.radius = radius
        self.width = width

    def fit(
        self, X: Any = None, y: Any = None, *, device: Device = None, dtype: Precision = None
    ) -> Self:
        """Take device and precision; X, if given, must have two columns."""
        settle_bare(self, X, 2, device=device, dtype=dtype)
        first, _ = self._radial_moments()
        self._log_norm = math.log(2 * math.pi * first)
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, 2) points of N(0, I)."""
        return standard_normal(self, n, 2, generator)

    def sample(self, n_samples: int = 1, *, random_state: Seed = None) -> NDArray[np.float64]:
        r"""Return exact draws, of shape (n_samples, 2); no fit is needed.

        The radius has density :math:`\propto \rho\, \phi(t)` with :math:`\rho = r + w t > 0`. It is
        drawn by rejection from :math:`(r + w |t|)\, \phi(t)`, a mixture of a normal and of a
        Rayleigh law of random sign.
        """
        check_positive(radius=self.radius, width=self.width)
        rng = np.random.default_rng(draw_seed(random_state))
        rayleigh_mass = self.width * math.sqrt(2 / math.pi)
        share = rayleigh_mass / (self.radius + rayleigh_mass)
        radii = np.empty(0)
        while len(radii) < n_samples:
            m = 2 * (n_samples - len(radii)) + 10
            signed = rng.rayleigh(size=m) * rng.choice([-1.0, 1.0], m)
            t = np.where(rng.random(m) < share, signed, rng.standard_normal(m))
            rho = self.radius + self.width * t
            accepted = rng.random(m) * (self.radius + self.width * abs(t)) < rho
            radii = np.concatenate([radii, rho[accepted]])
        angles = rng.uniform(0, 2 * math.pi, n_samples)
        directions: NDArray[np.float64] = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return radii[:n_samples, None] * directions

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean and the covariance matrix; no fit is needed."""
        first, third = self._radial_moments()
        return np.zeros(2), np.eye(2) * third / (2 * first)

    def _radial_moments(self) -> tuple[float, float]:
        r"""Return :math:`\int_0^\infty \rho^m e^{-(\rho - r)^2 / 2 w^2} d\rho` for m = 1 and 3."""
        check_positive(radius=self.radius, width=self.width)
        r, w = float(self.radius), float(self.width)
        # Moments of exp(-u^2/2) over u > -r/w, by parts.
        a = r / w
        edge = math.exp(-0.5 * a * a)
        i0 = math.sqrt(2 * math.pi) * float(stats.norm.cdf(a))
        i2, i3 = i0 - a * edge, (a * a + 2) * edge
        third = w**3 * i3 + 3 * w * w * r * i2 + 3 * w * r * r * edge + r**3 * i0
        return w * (w * edge + r * i0), w * third

    def _log_prob(self, z: Tensor, rows: Tensor | None) -> Tensor:
        gap = (z.square().sum(1).sqrt() - self.radius) / self.width
        return -0.5 * gap.square() - self._log_norm

    def _gradient(self, z: Tensor, rows: Tensor | None) -> Tensor:
        norm = z.square().sum(1, keepdim=True).sqrt()
        outwards = torch.where(norm > 0, z / norm, 0)
        return (self.radius - norm) / self.width**2 * outwards
