r"""Energies of pairs, :math:`w(|x - y|^2)`, to second order and by matrix products.

With r = x - y and u = |r|^2 the second derivative of a pair is
:math:`B(r) = 2 w'(u) I + 4 w''(u) r r^T`. The means over the pairs of a cloud with itself, and
with fixed points,

.. math:: E(\mu_n) = \frac{1}{2 n^2} \sum_{ij} w(|x_i - x_j|^2), \qquad
    C(\mu_n) = \frac{1}{n m} \sum_{ij} w(|x_i - y_j|^2)

have the Wasserstein Hessians

.. math:: (H_E v)_i = \frac1n \sum_j B(x_i - x_j) (v_i - v_j), \qquad
    (H_C v)_i = \frac1m \sum_j B(x_i - y_j) \, v_i .

The second acts at each particle alone. Sums are taken block by block, never with an (n, n, d)
array, and around the centre of a cloud, so that little cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from skwgf.functionals._pair_sums import (
    PairFunction,
    Tile,
    apply_blocks,
    difference_sums,
    local_blocks,
    moment_sums,
    moments,
    projection_sums,
    with_ones,
)
from skwgf.functionals.base import Expansion
from skwgf.kernels._tiles import Memory, Squares, add_products, block_rows, upper_blocks

_KEPT_BYTES = 2**26  # of w' and w''; what is larger is computed again at every product
_MOMENT_DIM = 3  # most dimensions in which d^2 + 2 d + 1 columns beat a product of rank 2 d + 2
_BLOCK_DIM = 64  # most dimensions in which the d x d block of each particle is kept


def self_value(function: PairFunction, x: Tensor) -> Tensor:
    """Return half the mean of w over the pairs of a cloud with itself."""
    x = x - x.mean(0)
    squares, memory = Squares(x, x), Memory(x)
    total = x.new_zeros(())
    for rows, cols in upper_blocks(x):
        u = squares.clean(rows, cols, memory(rows, cols), same=True)
        total += function.value(u).sum() * (1 if rows == cols else 2)
    return total * (0.5 * function.weights[0] / len(x) ** 2)


def cross_value(function: PairFunction, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean of w over the pairs of a cloud and of points `y`, around their mean."""
    squares, memory = Squares(x, y), _wide_memory(x, y)
    total = x.new_zeros(())
    for rows, cols in _wide_blocks(x, y):
        u = squares.clean(rows, cols, memory(rows, cols), same=False)
        total += function.value(u).sum()
    return total * (function.weights[0] / (len(x) * len(y)))


def graph_mean(function: PairFunction, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean of w over the pairs of two clouds around one point, for autograd.

    It can be differentiated twice, in both clouds, and takes memory for all pairs.
    """
    norms = x.square().sum(1)[:, None] + y.square().sum(1)
    u = torch.addmm(norms, x, y.T, alpha=-2)
    result: Tensor = _Entries.apply(u, function, 0)  # type: ignore[no-untyped-call]
    return result.mean()


class _Entries(torch.autograd.Function):
    """The derivative of w of a given order, entry by entry.

    Its own derivative is the next one, finite where autograd would meet a root of zero. Squared
    distances that rounding made negative count as zero, but have a derivative still.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, function: PairFunction, order: int) -> Tensor:
        ctx.save_for_backward(u)
        ctx.function, ctx.order = function, order
        return function.derivatives(u.clamp(min=0))[order] * function.weights[order]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        (u,) = ctx.saved_tensors
        if ctx.order == 2:
            raise RuntimeError("Energies of pairs can be differentiated twice, not three times.")
        slope: Tensor = _Entries.apply(  # type: ignore[no-untyped-call]
            u, ctx.function, ctx.order + 1
        )
        return cotangent * slope, None, None


