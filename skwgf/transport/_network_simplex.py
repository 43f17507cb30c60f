r"""The linear program of exact transport, solved on the few pairs that can matter.

The network simplex takes most of its time to look through pairs that no optimal plan would use.
With potentials near the optimal ones these have a large reduced cost :math:`c_{ij} - f_i - g_j`,
so the program is first solved on the pairs of least reduced cost alone. Its potentials then price
all other pairs: those of negative reduced cost join, until there are none. The result is a plan and
potentials that prove each other optimal for the whole program.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from skwgf._tensor import to_numpy, to_tensor

# The network simplex of a few thousand points needs up to some million pivots; the bound only
# keeps a defect from running for ever.
_MAX_PIVOTS = 1_000_000_000
_PAIRS = 48  # pairs for each point, at the start and in each round that adds some
_SAMPLE = 2**16  # entries of the reduced cost that its quantile is read from
_MOST_ROUNDS = 8
_HOPELESS = 0.1  # share of pairs of negative reduced cost above which all pairs are taken
_TILE_ENTRIES = 2**18  # entries of a row tile that stays in the cache of a processor core
# Violations of the dual constraints that count, in units of the rounding of the potentials.
_SLACK = 8.0
# 2^32 over the golden ratio: its multiples spread evenly, which thins pairs without a pattern.
_SPREAD, _RANGE = 2654435761, 2**32


class Solution(NamedTuple):
    """The entries of an optimal plan, and both potentials."""

    rows: Tensor
    cols: Tensor
    mass: Tensor
    f: Tensor
    g: Tensor


def solve(
    a: Tensor,
    b: Tensor,
    cost: Tensor,
    start: Tensor | None,
    feasible: tuple[Tensor, Tensor],
) -> Solution:
    """Solve the program with marginals `a` and `b`; overwrites `cost`, whose largest entry is one.

    `start` is a potential of y near the optimal one, None to take all pairs at once. `feasible`
    are rows and columns of the entries of any plan, which keep the first programs solvable.
    """
    if start is None:
        return _on_all_pairs(a, b, cost)
    f, g = _reduce(cost, start)
    n, m = cost.shape
    entries, most = cost.view(-1), _PAIRS * max(n, m)
    pairs = torch.cat([_least(entries, _PAIRS / m, most), feasible[0] * m + feasible[1]])
    tol = _SLACK * (n + m) * torch.finfo(cost.dtype).eps
    for _ in range(_MOST_ROUNDS):
        pairs = torch.unique(pairs)
        plan = _on_pairs(a, b, cost, pairs)
        if plan is None:
            break
        slack, violated, depth = _price(cost, plan.f, plan.g, tol)
        if len(violated):
            plan = _shift_parts(cost, plan, slack, tol)
            slack, violated, depth = _price(cost, plan.f, plan.g, tol)
        if not len(violated):
            return plan._replace(f=f + plan.f + slack, g=g + plan.g)
        if len(violated) > _HOPELESS * n * m:
            break
        if len(violated) > most:
            violated = violated[depth.topk(most, largest=False).indices]
        pairs = torch.cat([pairs, violated])
    plan = _on_all_pairs(a, b, cost)
    return plan._replace(f=f + plan.f, g=g + plan.g)


def _reduce(cost: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract feasible potentials from the cost, in place, and return them."""
    f = cost.sub_(g).amin(dim=1)
    rest = cost.sub_(f[:, None]).amin(dim=0)
    cost.sub_(rest)
    return f, g + rest


