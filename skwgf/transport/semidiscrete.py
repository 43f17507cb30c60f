r"""Semi-discrete optimal transport: from a law one can sample to all rows of a data set at once.

For the cost :math:`c(x, y) = |x - y|^2 / 2` the dual problem has one unknown for each data row,

.. math::

    \max_{g \in \mathbb{R}^m} \; \mathbb{E}_x \min_j \{c(x, y_j) - g_j\} + \sum_j b_j g_j,

and its solution gives the optimal map at every point, seen or unseen:
:math:`T(x) = y_{j^*}` with :math:`j^* = \arg\min_j c(x, y_j) - g_j`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from skwgf._tensor import argmax_rows
from skwgf.transport.cost import mean_cost
from skwgf.transport.exact import exact_plan
from skwgf.transport.sinkhorn import sinkhorn

# Largest number of points and rows for which the exact plan gives the potential (about ten
# seconds of network simplex); beyond it an entropic one does.
_EXACT_ROWS = 5000
# The first entropic plan: regularisation relative to the mean cost (with .01 modes narrower than a
# tenth of the data come out a third too wide), marginal error, entries of the kernel (400 MB).
_SOLVE_REG, _MARGINAL, _KERNEL_ENTRIES = 3e-3, 1e-3, 10**8
# Regularisations of the sweeps of an update, in units of the finest. The coarse ones move mass
# between distant clusters, which a fine one alone would take hundreds of sweeps for.
_SWEEPS = (100.0, 10.0, 1.0)
# Rows in one pass.
_TILE = 1024
# Damping of the rows' own problem, largest error in units of reg, and number of steps.
_SELF_DAMPING, _SELF_TOL, _SELF_STEPS = 2 / 3, 1e-4, 50
# A cell without mass on a batch would get an infinite potential.
_LEAST_MASS = 1e-6


def cell_index(x: Tensor, y: Tensor, potential: Tensor) -> Tensor:
    r"""Return the cell :math:`\arg\min_j |x_i - y_j|^2/2 - g_j` of each point.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Points.

    y : Tensor of shape (m, d)
        Atoms.

    potential : Tensor of shape (m,)
        Dual vector g.

    Returns
    -------
    index : Tensor of shape (n,), int64

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport import cell_index
    >>> x, y = torch.tensor([[0.0], [0.4], [0.9]]), torch.tensor([[0.0], [1.0]])
    >>> cell_index(x, y, torch.tensor([0.0, 0.2]))
    tensor([0, 1, 1])
    """
    offset = (0.5 * y.square().sum(1) - potential).unsqueeze(0)
    scores = torch.empty(min(_TILE, len(x)), len(y), dtype=x.dtype, device=x.device)
    cells = []
    for tile in torch.split(x, _TILE):
        out = scores[: len(tile)]
        cells.append(argmax_rows(torch.addmm(offset, tile, y.T, beta=-1, out=out)))
    return torch.cat(cells)


def cell_probabilities(x: Tensor, y: Tensor, potential: Tensor, reg: float) -> Tensor:
    r"""Return the entropic cells :math:`p_{ij} \propto \exp((g_j - |x_i - y_j|^2/2) / reg)`.

    Rows sum to one. The shape is (n, m): tile over `x` when n is large.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Points.

    y : Tensor of shape (m, d)
        Atoms.

    potential : Tensor of shape (m,)
        Dual vector g.

    reg : float
        Regularisation, in the unit of the cost.

    Returns
    -------
    Tensor of shape (n, m)

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport import cell_probabilities
    >>> x, y = torch.tensor([[0.0], [0.5]]), torch.tensor([[0.0], [1.0]])
    >>> cell_probabilities(x, y, torch.zeros(2), reg=0.1)
    tensor([[0.9933, 0.0067],
            [0.5000, 0.5000]])
    """
    offset = (0.5 * y.square().sum(1) - potential).unsqueeze(0)
    return torch.addmm(offset, x, y.T, beta=-1).div_(reg).softmax(1)


def dual_sweep(x: Tensor, y: Tensor, dual: Tensor, reg: float) -> Tensor:
    r"""Return the entropic dual vector after one Sinkhorn sweep on a batch of the law.

    .. math:: g_j \leftarrow g_j - reg \, \log (m \hat p_j)

    with :math:`\hat p_j` the mass of the smoothed cell j on the batch: a row that draws more than
    its share of the mass gets a lower potential.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Batch.

    y : Tensor of shape (m, d)
        Atoms.

    dual : Tensor of shape (m,)
        Dual vector g.

    reg : float
        Regularisation, in the unit of the cost.

    Returns
    -------
    Tensor of shape (m,)
    """
    mass = cell_probabilities(x, y, dual, reg).mean(0) * len(y)
    return dual - reg * mass.clamp_(_LEAST_MASS).log_()


def self_dual(y: Tensor, reg: float) -> Tensor:
    r"""Return the entropic dual vector of the transport of the rows of `y` to themselves.

    It solves :math:`f = softmin(f)` by damped steps that cut the error to a third, a tile of rows
    at a time: the memory is linear in the number of rows.
    """
    half_norm = 0.5 * y.square().sum(1)
    dual = torch.zeros_like(half_norm)
    for _ in range(_SELF_STEPS):
        soft = [
            torch.addmm((dual - half_norm).unsqueeze(0), tile, y.T).div_(reg).logsumexp(1)
            for tile in torch.split(y, _TILE)
        ]
        gap = half_norm - reg * (torch.cat(soft) - math.log(len(y))) - dual
        dual = dual + _SELF_DAMPING * gap
        if float(gap.abs().max()) <= _SELF_TOL * reg:
            break
    return dual


class SemidiscreteTransport:
    r"""Map towards all target rows through one dual vector, kept up to date along a flow.

    The first potential is that of an exact plan when points and rows are few, else of an entropic
    one. Later ones follow the moving law: :meth:`shrink` after a step, and a Sinkhorn sweep on a
    batch at each of three regularisations, from coarse to fine.

    A potential found with regularisation `reg` and used without it would spread the mass outwards
    (rows at the rim of a cluster get more than their share). Subtracting the dual vector of the
    rows' transport to themselves,

    .. math:: g = g^{x \to y}_{reg} - g^{y \to y}_{reg},

    cancels that, exactly so when the law has reached the target.

    Parameters
    ----------
    y : Tensor of shape (m, d)
        Target rows.

    side : Tensor of shape (m, k), default=None
        Coordinates that enter the cost but not the image, such as scaled class probabilities.

    images : Tensor of shape (m, c), default=None
        What the rows of `y` stand for in the images, if not themselves: the points and `y` may be
        features of what is moved.

    reg : float, default=0.0
        Entropic smoothing of the map, in the unit of the cost; 0 maps each point to one row.

    sweep_reg : float, default=0.01
        Regularisation of the finest sweeps, relative to the mean cost between target rows.

    Attributes
    ----------
    potential : Tensor of shape (m,)
        The dual vector g.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport import SemidiscreteTransport
    >>> transport = SemidiscreteTransport(torch.tensor([[5.0], [6.0]]))
    >>> transport.solve(torch.tensor([[0.0], [0.1], [0.9], [1.0]]))
    >>> transport(torch.tensor([[0.05], [0.95]]))
    tensor([[5.],
            [6.]])
    """

    def __init__(
        self,
        y: Tensor,
        *,
        side: Tensor | None = None,
        images: Tensor | None = None,
        reg: float = 0.0,
        sweep_reg: float = 0.01,
    ) -> None:
        self.y = y
        self.images = y if images is None else images
        self.features = y if side is None else torch.cat([y, side], 1)
        self.reg = reg
        self._unit = mean_cost(self.features, self.features)
        self.sweep_reg = sweep_reg * self._unit
        self.potential = torch.zeros(len(y), dtype=y.dtype, device=y.device)
        self._self_duals: dict[float, Tensor] = {}

    def solve(self, x: Tensor, side: Tensor | None = None) -> None:
        """Solve for the potential on points of the law: the more of them, the better."""
        x = x if side is None else torch.cat([x, side], 1)
        if max(len(x), len(self.y)) <= _EXACT_ROWS:
            self.potential = exact_plan(x, self.features).potential_y
        elif self.sweep_reg > 0:
            x = x[: max(_KERNEL_ENTRIES // len(self.y), 1)]
            reg = _SOLVE_REG * self._unit
            plan = sinkhorn(x, self.features, reg, tol=_MARGINAL)
            self.potential = plan.g - self._correction(reg)

    def shrink(self, step: float) -> None:
        """Follow a step of the exact flow: the plan stays, the way that is left gets shorter."""
        self.potential = (1.0 - step) * self.potential

    def update(self, x: Tensor, side: Tensor | None = None) -> None:
        """Correct the potential after the law has moved, on a batch of it."""
        if self.sweep_reg == 0:
            return
        x = x if side is None else torch.cat([x, side], 1)
        for factor in _SWEEPS:
            reg = factor * self.sweep_reg
            dual = dual_sweep(x, self.features, self.potential + self._correction(reg), reg)
            self.potential = dual - self._correction(reg)

    def cells(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        """Return the index of the row that each point is mapped to without smoothing."""
        points = x if side is None else torch.cat([x, side], 1)
        return cell_index(points, self.features, self.potential)

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        """Return the images T(x), of the shape of `x` without `images`."""
        if self.reg == 0:
            return self.images[self.cells(x, side)]
        points = x if side is None else torch.cat([x, side], 1)
        return torch.cat(
            [
                cell_probabilities(tile, self.features, self.potential, self.reg) @ self.images
                for tile in torch.split(points, _TILE)
            ]
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from call to call."""
        return {"potential": self.potential.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state returned by `state_dict`."""
        self.potential = state["potential"].clone()

    def _correction(self, reg: float) -> Tensor:
        """Return the rows' own dual vector, computed when first needed."""
        if reg not in self._self_duals:
            self._self_duals[reg] = self_dual(self.features, reg)
        return self._self_duals[reg]
