"""How strongly to penalise neurons: the choice of alpha by rows held out of the fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["AlphaSearch", "held_out_rows", "search_alpha"]

# Tried from the largest on, half a power of ten apart.
_ALPHAS = tuple(float(f"{10 ** (-0.5 - k / 2):.1g}") for k in range(10))  # 0.3 to 1e-5
# The search ends when so many in a row did not improve on the best one.
_PATIENCE = 2
# With fewer rows held out their loss is mostly noise.
_LEAST_HELD_OUT = 10


class AlphaSearch(NamedTuple):
    """The values that were tried, in that order, and the losses of the rows held out."""

    alphas: NDArray[np.float64]
    losses: NDArray[np.float64]

    @property
    def best(self) -> float:
        """The value with the least loss."""
        return float(self.alphas[self.losses.argmin()])


def held_out_rows(codes: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_] | None:
    """Return a mask of rows to hold out, the same share of each code; None if they are too few.

    No code loses all of its rows, so that a classifier still learns every class.
    """
    rng = np.random.default_rng(seed)
    mask = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes):
        members = rng.permutation(np.flatnonzero(codes == code))
        mask[members[: min(round(fraction * len(members)), len(members) - 1)]] = True
    return mask if mask.sum() >= _LEAST_HELD_OUT else None


def search_alpha(loss: Callable[[float], float]) -> AlphaSearch:
    """Return the losses along a falling sequence of alphas, up to where they only rise."""
    losses: list[float] = []
    for alpha in _ALPHAS:
        found = loss(alpha)
        losses.append(found if math.isfinite(found) else math.inf)
        if len(losses) - 1 - int(np.argmin(losses)) >= _PATIENCE:
            break
    return AlphaSearch(np.array(_ALPHAS[: len(losses)]), np.array(losses))
