r"""Semi-discrete optimal transport: from a law one can sample to all rows of a data set at once.

For the cost :math:`c(x, y) = |x - y|^2 / 2` the dual problem has one unknown for each data row,

.. math::

    \max_{g \in \mathbb{R}^m} \; \mathbb{E}_x \min_j \{c(x, y_j) - g_j\} + \sum_j b_j g_j,

and its solution gives the optimal map at every point, seen or unseen:
:math:`T(x) = y_{j^*}` with :math:`j^* = \arg\min_j c(x, y_j) - g_j`. The gradient of the dual is
:math:`b_j - \mathbb{P}(j^* = j)`: a row that draws too much mass gets a lower potential.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skwgf._tensor import argmax_rows
from skwgf.transport.cost import mean_cost
from skwgf.transport.exact import exact_plan

# Largest number of rows for which the exact plan between as many points and rows gives the
# potential (about ten seconds of network simplex); beyond it the dual is climbed by sampling.
_EXACT_ROWS = 5000
_TILE = 1024
N_UP=1


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
    """
    offset = (0.5 * y.square().sum(1) - potential).unsqueeze(0)
    return torch.addmm(offset, x, y.T, beta=-1).div_(reg).softmax(1)


class SemidiscreteTransport:
    r"""Map towards all target rows through one dual vector, kept up to date along a flow.

    The first call solves for the dual vector; every later one corrects it by stochastic ascent,
    :math:`g_j \leftarrow g_j + \gamma\, reg\, (1 - \hat p_j / b_j)`, :math:`\hat p_j` the
    smoothed mass of cell j on a batch. Along the exact flow g shrinks by :math:`1 - \tau` a step
    (the plan stays, the points approach their images); the caller says so through `shrink`.

    Parameters
    ----------
    y : Tensor of shape (m, d)
        Target rows.

    side : Tensor of shape (m, k), default=None
        Coordinates that enter the cost but not the image, such as scaled class probabilities.

    reg : float, default=0.0
        Entropic smoothing of the map, in the unit of the cost; 0 maps each point to one row.

    ascent_reg : float, default=0.01
        Smoothing of the cells during the ascent, relative to the mean cost.
    """

    def __init__(
        self,
        y: Tensor,
        *,
        side: Tensor | None = None,
        reg: float = 0.0,
        ascent_reg: float = 0.01,
    ) -> None:
        self.y = y
        self.features = y if side is None else torch.cat([y, side], 1)
        self.reg = reg
        self.ascent_reg = ascent_reg
        self.potential = torch.zeros(len(y), dtype=y.dtype, device=y.device)
        self.n_updates = 0
        self.mean_cost = 0.0

    def solve(self, x: Tensor, side: Tensor | None = None) -> None:
        """Solve for the dual vector on a sample of the law; more points give a better dual."""
        x = x if side is None else torch.cat([x, side], 1)
        self.mean_cost = mean_cost(x, self.features)
        if len(self.y) <= _EXACT_ROWS and len(x) <= _EXACT_ROWS:
            self.potential = exact_plan(x, self.features).potential_y
        else:
            for reg in (1.0, 0.3, 0.1, 0.03, 0.01):
                for tile in torch.split(x, _TILE):
                    self._ascend(tile, reg, gain=1.0)
        self.n_updates = 1

    def update(self, x: Tensor, side: Tensor | None = None) -> None:
        """Correct the dual vector after the law has moved, on a batch of it."""
        x = x if side is None else torch.cat([x, side], 1)
        self.mean_cost = mean_cost(x, self.features)
        for _ in range(N_UP):
            self._ascend(x, self.ascent_reg, gain=1.0)
        self.n_updates += 1

    def cells(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        """Return the index of the row that each point is mapped to without smoothing."""
        points = x if side is None else torch.cat([x, side], 1)
        return cell_index(points, self.features, self.potential)

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        """Return the images T(x), of the shape of `x`."""
        points = x if side is None else torch.cat([x, side], 1)
        if self.reg == 0:
            return self.y[self.cells(x, side)]
        return torch.cat(
            [
                cell_probabilities(tile, self.features, self.potential, self.reg) @ self.y
                for tile in torch.split(points, _TILE)
            ]
        )

    def _ascend(self, x: Tensor, reg: float, *, gain: float) -> None:
        """Take one stochastic ascent step; `gain` is its size in units of the smoothing."""
        if self.mean_cost == 0:
            return
        reg = reg * self.mean_cost
        mass = cell_probabilities(x, self.features, self.potential, reg).mean(0) * len(self.y)
        self.potential = self.potential - gain * reg * mass.clamp_(1e-6).log_()

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from call to call."""
        return {
            "potential": self.potential.clone(),
            "n_updates": self.n_updates,
            "mean_cost": self.mean_cost,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state returned by `state_dict`."""
        self.potential = state["potential"].clone()
        self.n_updates = state["n_updates"]
        self.mean_cost = state["mean_cost"]
