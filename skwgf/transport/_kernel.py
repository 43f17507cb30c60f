r"""The kernels that the iterations of :mod:`skwgf.transport._scaling` multiply with.

A kernel lies in row tiles of the size of a processor's cache, either all in one memory, written
once, or one at a time, written again at every use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from skwgf.transport._tiles import (
    FLOOR,
    Workspace,
    exponentiate,
    half_norms,
    lay_out,
    soft_minimum,
    tile_rows,
    with_ones,
    writer,
)

_LIFT = 2.0**30  # keeps the products of the second multiplication from being subnormal, so slow


class CrossKernel:
    r"""The kernel of a problem between two clouds,

    .. math:: K_{ij} = b_j \, 2^{\beta_j - c_{ij} - s_i}, \quad \max_j K_{ij} = 1,

    for a base potential :math:`\beta` of y. Products are taken with vectors
    :math:`2^{g - \beta}`; the base changes only when g has left the range in which these products
    are exact, or at every use where the tiles are not kept.
    """

    # Steps of the extrapolated iteration (a little over-relaxed) and of the plain one far away.
    damping, plain_step = 1.5, 1.0

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        a: Tensor,
        b: Tensor,
        *,
        power: int,
        workspace: Workspace,
        tiled: bool,
    ) -> None:
        self.x, self.y = x, y
        self.power = power
        self.weights = b
        self.log_a, self.log_b = torch.log2(a), torch.log2(b)
        self.limit = -FLOOR[x.dtype] / 3  # keeps cut entries below the rounding of the products
        self.points = torch.split(with_ones(x, power), tile_rows(y), dim=1)
        self.a_tiles = torch.split((_LIFT * a).to(x.dtype)[:, None], tile_rows(y), dim=2)
        widths = [y.shape[1]] * len(self.points)
        self.tiles = lay_out(self.points, widths, workspace, tiled)
        self.tiled = tiled
        self.base = torch.full_like(b, math.inf)
        self.norms_x = half_norms(x, b.dtype, power)
        self.shift = torch.zeros_like(a)

    def iterate(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return f, the soft minimum over y of the cost minus g, and the step from g that follows.

        The plan of f and g has exact row marginals; 2^(-step) is the share of their mass that its
        columns have. Each tile is read once for both.
        """
        scale = self._scale(g)[:, None]
        marginal, sums = torch.zeros_like(scale), []
        for tile, a in zip(self._written(), self.a_tiles, strict=True):
            sums.append(torch.bmm(scale, tile.mT))
            marginal.baddbmm_(a / sums[-1], tile)
        f = self.shift - torch.log2(torch.cat(sums, dim=2)[:, 0].to(g.dtype))
        step = self.log_b - torch.log2((marginal * scale)[:, 0].to(g.dtype) / _LIFT)
        if float(step.max()) > self.limit:  # columns below the floor of the kernel
            step = soft_minimum(self.y, self.x, f + self.log_a, self.power) - g
        return f, step

    def average(self, g: Tensor, values: Tensor) -> Tensor:
        """Return the mean of `values` under each row of the kernel of `g`."""
        scale = self._scale(g)
        weighted = _weighted(values, scale)
        parts = [weighted @ tile.mT.to(values.dtype) for tile in self._written()]
        return _normalised(torch.cat(parts, dim=2))

    def _scale(self, g: Tensor) -> Tensor:
        """Return 2^(g - base), after a new base where that is out of range."""
        if self.tiled or not float((g - self.base).abs().max()) <= self.limit:
            self.base = g
            self.write = writer(self.y, g + self.log_b, self.power)
            if not self.tiled:
                for _ in self._filled():
                    pass
        return torch.exp2(g - self.base).to(self.y.dtype)

    def _written(self) -> Iterator[Tensor]:
        """Yield the tiles of the present base, one after the other."""
        return self._filled() if self.tiled else iter(self.tiles)

    def _filled(self) -> Iterator[Tensor]:
        """Write one tile after the other, and the shift of its rows."""
        first = 0
        for tile, points in zip(self.tiles, self.points, strict=True):
            rows = slice(first, first := first + points.shape[1])
            self.write(points, tile)
            largest = tile.amax(dim=2)
            exponentiate(tile, largest)
            self.shift[:, rows] = self.norms_x[:, rows] - largest.to(self.shift.dtype)
            yield tile


class SelfKernel:
    r"""The kernel :math:`2^{-c_{ij}}` of a cloud with itself, of which one half is kept.

    The solution satisfies :math:`-\log_2 \sum_j a_j^{1/2} \le f_i \le -\log_2(a_i)/2`, so that
    products of this kernel with the vectors :math:`a_j 2^{f_j}` are safe as they are: it is
    written once. A tile begins at its own diagonal; the part before that is the transpose of
    earlier tiles.
    """

    # The iteration has slopes in [-1, 0]: two thirds of its step contract by three or more, and
    # one half, the step taken far away, is close to the solution at once.
    damping, plain_step = 2 / 3, 0.5

    def __init__(
        self, x: Tensor, a: Tensor, *, power: int, workspace: Workspace, tiled: bool
    ) -> None:
        self.x, self.weights = x, a
        self.power = power
        size = tile_rows(x)
        norms = half_norms(x, x.dtype, power)
        self.points = torch.split(with_ones(x, power), size, dim=1)
        self.norms = torch.split(norms, size, dim=1)
        widths = [x.shape[1] - first for first in range(0, x.shape[1], size)]
        self.tiles = lay_out(self.points, widths, workspace, tiled)
        self.tiled = tiled
        self.write = writer(x, torch.zeros_like(a), power)
        if not tiled:
            for _ in self._filled():
                pass

    def iterate(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return f, the soft minimum of the cost minus g, and the step from g to f."""
        sums = self._product((self.weights * torch.exp2(g)).to(self.x.dtype)[:, None])
        f = -torch.log2(sums[:, 0].to(g.dtype))
        return f, f - g

    def average(self, f: Tensor, values: Tensor) -> Tensor:
        """Return the mean of `values` under each row of the plan of `f`."""
        return _normalised(self._product(_weighted(values, self.weights * torch.exp2(f))))

    def _product(self, rows: Tensor) -> Tensor:
        """Return the product of `rows`, of shape (k, q, n), with the kernel."""
        result, first = torch.zeros_like(rows), 0
        for tile in self._filled() if self.tiled else self.tiles:
            last = first + tile.shape[1]
            tile = tile.to(rows.dtype)
            result[..., first:last].baddbmm_(rows[..., first:], tile.mT)
            if last < rows.shape[2]:
                result[..., last:].baddbmm_(rows[..., first:last], tile[..., last - first :])
            first = last
        return result

    def _filled(self) -> Iterator[Tensor]:
        """Write one tile after the other."""
        for tile, points, norms in zip(self.tiles, self.points, self.norms, strict=True):
            self.write(points, tile)
            exponentiate(tile, norms)
            yield tile


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted values, and the weights, as rows: skinny products are faster so."""
    weights = weights.to(values.dtype)[..., None]
    return torch.cat([values * weights, weights], dim=2).mT.contiguous()


def _normalised(sums: Tensor) -> Tensor:
    """Return the means from weighted sums, the last of which are those of the weights."""
    return (sums[:, :-1] / sums[:, -1:]).mT.contiguous()