def expand_self(function: PairFunction, x: Tensor) -> Expansion:
    """Return the expansion of half the mean of w over the pairs of a cloud with itself."""
    n, d = x.shape
    x = x - x.mean(0)
    weights = function.weights
    moments_wanted = d <= _MOMENT_DIM
    columns = with_ones(x)
    products = moments(columns) if moments_wanted else columns[:0]
    total, pulls, bends = x.new_zeros(()), torch.zeros_like(columns), torch.zeros_like(products)
    kept: list[Tile] | None = [] if _may_keep(function, x, n * (n + block_rows(x)) // 2) else None

    def tiles() -> Iterator[tuple[Tile, Tensor]]:
        squares, memory = Squares(x, x), Memory(x)
        for rows, cols in upper_blocks(x):
            out = memory(rows, cols)
            u = squares.clean(rows, cols, out if kept is None else torch.empty_like(out), same=True)
            value, slope, bend = function.derivatives(u)
            yield Tile(rows, cols, slope, bend), value

    for tile, value in tiles():
        total += value.sum() * (1 if tile.rows == tile.cols else 2)
        add_products(pulls, tile.slope, columns, tile.rows, tile.cols)
        if moments_wanted:
            add_products(bends, tile.bend, products, tile.rows, tile.cols)
        if kept is not None:
            kept.append(tile)
    mass = weights[1] * pulls[d]
    gradient = 2 * (x * mass[:, None] - weights[1] * pulls[:d].T) / n

    def again() -> Iterable[Tile]:
        return kept if kept is not None else (tile for tile, _ in tiles())

    if moments_wanted:
        blocks = local_blocks(x, mass, weights[2] * bends)

        def hessian(fields: Tensor) -> Tensor:
            return (apply_blocks(blocks, fields) - moment_sums(function, x, again(), fields)) / n
    else:

        def hessian(fields: Tensor) -> Tensor:
            return difference_sums(function, x, mass, again(), fields) / n

    return Expansion(total * (0.5 * weights[0] / n**2), gradient, hessian)


def expand_cross(function: PairFunction, x: Tensor, y: Tensor) -> Expansion:
    """Return the expansion of the mean of w over the pairs of a cloud and of points `y`.

    Both are given around the mean of `y`.
    """
    (n, d), m = x.shape, len(y)
    weights = function.weights
    local = d <= _BLOCK_DIM
    total, pulls = x.new_zeros(()), x.new_zeros(d + 1, n)
    bends = x.new_zeros(1 + d + d * (d + 1) // 2, n) if local else pulls[:0]
    columns = with_ones(y)
    kept: list[Tile] | None = [] if not local and _may_keep(function, x, n * m) else None

    def tiles() -> Iterator[tuple[Tile, Tensor]]:
        squares, memory = Squares(x, y), _wide_memory(x, y)
        for rows, cols in _wide_blocks(x, y):
            out = memory(rows, cols)
            out = out if kept is None else torch.empty_like(out)
            u = squares.clean(rows, cols, out, same=False)
            value, slope, bend = function.derivatives(u)
            yield Tile(rows, cols, slope, bend), value

    for tile, value in tiles():
        rows, cols = tile.rows, tile.cols
        total += value.sum()
        pulls[:, rows].addmm_(columns[:, cols], tile.slope.mT)
        if local:
            bends[:, rows].addmm_(moments(columns[:, cols]), tile.bend.mT)
        if kept is not None:
            kept.append(tile)
    mass = weights[1] * pulls[d]
    gradient = 2 * (x * mass[:, None] - weights[1] * pulls[:d].T) / m
    if local:
        blocks = local_blocks(x, mass, weights[2] * bends) / m

        def hessian(fields: Tensor) -> Tensor:
            return apply_blocks(blocks, fields)
    else:

        def hessian(fields: Tensor) -> Tensor:
            again = kept if kept is not None else (tile for tile, _ in tiles())
            return projection_sums(function, x, columns, mass, again, fields) / m

    return Expansion(total * (weights[0] / (n * m)), gradient, hessian)


def _may_keep(function: PairFunction, x: Tensor, entries: int) -> bool:
    """Tell whether the matrices of w' and w'' may stay in memory."""
    return entries * x.element_size() * (1 if function.one_matrix else 2) <= _KEPT_BYTES


def _wide_shape(x: Tensor, y: Tensor) -> tuple[int, int]:
    """Return the rows and columns of a block of two clouds; few rows make it wide."""
    size = block_rows(x)
    rows = min(size, len(x))
    return rows, min(len(y), size * size // rows)


def _wide_blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of the blocks of two clouds."""
    height, width = _wide_shape(x, y)
    for start in range(0, len(y), width):
        for first in range(0, len(x), height):
            yield (
                slice(first, min(first + height, len(x))),
                slice(start, min(start + width, len(y))),
            )


def _wide_memory(x: Tensor, y: Tensor) -> Callable[[slice, slice], Tensor]:
    """Return memory for one block of two clouds, cut to the shape that is asked for."""
    height, width = _wide_shape(x, y)
    entries = x.new_empty(height * width)

    def cut(rows: slice, cols: slice) -> Tensor:
        shape = rows.stop - rows.start, cols.stop - cols.start
        return entries[: shape[0] * shape[1]].view(shape)

    return cut
