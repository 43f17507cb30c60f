r"""The velocity of the sliced Wasserstein flow.

On the line the optimal map is a sort. With :math:`G_\theta` the quantile function of the target
projected on the direction :math:`\theta`, and :math:`u_\theta(x)` the rank of the projection of x
within the moving law, the gradient flow of

.. math:: \mathcal{E}(\mu) = \frac d2 \, \mathbb{E}_\theta \, W_2^2(\theta_\# \mu, \theta_\# \nu)

over directions of the unit sphere of :math:`\mathbb{R}^d` is

.. math:: v(x) = d \; \mathbb{E}_\theta
    \big[(G_\theta(u_\theta(x)) - \langle \theta, x\rangle) \, \theta\big] .

The factor d undoes :math:`\mathbb{E}\, \theta\theta^T = I / d`: a target that is the law moved and
scaled, :math:`x \mapsto s + c x` with c > 0, is approached along the Wasserstein-2 flow and at its
rate of one, and on the line the two flows are the same [1]_ [2]_.

References
----------
.. [1] N. Bonneel, J. Rabin, G. Peyré, H. Pfister. *Sliced and Radon Wasserstein barycenters of
   measures*. J. Math. Imaging Vis. 51, 2015.
.. [2] A. Liutkus, U. Şimşekli, S. Majewski, A. Durmus, F.-R. Stöter. *Sliced-Wasserstein flows*.
   ICML 2019, arXiv:1806.08141.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skwgf._tensor import best_float, to_numpy, to_tensor
from skwgf.flows.carriers import Velocity, VelocityField
from skwgf.transport.cost import check_clouds
from skwgf.transport.exact import quantile_coupling


def random_directions(n: int, d: int, generator: torch.Generator) -> Tensor:
    r"""Draw directions of the unit sphere, in orthonormal frames.

    Each direction is uniform. Those of a frame are orthogonal, so that over full frames the mean of
    :math:`\theta\theta^T` is exactly :math:`I / d`.

    Parameters
    ----------
    n : int
        Number of directions; the last frame is cut short where n is no multiple of d.

    d : int
        Dimension.

    generator : torch.Generator
        Draws them, on its device.

    Returns
    -------
    Tensor of shape (n, d), float64 (float32 where the device has no float64)

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.sliced import random_directions
    >>> directions = random_directions(6, 3, torch.Generator().manual_seed(0))
    >>> torch.allclose(directions.T @ directions, 2 * torch.eye(3, dtype=torch.float64))
    True
    """
    device = generator.device
    sizes = [d] * (n // d) + [n % d] * (n % d > 0)
    normals = (
        torch.randn(d, size, generator=generator, device=device, dtype=best_float(device))
        for size in sizes
    )
    return torch.cat([torch.linalg.qr(frame).Q.T for frame in normals])


def sliced_velocity(
    y: Tensor,
    n_projections: int = 128,
    *,
    generator: torch.Generator,
    fresh: bool = False,
) -> VelocityField:
    r"""Return the velocity of the sliced flow towards `y`.

    The mean over directions is one over `n_projections` random ones. Points of equal rank along a
    direction are paired; when the counts differ, a point is paired with the mean of its share of
    the sorted target, which is the optimal plan on the line.

    Parameters
    ----------
    y : Tensor of shape (m, d)
        Target points, of equal weight.

    n_projections : int, default=128
        Number of directions. With a multiple of d a translated target is approached along a
        straight line; the velocity scatters by about :math:`(n / d)^{-1/2}` of itself between draws
        of n directions.

    generator : torch.Generator
        Draws the directions, on the device of `y`.

    fresh : bool, default=False
        Draw new directions at every call, which sorts the target every time. With fixed directions
        the field is the gradient of one energy, and can stop short of the target where few
        directions do not tell the laws apart.

    Returns
    -------
    VelocityField
        `field(x, side)`, of x of any number of points. `side` is not used. The energy is
        :math:`\mathcal{E}` with the same directions.

    Raises
    ------
    ValueError
        If `y` is not a finite cloud, `n_projections` is below one, or the field is called with
        points of another number of features or precision.

    Notes
    -----
    The cost is that of sorting n numbers for each direction, :math:`O(L n \log n)`, and the memory
    that of a few (L, n) matrices.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.sliced import sliced_velocity
    >>> x = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
    >>> generator = torch.Generator().manual_seed(0)
    >>> field = sliced_velocity(x.flip(0) + torch.tensor([0.0, 2.0]), 4, generator=generator)
    >>> velocity = field(x)
    >>> velocity.direction.round(decimals=4).abs()
    tensor([[0., 2.],
            [0., 2.]])
    >>> round(velocity.energy, 4)
    2.0
    """
    check_clouds(y, y)
    if n_projections < 1:
        raise ValueError(f"n_projections must be at least 1, got {n_projections!r}.")

    def slices() -> _Slices:
        directions = random_directions(n_projections, y.shape[1], generator).to(y)
        return _Slices(directions, _sort_rows(directions @ y.T))

    fixed = None if fresh else slices()
    paired: dict[int, _Slices] = {}

    def field(x: Tensor, side: Tensor | None = None) -> Velocity:
        if x.shape[1:] != y.shape[1:] or x.dtype != y.dtype:
            raise ValueError(
                f"x must have {y.shape[1]} features in {y.dtype}, as y has, got shape "
                f"{tuple(x.shape)} in {x.dtype}."
            )
        if fixed is None:
            return _step(x, _paired(slices(), len(x)))
        if len(x) not in paired:
            paired.clear()
            paired[len(x)] = _paired(fixed, len(x))
        return _step(x, paired[len(x)])

    return field


class _Slices(NamedTuple):
    """Directions, and for each the sorted points of the line that ranks are paired with.

    `spread` is the mean squared distance, over directions, of the target from these points.
    """

    directions: Tensor
    targets: Tensor
    spread: float = 0.0


def _paired(slices: _Slices, n: int) -> _Slices:
    """Return the slices with one target for each of n ranks."""
    targets = slices.targets
    m = targets.shape[1]
    if n == m:
        return slices
    weights = (targets.new_full((k,), 1.0 / k, dtype=best_float(targets.device)) for k in (n, m))
    rows, cols, mass = quantile_coupling(*weights)
    mass, shares = mass.to(targets), targets[:, cols]
    means = targets.new_zeros(len(targets), n).index_add_(1, rows, n * mass * shares)
    spread = float(((shares - means[:, rows]) ** 2 @ mass).mean())
    return slices._replace(targets=means, spread=spread)


def _step(x: Tensor, slices: _Slices) -> Velocity:
    """Return the velocity and the energy of the points `x`."""
    n_projections, d = slices.directions.shape
    projections = slices.directions @ x.T
    order = _argsort_rows(projections)
    # The target of each rank goes to the point that holds it.
    gaps = torch.empty_like(projections).scatter_(1, order, slices.targets).sub_(projections)
    direction = gaps.T @ slices.directions * (d / n_projections)
    energy = 0.5 * d * (float(gaps.square().mean()) + slices.spread)
    return Velocity(direction, energy)


# On the CPU numpy's vectorised sorts are two to four times faster than torch's.


def _sort_rows(values: Tensor) -> Tensor:
    """Return the values with each row sorted."""
    if values.device.type != "cpu":
        return values.sort(dim=1).values
    return to_tensor(np.sort(to_numpy(values), axis=1))


def _argsort_rows(values: Tensor) -> Tensor:
    """Return the indices that sort each row."""
    if values.device.type != "cpu":
        return values.argsort(dim=1)
    return to_tensor(np.argsort(to_numpy(values), axis=1))
