r"""The kernels that the iterations of :mod:`skwgf.transport._scaling` multiply with.

Clouds come scaled so that one unit of the cost is one bit of the regularisation: a kernel is then
a power of two, for the cost :math:`|x - y|^2/2` of one matrix product, and potentials are in bits.
All tensors have a leading dimension of groups, independent problems that share the calls. A kernel
lies in row tiles of the size of a processor's cache, either all in one memory, written once, or
one at a time, written again at every use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# Exponents are cut here: the powers below are negligible, and ten times slower to compute.
_FLOOR = {torch.float32: -120.0, torch.float64: -1000.0}
_LIFT = 2.0**30  # keeps the products of the second multiplication from being subnormal, so slow
_TILE_ENTRIES = 2**18  # entries of a row tile that stays in the cache of a processor core
_DIRECT = 16  # largest dimension in which distances are summed over the coordinates

# Writes potential minus cost for some points x into a tile; for p = 2 without the norm of x.
_Writer = Callable[[Tensor, Tensor], None]


class Workspace:
    """Memory for one kernel, lent to one problem after the other."""

    def __init__(self) -> None:
        self._memory: Tensor | None = None

    def take(self, entries: int, like: Tensor) -> Tensor:
        """Return uninitialised memory for `entries` numbers of the type of `like`."""
        memory = self._memory
        if (
            memory is None
            or len(memory) < entries
            or (memory.dtype, memory.device) != (like.dtype, like.device)
        ):
            self._memory = memory = None  # release the old memory before the new is taken
            self._memory = memory = like.new_empty(entries)
        return memory[:entries]


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
        self.limit = -_FLOOR[x.dtype] / 3  # keeps cut entries below the rounding of the products
        self.points = torch.split(_with_ones(x, power), tile_rows(y), dim=1)
        self.a_tiles = torch.split((_LIFT * a).to(x.dtype)[:, None], tile_rows(y), dim=2)
        widths = [y.shape[1]] * len(self.points)
        self.tiles = _lay_out(self.points, widths, workspace, tiled)
        self.tiled = tiled
        self.base = torch.full_like(b, math.inf)
        self.norms_x = _half_norms(x, b.dtype, power)
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
            self.write = _writer(self.y, g + self.log_b, self.power)
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
            _exponentiate(tile, largest)
            self.shift[:, rows] = self.norms_x[:, rows] - largest.to(self.shift.dtype)
            yield tile


class SelfKernel:
    r"""The kernel :math:`2^{-c_{ij}}` of a cloud with itself, of which one half is kept.

    The solution satisfies :math:`-\log_2(n)/2 \le f_i \le -\log_2(a_i)/2` (for equal weights), so
    that products of this kernel with the vectors :math:`a_j 2^{f_j}` are safe as they are: it is
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
        norms = _half_norms(x, x.dtype, power)
        self.points = torch.split(_with_ones(x, power), size, dim=1)
        self.norms = torch.split(norms, size, dim=1)
        widths = [x.shape[1] - first for first in range(0, x.shape[1], size)]
        self.tiles = _lay_out(self.points, widths, workspace, tiled)
        self.tiled = tiled
        self.write = _writer(x, torch.zeros_like(a), power)
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
            _exponentiate(tile, norms)
            yield tile


