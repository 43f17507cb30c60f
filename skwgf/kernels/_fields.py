"""Stein velocity and discrepancy of kernels of the squared distance, from sums over all pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from skwgf.kernels._tiles import (
    ProfileFunction,
    Squares,
    add_products,
    add_sums,
    gaussian_blocks,
    gaussian_sums,
    radial_blocks,
)
from skwgf.kernels.base import SteinField


def gaussian_field(_: ProfileFunction, length: float, x: Tensor, scores: Tensor) -> SteinField:
    r"""Return the Stein field of the kernel :math:`\exp(-|x - y|^2 / (2 \ell^2))`.

    With :math:`t = s - x / \ell^2` it is :math:`v_i = \frac1n \sum_j K_{ij} (t_j + x_i / \ell^2)`,
    and the terms of the Stein kernel gather in :math:`t_i \cdot t_j`, sums over one index, and
    one in the distance: the product of K with d + 2 columns does for all. Small clouds feel the
    number of calls, which is kept low.
    """
    n, d = x.shape
    scale = 1 / length**2
    x = x - x.mean(0)
    pull = torch.add(scores, x, alpha=-scale)
    single = (x * torch.add(scores, x, alpha=-scale / 2)).sum(1, keepdim=True)
    columns = torch.cat([pull, torch.ones_like(single), scale * single], 1).T.contiguous()
    sums, moments = gaussian_sums(x, _bits(length), columns)
    # Of the layout of the points: mixed layouts are slow, here and wherever the velocity is used.
    pulled, mass, weighted = sums[:d].T.contiguous(), sums[d], sums[d + 1]
    velocity = torch.addcmul(pulled, x, mass[:, None], value=scale).div_(n)
    discrepancy = (pull * pulled).sum(1).add_(weighted).addcmul_(columns[d + 1] + d * scale, mass)
    return SteinField(velocity, discrepancy.add_(moments, alpha=scale * math.log(2)).div_(n))


def gaussian_product(_: ProfileFunction, length: float, x: Tensor, v: Tensor) -> Tensor:
    """Return the Gram matrix of the Gaussian kernel times `v`."""
    columns = v.T.contiguous()
    sums = torch.zeros_like(columns)
    for rows, cols, _exponent, power in gaussian_blocks(x - x.mean(0), _bits(length)):
        add_products(sums, power, columns, rows, cols)
    return sums.T.contiguous()


def _bits(length: float) -> float:
    """Return b such that exp(-u / (2 length^2)) is 2^(-b u)."""
    return math.log2(math.e) / (2 * length**2)


def radial_field(profile: ProfileFunction, length: float, x: Tensor, scores: Tensor) -> SteinField:
    r"""Return the Stein field of a kernel :math:`\varphi(|x - y|^2 / \ell^2)`.

    The discrepancy is NaN where the profile has no trace.
    """
    n, d = x.shape
    x, scores = (x - x.mean(0)) / length, length * scores
    inner = (x * scores).sum(1)
    left = scores.T.contiguous()
    right = torch.cat([x.T, left, torch.ones_like(inner)[None], inner[None]])
    driven, bent = torch.zeros_like(left), torch.zeros_like(right)
    traces, traced = x.new_zeros(n), True
    for rows, cols, u in radial_blocks(x):
        value, slope, trace = profile(u, d)
        add_products(driven, value, left, rows, cols)
        add_products(bent, slope, right, rows, cols)
        traced = trace is not None
        if trace is not None:
            add_sums(traces, trace, rows, cols)
    points, forces = (part.T.contiguous() for part in (bent[:d], bent[d : 2 * d]))
    drive, mass, weighted = driven.T.contiguous(), bent[2 * d], bent[2 * d + 1]
    velocity = (drive + 2 * (points - x * mass[:, None])) / (n * length)
    if not traced:
        return SteinField(velocity, x.new_full((n,), math.nan))
    cross = inner * mass + weighted - (scores * points).sum(1) - (x * forces).sum(1)
    total = (scores * drive).sum(1) - 2 * cross - traces
    return SteinField(velocity, total / (n * length**2))


def radial_product(profile: ProfileFunction, length: float, x: Tensor, v: Tensor) -> Tensor:
    """Return the Gram matrix of a kernel of the squared distance times `v`."""
    columns = v.T.contiguous()
    sums = torch.zeros_like(columns)
    for rows, cols, u in radial_blocks((x - x.mean(0)) / length):
        add_products(sums, profile(u, x.shape[1]).value, columns, rows, cols)
    return sums.T.contiguous()


def radial_gram(profile: ProfileFunction, x: Tensor, y: Tensor) -> Tensor:
    """Return the Gram matrix between two clouds of a kernel of the squared distance."""
    return profile(_all_squares(x - x.mean(0), y - x.mean(0)), x.shape[1]).value


def radial_stein_gram(
    profile: ProfileFunction, x: Tensor, scores_x: Tensor, y: Tensor, scores_y: Tensor
) -> Tensor:
    """Return the Stein kernel between two clouds; the profile has a trace."""
    x, y = x - x.mean(0), y - x.mean(0)
    value, slope, trace = profile(_all_squares(x, y), x.shape[1])
    assert trace is not None
    inner_x, inner_y = (x * scores_x).sum(1), (y * scores_y).sum(1)
    cross = inner_x[:, None] + inner_y - scores_x @ y.T - x @ scores_y.T
    return (scores_x @ scores_y.T).mul_(value) - cross.mul_(slope).mul_(2) - trace


def _all_squares(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared distances of two clouds."""
    rows, cols = slice(0, len(x)), slice(0, len(y))
    return Squares(x, y).clean(rows, cols, x.new_empty(len(x), len(y)), same=False)


class PairSums(NamedTuple):
    """How a kernel of a given bandwidth makes its Stein field, and its products."""

    field: Callable[[ProfileFunction, float, Tensor, Tensor], SteinField]
    product: Callable[[ProfileFunction, float, Tensor, Tensor], Tensor]


RADIAL = PairSums(radial_field, radial_product)
GAUSSIAN = PairSums(gaussian_field, gaussian_product)
