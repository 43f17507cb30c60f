r"""Second derivatives of a function of the squared distance, summed over pairs.

With r = x - y that of a pair is :math:`B(r) = 2 w'(u) I + 4 w''(u) r r^T`. Here r r^T is multiplied
out, in one of three ways:

* for every particle, into a d x d block;
* in few dimensions, into moments such as :math:`\sum_j w''_{ij} \, x_j \otimes v_j`, one product
  of w'' with all of their columns;
* in more, into the matrix of :math:`r_{ij} \cdot (v_i - v_j)`, a product of rank 2 d + 2, which is
  multiplied by w'' entry by entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from skwgf.kernels._tiles import Memory, add_products


class Derivatives(NamedTuple):
    """A function w of squared distances and its first two derivatives, up to known factors."""

    value: Tensor
    slope: Tensor
    bend: Tensor


class PairFunction(NamedTuple):
    """A function w of squared distances u, which it may overwrite.

    Attributes
    ----------
    value : callable
        From u to w, up to the first of the weights.

    derivatives : callable
        From u to w, w', w'', up to the weights. Where w'' is infinite at u = 0 it counts as 0.

    weights : tuple of three floats
        What the three are to be multiplied by.

    one_matrix : bool
        Whether the three are one and the same tensor: all but their weights is shared.
    """

    value: Callable[[Tensor], Tensor]
    derivatives: Callable[[Tensor], Derivatives]
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    one_matrix: bool = False


class Tile(NamedTuple):
    """A block of pairs."""

    rows: slice
    cols: slice
    slope: Tensor
    bend: Tensor


def moment_sums(function: PairFunction, x: Tensor, tiles: Iterable[Tile], fields: Tensor) -> Tensor:
    """Return the sums over j of B_ij v_j, from moments of the fields."""
    (n, d), k = x.shape, len(fields)
    points, v = x.T, fields.mT  # fields are (k, d, n) from here on
    inner = (points * v).sum(1, keepdim=True)
    outer = (points[:, None] * v[:, None]).flatten(1, 2)  # x_a v_b at row d a + b
    columns = torch.cat([v, inner, points * inner, outer], 1)
    width = columns.shape[1]
    flat = columns.reshape(k * width, n)
    bent = torch.zeros_like(flat)
    driven = v.reshape(k * d, n).contiguous()
    pulled = torch.zeros_like(driven)
    for tile in tiles:
        add_products(bent, tile.bend, flat, tile.rows, tile.cols)
        if not function.one_matrix:
            add_products(pulled, tile.slope, driven, tile.rows, tile.cols)
    bent = bent.view(k, width, n)
    pull = bent[:, :d] if function.one_matrix else pulled.view(k, d, n)
    along = (points * bent[:, :d]).sum(1, keepdim=True) - bent[:, d : d + 1]
    crossed = (bent[:, 2 * d + 1 :].view(k, d, d, n) * points).sum(2)
    pushed = points * along - crossed + bent[:, d + 1 : 2 * d + 1]
    return (2 * function.weights[1] * pull + 4 * function.weights[2] * pushed).mT


def difference_sums(
    function: PairFunction, x: Tensor, mass: Tensor, tiles: Iterable[Tile], fields: Tensor
) -> Tensor:
    """Return the sums over j of B_ij (v_i - v_j), from the matrix of r_ij . (v_i - v_j)."""
    (n, d), k = x.shape, len(fields)
    inner = (x * fields).sum(2, keepdim=True)
    points, ones = x.expand_as(fields), torch.ones_like(inner)
    left = torch.cat([points, fields, inner, ones], 2)
    right = torch.cat([-fields, -points, ones, inner], 2).mT.contiguous()
    driven, columns = fields.mT.reshape(k * d, n), with_ones(x)
    pulled, bent = torch.zeros_like(driven), x.new_zeros(k, d + 1, n)
    memory = Memory(x)
    for rows, cols, slope, bend in tiles:
        add_products(pulled, slope, driven, rows, cols)
        for f in range(k):
            stretch = torch.mm(left[f, rows], right[f][:, cols], out=memory(rows, cols))
            add_products(bent[f], stretch.mul_(bend), columns, rows, cols)
    pull = mass[:, None] * fields - function.weights[1] * pulled.view(k, d, n).mT
    push = x * bent[:, d, :, None] - bent[:, :d].mT
    return 2 * pull + 4 * function.weights[2] * push


def projection_sums(
    function: PairFunction,
    x: Tensor,
    columns: Tensor,
    mass: Tensor,
    tiles: Iterable[Tile],
    fields: Tensor,
) -> Tensor:
    """Return the sums over j of B(x_i - y_j) v_i, without a block for each particle."""
    d = x.shape[1]
    inner = (x * fields).sum(2, keepdim=True)
    left = torch.cat([-fields, inner], 2)  # times (y, 1): r_ij . v_i
    bent = x.new_zeros(len(fields), d + 1, len(x))
    for rows, cols, _, bend in tiles:
        for f in range(len(fields)):
            stretch = (left[f, rows] @ columns[:, cols]).mul_(bend)
            bent[f, :, rows].addmm_(columns[:, cols], stretch.mT)
    push = x * bent[:, d, :, None] - bent[:, :d].mT
    return 2 * mass[:, None] * fields + 4 * function.weights[2] * push


def with_ones(x: Tensor) -> Tensor:
    """Return the coordinates of points and a one, as d + 1 rows."""
    return torch.cat([x.T, x.new_ones(1, len(x))])


def moments(columns: Tensor) -> Tensor:
    """Return 1, x and the upper half of x x^T, as rows, from x and 1."""
    points = columns[:-1]
    a, b = torch.triu_indices(len(points), len(points), device=columns.device)
    return torch.cat([columns[-1:], points, points[a] * points[b]])


def local_blocks(x: Tensor, mass: Tensor, bends: Tensor) -> Tensor:
    """Return the sums of B over partners, of shape (n, d, d), from those of w' and moments."""
    n, d = x.shape
    zeroth, first = bends[0], bends[1 : d + 1].T
    second = x.new_empty(n, d, d)
    a, b = torch.triu_indices(d, d, device=x.device)
    second[:, a, b] = second[:, b, a] = bends[d + 1 :].T
    mixed = x[:, :, None] * (0.5 * zeroth[:, None] * x - first)[:, None, :]
    blocks = 4 * (second + mixed + mixed.mT)
    blocks.diagonal(dim1=1, dim2=2).add_(2 * mass[:, None])
    return blocks


def apply_blocks(blocks: Tensor, fields: Tensor) -> Tensor:
    """Return block times vector at every particle, for k fields."""
    return (blocks @ fields.permute(1, 2, 0)).permute(2, 0, 1)
