r"""Sums over all pairs of a cloud, a square block of its Gram matrix at a time.

Blocks have the size of a processor's cache, and only those on and above the diagonal are made:
the transpose of a block serves the other half. Clouds come centred and scaled, so that a kernel
is a function of u = |x - y|^2 and a block of it costs one matrix product and one function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Rows of a block: two of them stay in the cache of a processor core. Elsewhere a launch costs more.
_BLOCK_ROWS = 512
_DEVICE_BLOCK_ROWS = 8192
# Powers of two below are negligible, and ten times slower to compute.
_FLOOR = {torch.float32: -120.0, torch.float64: -1000.0}


class Profile(NamedTuple):
    r"""A radial kernel :math:`\varphi(u)`, at squared distances u.

    Attributes
    ----------
    value : Tensor
        :math:`\varphi(u)`.

    slope : Tensor
        :math:`\varphi'(u)`, or 0 at u = 0 where that is infinite.

    trace : Tensor or None
        :math:`-\mathrm{tr} \nabla_x \nabla_y k = 2 d \varphi'(u) + 4 u \varphi''(u)`; None where
        it is infinite at u = 0.
    """

    value: Tensor
    slope: Tensor
    trace: Tensor | None


ProfileFunction = Callable[[Tensor, int], Profile]


class Squares:
    """Squared distances of two clouds, times a factor, block by block.

    Norms ride along in the one matrix product. What is not above the rounding of that product is
    zero, and so is the diagonal of a block that a cloud has with itself.
    """

    def __init__(self, x: Tensor, y: Tensor, factor: float = 1.0) -> None:
        norms_x = (x * x).sum(1, keepdim=True)
        norms_y = norms_x if y is x else (y * y).sum(1, keepdim=True)
        ones = torch.ones_like(norms_x)
        self.left = torch.cat([-2 * x, norms_x, ones], 1).mul_(factor)
        self.right = torch.cat([y, ones[:1].expand(len(y), 1), norms_y], 1).T
        top = float(norms_x.max())
        self.largest = 2 * (top + (top if y is x else float(norms_y.max())))
        self.rounding = 4 * torch.finfo(x.dtype).eps * self.largest

    def raw(self, rows: slice, cols: slice, out: Tensor) -> Tensor:
        """Write a block as the product leaves it: right but for rounding, of either sign."""
        return torch.mm(self.left[rows], self.right[:, cols], out=out)

    def clean(self, rows: slice, cols: slice, out: Tensor, *, same: bool) -> Tensor:
        """Write a block without rounding near zero; `same`: x and y are one cloud."""
        block = torch.threshold_(self.raw(rows, cols, out), self.rounding, 0.0)
        if same and rows == cols:
            block.fill_diagonal_(0.0)
        return block


class Memory:
    """Memory for one block, cut to the shape that is asked for."""

    def __init__(self, x: Tensor) -> None:
        rows = min(block_rows(x), len(x))
        self.entries = x.new_empty(rows * rows)

    def __call__(self, rows: slice, cols: slice) -> Tensor:
        """Return an uninitialised block."""
        shape = rows.stop - rows.start, cols.stop - cols.start
        return self.entries[: shape[0] * shape[1]].view(shape)


def block_rows(x: Tensor) -> int:
    """Return the number of rows of a block."""
    return _BLOCK_ROWS if x.device.type == "cpu" else _DEVICE_BLOCK_ROWS


def upper_blocks(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of the blocks on and above the diagonal."""
    n, size = len(x), block_rows(x)
    for first in range(0, n, size):
        rows = slice(first, min(first + size, n))
        for start in range(first, n, size):
            yield rows, slice(start, min(start + size, n))


def add_products(sums: Tensor, block: Tensor, columns: Tensor, rows: slice, cols: slice) -> None:
    """Add to `sums` what a symmetric matrix's block, and its transpose, make of `columns`.

    Both are of shape (q, n): products with few columns are faster so.
    """
    sums[:, rows].addmm_(columns[:, cols], block.mT)
    if rows != cols:
        sums[:, cols].addmm_(columns[:, rows], block)


def add_sums(sums: Tensor, block: Tensor, rows: slice, cols: slice) -> None:
    """Add the row sums of a symmetric matrix's block, and of its transpose, to `sums` (n,)."""
    sums[rows] += block.sum(1)
    if rows != cols:
        sums[cols] += block.sum(0)


def gaussian_blocks(x: Tensor, bits: float) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Yield rows, columns, exponents -bits u and powers of two of the upper blocks of a cloud.

    All blocks share their memory: use one before asking for the next.
    """
    squares = Squares(x, x, factor=-bits)
    exponents, powers = Memory(x), Memory(x)
    floor = _FLOOR[x.dtype]
    may_underflow = not bits * squares.largest < -floor
    for rows, cols in upper_blocks(x):
        exponent = squares.raw(rows, cols, exponents(rows, cols))
        if may_underflow:
            exponent.clamp_(min=floor)
        yield rows, cols, exponent, torch.exp2(exponent, out=powers(rows, cols))


def gaussian_sums(x: Tensor, bits: float, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums over j of K_ij times `columns`, and of K_ij log2 K_ij, for K = 2^-(bits u).

    `columns` and the first sums have the shape (q, n), the second (n,). `x` is centred.
    """
    sums, moments = torch.zeros_like(columns), x.new_zeros(len(x))
    for rows, cols, exponent, power in gaussian_blocks(x, bits):
        add_sums(moments, exponent.mul_(power), rows, cols)  # first, while both are in the cache
        add_products(sums, power, columns, rows, cols)
    return sums, moments


def radial_blocks(x: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield rows, columns and squared distances of each upper block of a centred cloud."""
    squares, memory = Squares(x, x), Memory(x)
    for rows, cols in upper_blocks(x):
        yield rows, cols, squares.clean(rows, cols, memory(rows, cols), same=True)
