r"""The affine start of a sampler: the Stein flow of the linear kernel, and whitened coordinates.

With the kernel :math:`1 + \langle z, z'\rangle` in coordinates z that are whitened by the cloud,
the Stein velocity is affine,

.. math:: v(z) = \bar s + (I - B)\, z, \qquad \bar s = \tfrac1n \sum_i s_i, \quad
    B = -\tfrac1n \sum_i s_i z_i^\top ,

with :math:`s_i` the score at particle i in these coordinates. It vanishes where the Stein
identities :math:`\mathbb{E}\, s = 0` and :math:`\mathbb{E}\, s z^\top = -I` hold, which a Gaussian
target makes the mean and the covariance [1]_. Followed implicitly, the flow takes a cloud from
anywhere to the place and the shape of the target in few evaluations of the score.

References
----------
.. [1] Q. Liu, D. Wang. *Stein variational gradient descent as moment matching*. NeurIPS 2018,
   arXiv:1810.11693.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from skwgf._tensor import best_float

ScoreFunction = Callable[[Tensor], Tensor]

# Weight of the new precision in the semi-implicit step: at 1, one bad curvature at the start
# throws the cloud out of reach.
_IMPLICITNESS = 0.5
# Curvatures below it, relative to the cloud's, count as it: it bounds the growth of a step, to a
# factor (1 - .5 + .5 * .25)^(-1/2) = 1.26 in a standard deviation.
_LEAST_CURVATURE = 0.25


class AffineInfo(NamedTuple):
    r"""How an affine start ended.

    Attributes
    ----------
    n_evaluations : int
        Number of evaluations of the score, of all particles each.

    residual : float
        Root mean square of the coordinates of the velocity, with the symmetric part of B, at the
        end, in whitened coordinates.

    converged : bool
        Whether the residual is at most the tolerance.
    """

    n_evaluations: int
    residual: float
    converged: bool


def whiten(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return a cloud in coordinates in which its covariance is the identity.

    .. math:: z = L^{-1} (x - \bar x), \qquad
        L L^\top = \tfrac1n \sum_i (x_i - \bar x)(x_i - \bar x)^\top

    The cloud spans no more than n - 1 dimensions. Where these are fewer than d, the covariance is
    mixed with its diagonal, in the share 1 - (n - 1) / d.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Particles.

    Returns
    -------
    z : Tensor of shape (n, d)
        The cloud in whitened coordinates; in these a score s is :math:`L^\top s`.

    root : Tensor of shape (d, d)
        The lower triangular L.

    Raises
    ------
    ValueError
        If all particles agree in some coordinate.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.affine import whiten
    >>> z, root = whiten(torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0], [4.0, 2.0]]))
    >>> root.round(decimals=3)
    tensor([[2., 0.],
            [0., 1.]])
    """
    n, d = x.shape
    centred = (x - x.mean(0)).to(best_float(x.device))
    covariance = centred.T @ centred / n
    variances = covariance.diagonal().clone()
    _check_spread(variances, n)
    missing = max(0.0, 1.0 - (n - 1) / d)
    covariance = (1 - missing) * covariance
    # The rest keeps clouds that are flat up to rounding, as on the way from a poor start, regular.
    covariance += torch.diag((missing + 100 * torch.finfo(x.dtype).eps) * variances)
    root = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(root, centred.T, upper=False).T
    return z.to(x), root.to(x)