def soft_rows(
    x: Tensor, y: Tensor, potential: Tensor, power: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the kernel 2^(potential - cost) in row tiles, each row divided by its largest entry.

    With each tile comes the logarithm divided out. All tiles share their memory: use one before
    asking for the next.
    """
    write = _writer(y, potential, power)
    points = torch.split(_with_ones(x, power), tile_rows(y), dim=1)
    norms = torch.split(_half_norms(x, potential.dtype, power), tile_rows(y), dim=1)
    widths = [y.shape[1]] * len(points)
    tiles = _lay_out(points, widths, Workspace(), tiled=True)
    for tile, part, norm in zip(tiles, points, norms, strict=True):
        write(part, tile)
        largest = tile.amax(dim=2)
        _exponentiate(tile, largest)
        yield tile, largest.to(norm.dtype) - norm


def soft_minimum(x: Tensor, y: Tensor, potential: Tensor, power: int) -> Tensor:
    """Return the soft minimum over j of cost minus `potential`, at each x, in bits."""
    parts = [
        -torch.log2(tile.sum(dim=2).to(shift.dtype)) - shift
        for tile, shift in soft_rows(x, y, potential, power)
    ]
    return torch.cat(parts, dim=1)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the Euclidean distances of two clouds, to the precision of near points.

    In high dimension expanded squares are faster; float64 leaves them right to 1e-8.
    """
    if x.shape[-1] <= _DIRECT:
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    wide = torch.cdist(x.double(), y.double(), compute_mode="use_mm_for_euclid_dist")
    return wide.to(x.dtype)


def tile_rows(y: Tensor) -> int:
    """Return the rows of a tile: cache-sized on the CPU, many more where a launch costs more."""
    entries = _TILE_ENTRIES if y.device.type == "cpu" else 256 * _TILE_ENTRIES
    return max(1, entries // (y.shape[0] * y.shape[1]))


def _writer(y: Tensor, potential: Tensor, power: int) -> _Writer:
    """Return the function that writes potential minus cost into a tile, for the last points of y.

    The tile says how many of them. For p = 2 the norm of x is left out.
    """
    if power == 1:

        def write(points: Tensor, tile: Tensor) -> None:
            first = y.shape[1] - tile.shape[2]
            torch.sub(row[..., first:], distances(points, y[:, first:]), out=tile)

        row = potential.to(y.dtype)[:, None]
        return write

    def write_product(points: Tensor, tile: Tensor) -> None:
        torch.bmm(points, columns[..., y.shape[1] - tile.shape[2] :], out=tile)

    last = (potential - _half_norms(y, potential.dtype, power)).to(y.dtype)
    columns = torch.cat([y.mT, last[:, None]], dim=1)
    return write_product


def _exponentiate(tile: Tensor, shift: Tensor) -> None:
    """Replace the exponents in `tile` by powers of two, each row divided by 2^shift."""
    tile.sub_(shift[..., None]).clamp_(min=_FLOOR[tile.dtype]).exp2_()


def _lay_out(
    points: tuple[Tensor, ...], widths: list[int], workspace: Workspace, tiled: bool
) -> list[Tensor]:
    """Return memory for the tiles: one after the other, or with `tiled` all in the same place."""
    shapes = [(*part.shape[:2], width) for part, width in zip(points, widths, strict=True)]
    sizes = [math.prod(shape) for shape in shapes]
    memory = workspace.take(max(sizes) if tiled else sum(sizes), points[0])
    tiles, first = [], 0
    for shape, size in zip(shapes, sizes, strict=True):
        tiles.append(memory[first : first + size].view(shape))
        first += 0 if tiled else size
    return tiles


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted values, and the weights, as rows: skinny products are faster so."""
    weights = weights.to(values.dtype)[..., None]
    return torch.cat([values * weights, weights], dim=2).mT.contiguous()


def _normalised(sums: Tensor) -> Tensor:
    """Return the means from weighted sums, the last of which are those of the weights."""
    return (sums[:, :-1] / sums[:, -1:]).mT.contiguous()


def _half_norms(x: Tensor, dtype: torch.dtype, power: int) -> Tensor:
    """Return what the exponents leave out for each point, in `dtype`: |x|^2/2 for p = 2."""
    if power == 1:
        return torch.zeros(x.shape[:2], dtype=dtype, device=x.device)
    x = x.to(dtype)
    return (x * x).sum(dim=2) / 2


def _with_ones(x: Tensor, power: int) -> Tensor:
    """Append the coordinate that is one, which the product of p = 2 needs."""
    return torch.cat([x, x.new_ones(*x.shape[:2], 1)], dim=2) if power == 2 else x
