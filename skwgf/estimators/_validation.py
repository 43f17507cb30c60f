"""What generators are judged by: rows held out of the fit, and the divergence of draws to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from skwgf._tensor import best_float, make_generator, to_numpy, to_tensor
from skwgf.nn import Regressor, evaluate
from skwgf.transport import mean_cost, sinkhorn_divergence

# Held-out rows: at most so many, and none at all when there would be fewer than the least.
_LEAST_HELD_OUT, _MOST_HELD_OUT = 50, 1000
# Regions of which equal shares are held out.
_REGIONS = 32
# Regularisation of the score relative to the mean cost within the data, but never less than a share
# of the mean cost between data and draws: a fit that went astray gets a finite, bad score.
_SCORE_REG, _ASTRAY = 0.05, 1e-3
# Marginal error that makes the score of equal clouds vanish to six digits.
_SCORE_TOL = 1e-5


@dataclass(frozen=True)
class Validation:
    """A held-out figure, and how far it moves by chance."""

    figure: Callable[[], float]
    noise: float


def divergence(rows: Tensor, draws: Tensor) -> float:
    """Return the debiased Sinkhorn divergence that `score` and validation share, or infinity."""
    if not bool(torch.isfinite(draws).all()):
        return math.inf
    rows, draws = (points.to(best_float(points.device)) for points in (rows, draws))
    unit = max(mean_cost(rows, rows), _ASTRAY * mean_cost(rows, draws))
    if unit == 0:
        return 0.0
    return float(sinkhorn_divergence(rows, draws, _SCORE_REG * unit, tol=_SCORE_TOL))


def split_rows(
    rows: Tensor, fraction: float, seed: int, codes: NDArray[np.int64] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the indices of the rows to learn from and of those held out.

    The same share of every region is held out, found by clustering, so that what is left has the
    masses that all rows have. Of classes, numbered by `codes`, the last row is never held out.
    """
    n = len(rows)
    n_held_out = min(int(fraction * n), _MOST_HELD_OUT)
    if n_held_out < _LEAST_HELD_OUT:
        return torch.arange(n), torch.arange(0)
    generator = make_generator(seed)
    ordered = by_region(rows, seed, generator)
    every = n / n_held_out
    first = float(torch.rand(1, generator=generator)) * every
    picked = (first + every * torch.arange(n_held_out, dtype=torch.float64)).long()
    held_out = ordered[picked.clamp_max(n - 1)]
    if codes is not None:
        classes = to_tensor(codes)
        learnt = torch.ones(n, dtype=torch.bool)
        learnt[held_out] = False
        held_out = held_out[torch.isin(classes[held_out], classes[learnt])]
    learnt = torch.ones(n, dtype=torch.bool)
    learnt[held_out] = False
    return learnt.nonzero()[:, 0], held_out


def by_region(rows: Tensor, seed: int, generator: torch.Generator) -> Tensor:
    """Return the indices of the rows in an order that goes from region to region.

    Regions are found by clustering; within one the order is random. Every k-th index is then a
    sample of the rows with the masses of all.
    """
    n = len(rows)
    shuffled = torch.randperm(n, generator=generator)
    if n < 2 * _LEAST_HELD_OUT:
        return shuffled
    regions = MiniBatchKMeans(
        min(_REGIONS, n // _LEAST_HELD_OUT), n_init=1, batch_size=4096, random_state=seed
    ).fit_predict(to_numpy(rows[shuffled.to(rows.device)]))
    return shuffled[to_tensor(regions).argsort(stable=True)]


def held_out_divergence(
    regressor: Regressor, z: Tensor, held_out: Tensor, rows: Tensor, generator: torch.Generator
) -> Validation:
    """Return the divergence of the averaged network's law from the held-out rows.

    The reference points `z` are the same at every call, so that the figures compare. The noise is
    the divergence between the held-out rows and as many of the others: two samples of one law.
    """

    def figure() -> float:
        with regressor.averaged() as module:
            return divergence(held_out, evaluate(module, z))

    others = torch.randperm(len(rows), generator=generator)[: len(held_out)]
    return Validation(figure, divergence(held_out, rows[others]))