def standardize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a cloud in coordinates of mean zero and unit variance, which stay correlated.

    What :func:`whiten` returns where only variances are taken, as few particles allow.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Particles.

    Returns
    -------
    z : Tensor of shape (n, d)
        The standardised cloud.

    root : Tensor of shape (d, d)
        The diagonal matrix of the standard deviations, of divisor n.

    Raises
    ------
    ValueError
        If all particles agree in some coordinate.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.affine import standardize
    >>> standardize(torch.tensor([[0.0, 1.0], [4.0, 3.0]]))
    (tensor([[-1., -1.],
            [ 1.,  1.]]), tensor([[2., 0.],
            [0., 1.]]))
    """
    centred = x - x.mean(0)
    spread = centred.square().mean(0).sqrt()
    _check_spread(spread, len(x))
    return centred / spread, torch.diag(spread)


def affine_start(
    score_fn: ScoreFunction, x: Tensor, *, max_evaluations: int = 100, tol: float = 0.01
) -> tuple[Tensor, AffineInfo]:
    r"""Move and shape a cloud by affine maps until its low Stein identities hold.

    Each step takes, in coordinates whitened by the cloud,

    .. math:: z \leftarrow P^{-1/2} z + \tfrac12 P^{-1} \bar s, \qquad P = \tfrac12 (I + B) ,

    with the eigenvalues of the symmetric part of B clamped from below. The shift is held within a
    radius, at first the cloud's, which widens fourfold while the mean score ahead still points the
    same way, and narrows when it has turned.

    Parameters
    ----------
    score_fn : callable
        Gradient of the log density, (n, d) to (n, d).

    x : Tensor of shape (n, d)
        Where the cloud starts, n > 1.

    max_evaluations : int, default=100
        Largest number of evaluations of the score.

    tol : float, default=0.01
        The residual to reach, relative to the cloud's spread.

    Returns
    -------
    x : Tensor of shape (n, d)
        The image of the cloud under an affine map.

    info : AffineInfo

    Raises
    ------
    ValueError
        If there is one particle, or all of them agree in some coordinate, or a score at the start
        is not finite.

    Notes
    -----
    For a Gaussian target the cloud ends with exactly its mean and its covariance (of divisor n).
    In general it is the Gaussian approximation of the target on this cloud. Where the scores of the
    moved cloud are not finite, the way is halved until they are. A cloud that spans modes far apart
    may be drawn into one of them.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.affine import affine_start
    >>> start = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    >>> x, info = affine_start(lambda x: (3 - x) / 4, start)
    >>> info.converged, x.mean(0).round(decimals=1), x.var(0).round(decimals=1)
    (True, tensor([3., 3.]), tensor([4., 4.]))
    """
    if len(x) < 2:
        raise ValueError("affine_start needs at least two particles, got one.")
    scores = score_fn(x)
    n_evaluations, radius = 1, 1.0
    if not bool(torch.isfinite(scores).all()):
        row = int(torch.isfinite(scores).all(1).logical_not().nonzero()[0])
        raise ValueError(
            f"The score at the start is not finite: particle {row} at {x[row].tolist()} has "
            f"{scores[row].tolist()}."
        )
    while True:
        z, root = whiten(x)
        step = _implicit_step(z, scores @ root)
        if step.residual <= tol or n_evaluations >= max_evaluations:
            return x, AffineInfo(n_evaluations, step.residual, step.residual <= tol)
        length = float(step.shift.norm()) / math.sqrt(x.shape[1])
        shift = root @ step.shift * min(1.0, radius / max(length, 1e-30))
        moved = x.mean(0) + shift + z @ step.stretch @ root.T
        ahead = score_fn(moved)
        n_evaluations += 1
        while not bool(torch.isfinite(ahead).all()) and n_evaluations < max_evaluations:
            moved, radius = 0.5 * (x + moved), 0.5 * radius
            ahead = score_fn(moved)
            n_evaluations += 1
        if not bool(torch.isfinite(ahead).all()):
            return x, AffineInfo(n_evaluations, step.residual, False)
        before, after = scores.mean(0) @ shift, ahead.mean(0) @ shift
        if length > radius and after > 0.5 * before:
            radius = 4 * radius
        elif after < -0.5 * before:
            radius = max(radius / 4, 0.1)
        x, scores = moved, ahead


def _check_spread(spread: Tensor, n: int) -> None:
    """Refuse a cloud that is flat in some coordinate."""
    if not bool((spread > 0).all()):
        k = int((spread > 0).logical_not().nonzero()[0])
        raise ValueError(
            f"All {n} particles have the same value in coordinate {k}, so that the cloud has no "
            "spread to whiten by. Start from more particles, or spread them."
        )


class _Step(NamedTuple):
    """A step in whitened coordinates: z goes to z @ stretch + shift."""

    stretch: Tensor
    shift: Tensor
    residual: float


def _implicit_step(z: Tensor, scores: Tensor) -> _Step:
    """Return the semi-implicit step of the linear kernel's flow."""
    n, d = z.shape
    mean = scores.mean(0)
    product = scores.T @ z / n
    # The antisymmetric part, noise of few particles, asks for a turn of the cloud: it has no say.
    matrix = -0.5 * (product + product.T)
    residual = mean.square().sum() + (z - z @ matrix).square().sum() / n
    curvature, axes = torch.linalg.eigh(matrix.to(best_float(z.device)))
    new = 1 - _IMPLICITNESS + _IMPLICITNESS * curvature.clamp(min=_LEAST_CURVATURE)
    stretch = (axes * new.rsqrt()) @ axes.T
    shift = _IMPLICITNESS * (axes / new) @ (axes.T @ mean.to(axes))
    return _Step(stretch.to(z), shift.to(z), math.sqrt(float(residual) / d))
