r"""The iterations behind :mod:`skwgf.transport.sinkhorn`.

Clouds come scaled so that one unit of the cost :math:`c = |x - y|^2/2` is one bit of the
regularisation: the kernel is then a power of two of one matrix product, and potentials are in
bits. One (n, m) buffer holds

.. math:: K_{ij} = b_j \, 2^{\beta_j - c_{ij} - s_i}, \quad \max_j K_{ij} = 1,

for a base potential :math:`\beta` of y; the iterations multiply it with vectors
:math:`2^{g - \beta}` and fill it again only when g has left the range in which these products are
exact. Anderson's extrapolation of the fixed-point iteration on g needs about a tenth of the plain
iterations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Exponents are cut here: the powers below are negligible, and ten times slower to compute.
_FLOOR = {torch.float32: -120.0, torch.float64: -1000.0}
_TILE_ENTRIES = 2**18  # entries of a row tile that stays in the cache of a processor core
_WINDOW = 8  # iterates that the extrapolation combines
_RIDGE = 1e-12  # relative ridge of its least-squares problem
_FAR = 0.5  # marginal error above which plain steps are taken
_SELF_STEP = 2 / 3  # the self map has slopes in [-1, 0]: this damping contracts by at least 3
_COARSENING = 8  # share of the points that a cold start works on
_COARSE_TOL = 0.05


class State(NamedTuple):
    """Potentials in bits, with the fixed-point residual and the marginal error they leave."""

    error: float
    f: Tensor
    g: Tensor
    residual: Tensor
    n_iter: int


def solve(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    g: Tensor,
    *,
    symmetric: bool,
    tol: float,
    max_iter: int,
) -> State:
    """Iterate from the potential `g` of y until the marginal error is at most `tol`.

    The f returned makes the row marginal exact; the error is that of the columns. With
    `symmetric` both clouds are the same, and so are the potentials at the solution.
    """
    kernel = _Kernel(x, y, a, b)
    step = _SELF_STEP if symmetric else 1.0
    history: list[tuple[Tensor, Tensor]] = []
    best = State(math.inf, g, g, g, 0)
    for n_iter in range(1, max_iter + 1):
        if symmetric:
            f = kernel.row_potential(g)
            residual = f - g
        else:
            f, marginal = kernel.sweep(g)
            residual = kernel.log_b - torch.log2(marginal)
        error = float(b @ (torch.exp2(-residual) - 1).abs())
        if history and error > 2 * best.error:  # the extrapolation went astray
            history.clear()
            g = best.g + step * best.residual
            continue
        if error < best.error:
            best = State(error, f, g, residual, n_iter)
        if error <= tol:
            break
        if not symmetric and float(residual.max()) > kernel.limit:
            # Columns below the floor of the kernel: take this plain step without it.
            history.clear()
            g = soft_minimum(y, x, f + kernel.log_a)
            kernel.fill(g)
            continue
        if error > _FAR:
            history.clear()
        history.append((g, residual))
        del history[:-_WINDOW]
        g = g + _extrapolate(history, b, step)
    return best._replace(n_iter=n_iter)


def cold_start(x: Tensor, y: Tensor, a: Tensor, b: Tensor, *, symmetric: bool) -> Tensor:
    """Return a starting potential of y, from coarse to fine regularisation on a subset of points.

    The subset's potential is extended to all of y by its soft minimum.
    """
    stride = max(1, min(_COARSENING, len(x) // 64, len(y) // 64))
    coarse_x, coarse_y = x[::stride], y[::stride]
    a, b = a[::stride] / a[::stride].sum(), b[::stride] / b[::stride].sum()
    level = max(1.0, largest_cost(x, y))
    g = torch.zeros_like(b)
    while True:
        size = math.sqrt(level)
        max_iter = 100 if level == 1.0 else 30
        state = solve(
            *(coarse_x / size, coarse_y / size, a, b, g),
            symmetric=symmetric,
            tol=_COARSE_TOL,
            max_iter=max_iter,
        )
        if level == 1.0:
            return soft_minimum(y, coarse_x, state.f + torch.log2(a))
        finer = max(1.0, level / 4)
        g, level = state.g * (level / finer), finer


def largest_cost(x: Tensor, y: Tensor) -> float:
    """Return a bound, within a factor of four, on the largest cost between centred clouds."""
    return float((x * x).sum(dim=1).max() + (y * y).sum(dim=1).max())


def soft_minimum(x: Tensor, y: Tensor, potential: Tensor) -> Tensor:
    """Return the soft minimum over j of cost minus `potential`, at each x, in bits."""
    parts = [torch.log2(tile.sum(dim=1)) + shift for tile, shift in soft_rows(x, y, potential)]
    return _half_norms(x, potential.dtype) - torch.cat(parts).to(potential.dtype)


def soft_rows(x: Tensor, y: Tensor, potential: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the kernel 2^(potential - cost) in row tiles, each row divided by its largest entry.

    With each tile comes the logarithm divided out, less the norm of x. All tiles share their
    memory: use one before asking for the next.
    """
    columns = _columns(y, potential)
    size = _tile_rows(len(y), x.device)
    buffer = x.new_empty(min(size, len(x)), len(y))
    for points in torch.split(_with_ones(x), size):
        tile = buffer[: len(points)]
        yield tile, _fill(tile, points, columns)