def _least(entries: Tensor, share: float, most: int) -> Tensor:
    """Return the indices of about `share` of the entries, the least ones, at most about `most`."""
    sample = entries[:: max(1, len(entries) // _SAMPLE) | 1]
    bound = sample.kthvalue(min(len(sample), 1 + int(share * len(sample)))).values
    least = (entries <= bound).nonzero()[:, 0]
    if len(least) > 2 * most:  # many ties, as between points that coincide
        least = least[least * _SPREAD % _RANGE < _RANGE * most / len(least)]
    return least


def _price(cost: Tensor, f: Tensor, g: Tensor, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the least reduced cost of each row, and all pairs below -`tol` with theirs."""
    n, m = cost.shape
    size = max(1, _TILE_ENTRIES // m)
    buffer = cost.new_empty(min(size, n), m)
    least, pairs, depths = [], [f.new_empty(0, dtype=torch.int64)], [f.new_empty(0)]
    for k, (tile, potential) in enumerate(
        zip(torch.split(cost, size), torch.split(f, size), strict=True)
    ):
        reduced = torch.sub(tile, potential[:, None], out=buffer[: len(tile)]).sub_(g)
        least.append(reduced.amin(dim=1))
        if float(least[-1].min()) < -tol:
            below = (reduced.view(-1) < -tol).nonzero()[:, 0]
            pairs.append(below + k * size * m)
            depths.append(reduced.view(-1)[below])
    return torch.cat(least), torch.cat(pairs), torch.cat(depths)


def _shift_parts(cost: Tensor, plan: Solution, slack: Tensor, tol: float) -> Solution:
    """Return the plan with potentials shifted part by part, where a few shifts make them feasible.

    Points that exchange no mass with the rest of the plan, such as each pair of a permutation, have
    potentials up to a constant only, and the simplex leaves it where the pairs that it knows allow
    it to be. A pair that violates the dual constraints is then no reason to solve again.
    """
    n, m = cost.shape
    links = (to_numpy(plan.rows), to_numpy(plan.cols) + n)
    graph = coo_matrix((np.ones(len(plan.rows)), links), shape=(n + m, n + m))
    n_parts, labels = connected_components(graph, directed=False)
    part = to_tensor(labels, device=cost.device, dtype=torch.int64)
    part_x, part_y = part[:n], part[n:]
    f, g, budget = plan.f, plan.g, m // 2
    while budget > 0:
        shift = cost.new_zeros(n_parts).scatter_reduce_(0, part_x, slack, "amin")
        shift = shift.where(shift < -tol, 0.0)
        f, g = f + shift[part_x], g - shift[part_y]
        moved = shift[part_y].nonzero()[:, 0]
        if not len(moved):
            return plan._replace(f=f, g=g)
        budget -= len(moved)
        slack = (cost[:, moved] - g[moved]).amin(dim=1) - f
    return plan


def _on_pairs(a: Tensor, b: Tensor, cost: Tensor, pairs: Tensor) -> Solution | None:
    """Solve the program on some pairs; None when the simplex does not end at an optimum."""
    m = cost.shape[1]
    entries = to_numpy(cost.view(-1)[pairs], "float64")
    rows, cols = to_numpy(pairs // m), to_numpy(pairs % m)
    plan, log = _pot(a, b, coo_matrix((entries, (rows, cols)), shape=cost.shape))
    if log["warning"] is not None:
        return None
    kept = plan.data > 0
    return _solution(cost, plan.row[kept], plan.col[kept], plan.data[kept], log)


def _on_all_pairs(a: Tensor, b: Tensor, cost: Tensor) -> Solution:
    """Solve the program on all pairs, or raise a RuntimeError."""
    plan, log = _pot(a, b, to_numpy(cost, "float64"))
    if log["warning"] is not None:
        raise RuntimeError(
            f"The exact plan between {cost.shape[0]} and {cost.shape[1]} points was not reached: "
            f"POT's network simplex reports {log['warning']!r}. Use fewer points, or sinkhorn."
        )
    rows, cols = plan.nonzero()
    return _solution(cost, rows, cols, plan[rows, cols], log)


def _pot(
    a: Tensor, b: Tensor, cost: NDArray[np.float64] | coo_matrix
) -> tuple[Any, dict[str, Any]]:
    """Run POT's network simplex on a dense or a sparse cost."""
    import ot

    weights_a, weights_b = to_numpy(a, "float64"), to_numpy(b, "float64")
    with warnings.catch_warnings():
        # POT repeats its status as a warning; callers read the status itself.
        warnings.simplefilter("ignore", UserWarning)
        plan, log = ot.emd(
            weights_a / weights_a.sum(),
            weights_b / weights_b.sum(),
            cost,
            numItermax=_MAX_PIVOTS,
            log=True,
        )
    return plan, log


def _solution(
    cost: Tensor, rows: NDArray[Any], cols: NDArray[Any], mass: NDArray[Any], log: dict[str, Any]
) -> Solution:
    """Return what POT found as tensors on the device of the cost."""
    device, dtype = cost.device, cost.dtype
    return Solution(
        *(to_tensor(part, device=device, dtype=torch.int64) for part in (rows, cols)),
        *(to_tensor(part, device=device, dtype=dtype) for part in (mass, log["u"], log["v"])),
    )
