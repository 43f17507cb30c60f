"""The plan of an entropic transport problem, and the units in which it is worked on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from skwgf._tensor import best_float
from skwgf.transport._scaling import largest_cost, soft_rows
from skwgf.transport.cost import check_clouds, unit_weights

# Largest cost, in bits of reg, whose rounding leaves the kernel right to about one percent; and
# least cost that is not lost in the rounding of a kernel near one, where float32 can be left.
MOST_BITS = {torch.float32: 2.0**18, torch.float64: 2.0**46}
_LEAST_BITS = 2.0**-8


@dataclass(frozen=True)
class EntropicPlan:
    r"""The entropic plan between two weighted clouds, held as its potentials.

    .. math:: P_{ij} = a_i b_j \exp\big((f_i + g_j - |x_i - y_j|^2/2) / \text{reg}\big)

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

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.sinkhorn import sinkhorn
    >>> x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    >>> plan = sinkhorn(x, x + 3, reg=0.01)
    >>> plan.barycentric_map()
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

    def barycenter(self, values_y: Tensor, x_new: Tensor | None = None) -> Tensor:
        r"""Return the conditional mean of `values_y` given each point.

        .. math:: \sum_j w_j(x) v_j \Big/ \sum_j w_j(x), \quad
            w_j(x) = b_j \exp\big((g_j - |x - y_j|^2/2) / \text{reg}\big)

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
        return torch.cat([rows.to(values_y.dtype) @ values_y for rows in self._rows(x_new)])

    def barycentric_map(self, x_new: Tensor | None = None) -> Tensor:
        """Return the entropic map T: the mean of y given each point of `x_new` (None: of x)."""
        return self.barycenter(self.y, x_new)

    def coupling(self) -> Tensor:
        """Return the plan P as a dense tensor of shape (n, m) with exact row sums."""
        rows = torch.cat([rows.to(self.x.dtype) for rows in self._rows(None)])
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
        )

    @torch.no_grad()
    def _rows(self, x_new: Tensor | None) -> Iterator[Tensor]:
        """Yield the conditional laws given the points of `x_new` (None: x), a tile at a time."""
        if x_new is not None:
            check_clouds(x_new, self.y)
        x, y = in_bits(self.x if x_new is None else x_new, self.y, self.reg)
        weights = unit_weights(self.weights_y, self.y, "weights_y")
        potential = self.g.to(weights.dtype) / bit(self.reg) + torch.log2(weights)
        for tile, _ in soft_rows(x, y, potential):
            yield tile.div_(tile.sum(dim=1, keepdim=True))


def bit(reg: float) -> float:
    """Return the unit of the iterations, in the unit of the cost."""
    return reg * math.log(2)


def in_bits(x: Tensor, y: Tensor, reg: float) -> tuple[Tensor, Tensor]:
    """Return both clouds centred and scaled to costs in bits, in a precision that resolves them."""
    centre, size = y.mean(dim=0), math.sqrt(bit(reg))
    scaled_x, scaled_y = (x - centre) / size, (y - centre) / size
    widest = best_float(x.device)
    bits = largest_cost(scaled_x, scaled_y)
    if x.dtype != widest and not _LEAST_BITS <= bits <= MOST_BITS[x.dtype]:
        return in_bits(x.to(widest), y.to(widest), reg)
    return scaled_x, scaled_y
