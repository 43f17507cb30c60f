"""Exact optimal transport between two weighted clouds, as a sparse plan with its potentials."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from skwgf._tensor import best_float
from skwgf.transport._network_simplex import solve
from skwgf.transport.cost import check_clouds, mean_cost, power_cost, unit_weights
from skwgf.transport.sinkhorn import sinkhorn, sinkhorn_self

# Below this number of pairs the network simplex is as fast on all of them.
_FEW_PAIRS = 2**18
# The entropic plans, from coarse to fine, whose potential says which pairs matter: regularisation
# relative to the mean cost and the number of sweeps it is worth; and the marginal error.
_STAGES, _MARGINAL = ((0.05, 10), (0.01, 15)), 0.01


@dataclass(frozen=True)
class TransportPlan:
    r"""A sparse optimal plan between `n` points x and `m` points y, with its potentials.

    Entry `k` moves `mass[k]` from `x[rows[k]]` to `y[cols[k]]`. The potentials solve the dual
    problem,

    .. math:: \max_{f, g} \sum_i a_i f_i + \sum_j b_j g_j, \quad f_i + g_j \le c_{ij},

    with equality where the plan has mass.

    Parameters
    ----------
    rows, cols : Tensor of int64, shape (k,)
        The pairs of points that exchange mass, at most n + m - 1 of them.
    mass : Tensor of shape (k,)
        Positive, of sum one.
    shape : tuple (n, m)
    potential_x : Tensor of shape (n,)
        The potential f, in the unit of the cost.
    potential_y : Tensor of shape (m,)
        The potential g.
    cost : float
        The optimal value, the sum of mass times cost.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.exact import exact_plan
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> y = torch.tensor([[5.0], [2.0]])
    >>> plan = exact_plan(x, y)
    >>> plan.permutation
    tensor([1, 0])
    >>> plan.cost
    5.0
    """

    rows: Tensor
    cols: Tensor
    mass: Tensor
    shape: tuple[int, int]
    potential_x: Tensor
    potential_y: Tensor
    cost: float

    def barycenter(self, values_y: Tensor) -> Tensor:
        r"""Return, for each x, the mean of `values_y` over the points that receive its mass.

        With `values_y` = y this is the barycentric map
        :math:`T(x_i) = \sum_j P_{ij} y_j / \sum_j P_{ij}`.

        Parameters
        ----------
        values_y : Tensor of shape (m, k)
            One row of values (positions, labels, ...) for each y.

        Returns
        -------
        Tensor of shape (n, k)

        Raises
        ------
        ValueError
            If `values_y` has not one row for each y.
        """
        return self._conditional_mean(values_y, self.cols, self.rows, self.shape[::-1], "values_y")

    def pushforward(self, values_x: Tensor) -> Tensor:
        """Return, for each y, the mean of `values_x` over the points that sent its mass.

        Parameters
        ----------
        values_x : Tensor of shape (n, k)
            One row of values for each x.

        Returns
        -------
        Tensor of shape (m, k)

        Raises
        ------
        ValueError
            If `values_x` has not one row for each x.
        """
        return self._conditional_mean(values_x, self.rows, self.cols, self.shape, "values_x")

    @property
    def permutation(self) -> Tensor:
        """The index of the y that each x is sent to, when the plan is one to one.

        Raises
        ------
        ValueError
            If some point splits its mass, which unequal counts or unequal weights bring about.
        """
        n, m = self.shape
        order = torch.argsort(self.rows)
        columns = self.cols[order]
        if n != m or len(self.rows) != n or len(torch.unique(columns)) != n:
            raise ValueError(
                f"This plan between {n} and {m} points splits mass and is no permutation: use "
                "barycenter for the mean image of each point."
            )
        return columns

    def _conditional_mean(
        self, values: Tensor, given: Tensor, onto: Tensor, shape: tuple[int, ...], name: str
    ) -> Tensor:
        """Average `values[given]` over the entries that share the index `onto`."""
        if values.ndim != 2 or len(values) != shape[0]:
            raise ValueError(
                f"{name} must have shape ({shape[0]}, k), one row for each point, "
                f"got {tuple(values.shape)}."
            )
        # Dividing the mass first keeps every weight of order one, however small a point's mass.
        total = self.mass.new_zeros(shape[1]).index_add_(0, onto, self.mass)
        share = (self.mass / total[onto]).to(values.dtype)
        sums = values.new_zeros(shape[1], values.shape[1])
        return sums.index_add(0, onto, share[:, None] * values[given])


def exact_plan(
    x: Tensor,
    y: Tensor,
    *,
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
    p: float = 2.0,
    init: tuple[Tensor, Tensor] | None = None,
) -> TransportPlan:
    r"""Solve the Kantorovich problem between two clouds for the cost :math:`|x - y|^p / p`.

    .. math:: \min_{P \ge 0} \sum_{ij} P_{ij} |x_i - y_j|^p / p, \quad
        \sum_j P_{ij} = a_i, \quad \sum_i P_{ij} = b_j,

    by the network simplex of POT, in float64 on the CPU and in units in which the largest cost is
    one. Where potentials near the optimal ones are at hand, from `init` or from a quick entropic
    plan (p = 2), it works on the pairs of least reduced cost alone and adds others until the
    potentials prove the plan optimal among all pairs. The value is summed again from coordinate
    differences over the entries of the plan, so that equal clouds have the cost zero and not a
    rounding error.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        float32 or float64.
    y : Tensor of shape (m, d)
        Same precision and device as `x`.
    weights_x, weights_y : Tensor of shape (n,) and (m,), default=None
        Positive weights, normalised here; None gives equal weights.
    p : float, default=2.0
        Power of the distance, at least 1. With p = 2 the cost is the half squared distance.
    init : tuple (f, g) of Tensors, default=None
        Potentials of an earlier plan, as along a flow. They make the search faster and do not
        change the optimum; f follows from g, which may belong to other points x.

    Returns
    -------
    TransportPlan
        In the precision and on the device of `x`.

    Raises
    ------
    ValueError
        If the clouds, the weights, `p` or `init` are not as described.
    RuntimeError
        If the network simplex stops before the optimum.

    References
    ----------
    N. Bonneel, M. van de Panne, S. Paris, W. Heidrich, "Displacement interpolation using
    Lagrangian mass transport", ACM Transactions on Graphics 30(6), 2011.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.exact import exact_plan
    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    >>> plan = exact_plan(x, x + torch.tensor([0.0, 2.0]))
    >>> plan.cost
    2.0
    >>> plan.barycenter(x + torch.tensor([0.0, 2.0]))
    tensor([[0., 2.],
            [1., 2.]])
    """
    check_clouds(x, y)
    a, b = unit_weights(weights_x, x, "weights_x"), unit_weights(weights_y, y, "weights_y")
    points_x, points_y, unit = _rescale(x, y)
    cost = power_cost(points_x, points_y, p)
    largest = float(cost.max()) or 1.0
    scale = largest * unit**p
    known = None if init is None else _given_potential(init, points_y, unit**p)
    start = _starting_potential(points_x, points_y, a, b, p, known)
    rows, cols, mass, f, g = solve(
        *(a, b, cost.div_(largest)),
        start=None if start is None else start / largest,
        feasible=quantile_coupling(a, b)[:2],
    )
    moved = torch.linalg.vector_norm(points_x[rows] - points_y[cols], dim=1)
    value = float((mass * moved**p).sum() / p)
    return TransportPlan(
        rows=rows,
        cols=cols,
        mass=mass.to(x.dtype),
        shape=(len(x), len(y)),
        potential_x=(scale * f).to(x.dtype),
        potential_y=(scale * g).to(x.dtype),
        cost=value * unit**p,
    )


def quantile_coupling(weights_x: Tensor, weights_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the monotone plan between two sorted, weighted families of points of the line.

    On the line this plan is optimal for every convex cost of the difference; it depends on the
    weights and the order of the points alone.

    Parameters
    ----------
    weights_x : Tensor of shape (n,)
        Positive weights of sum one, in the order of the sorted points x.
    weights_y : Tensor of shape (m,)
        The same for y.

    Returns
    -------
    rows, cols : Tensor of int64, shape (k,)
        Indices into the sorted points, k < n + m.
    mass : Tensor of shape (k,)

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.exact import quantile_coupling
    >>> rows, cols, mass = quantile_coupling(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
    >>> rows, cols, mass
    (tensor([0, 0, 1]), tensor([0, 1, 1]), tensor([0.2500, 0.2500, 0.5000]))
    """
    levels_x, levels_y = weights_x.cumsum(0), weights_y.cumsum(0)
    # The last level is one up to rounding: set it, so that both families end together.
    levels_x[-1] = levels_y[-1] = 1.0
    levels = torch.unique(torch.cat([levels_x, levels_y]))
    mass = torch.diff(levels, prepend=levels.new_zeros(1))
    return torch.searchsorted(levels_x, levels), torch.searchsorted(levels_y, levels), mass


