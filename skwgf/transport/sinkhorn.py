r"""Entropic optimal transport for the cost :math:`|x - y|^p / p`, and the Sinkhorn divergence."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skwgf._tensor import best_float
from skwgf.transport._envelope import with_gradients
from skwgf.transport._problem import Settings, Solution, solve_cross, solve_self
from skwgf.transport.cost import check_clouds, unit_weights
from skwgf.transport.entropic_plan import EntropicPlan


@torch.no_grad()
def sinkhorn(
    x: Tensor,
    y: Tensor,
    reg: float,
    *,
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
    init: tuple[Tensor, Tensor] | None = None,
    p: int = 2,
    tol: float = 1e-4,
    max_iter: int = 1000,
    tiled: bool = False,
) -> EntropicPlan:
    r"""Solve the entropic transport problem between two clouds.

    .. math:: \min_P \sum_{ij} P_{ij} |x_i - y_j|^p/p + \text{reg} \, KL(P \,|\, a \otimes b)

    Parameters
    ----------
    x : Tensor of shape (n, d)
        float32 or float64.
    y : Tensor of shape (m, d)
        Same precision and device as `x`.
    reg : float
        Regularisation, in the unit of the cost; .05 of the mean cost is a common choice.
    weights_x, weights_y : Tensor of shape (n,) and (m,), default=None
        Positive weights, normalised here; None gives equal weights.
    init : tuple (f, g) of Tensors, default=None
        Potentials of an earlier solve, to start from; f follows from g, which may belong to other
        points x. None starts cold: a small `reg` is reached in steps of about four.
    p : int, default=2
        Power of the Euclidean distance in the cost, 1 or 2.
    tol : float, default=1e-4
        L1 marginal error to stop at. About 1e-6 is what float32 can reach.
    max_iter : int, default=1000
        Largest number of sweeps over the kernel, those of coarser regularisations not counted.
    tiled : bool, default=False
        Hold only one tile of the kernel at a time and compute it again in every sweep: memory
        linear in n + m for a time of several products more per sweep.

    Returns
    -------
    EntropicPlan
        Without graph. When `tol` was not met the best iterate, with `converged` False.

    Raises
    ------
    ValueError
        If the clouds or the weights are not as described, or `reg` is not positive or is below
        the resolution of the precision at the size of the clouds.

    Notes
    -----
    Without `tiled` the memory is that of one (n, m) matrix. float32 clouds are solved in float64
    where `reg` is so small or so large that float32 could not resolve the kernel, on devices that
    have float64.

    References
    ----------
    M. Cuturi, "Sinkhorn distances", NeurIPS 2013, arXiv 1306.0895.
    H. Walker, P. Ni, "Anderson acceleration for fixed-point iterations", SIAM J. Numer. Anal.
    49(4), 2011.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.sinkhorn import sinkhorn
    >>> x = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    >>> plan = sinkhorn(x, x + 2, reg=0.1, tol=1e-9)
    >>> plan.converged
    True
    >>> plan.coupling().sum(0)
    tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000], dtype=torch.float64)
    """
    check_clouds(x, y)
    a, b = unit_weights(weights_x, x, "weights_x"), unit_weights(weights_y, y, "weights_y")
    g = None if init is None else _warm_start(init[1], y)
    settings = Settings(p, tol, max_iter, tiled)
    solution = solve_cross(x[None], y[None], a[None], b[None], reg, settings, init=g)
    return make_plans(x[None], y[None], a[None], b[None], reg, settings, solution)[0]


@torch.no_grad()
def sinkhorn_self(
    x: Tensor,
    reg: float,
    *,
    weights: Tensor | None = None,
    init: Tensor | None = None,
    p: int = 2,
    tol: float = 1e-4,
    max_iter: int = 1000,
    tiled: bool = False,
) -> EntropicPlan:
    """Solve the entropic transport problem of a cloud with itself, by the symmetric iteration.

    Both potentials are equal, and the damped iteration cuts the error to a third at any `reg`: a
    few sweeps are enough.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        float32 or float64.
    reg : float
        Regularisation, in the unit of the cost.
    weights : Tensor of shape (n,), default=None
        Positive weights, normalised here; None gives equal weights.
    init : Tensor of shape (n,), default=None
        Potential of an earlier solve.
    p, tol, max_iter, tiled
        As in :func:`sinkhorn`.

    Returns
    -------
    EntropicPlan
        With y = x and f = g.

    Raises
    ------
    ValueError
        As in :func:`sinkhorn`.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.sinkhorn import sinkhorn_self
    >>> plan = sinkhorn_self(torch.tensor([[0.0], [1.0]], dtype=torch.float64), reg=0.5)
    >>> bool(torch.equal(plan.f, plan.g))
    True
    """
    check_clouds(x, x)
    a = unit_weights(weights, x, "weights")
    g = None if init is None else _warm_start(init, x)
    settings = Settings(p, tol, max_iter, tiled)
    solution = solve_self(x[None], a[None], reg, settings, init=g)
    return make_plans(x[None], x[None], a[None], a[None], reg, settings, solution)[0]


def sinkhorn_divergence(
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
) -> Tensor:
    r"""Return the debiased entropic cost between two clouds.

    .. math:: S(\mu, \nu) = OT(\mu, \nu) - OT(\mu, \mu)/2 - OT(\nu, \nu)/2

    It vanishes for equal measures only, and is non-negative up to the tolerance. Its gradient is
    taken with the potentials held constant; for p = 2 it is
    :math:`a_i (T_{xx}(x_i) - T_{xy}(x_i))` at `x_i`, with T the entropic maps.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        float32 or float64.
    y : Tensor of shape (m, d)
        Same precision and device as `x`.
    reg : float
        Regularisation, in the unit of the cost.
    weights_x, weights_y, p, tol, max_iter, tiled
        As in :func:`sinkhorn`.

    Returns
    -------
    Tensor
        A scalar, differentiable once in `x` and `y`.

    Raises
    ------
    ValueError
        As in :func:`sinkhorn`.

    Warns
    -----
    ConvergenceWarning
        If one of the three problems did not meet the tolerance; the value may then be negative.

    References
    ----------
    J. Feydy, T. Séjourné, F.-X. Vialard, S. Amari, A. Trouvé, G. Peyré, "Interpolating between
    optimal transport and MMD using Sinkhorn divergences", AISTATS 2019, arXiv 1810.08278.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.sinkhorn import sinkhorn_divergence
    >>> x = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None].requires_grad_()
    >>> divergence = sinkhorn_divergence(x, x.detach() + 2.0, reg=0.1)
    >>> divergence
    tensor(2.0000, dtype=torch.float64, grad_fn=...)
    >>> torch.autograd.grad(divergence, x)[0].sum()
    tensor(-2.0000, dtype=torch.float64)
    """
    points_x, points_y = x.detach(), y.detach()
    options: dict[str, Any] = {"p": p, "tol": tol, "max_iter": max_iter, "tiled": tiled}
    cross = sinkhorn(points_x, points_y, reg, weights_x=weights_x, weights_y=weights_y, **options)
    self_x = sinkhorn_self(points_x, reg, weights=weights_x, **options)
    self_y = sinkhorn_self(points_y, reg, weights=weights_y, **options)
    worst = max((cross, self_x, self_y), key=lambda plan: plan.marginal_error)
    if not worst.converged:
        warnings.warn(
            f"The Sinkhorn iterations reached a marginal error of {worst.marginal_error:.1e}, not "
            f"tol={tol:.1e}, in max_iter={max_iter} sweeps. Raise reg (now {reg:.3g}) or max_iter.",
            ConvergenceWarning,
            stacklevel=2,
        )
    value = cross.value - self_x.value / 2 - self_y.value / 2
    gradients = [
        own.weights_x[:, None] * (across.potential_gradient() - own.potential_gradient())
        if points.requires_grad
        else None
        for points, own, across in ((x, self_x, cross), (y, self_y, cross.transpose()))
    ]
    return with_gradients(x, y, value, *gradients)


def make_plans(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    reg: float,
    settings: Settings,
    solution: Solution,
) -> list[EntropicPlan]:
    """Return the plan of each group of a solved problem, in the precision of `x`."""
    f, g = solution.f, solution.g
    values = (a * f).sum(1) + (b * g).sum(1)
    numbers = zip(values.tolist(), solution.error.tolist(), strict=True)
    return [
        EntropicPlan(
            x=x[k].detach(),
            y=y[k].detach(),
            weights_x=a[k].to(x.dtype),
            weights_y=b[k].to(x.dtype),
            f=f[k].to(x.dtype),
            g=g[k].to(x.dtype),
            reg=float(reg),
            value=value,
            marginal_error=error,
            n_iter=solution.n_iter,
            converged=error <= settings.tol,
            p=settings.p,
        )
        for k, (value, error) in enumerate(numbers)
    ]


def _warm_start(potential: Tensor, cloud: Tensor) -> Tensor:
    """Return an initial potential, checked against the cloud it belongs to, as a group of one."""
    if potential.shape != (len(cloud),) or not bool(torch.isfinite(potential).all()):
        raise ValueError(
            f"The initial potential must hold {len(cloud)} finite numbers, one for each point, "
            f"got shape {tuple(potential.shape)}."
        )
    return potential.detach().to(cloud.device, best_float(cloud.device))[None]
