"""Ground costs between two clouds, and the checks that every transport problem begins with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skwgf._tensor import best_float


def half_squared_distance(x: Tensor, y: Tensor) -> Tensor:
    r"""Return the cost matrix :math:`c_{ij} = |x_i - y_j|^2 / 2`.

    The squares are expanded, so that one matrix product does the work, after both clouds are
    centred at the mean of `y`: the rounding error is then relative to the size of the clouds and
    not to their distance from the origin.

    Parameters
    ----------
    x : Tensor of shape (n, d)
    y : Tensor of shape (m, d)

    Returns
    -------
    Tensor of shape (n, m)
        Non-negative, differentiable in both clouds.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.cost import half_squared_distance
    >>> half_squared_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0]]))
    tensor([[4.5000],
            [2.0000]])
    """
    centre = y.mean(dim=0)
    x, y = x - centre, y - centre
    norms_x, norms_y = (x * x).sum(dim=1) / 2, (y * y).sum(dim=1) / 2
    return torch.addmm(norms_x[:, None] + norms_y, x, y.T, alpha=-1.0).clamp_min(0.0)


def mean_cost(x: Tensor, y: Tensor) -> float:
    r"""Return the mean of :math:`|x_i - y_j|^2 / 2` over all pairs, in O(n + m).

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Points.

    y : Tensor of shape (m, d)
        Points.

    Returns
    -------
    float

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.cost import mean_cost
    >>> mean_cost(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0]]))
    0.5
    """
    centre = y.mean(dim=0)
    x, y = x - centre, y - centre
    pairs = x.square().sum(1).mean() + y.square().sum(1).mean() - 2 * x.mean(0) @ y.mean(0)
    return 0.5 * float(pairs)


def power_cost(x: Tensor, y: Tensor, p: float = 2.0) -> Tensor:
    r"""Return the cost matrix :math:`c_{ij} = |x_i - y_j|^p / p` of the Euclidean distance.

    Parameters
    ----------
    x : Tensor of shape (n, d)
    y : Tensor of shape (m, d)
    p : float, default=2.0
        At least 1, so that the p-th root of the optimal cost is a distance.

    Returns
    -------
    Tensor of shape (n, m)

    Raises
    ------
    ValueError
        If `p` is below 1 or not finite.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.cost import power_cost
    >>> power_cost(torch.tensor([[0.0]]), torch.tensor([[3.0]]), p=1)
    tensor([[3.]])
    """
    check_power(p)
    halves = half_squared_distance(x, y)
    return halves if p == 2.0 else (2.0 * halves) ** (p / 2.0) / p


def check_power(p: float) -> None:
    """Raise a ValueError unless `p` is the order of a Wasserstein distance."""
    if not 1.0 <= p < math.inf:
        raise ValueError(f"p must be a finite number of at least 1, got {p!r}.")


def check_cloud(cloud: Tensor, name: str) -> None:
    """Raise a ValueError unless `cloud` is a finite cloud in a precision of ours."""
    if cloud.ndim != 2 or 0 in cloud.shape:
        raise ValueError(
            f"{name} must be a cloud of shape (n_points, n_features) with at least one point "
            f"and one feature, got shape {tuple(cloud.shape)}."
        )
    if cloud.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} must be float32 or float64, got {cloud.dtype}: convert it first.")
    if not bool(torch.isfinite(cloud).all()):
        raise ValueError(f"{name} holds NaN or infinity: drop or impute those points first.")


def check_clouds(x: Tensor, y: Tensor) -> None:
    """Raise a ValueError unless `x` and `y` are finite clouds of one dimension and precision."""
    check_cloud(x, "x")
    check_cloud(y, "y")
    if x.shape[1] != y.shape[1] or x.dtype != y.dtype or x.device != y.device:
        raise ValueError(
            "x and y must agree in number of features, precision and device, got "
            f"{x.shape[1]} {x.dtype} on {x.device} and {y.shape[1]} {y.dtype} on {y.device}."
        )


def unit_weights(weights: Tensor | None, cloud: Tensor, name: str) -> Tensor:
    """Return positive weights of sum one for the points of `cloud`, in the widest precision.

    None gives equal weights. Zero weights are refused: a point without mass has no image.
    """
    n, dtype = len(cloud), best_float(cloud.device)
    if weights is None:
        return torch.full((n,), 1.0 / n, dtype=dtype, device=cloud.device)
    if weights.shape != (n,):
        raise ValueError(
            f"{name} must have one weight per point, shape ({n},), got {tuple(weights.shape)}."
        )
    weights = weights.detach().to(device=cloud.device, dtype=dtype)
    total = weights.sum()
    if not bool((weights > 0).all()) or not bool(torch.isfinite(total)):
        raise ValueError(
            f"{name} must be positive and finite: drop the points of zero weight before the call."
        )
    return weights / total