def _rescale(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return both clouds centred and of unit size, in float64, and the size divided by."""
    dtype = best_float(x.device)
    x, y = x.detach().to(dtype), y.detach().to(dtype)
    # Halving before adding keeps the centre finite for coordinates near the largest float.
    centre = x.mean(dim=0) / 2 + y.mean(dim=0) / 2
    x, y = x - centre, y - centre
    unit = max(float(x.abs().max()), float(y.abs().max())) or 1.0
    return x / unit, y / unit, unit


def _starting_potential(
    x: Tensor, y: Tensor, a: Tensor, b: Tensor, p: float, g: Tensor | None
) -> Tensor | None:
    """Return a potential of y near the optimal one, from `g` or cold; None where it would not pay.

    It is an entropic one, which spreads the mass outwards, less that of y with itself, which does
    the same.
    """
    mean = mean_cost(x, y)
    if len(x) * len(y) < _FEW_PAIRS or mean == 0:
        return None
    if p != 2.0:
        return g
    x, y, (reg, sweeps) = x.float(), y.float(), _STAGES[-1]
    own = sinkhorn_self(y, reg * mean, weights=b, tol=_MARGINAL, max_iter=sweeps).g
    init = x.new_zeros(len(x)), y.new_zeros(len(y)) if g is None else own + g
    for reg, sweeps in _STAGES if g is None else _STAGES[-1:]:
        plan = sinkhorn(
            *(x, y, reg * mean),
            weights_x=a,
            weights_y=b,
            init=init,
            tol=_MARGINAL,
            max_iter=sweeps,
        )
        init = plan.f, plan.g
    return (init[1] - own).to(a.dtype)


def _given_potential(init: tuple[Tensor, Tensor], y: Tensor, unit: float) -> Tensor:
    """Return the potential of y in `init`, in the unit of the rescaled cost."""
    g = init[1].detach().to(y) / unit
    if g.shape != (len(y),) or not bool(torch.isfinite(g).all()):
        raise ValueError(
            f"init must be a pair of potentials (f, g) with {len(y)} finite numbers in g, one for "
            f"each y, got shape {tuple(g.shape)}."
        )
    return g
