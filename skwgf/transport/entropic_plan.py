"""The plan of an entropic transport problem, held as its potentials."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from skwgf._tensor import best_float
from skwgf.transport._problem import bit, in_bits
from skwgf.transport._tiles import distances, soft_minimum, soft_rows
from skwgf.transport.cost import check_clouds, unit_weights


@dataclass(frozen=True)
class EntropicPlan:
    r"""The entropic plan between two weighted clouds, held as its potentials.

    .. math:: P_{ij} = a_i b_j \exp\big((f_i + g_j - c_{ij}) / \text{reg}\big), \quad
        c_{ij} = |x_i - y_j|^p / p

    Parameters
    ----------
    x, y : Tensor of shape (n, d) and (m, d)
        The clouds.
    weights_x, weights_y : Tensor of shape (n,) and (m,)
        Their weights a and b, of sum one.
    f, g : Tensor of shape (n,) and (m,)
        The potentials, in the unit of the cost.
    reg : float
        Regularisation, in the unit of the cost.
    value : float
        The dual value :math:`\langle a, f\rangle + \langle b, g\rangle`: the transport cost plus
        `reg` times the Kullback-Leibler divergence of the plan from the product measure. It is
        below the exact value by a term of second order in the marginal error.
    marginal_error : float
        L1 distance of the column marginal to b; the row marginal is exact.
    n_iter : int
        Sweeps over the whole kernel.
    converged : bool
        Whether the marginal error met the tolerance.
    p : int, default=2
        Power of the distance in the cost, 1 or 2.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.sinkhorn import sinkhorn
    >>> x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    >>> plan = sinkhorn(x, x + 3, reg=0.01)
    >>> plan.barycentric_map().round(decimals=3)
    tensor([[3.],
            [4.]], dtype=torch.float64)
    """

    x: Tensor
    y: Tensor
    weights_x: Tensor
    weights_y: Tensor
    f: Tensor
    g: Tensor
    reg: float
    value: float
    marginal_error: float
    n_iter: int
    converged: bool
    p: int = 2

    def barycenter(self, values_y: Tensor, x_new: Tensor | None = None) -> Tensor:
        r"""Return the conditional mean of `values_y` given each point.

        .. math:: \sum_j w_j(x) v_j \Big/ \sum_j w_j(x), \quad
            w_j(x) = b_j \exp\big((g_j - |x - y_j|^p/p) / \text{reg}\big)

        Only g enters, so that points outside the cloud have an image too.

        Parameters
        ----------
        values_y : Tensor of shape (m, k)
            One row of values for each y.
        x_new : Tensor of shape (q, d), default=None
            Where to evaluate; None means at x.

        Returns
        -------
        Tensor of shape (q, k)

        Raises
        ------
        ValueError
            If `values_y` has not one row for each y, or `x_new` is not a cloud like x.
        """
        if values_y.ndim != 2 or len(values_y) != len(self.y):
            raise ValueError(
                f"values_y must have shape ({len(self.y)}, k), one row for each y, "
                f"got {tuple(values_y.shape)}."
            )
        return torch.cat([rows.to(values_y.dtype) @ values_y for _, rows in self._rows(x_new)])

    def barycentric_map(self, x_new: Tensor | None = None) -> Tensor:
        """Return the entropic map T: the mean of y given each point of `x_new` (None: of x)."""
        return self.barycenter(self.y, x_new)

    def potential_gradient(self, x_new: Tensor | None = None) -> Tensor:
        r"""Return the gradient of the potential f at each point of `x_new` (None: of x).

        .. math:: \nabla f(x) = \sum_j w_j(x) \nabla_x |x - y_j|^p/p \Big/ \sum_j w_j(x)

        For p = 2 it is :math:`x - T(x)`; for p = 1 the mean of unit vectors, zero for a y that
        coincides with x.

        Returns
        -------
        Tensor of shape (q, d)
        """
        points = self.x if x_new is None else x_new
        if self.p == 2:
            return points - self.barycentric_map(x_new)
        wide = best_float(points.device)  # near points have large factors of opposite sign
        y, parts = self.y.to(wide), []
        for part, rows in self._rows(x_new):
            part = part.to(wide)
            factors = rows.to(wide) / distances(part, y)
            factors.masked_fill_(~factors.isfinite(), 0.0)
            parts.append(part * factors.sum(dim=1, keepdim=True) - factors @ y)
        return torch.cat(parts).to(points.dtype)

    def extended_potential(self, y_new: Tensor) -> Tensor:
        r"""Return the potential g at new points of the second cloud.

        .. math:: g(y) = -\text{reg} \log \sum_i a_i \exp\big((f_i - c(x_i, y)) / \text{reg}\big)

        With it the problem of another batch starts close to its solution: `init=(f, g)`.

        Parameters
        ----------
        y_new : Tensor of shape (q, d)

        Returns
        -------
        Tensor of shape (q,)
        """
        check_clouds(self.x, y_new)
        y, x = in_bits(y_new[None], self.x[None], self.reg, self.p)
        weights = unit_weights(self.weights_x, self.x, "weights_x")
        potential = self.f.to(weights.dtype) / bit(self.reg) + torch.log2(weights)
        g = soft_minimum(y, x, potential[None], self.p)[0] * bit(self.reg)
        return g.to(y_new.dtype)

    def coupling(self) -> Tensor:
        """Return the plan P as a dense tensor of shape (n, m) with exact row sums."""
        rows = torch.cat([rows.to(self.x.dtype) for _, rows in self._rows(None)])
        return rows.mul_(self.weights_x[:, None])

    def transpose(self) -> EntropicPlan:
        """Return the same plan read from y to x; its maps are those of y among x."""
        return EntropicPlan(
            x=self.y,
            y=self.x,
            weights_x=self.weights_y,
            weights_y=self.weights_x,
            f=self.g,
            g=self.f,
            reg=self.reg,
            value=self.value,
            marginal_error=self.marginal_error,
            n_iter=self.n_iter,
            converged=self.converged,
            p=self.p,
        )

    @torch.no_grad()
    def _rows(self, x_new: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield points of `x_new` (None: x) and the conditional laws there, a tile at a time."""
        if x_new is not None:
            check_clouds(x_new, self.y)
        points = self.x if x_new is None else x_new
        x, y = in_bits(points[None], self.y[None], self.reg, self.p)
        weights = unit_weights(self.weights_y, self.y, "weights_y")
        potential = self.g.to(weights.dtype) / bit(self.reg) + torch.log2(weights)
        first = 0
        for (tile,), _ in soft_rows(x, y, potential[None], self.p):
            yield points[first : first + len(tile)], tile.div_(tile.sum(dim=1, keepdim=True))
            first += len(tile)
