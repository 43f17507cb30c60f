r"""Entropic optimal transport for the cost :math:`|x - y|^2 / 2`, and the Sinkhorn divergence."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skwgf._tensor import best_float
from skwgf.transport._scaling import State, cold_start, largest_cost, solve
from skwgf.transport.cost import check_clouds, unit_weights
from skwgf.transport.entropic_plan import MOST_BITS, EntropicPlan, bit, in_bits


@torch.no_grad()
def sinkhorn(
    x: Tensor,
    y: Tensor,
    reg: float,
    *,
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
    init: tuple[Tensor, Tensor] | None = None,
    tol: float = 1e-4,
    max_iter: int = 1000,
) -> EntropicPlan:
    r"""Solve the entropic transport problem between two clouds.

    .. math:: \min_P \sum_{ij} P_{ij} |x_i - y_j|^2/2 + \text{reg} \, KL(P \,|\, a \otimes b)

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
        points x. None starts cold: `reg` is lowered in steps
        of four on a subset of the points, whose potential is then extended to all.
    tol : float, default=1e-4
        L1 marginal error to stop at. About 1e-6 is what float32 can reach.
    max_iter : int, default=1000
        Largest number of sweeps over the whole kernel.

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
    The memory is that of one (n, m) matrix. float32 clouds are solved in float64 where `reg` is so
    small or so large that float32 could not resolve the kernel, on devices that have float64.

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
    g = None if init is None else _warm_start(init[1], y, reg)
    state = _run(x, y, reg, a, b, g, symmetric=False, tol=tol, max_iter=max_iter)
    return _plan(x, y, a, b, reg, tol, state)


@torch.no_grad()
def sinkhorn_self(
    x: Tensor,
    reg: float,
    *,
    weights: Tensor | None = None,
    init: Tensor | None = None,
    tol: float = 1e-4,
    max_iter: int = 1000,
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
    tol, max_iter
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
    g = None if init is None else _warm_start(init, x, reg)
    state = _run(x, x, reg, a, a, g, symmetric=True, tol=tol, max_iter=max_iter)
    # The mean of the potential and its soft minimum keeps the dual value of the pair.
    middle = (state.f + state.g) / 2
    return _plan(x, x, a, a, reg, tol, state._replace(f=middle, g=middle))


def sinkhorn_divergence(
    x: Tensor,
    y: Tensor,
    reg: float,
    *,
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
    tol: float = 1e-4,
    max_iter: int = 1000,
) -> Tensor:
    r"""Return the debiased entropic cost between two clouds.

    .. math:: S(\mu, \nu) = OT(\mu, \nu) - OT(\mu, \mu)/2 - OT(\nu, \nu)/2

    It vanishes for equal measures only, and is non-negative up to the tolerance. Its gradient is
    taken with the potentials held constant, :math:`a_i (T_{xx}(x_i) - T_{xy}(x_i))` at `x_i`, with
    T the entropic maps.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        float32 or float64.
    y : Tensor of shape (m, d)
        Same precision and device as `x`.
    reg : float
        Regularisation, in the unit of the cost.
    weights_x, weights_y, tol, max_iter
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
    cross = sinkhorn(
        *(points_x, points_y, reg),
        weights_x=weights_x,
        weights_y=weights_y,
        tol=tol,
        max_iter=max_iter,
    )
    self_x, self_y = (
        sinkhorn_self(points, reg, weights=weights, tol=tol, max_iter=max_iter)
        for points, weights in ((points_x, weights_x), (points_y, weights_y))
    )
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
        own.weights_x[:, None] * (own.barycentric_map() - across.barycentric_map())
        if points.requires_grad
        else None
        for points, own, across in ((x, self_x, cross), (y, self_y, cross.transpose()))
    ]
    result: Tensor = _Envelope.apply(  # type: ignore[no-untyped-call]
        x, y, x.new_tensor(value), *gradients
    )
    return result


class _Envelope(torch.autograd.Function):
    """A value whose gradients in two clouds are known in closed form."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, value: Tensor, grad_x: Tensor | None, grad_y: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, y, grad_x, grad_y)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor) -> tuple[Tensor | None, ...]:
        x, y, *gradients = ctx.saved_tensors
        scaled = (
            grad_value * _Constant.apply(gradient, x, y)  # type: ignore[no-untyped-call]
            if gradient is not None
            else None
            for gradient in gradients
        )
        return *scaled, None, None, None


class _Constant(torch.autograd.Function):
    """A gradient that refuses to be differentiated in the clouds it belongs to."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, grad_gradient: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "sinkhorn_divergence is differentiable once: its gradient holds the potentials "
            "constant. Take second derivatives by differences of gradients."
        )


def _run(
    x: Tensor,
    y: Tensor,
    reg: float,
    a: Tensor,
    b: Tensor,
    g: Tensor | None,
    *,
    symmetric: bool,
    tol: float,
    max_iter: int,
) -> State:
    """Solve a problem in bits, from `g` or cold."""
    if max_iter < 1 or not tol >= 0:
        raise ValueError(
            f"max_iter must be at least 1 and tol not negative, got {max_iter!r} and {tol!r}."
        )
    problem = *_resolved(x, y, reg), a, b
    start = cold_start(*problem, symmetric=symmetric) if g is None else g
    return solve(*problem, start, symmetric=symmetric, tol=tol, max_iter=max_iter)


def _resolved(x: Tensor, y: Tensor, reg: float) -> tuple[Tensor, Tensor]:
    """Return the clouds in bits, or raise a ValueError if no precision resolves `reg` on them."""
    if not 0 < reg < math.inf:
        raise ValueError(f"reg must be a positive, finite number, got {reg!r}.")
    x, y = in_bits(x, y, reg)
    bits = largest_cost(x, y)
    if not bits <= MOST_BITS[x.dtype]:
        needed = bits / MOST_BITS[x.dtype] * reg
        raise ValueError(
            f"reg={reg:.3g} is below what {x.dtype} resolves on clouds of this size: use at least "
            f"{needed:.3g} (.05 of the mean cost is common), or exact_plan for no regularisation."
        )
    return x, y


def _warm_start(potential: Tensor, cloud: Tensor, reg: float) -> Tensor:
    """Return an initial potential in bits, checked against the cloud it belongs to."""
    if potential.shape != (len(cloud),) or not bool(torch.isfinite(potential).all()):
        raise ValueError(
            f"The initial potential must hold {len(cloud)} finite numbers, one for each point, "
            f"got shape {tuple(potential.shape)}."
        )
    return potential.detach().to(cloud.device, best_float(cloud.device)) / bit(reg)


def _plan(
    x: Tensor, y: Tensor, a: Tensor, b: Tensor, reg: float, tol: float, state: State
) -> EntropicPlan:
    """Return the plan of a solved problem, in the unit of the cost and the precision of `x`."""
    f, g = state.f * bit(reg), state.g * bit(reg)
    return EntropicPlan(
        x=x.detach(),
        y=y.detach(),
        weights_x=a.to(x.dtype),
        weights_y=b.to(x.dtype),
        f=f.to(x.dtype),
        g=g.to(x.dtype),
        reg=float(reg),
        value=float(a @ f + b @ g),
        marginal_error=state.error,
        n_iter=state.n_iter,
        converged=state.error <= tol,
    )