class _Kernel:
    """The kernel of one problem in a buffer that is filled, and worked on, in row tiles."""

    def __init__(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> None:
        size = _tile_rows(len(y), x.device)
        self.y = y
        self.norms_x = _half_norms(x, b.dtype)
        self.log_a, self.log_b = torch.log2(a), torch.log2(b)
        self.limit = -_FLOOR[x.dtype] / 3  # keeps cut entries below the rounding of the products
        self.x_tiles = torch.split(_with_ones(x), size)
        self.a_tiles = torch.split(a.to(x.dtype), size)
        self.tiles = torch.split(x.new_empty(len(x), len(y)), size)
        self.base = torch.full_like(b, math.inf)
        self.shift = self.norms_x

    def fill(self, g: Tensor) -> None:
        """Make `g` the base potential."""
        columns = _columns(self.y, g + self.log_b)
        pairs = zip(self.tiles, self.x_tiles, strict=True)
        shifts = torch.cat([_fill(tile, points, columns) for tile, points in pairs])
        self.base, self.shift = g, self.norms_x - shifts.to(g.dtype)

    def row_potential(self, g: Tensor) -> Tensor:
        """Return f, the soft minimum over y of the cost minus `g`."""
        scale = self._scale(g)
        sums = torch.cat([tile @ scale for tile in self.tiles])
        return self.shift - torch.log2(sums.to(g.dtype))

    def sweep(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return the f of `row_potential` and the column marginal of the plan of f and g.

        Each tile is read once for both products.
        """
        scale = self._scale(g)
        marginal, sums = torch.zeros_like(scale), []
        for tile, a in zip(self.tiles, self.a_tiles, strict=True):
            sums.append(tile @ scale)
            marginal.addmv_(tile.T, a / sums[-1])
        f = self.shift - torch.log2(torch.cat(sums).to(g.dtype))
        return f, (marginal * scale).to(g.dtype)

    def _scale(self, g: Tensor) -> Tensor:
        """Return 2^(g - base), after a new base where that is out of range."""
        if not float((g - self.base).abs().max()) <= self.limit:
            self.fill(g)
        return torch.exp2(g - self.base).to(self.y.dtype)


def _extrapolate(history: list[tuple[Tensor, Tensor]], weights: Tensor, step: float) -> Tensor:
    """Return the damped step from the combination of past iterates that has the least residual."""
    points, residuals = (torch.stack(column) for column in zip(*history, strict=True))
    plain = step * residuals[-1]
    if len(history) == 1:
        return plain
    moves, turns = points.diff(dim=0), residuals.diff(dim=0)
    gram = (turns * weights) @ turns.T
    gram.diagonal().add_(_RIDGE * gram.diagonal().max() + torch.finfo(gram.dtype).tiny)
    mix = torch.linalg.solve(gram, (turns * weights) @ residuals[-1])
    extrapolated: Tensor = plain - mix @ (moves + step * turns)
    return extrapolated


def _columns(y: Tensor, potential: Tensor) -> Tensor:
    """Return the right factor whose product with [x, 1] is x.y + potential - |y|^2/2."""
    last = (potential - _half_norms(y, potential.dtype)).to(y.dtype)
    return torch.cat([y.T, last[None]])


def _fill(tile: Tensor, points: Tensor, columns: Tensor) -> Tensor:
    """Write 2^(product - row maximum) into `tile`; return the maxima."""
    torch.mm(points, columns, out=tile)
    shift = tile.amax(dim=1)
    tile.sub_(shift[:, None]).clamp_(min=_FLOOR[tile.dtype]).exp2_()
    return shift


def _half_norms(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return |x|^2/2 for each point, in `dtype`."""
    x = x.to(dtype)
    return (x * x).sum(dim=1) / 2


def _with_ones(x: Tensor) -> Tensor:
    """Append a coordinate that is one."""
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


def _tile_rows(width: int, device: torch.device) -> int:
    """Return the rows of a tile: cache-sized on the CPU, many more where a launch costs more."""
    entries = _TILE_ENTRIES if device.type == "cpu" else 256 * _TILE_ENTRIES
    return max(1, entries // width)
