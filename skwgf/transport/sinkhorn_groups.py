"""Many small entropic problems in one call."""

from __future__ import annotations

from torch import Tensor

from skwgf.transport._measure import Measure, check_agreement
from skwgf.transport._problem import Settings, solve_cross
from skwgf.transport.entropic_plan import EntropicPlan
from skwgf.transport.sinkhorn import make_plans


def sinkhorn_groups(
    x: Tensor,
    y: Tensor,
    reg: float,
    *,
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
    p: int = 2,
    tol: float = 1e-4,
    max_iter: int = 1000,
    tiled: bool = False,
) -> list[EntropicPlan]:
    r"""Solve k independent transport problems of one size, such as one for each class.

    The groups share every operation and stop together; for small groups this is several times
    faster than k calls of :func:`~skwgf.transport.sinkhorn.sinkhorn`.

    Parameters
    ----------
    x : Tensor of shape (k, n, d)
        float32 or float64. To bring groups to one size, repeat points of the small ones and
        divide the weight of a point among its copies: the problem stays the same.
    y : Tensor of shape (k, m, d)
        Same precision and device as `x`.
    reg : float
        Regularisation, in the unit of the cost, the same for all groups.
    weights_x, weights_y : Tensor of shape (k, n) and (k, m), default=None
        Positive weights, normalised here in each group; None gives equal weights.
    p, tol, max_iter, tiled
        As in :func:`~skwgf.transport.sinkhorn.sinkhorn`. Iterations go on until the last group
        meets the tolerance.

    Returns
    -------
    list of EntropicPlan
        One for each group.

    Raises
    ------
    ValueError
        If shapes, weights or `reg` are not as described.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.sinkhorn_groups import sinkhorn_groups
    >>> x = torch.tensor([[[0.0], [1.0]], [[5.0], [9.0]]])
    >>> [plan.barycentric_map() for plan in sinkhorn_groups(x, x + 1, reg=0.01)]
    [tensor([[1.],
            [2.]]), tensor([[ 6.],
            [10.]])]
    """
    if x.ndim != 3 or y.ndim != 3:
        raise ValueError(
            "x and y must have shape (k, n, d) and (k, m, d), one cloud for each group, got "
            f"{tuple(x.shape)} and {tuple(y.shape)}."
        )
    settings = Settings(p, tol, max_iter, tiled)
    mu, nu = Measure.of(x, weights_x, None, "x"), Measure.of(y, weights_y, None, "y")
    check_agreement(mu, nu)
    problem = mu.points, nu.points, mu.weights, nu.weights, reg, settings
    return make_plans(*problem, solve_cross(*problem))
