r"""The regression behind the default sampler, on Gaussian and linear features.

With features phi, scores :math:`s_i` and the Gram matrix R of the features,

.. math:: M = \tfrac1n \sum_i A_i, \quad A_i = \phi(z_i) s_i^\top + \nabla\phi(z_i), \qquad
    Q = (1 - \nu)\, \tfrac1n \sum_i \phi(z_i) \phi(z_i)^\top + \nu R ,

the field :math:`M^\top Q^{-1} \phi(z)` regresses :math:`\nabla \log (\pi / \mu)`. Where the
particles are independent draws of the target, :math:`\mathrm{tr}(M^\top Q^{-1} M)` has the mean
:math:`n^{-2} \sum_i \mathrm{tr}(A_i^\top Q^{-1} A_i)`, and so has its part on any of the features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skwgf._tensor import best_float


class Fit(NamedTuple):
    """The regressed field at the particles, and the energy T."""

    velocity: Tensor
    energy: float


def regress_score_ratio(
    z: Tensor, scores: Tensor, centers: Tensor, h: float, reg: float, linear_weight: float
) -> Fit:
    """Fit the velocity on Gaussian features of squared bandwidth h at the centres, 1 and z."""
    n, d = z.shape
    m = len(centers)
    gaussian = _gaussian_gram(z, centers, h)
    features = torch.cat([z.new_ones(n, 1), z, gaussian], 1)
    # The gradients of the Gaussian features, summed over the particles.
    gradients = (-2 / h) * (gaussian.T @ z - centers * gaussian.sum(0)[:, None])
    # Few small products from here on: in the widest precision, for the ridge is small.
    wide = best_float(z.device)
    defects = (features.T @ scores).to(wide)
    defects[1 : d + 1] += n * torch.eye(d).to(defects)
    defects[d + 1 :] += gradients
    defects /= n
    gram = torch.eye(d + 1 + m).to(defects) / linear_weight
    gram[d + 1 :, d + 1 :] = _gaussian_gram(centers, centers, h)
    products = (features.T @ features).to(wide) / n
    matrix = (1 - reg) * products + reg * gram
    # Rounding may leave it indefinite where centres are close.
    matrix.diagonal().add_(10 * torch.finfo(z.dtype).eps * float(matrix.diagonal().sum()))
    factor = torch.linalg.cholesky(matrix)
    weights = torch.cholesky_solve(defects, factor)
    # With the linear features first, the rows of the Gaussian ones tell what these add.
    whitened = torch.linalg.solve_triangular(factor, defects, upper=False)
    noise = _second_moments(z, scores, centers, h, features, gradients).to(wide)
    noise = torch.linalg.solve_triangular(factor, noise, upper=False)
    noise = torch.linalg.solve_triangular(factor, noise.T, upper=False).diagonal() / n**2
    parts = zip(whitened.square().sum(1).split([d + 1, m]), noise.split([d + 1, m]), strict=True)
    # The maximum of a tensor keeps NaN, as that of floats does not.
    energy = float(torch.stack([defect.sum() / chance.sum() for defect, chance in parts]).max())
    return Fit(features @ weights.to(z), energy)


def _gaussian_gram(x: Tensor, y: Tensor, h: float) -> Tensor:
    """Return the Gaussian kernel of squared bandwidth h, of mean one over a Gaussian cloud."""
    d = x.shape[1]
    squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    # Below -80 single precision underflows, which is slow.
    return float((1 + 4 / h) ** (d / 2)) * torch.exp((squares / -h).clamp(-80, 0))


def _second_moments(
    z: Tensor, scores: Tensor, centers: Tensor, h: float, features: Tensor, gradients: Tensor
) -> Tensor:
    r"""Return :math:`\sum_i A_i A_i^\top`, A_i = phi(z_i) s_i' + grad phi(z_i), without the A_i."""
    n, d = z.shape
    gaussian = features[:, d + 1 :]
    moments = (features * scores.square().sum(1, keepdim=True)).T @ features
    # <s_i, grad phi_q(z_i)>, against phi.
    inner = (z * scores).sum(1, keepdim=True) - scores @ centers.T
    along = torch.cat([z.new_zeros(n, 1), scores, (-2 / h) * gaussian * inner], 1)
    mixed = along.T @ features
    moments += mixed + mixed.T
    # <grad phi_q(z_i), grad phi_r(z_i)>.
    weighted = (gaussian * (z @ centers.T)).T @ gaussian
    squares = (gaussian * z.square().sum(1, keepdim=True)).T @ gaussian
    among = (gaussian.T @ gaussian) * (centers @ centers.T) + squares - weighted - weighted.T
    moments[d + 1 :, d + 1 :] += (2 / h) ** 2 * among
    moments[d + 1 :, 1 : d + 1] += gradients
    moments[1 : d + 1, d + 1 :] += gradients.T
    moments[1 : d + 1, 1 : d + 1] += n * torch.eye(d).to(z)
    return moments
